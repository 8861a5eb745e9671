"""HASAC for discrete actions: Maximum Entropy Heterogeneous-Agent RL (Liu et al. 2024).

Off-policy: every update draws stored sequences and learns from them alone. Agents update one after
another in a random order, each against the newest policies of those before it:

    y       = r + gamma (min_k Q'_k(s', a') + alpha sum_i H(pi^i(. | o'^i))),   a' ~ pi
    L(phi)  = mean sum_k (y - Q_k(s, a))^2
    J(pi^i) = mean sum_a pi^i(a | o^i) min_k Q_k(s, a, a^{-i}) + alpha H(pi^i),   a^{-i} ~ pi

The sum over the agent's own actions is exact where the authors' code draws one through a Gumbel
softmax. Agents here are recurrent and share their parameters, alpha is fixed, or a schedule.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from torch import Tensor, nn

from rllib_seqmarl.learning.base.algorithm import TeamAlgorithm
from rllib_seqmarl.learning.central_q.config import (
    CentralQConfig,
    CentralQSettings,
    ReplayConfig,
    ReplaySettings,
)
from rllib_seqmarl.learning.central_q.learner import CentralQLearner
from rllib_seqmarl.learning.central_q.module import CentralQBatch, RecurrentModule, RecurrentOutput
from rllib_seqmarl.losses import weighted_sum
from rllib_seqmarl.nets.critics.joint import JointCritic
from rllib_seqmarl.nets.distributions import gumbel
from rllib_seqmarl.settings import Doc, Ge, Gt, Schedulable, settings, training_method


@settings
class HASACSettings(CentralQSettings, ReplaySettings):
    """Settings of HASAC."""

    entropy_coeff: Annotated[Schedulable, Ge(0), Doc("alpha, of the entropy.")] = 0.02
    critic_dim: Annotated[int, Gt(0), Doc("width of the critics.")] = 64
    num_epochs: Annotated[int, Gt(0), Doc("updates per iteration, each on other sequences.")] = 5
    replay_capacity = 1000
    replay_batch_size = 32
    lambda_ = 0.0
    lr = 1e-3
    critic_lr = 1e-3
    target_update_env_steps = 640


class HASACConfig(ReplayConfig, CentralQConfig, HASACSettings):
    """The config of HASAC."""

    @training_method(HASACSettings)
    def training(self) -> None:
        """See `HASACSettings`."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or HASAC)

    def get_default_learner_class(self) -> type[HASACLearner]:
        """The learner of this file."""
        return HASACLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """The module of this file."""
        return self.module_spec(HASACModule, "critic_dim")


class TwinCritic(JointCritic):
    """Two networks Q_1, Q_2 of state and joint action."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(
            nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, 1))
            for _ in range(2)
        )

    def both(self, state: Tensor, joint_actions: Tensor) -> Tensor:
        """State [B, S], joint actions [B, K, N, A] -> Q_1 and Q_2, [B, K, 2]."""
        states = state.unsqueeze(1).expand(-1, joint_actions.shape[1], -1)
        x = torch.cat((states, joint_actions.flatten(2)), dim=-1)
        return torch.cat([network(x) for network in self.networks], dim=-1)

    def forward(self, state: Tensor, joint_actions: Tensor) -> Tensor:
        """The smaller one, [B, K]."""
        return self.both(state, joint_actions).amin(dim=-1)


class HASACModule(RecurrentModule):
    """Recurrent agents with two critics."""

    def make_critic(self, state_dim: int, num_agents: int, num_actions: int) -> TwinCritic:
        """See `RecurrentModule`."""
        return TwinCritic(state_dim + num_agents * num_actions, self.model_config["critic_dim"])


class HASACLearner(CentralQLearner[CentralQBatch, HASACModule]):
    """Steps of the critics, then one of each agent, on stored sequences.

    Attributes:
        agent: the slot of the one whose turn it is.
    """

    agent: int
    batch_class = CentralQBatch

    def update_epochs(self, batch: CentralQBatch) -> None:
        """``num_epochs`` updates on stored sequences; the fresh ones are among them."""
        for _ in range(self.config.num_epochs):
            stored = self.replayed()
            if stored is None:
                return
            minibatch = self.prepare_minibatch(self.build_train_batch(stored))
            self.gradient_step(minibatch, self.critic_loss)
            agents = torch.randperm(batch.obs.shape[2], generator=self.generator)
            for self.agent in agents.tolist():
                self.gradient_step(minibatch, self.loss)

    def sample(self, policy: Tensor) -> Tensor:
        """One-hot actions of pi, [..., N, A]."""
        noise = gumbel(tuple(policy.shape), policy.device, self.generator)
        return F.one_hot((policy.log() + noise).argmax(-1), policy.shape[-1]).to(policy.dtype)

    def next_values(self, state: Tensor, joint_action: Tensor, policy: Tensor) -> Tensor:
        """The soft value of the target copy, [...]."""
        entropy = -torch.xlogy(policy, policy).sum((-2, -1))  # of all agents
        soft_q = super().next_values(state, self.sample(policy), policy)
        return soft_q + self.scheduled("entropy_coeff") * entropy

    def critic_loss(self, batch: CentralQBatch) -> Tensor:
        """L(phi), mean over steps [E, T]."""
        taken = F.one_hot(batch.actions, self.core.agent.num_actions).to(batch.targets.dtype)
        values = self.core.critic.both(
            batch.critic_state.flatten(0, 1), taken.flatten(0, 1)[:, None]
        )
        error = batch.targets.flatten().unsqueeze(1) - values.squeeze(1)  # [E T, 2]
        loss = weighted_sum(error.square().sum(-1), batch.value_weight.flatten())
        self.log_metrics(vf_loss=loss, q_mean=weighted_sum(batch.targets, batch.value_weight))
        return loss

    def compute_loss_for_module(
        self, *, module_id: str, config: HASACConfig, batch: CentralQBatch, fwd_out: RecurrentOutput
    ) -> Tensor:
        """-J of the agent whose turn it is, mean over its steps [E, T]."""
        agent, agents = self.agent, self.core.agent.num_agents
        with torch.no_grad():
            others = self.sample(fwd_out.policy).unsqueeze(2)  # [E, T, 1, N, A]
            size = others.shape[-1]
            joint = others.repeat(1, 1, size, 1, 1)  # [E, T, A, N, A]
            joint[..., agent, :] = torch.eye(size, device=joint.device)  # each action of its own
            q = self.values(self.core.critic, batch.critic_state, joint)  # [E, T, A]
        policy, entropy = fwd_out.policy[:, :, agent], fwd_out.entropy[:, :, agent]
        weight = batch.policy_weight[:, :, agent] * agents
        policy_loss = -weighted_sum((policy * q).sum(-1), weight)
        bonus = weighted_sum(entropy, weight)
        loss = policy_loss - self.scheduled("entropy_coeff") * bonus
        self.log_metrics(policy_loss=policy_loss / agents, entropy=bonus / agents)
        return loss


class HASAC(TeamAlgorithm):
    """Maximum-entropy agents that learn one after another from stored sequences."""

    @classmethod
    def get_default_config(cls) -> HASACConfig:
        """The builder with this algorithm's defaults."""
        return HASACConfig()
