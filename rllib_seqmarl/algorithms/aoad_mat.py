"""AOAD-MAT: MAT whose agents say, while they decide, who decides next (Takayama & Fujita 2025).

The first agent i_1 is predetermined. On the decoder row of position m, which has seen the actions
of the agents before it, one head gives the action of agent i_m and another the agent i_{m+1}
among those that are left (Algorithm 1). With r_a and r_i the ratios of the two,

    r^m = r_a^m r_i^m
    L   = -mean_{t,m} min(r^m A, clip(r^m, 1 - eps, 1 + eps) A)
          - beta_1 H[pi_a] - beta_2 H[pi_i] + c_v L_V                            (eq. 4, 6)

or, with ``next_agent_loss: sum`` (eq. 7), alpha_1 times the clipped term of r_a plus alpha_2 times
that of r_i. beta_1 is ``entropy_coeff``, beta_2 ``order_entropy_coeff``. Head, masks and
probabilities are `nets.orders.NextAgent`, the rollout is `nets.decoding_next_agent`, the loss
`learning.order_objectives.predicted_order`; everything else is MAT.

The authors published no code. Readings chosen where the paper leaves something open:

- Algorithm 1 counts m to n - 1: an action is needed for m = n too, and there is nobody left to
  choose; r_i is 1 and its entropy 0.
- The sign of the entropies: bonuses.
- The advantage is the agent's own, as in MAT's code; the paper prints a joint one
  (``next_agent_advantage: mean``).
- The choice of a successor does not see the action that is decided on the same row.
- L_V is MAT's, with targets of generalised advantage estimation, and not the one-step error of
  eq. 4.
- The head is an MLP like the action head with an output per agent slot; ``pointer`` compares the
  row with every agent's o_hat instead, and works for any number of agents.
- Dead agents keep their place in the order. Where the policy loss masks an agent out, its choice
  of a successor is masked out with its action: they are one product.
- The ratio of a continuous action with several dimensions is clipped per dimension, each times
  r_i, as MAT's is; ``ratio_aggregation: prod`` clips the joint ratio.
- In evaluation the most likely successor is taken.
- Clip range, epochs and all coefficients are not printed: MAT's, alpha_1 = alpha_2 = 1 and beta_2 =
  beta_1. The text suggests the smaller clip range of MAT-adjust, ``clip_param: 0.01``.
"""

from __future__ import annotations

from typing import Any

from rllib_seqmarl.algorithms.mat import MAT, MATConfig


class AOADMATConfig(MATConfig):
    """Settings of AOAD-MAT: MAT's, with an order that the agents find while they decide."""

    def __init__(self, algo_class: type[Any] | None = None) -> None:
        super().__init__(algo_class or AOADMAT)
        self.order = "next_agent"
        self.order_entropy_coeff = 0.01


class AOADMAT(MAT):
    """Agent Order of Action Decisions MAT."""

    @classmethod
    def get_default_config(cls) -> AOADMATConfig:
        """The builder with this algorithm's defaults."""
        return AOADMATConfig()
