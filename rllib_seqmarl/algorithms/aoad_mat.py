"""AOAD-MAT: MAT whose agents say, while they decide, who decides next (Takayama & Fujita 2025).

The first agent i_1 is predetermined. At position m of the decoder, which has seen the actions
of the agents before it, one head gives the action of agent i_m and another the agent i_{m+1}
among those that are left (Algorithm 1). With r_a and r_i the ratios of the two,

    r^m = r_a^m r_i^m
    L   = -mean_{t,m} min(r^m A, clip(r^m, 1 - eps, 1 + eps) A)
          - beta_1 H[pi_a] - beta_2 H[pi_i] + c_v L_V                            (eq. 4, 6)

or, with ``next_agent_loss: sum`` (eq. 7), alpha_1 times the clipped term of r_a plus alpha_2 times
that of r_i. beta_1 is ``entropy_coeff``, beta_2 ``order_entropy_coeff``. Head, masks and
probabilities are `nets.orders.next_agent`, the rollout is `nets.decoding.next_agent`; everything
else is MAT.

The authors published no code. Readings chosen where the paper leaves something open:

- Algorithm 1 counts m to n - 1: an action is needed for m = n too, and there is nobody left to
  choose; r_i is 1 and its entropy 0.
- The sign of the entropies: bonuses.
- The advantage is the agent's own, as in MAT's code; the paper prints a joint one
  (``next_agent_advantage: mean``).
- The choice of a successor does not see the action that is decided at the same position.
- L_V is MAT's, with targets of generalised advantage estimation, and not the one-step error of
  eq. 4.
- The head is an MLP like the action head with an output per agent slot; ``pointer`` compares the
  position's output with every agent's o_hat instead, and works for any number of agents.
- Dead agents keep their place in the order. Where the policy loss masks an agent out, its choice
  of a successor is masked out with its action: they are one product.
- The ratio of a continuous action with several dimensions is clipped per dimension, each times
  r_i, as MAT's is; ``ratio_aggregation: prod`` clips the joint ratio.
- In evaluation the most likely successor is taken.
- Clip range, epochs and all coefficients are not printed: MAT's, alpha_1 = alpha_2 = 1 and beta_2 =
  beta_1. The text suggests the smaller clip range of MAT-adjust, ``clip_param: 0.01``.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from rllib_seqmarl.algorithms.mat import MAT, MATConfig, MATLearner, MATSettings
from rllib_seqmarl.learning.sequential.module import SequentialBatch
from rllib_seqmarl.losses import clipped_surrogate, weighted_sum
from rllib_seqmarl.nets.sequential_policy import Evaluation
from rllib_seqmarl.settings import Doc, Ge, OneOf, settings, training_method


@settings
class AOADMATSettings(MATSettings):
    """Settings of AOAD-MAT: MAT's, with an order that the agents find while they decide."""

    order: Annotated[str, OneOf(("next_agent",)), Doc("who decides when.")] = "next_agent"
    next_agent_head: Annotated[
        Literal["mlp", "pointer"], Doc("``mlp``, for a fixed N, or ``pointer``, for any.")
    ] = "mlp"
    first_agent: Annotated[int, Ge(0), Doc("i_1, the slot that decides first.")] = 0
    next_agent_loss: Annotated[
        Literal["product", "sum"], Doc("``product`` (eq. 6) or ``sum`` (eq. 7) of the ratios.")
    ] = "product"
    next_agent_advantage: Annotated[
        Literal["per_agent", "mean"], Doc("each agent's own, or the team's ``mean``.")
    ] = "per_agent"
    alpha1: Annotated[float, Ge(0), Doc("loss ``sum``: weight of the actions.")] = 1.0
    alpha2: Annotated[float, Ge(0), Doc("loss ``sum``: weight of the choices of a successor.")] = (
        1.0
    )
    order_entropy_coeff: Annotated[float, Ge(0), Doc("beta_2.")] = 0.01


class AOADMATConfig(MATConfig, AOADMATSettings):
    """The config of AOAD-MAT."""

    learned_order: ClassVar[str | None] = "next_agent"

    @training_method(AOADMATSettings)
    def training(self) -> None:
        """See `AOADMATSettings`."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or AOADMAT)

    def get_default_learner_class(self) -> type[AOADMATLearner]:
        """The learner of this file."""
        return AOADMATLearner


class AOADMATLearner(MATLearner):
    """MAT's, and every agent's choice of who decides next."""

    def policy_objective(self, batch: SequentialBatch, now: Evaluation, ratio: Tensor) -> Tensor:
        """Eq. 6 or 7, less beta_2 times the entropy of the choices of a successor."""
        assert now.order is not None
        eps, weight, config = self.scheduled("clip_param"), batch.policy_weight, self.config
        # Nothing is raised to a power where it does not count: it may be garbage.
        log_ratio = torch.where(weight > 0, now.order.log_prob - batch.order_log_prob, 0.0)
        choice_ratio = log_ratio.exp().unsqueeze(-1)  # r_i, [B, N, 1]
        advantage = batch.advantages
        if config.next_agent_advantage == "mean":
            advantage = batch.team_advantage().unsqueeze(1).expand_as(advantage)
        if config.next_agent_loss == "product":
            joint_ratio = ratio * choice_ratio
            has = self.core.policy.action.component_mask(batch.action_mask)
            if has is not None and config.ratio_aggregation == "per_dim":
                joint_ratio = torch.where(has, joint_ratio, 1.0)  # r_i counts where an action does
            surrogate = clipped_surrogate(joint_ratio, advantage, eps)
        else:
            surrogate = config.alpha1 * clipped_surrogate(ratio, advantage, eps)
            surrogate = surrogate + config.alpha2 * clipped_surrogate(choice_ratio, advantage, eps)
        entropy = weighted_sum(now.order.entropy, weight)
        loss = weighted_sum(surrogate, weight) - config.order_entropy_coeff * entropy
        deviation = weighted_sum((choice_ratio.squeeze(-1) - 1.0).abs(), weight)
        self.log_metrics(order_entropy=entropy, order_ratio_deviation=deviation)
        return loss


class AOADMAT(MAT):
    """Agent Order of Action Decisions MAT."""

    @classmethod
    def get_default_config(cls) -> AOADMATConfig:
        """The builder with this algorithm's defaults."""
        return AOADMATConfig()
