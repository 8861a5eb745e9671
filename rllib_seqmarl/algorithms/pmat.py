"""PMAT: MAT whose agents decide in an order of priorities that is learned.

A scorer reads o_hat and gives every agent a positive score s_j; the order is drawn from the
Plackett-Luce distribution of the scores before anybody decides:

    P(i_1 .. i_N) = prod_m s_{i_m} / sum_{k >= m} s_{i_k}                        (eq. 8)
    rho    = P_new(order) / P_old(order), one ratio per step
    L_rank = -mean_t min(rho A_seq, clip(rho, 1 - eps, 1 + eps) A_seq)           (eq. 15-16)
    L      = L_MAT + c_rank L_rank

with A_seq the mean of the agents' advantages. Orders are drawn in training and are those of
descending score in evaluation. Scorer, sampling and probability are `nets.orders.PlackettLuce`,
the loss is `learning.order_objectives.ranked_order`; everything else is MAT.

What differs from the authors' code:

- The probability of the actions is computed in the order in which they were taken. Theirs
  computes it in index order, so that its ratio is not 1 before the first update, and what is
  trained is not what acts; ``train_in_sampled_order: false`` reproduces that.
- The scorer's hidden layers are distinct; theirs are one layer applied again
  (``share_hidden: true``). They are as wide as the model; theirs are 64, which is the same at the
  width of the papers' experiments.
- Agents that the policy loss masks out do not count in A_seq; theirs do.
- All ranks are drawn by one sort of log s + Gumbel noise; theirs draws them one after another.
- ``order_entropy_coeff`` may reward the entropy of the order; theirs has that term and it is 0.

Kept as in the code where it differs from the paper: s = 1 + 9 sigmoid(.), where eq. 11 has exp;
the clipped surrogate of eq. 15 in place of the plain gradient of eq. 13-14; the gradient of L_rank
goes through o_hat into the encoder. The paper gives c_rank and the number of layers per scenario
(1e-4 to 1e-1, 2 or 3); the defaults are those of the authors' scripts.
"""

from __future__ import annotations

from typing import Any

from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rllib_seqmarl.algorithms.mat import MAT, MATConfig


class PMATConfig(MATConfig):
    """Settings of PMAT: MAT's, with an order that is learned.

    Attributes:
        train_in_sampled_order: False is the authors' code.
    """

    def __init__(self, algo_class: type[Any] | None = None) -> None:
        super().__init__(algo_class or PMAT)
        self.order = "plackett_luce"
        self.train_in_sampled_order = True

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """MAT's policy, judged in the order that was drawn."""
        spec = super().get_default_rl_module_spec()
        spec.model_config["train_in_sampled_order"] = self.train_in_sampled_order
        return spec


class PMAT(MAT):
    """Prioritized Multi-Agent Transformer."""

    @classmethod
    def get_default_config(cls) -> PMATConfig:
        """The builder with this algorithm's defaults."""
        return PMATConfig()
