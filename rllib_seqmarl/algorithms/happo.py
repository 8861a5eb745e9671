"""HAPPO: Trust Region Policy Optimisation in Multi-Agent RL (Kuba et al. 2022, Algorithm 4).

Agents with actors of their own are updated one after another, i_1 .. i_n in random order, each with
all its epochs, and the loss of each accounts for the changes of the agents before it:

    M^{i_{1:m}} = prod_{k<m} pi_new^{i_k}(a | o) / pi_old^{i_k}(a | o) A
    L(theta^{i_m}) = -mean_t [min(r M, clip(r, 1 - eps, 1 + eps) M) + c_ent H],  r of agent i_m

The product of ratios, ``factor``, is outside of the clip and has no bound. Advantages are
estimated once, before any agent moves; the critic learns after the actors.

What differs from HARL's code beside `mappo`'s list:

- A dead agent's ratio counts as 1 in the factor; in HARL it counts like any other.
- With recurrent agents the factor comes from the same chunks that are learned from; HARL unrolls
  the whole fragment from its first state.
- Shared parameters are refused: a step of one agent would move all of them, which the factor does
  not know. MAPPO shares, and A2PO has a loop for it.

Kept from it: with one value for the team, each agent standardises its advantages over the steps
at which it lives; with a value per agent, all do so together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.actor_critic.config import ActorCriticConfig, ActorCriticSettings
from rllib_seqmarl.learning.actor_critic.learner import ActorCriticLearner
from rllib_seqmarl.learning.actor_critic.module import ActorCriticBatch, Evaluation
from rllib_seqmarl.learning.base.algorithm import TeamAlgorithm
from rllib_seqmarl.losses import clipped_surrogate, weighted_sum
from rllib_seqmarl.settings import Doc, settings, training_method


@settings
class HAPPOSettings(ActorCriticSettings):
    """Settings of HAPPO."""

    fixed_order: Annotated[bool, Doc("agents are updated in the order of their slots.")] = False
    share_parameters = False


class HAPPOConfig(ActorCriticConfig, HAPPOSettings):
    """The config of HAPPO."""

    @training_method(HAPPOSettings)
    def training(self) -> None:
        """See `HAPPOSettings`."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or HAPPO)

    def check(self) -> None:
        """See `ActorCriticConfig.check`."""
        super().check()
        if self.share_parameters:
            raise UserError(
                "HAPPO updates one agent after another and needs share_parameters: false; run "
                "MAPPO, or A2PO, for one actor that all agents share."
            )

    def get_default_learner_class(self) -> type[HAPPOLearner]:
        """The learner of this file."""
        return HAPPOLearner


@dataclass(kw_only=True)
class HAPPOBatch(ActorCriticBatch):
    """Adds the product of the ratios of the agents that have moved."""

    factor: Tensor | float = 1.0  # [B, 1]


class HAPPOLearner(ActorCriticLearner[HAPPOBatch]):
    """Agents one after another, then the critic."""

    batch_class = HAPPOBatch

    @property
    def standardised_per_agent(self) -> bool:  # type: ignore[override]
        """Where all agents have one value."""
        return not self.core.has_value_per_agent

    def update_epochs(self, batch: HAPPOBatch) -> None:
        """Algorithm 4: the loop over i_1 .. i_n, then the critic."""
        agents = self.core.num_agents
        draw = self.shared_draw()
        order = range(agents) if self.config.fixed_order else draw.argsort().tolist()
        factor = torch.ones_like(batch.advantages[..., :1])  # M / A, [B, 1]
        for agent in order:
            own = self.of_agents(batch, [agent]).replace(factor=factor, metric_weight=1 / agents)
            for minibatch in self.minibatches(own):
                self.gradient_step(self.prepare_minibatch(minibatch), self.actor_loss([agent]))
            factor = factor * self.log_ratio(own, [agent]).exp()
        for minibatch in self.minibatches(batch):
            self.update_value_norm(self.core.value_norm, minibatch.returns)
            self.gradient_step(self.prepare_minibatch(minibatch), self.critic_loss)

    def compute_loss_for_module(
        self, *, module_id: str, config: HAPPOConfig, batch: HAPPOBatch, fwd_out: Evaluation
    ) -> Tensor:
        """L(theta) of the module docstring, of the agents in ``batch``."""
        r = self.ratio(fwd_out.log_prob, batch)  # [B, n, K]
        eps = self.scheduled("clip_param")
        surrogate = batch.factor * clipped_surrogate(r, batch.advantages, eps)
        policy_loss = weighted_sum(surrogate, batch.policy_weight)
        entropy = weighted_sum(fwd_out.entropy, batch.policy_weight)
        loss = policy_loss - self.scheduled("entropy_coeff") * entropy
        losses = {"policy_loss": policy_loss, "entropy": entropy, "total_loss": loss}
        self.log_policy_metrics(batch, fwd_out.log_prob, r, **losses)
        return loss


class HAPPO(TeamAlgorithm):
    """Heterogeneous-agent proximal policy optimisation."""

    @classmethod
    def get_default_config(cls) -> HAPPOConfig:
        """The builder with this algorithm's defaults."""
        return HAPPOConfig()
