"""RIIT: LICA's gradient through a monotone mixture of agents' values (Hu et al. 2021).

Recurrent agents as in LICA; what differs is the critic, `FactoredCritic`:

    Q_tot(s, v) = mix_s(q(o^1, 1, v^1), .., q(o^N, N, v^N)),   dQ_tot / dq^a >= 0

- The critic learns TD(lambda) targets of its target copy, critic and mixing network, at the
  actions u:  L(phi) = 1/2 (y^(lambda) - Q_tot(s, u))^2.
- The agents follow J = mean Q_tot(s, pi) + xi H / stop_gradient(H), LICA's.

There is no text with numbered equations to follow; what is followed is the code of PyMARL2, where
the algorithm is also called RMC and its learner FMAC:

==================  ================================================================================
in PyMARL2          settings
==================  ================================================================================
``riit_online``     the defaults: fresh rollouts only, the target copy follows after each
``riit``            ``replay_capacity: 5000``, ``replay_batch_size: 64``: before each step on fresh
                    rollouts one step of the critic alone on stored ones, with lambda = 0; its
                    target copy, of every 200 episodes: ``target_update_env_steps: 10_000``
==================  ================================================================================

Deviations, each on purpose:

- A batch is the fresh rollout, T steps of E environments; theirs is 32 of the last 128 episodes,
  the oldest of which 16 updates ago. What a rollout's end cuts continues in the next.
- Sequences of T steps are stored, not episodes. Their last step bootstraps with what the present
  agents would do there, from the recurrent state that they reach from the stored one.
- A truncated episode and the end of a rollout bootstrap with Q'(s, pi), for no action was chosen.
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
from torch import Tensor, nn

from rllib_seqmarl.learning.base.algorithm import TeamAlgorithm
from rllib_seqmarl.learning.base.module import critic_obs_dim
from rllib_seqmarl.learning.central_q.config import (
    AdaptiveEntropySettings,
    CentralQConfig,
    ReplayConfig,
    ReplaySettings,
)
from rllib_seqmarl.learning.central_q.learner import CentralQLearner
from rllib_seqmarl.learning.central_q.module import (
    CentralQBatch,
    RecurrentModule,
    RecurrentOutput,
    living_obs,
)
from rllib_seqmarl.losses import adaptive_entropy, weighted_sum
from rllib_seqmarl.nets.critics.joint import JointCritic, MixingNetwork, fixed, two_layers
from rllib_seqmarl.settings import Doc, Width, settings, training_method


@settings
class RIITSettings(AdaptiveEntropySettings, ReplaySettings):
    """Settings of RIIT; see the module's table for PyMARL2's two."""

    critic_dim: Annotated[Width, Doc("width of the agents' values q.")] = 128
    embed_dim: Annotated[Width, Doc("width of the mixing network.")] = 32
    lr = 1e-3
    critic_lr = 1e-3
    lambda_ = 0.6
    entropy_coeff = 0.03
    target_update_env_steps = 1


class RIITConfig(ReplayConfig, CentralQConfig, RIITSettings):
    """The config of RIIT."""

    @training_method(RIITSettings)
    def training(self) -> None:
        """See `RIITSettings`."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or RIIT)

    def critic_steps_per_minibatch(self) -> int:
        """See `CentralQConfig`; one more on stored sequences."""
        return super().critic_steps_per_minibatch() + bool(self.replay_capacity)

    def get_default_learner_class(self) -> type[RIITLearner]:
        """The learner of this file."""
        return RIITLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Recurrent agents and a factored critic."""
        return self.module_spec(RIITModule, "critic_dim", "embed_dim")


class FactoredCritic(JointCritic):
    """RIIT's critic (Hu et al. 2021): a value of every agent, mixed as in QMIX.

        Q_tot = mix_s(q_1, .., q_N),   q_i = q(o_i, i, v_i),   dQ_tot / dq_i >= 0

    with one q for all agents, Linear, ReLU, Linear, ReLU, Linear, and hypernetworks of one layer.

    Args:
        obs_dim: O, length of one agent's observation.
        state_dim: S, of the state that sets the mixing weights.
        num_agents: N.
        num_actions: A.
        critic_dim: width of q.
        embed_dim: width of the mixing network.
    """

    def __init__(
        self,
        obs_dim: int,
        state_dim: int,
        num_agents: int,
        num_actions: int,
        critic_dim: int,
        embed_dim: int,
    ) -> None:
        super().__init__()
        self.num_agents = num_agents
        self.widths = (num_agents * obs_dim, state_dim)
        self.agent_value = nn.Sequential(
            nn.Linear(obs_dim + num_agents + num_actions, critic_dim),
            nn.ReLU(),
            two_layers(critic_dim, critic_dim, 1),
        )
        self.mixer = MixingNetwork(state_dim, num_agents, embed_dim, (None, None), monotone=True)

    def forward(self, state: Tensor, joint_actions: Tensor) -> Tensor:
        """See `JointCritic`; what is read is all observations and then the state, [B, N O + S]."""
        obs, state = state.split(self.widths, dim=-1)
        return self.mixer(state, self.agent_values(obs, joint_actions))

    def agent_values(self, obs: Tensor, joint_actions: Tensor) -> Tensor:
        """All observations [B, N O], joint actions [B, K, N, A] -> q_i [B, K, N]."""
        slots = torch.eye(self.num_agents, dtype=obs.dtype, device=obs.device)
        slots = slots.expand(len(obs), -1, -1)
        known = torch.cat((obs.unflatten(-1, (self.num_agents, -1)), slots), dim=-1)
        known = known.unsqueeze(1).expand(-1, joint_actions.shape[1], -1, -1)  # [B, K, N, O + N]
        return self.agent_value(torch.cat((known, joint_actions), dim=-1)).squeeze(-1)


class RIITModule(RecurrentModule):
    """Recurrent agents with a factored critic."""

    def make_critic(self, state_dim: int, num_agents: int, num_actions: int) -> FactoredCritic:
        """See `RecurrentModule`."""
        return FactoredCritic(
            critic_obs_dim(self.observation_space),
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


class RIITLearner(CentralQLearner[CentralQBatch, RIITModule]):
    """LICA's gradient; the critic learns from stored sequences too."""

    batch_class = CentralQBatch

    def update_minibatch(self, minibatch: CentralQBatch) -> None:
        """With replay a step of the critic on stored sequences; then the steps on the minibatch."""
        stored = self.replayed()
        if stored is not None:
            batch = self.build_train_batch(stored, lambda_=0.0)
            self.gradient_step(self.with_weights(batch, batch.targets), self.replay_loss)
        super().update_minibatch(minibatch)

    def replay_loss(self, batch: CentralQBatch) -> Tensor:
        """Half the squared error of one-step targets, mean over steps."""
        error = batch.targets - self.taken_values(batch)
        loss = weighted_sum(error.square(), batch.value_weight)
        self.log_metrics(replay_vf_loss=loss)
        return 0.5 * loss

    def critic_loss(self, batch: CentralQBatch) -> Tensor:
        """L(phi) of the module docstring, mean over steps."""
        return 0.5 * super().critic_loss(batch)

    def compute_loss_for_module(
        self, *, module_id: str, config: RIITConfig, batch: CentralQBatch, fwd_out: RecurrentOutput
    ) -> Tensor:
        """-J of the module docstring, mean over steps; the critic's weights are constants."""
        policy, weight = fwd_out.policy, batch.value_weight  # [E, T, N, A], [E, T]
        alive = (batch.policy_weight > 0).unsqueeze(-1)
        policy = torch.where(alive, policy, policy.detach())
        state = batch.critic_state.flatten(0, 1)  # [E T, S]
        q = fixed(self.core.critic)(state, policy.flatten(0, 1).unsqueeze(1))  # [E T, 1]
        policy_loss = -weighted_sum(q.view_as(weight), weight)
        ratio = adaptive_entropy(fwd_out.entropy, batch.mean_entropy)  # H / stop_gradient(H)
        bonus = weighted_sum(ratio, batch.policy_weight)
        loss = policy_loss - self.scheduled("entropy_coeff") * bonus
        entropy = weighted_sum(fwd_out.entropy, batch.policy_weight)
        self.log_metrics(policy_loss=policy_loss, entropy=entropy, total_loss=loss)
        return loss


class RIIT(TeamAlgorithm):
    """LICA's gradient through QMIX's mixing network."""

    @classmethod
    def get_default_config(cls) -> RIITConfig:
        """The builder with this algorithm's defaults."""
        return RIITConfig()
