"""RIIT: LICA's gradient through a monotone mixture of agents' values (Hu et al. 2021).

Recurrent agents as in LICA; what differs is the critic, `nets.critics.FactoredCritic`:

    Q_tot(s, v) = mix_s(q(o^1, 1, v^1), .., q(o^N, N, v^N)),   dQ_tot / dq^a >= 0

- The critic learns TD(lambda) targets of its target copy, critic and mixing network, at the
  actions u:  L(phi) = 1/2 (y^(lambda) - Q_tot(s, u))^2.
- The agents follow J = mean Q_tot(s, pi) + xi H / stop_gradient(H), LICA's.

There is no text with numbered equations to follow; what is followed is the code of PyMARL2, where
the algorithm is also called RMC and its learner FMAC:

==================  ================================================================================
in PyMARL2          settings
==================  ================================================================================
``riit_online``     the defaults: fresh rollouts only, the target copy follows after every step
``riit``            ``replay_capacity: 5000``, ``replay_batch_size: 64``: before each step on fresh
                    rollouts one step of the critic alone on stored ones, with lambda = 0; its
                    target copy, of 200 episodes: ``target_update_interval: 50``
==================  ================================================================================

Deviations, each on purpose:

- A batch is the fresh rollout, T steps of E worlds; theirs is 32 of the last 128 episodes, the
  oldest of which 16 updates ago. What a block's end cuts goes on in the next.
- Sequences of T steps are stored, not episodes. Their last step bootstraps with what the present
  agents would do there, from the recurrent state that they reach from the stored one.
- A truncated episode and the end of a block bootstrap with Q'(s, pi), for no action was chosen.
- Replay begins with the first ``replay_batch_size`` sequences; theirs with 128 episodes.
- A dead agent's observation counts as zeros, which is what StarCraft gives; its probabilities get
  no gradient (``use_policy_active_mask: false`` gives them one).
- With ``state: observations`` the mixing network reads all observations, where the environment
  has no state.
"""

from __future__ import annotations

from typing import Annotated

import torch
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from torch import Tensor

from rllib_seqmarl.algorithms.lica import LICALearner
from rllib_seqmarl.learning.base.algorithm import TeamAlgorithm
from rllib_seqmarl.learning.base.module import obs_dim
from rllib_seqmarl.learning.central_q.config import (
    AdaptiveEntropySettings,
    CentralQConfig,
    ReplayConfig,
    ReplaySettings,
)
from rllib_seqmarl.learning.central_q.module import CentralQBatch, RecurrentModule, living_obs
from rllib_seqmarl.learning.central_q.replay import ReplayLearner
from rllib_seqmarl.losses import weighted_sum
from rllib_seqmarl.nets.critics.joint import FactoredCritic
from rllib_seqmarl.settings import Doc, Gt, settings, training_method


@settings
class RIITSettings(ReplaySettings, AdaptiveEntropySettings):
    """Settings of RIIT; see the module's table for PyMARL2's two."""

    critic_dim: Annotated[int, Gt(0), Doc("width of the agents' values q.")] = 128
    embed_dim: Annotated[int, Gt(0), Doc("width of the mixing network.")] = 32
    lr = 1e-3
    critic_lr = 1e-3
    lambda_ = 0.6
    entropy_coeff = 0.03
    target_update_interval = 1


class RIITConfig(ReplayConfig, CentralQConfig, RIITSettings):
    """The config of RIIT."""

    @training_method(RIITSettings)
    def training(self) -> None:
        """See `RIITSettings`."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or RIIT)

    def get_default_learner_class(self) -> type[RIITLearner]:
        """The learner of this file."""
        return RIITLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Recurrent agents and a factored critic."""
        return self.module_spec(RIITModule, "critic_dim", "embed_dim")


class RIITModule(RecurrentModule):
    """Recurrent agents with a factored critic."""

    def make_critic(self, state_dim: int, num_agents: int, num_actions: int) -> FactoredCritic:
        """See `RecurrentModule`."""
        return FactoredCritic(
            obs_dim(self.observation_space),
            state_dim,
            num_agents,
            num_actions,
            self.model_config["critic_dim"],
            self.model_config["embed_dim"],
        )

    def state_of(self, columns: dict[str, Tensor]) -> Tensor:
        """[o^1 .. o^N, s], zeros for dead agents: [..., N O + S]."""
        obs = living_obs(columns).flatten(-2)
        return torch.cat((obs, super().state_of(columns)), dim=-1)


class RIITLearner(ReplayLearner[CentralQBatch, RecurrentModule], LICALearner):
    """LICA's gradient; the critic learns from stored sequences too."""

    def update_minibatch(self, minibatch: CentralQBatch) -> None:
        """With replay a step of the critic on stored sequences; then LICA's steps."""
        stored = self.replayed()
        if stored is not None:
            batch = self.build_train_batch(stored, lambda_=0.0)
            self.critic_step(self.with_weights(batch, batch.targets), self.replay_loss)
        super().update_minibatch(minibatch)

    def replay_loss(self, batch: CentralQBatch) -> Tensor:
        """Half the squared error of one-step targets, mean over steps."""
        error = batch.targets - self.taken_values(batch)
        loss = weighted_sum(error.square(), batch.value_weight)
        self.log_metrics(replay_vf_loss=loss)
        return 0.5 * loss

    def critic_loss(self, batch: CentralQBatch) -> Tensor:
        """Half of that of `CentralQLearner`."""
        return 0.5 * super().critic_loss(batch)


class RIIT(TeamAlgorithm):
    """LICA's gradient through QMIX's mixing network."""

    @classmethod
    def get_default_config(cls) -> RIITConfig:
        """The builder with this algorithm's defaults."""
        return RIITConfig()
