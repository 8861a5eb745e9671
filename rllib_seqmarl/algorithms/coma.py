"""COMA: Counterfactual Multi-Agent Policy Gradients (Foerster et al., AAAI 2018).

Recurrent agents act simultaneously; a central critic has, for every agent a, a value of each of its
actions while the others' are fixed. In the paper's symbols:

- eq. 4:  A^a(s, u) = Q(s, u) - sum_{u'^a} pi^a(u'^a | tau^a) Q(s, (u^-a, u'^a)).
- Lemma 1: g = E[sum_a grad log pi^a(u^a | tau^a) A^a(s, u)], A a constant; to J, as in PyMARL2, an
  entropy bonus c H is added.
- TD(lambda): the critic learns y^(lambda) of a target copy (`learning.central_q`), for every agent.
- Figure 1c: one pass of the critic gives Q of all actions of an agent. It reads the state, the
  agent's own observation, the others' actions, everybody's last actions and the agent's slot.

Defaults are those of PyMARL2: lambda 0.6, entropy 0.09, random actions in sampling only.
Deviations, each on purpose:

- A batch is T steps of E environments, not whole episodes: an episode that the rollout's end cuts
  continues in the next rollout, from the stored recurrent state.
- PyMARL walks back through the batch with a step of the critic at each t; here ``critic_steps``
  steps are taken of the whole batch. The agents' step follows, so their advantages are those of the
  improved critic.
- PyMARL's target copy follows every 200 of its steps of the critic, two or three batches of 8
  episodes; here every 4,000 env steps, about an iteration.
- ``epsilon``, the share of random actions, is 0: the policy gradient is that of the policy that
  acts, and the entropy keeps it exploring. PyMARL2's falls from 0.5 to 0.01 in 100,000 steps,
  ``epsilon: [[0, 0.5], [100_000, 0.01]]``, in sampling only, as here. In the paper it is a part of
  pi itself.
- PyMARL2 learns from 128 of the last 5,000 episodes without a correction;
  here each rollout is used once.
- A truncated episode and the end of a rollout bootstrap with sum_u pi^a(u) Q(s, (pi^-a, u)), for no
  action was chosen: an expectation of eq. 4's kind with the others' probabilities in place of their
  actions.
- Adam for both, as PyMARL2; PyMARL has RMSprop.

Dead agents count in every mean, as in PyMARL. They have one action, so their terms of the policy
gradient are zero. ``use_policy_active_mask`` and ``use_value_active_mask`` leave them out. To the
critic their observations are zeros.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
from torch import Tensor, nn

from rllib_seqmarl.learning.base.algorithm import TeamAlgorithm
from rllib_seqmarl.learning.base.explanation import Explanation, Quantity
from rllib_seqmarl.learning.base.module import critic_obs_dim
from rllib_seqmarl.learning.central_q.config import CentralQConfig, CentralQSettings
from rllib_seqmarl.learning.central_q.learner import CentralQLearner
from rllib_seqmarl.learning.central_q.module import (
    LAST_ACTIONS,
    CentralQBatch,
    RecurrentModule,
    RecurrentOutput,
    living_obs,
)
from rllib_seqmarl.losses import weighted_sum
from rllib_seqmarl.nets.critics.joint import JointCritic
from rllib_seqmarl.rollout.rollout_batch import ACTIONS
from rllib_seqmarl.settings import Doc, Width, settings, training_method


@settings
class COMASettings(CentralQSettings):
    """Settings of COMA."""

    critic_dim: Annotated[Width, Doc("width of the critic's two hidden layers.")] = 128
    lr = 5e-4
    critic_steps = 10
    target_update_env_steps = 4_000
    lambda_ = 0.6
    entropy_coeff = 0.09
    use_policy_active_mask = False


class COMAConfig(CentralQConfig, COMASettings):
    """The config of COMA."""

    team_value: ClassVar[bool] = False

    @training_method(COMASettings)
    def training(self) -> None:
        """See `COMASettings`."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or COMA)

    def explain(self, module: RLModule, columns: dict[str, Tensor]) -> Explanation:
        """Adds the counterfactual advantage; see `TeamConfig.explain`."""
        said = super().explain(module, columns)
        assert isinstance(module, COMAModule)
        if not module.inference_only:
            path, actions = module.episode_path(columns), columns[ACTIONS]
            policy = path.policy[0, :-1]  # [T, N, A]
            with torch.no_grad():
                taken = F.one_hot(actions, policy.shape[-1]).to(policy.dtype)
                q = module.critic.action_values(path.state[0, :-1], taken.unsqueeze(1))[:, 0]
                advantage = counterfactual_advantage(q, policy, actions)
            said.quantities.append(Quantity("counterfactual advantage", advantage, signed=True))
        return said

    def get_default_learner_class(self) -> type[COMALearner]:
        """The learner of this file."""
        return COMALearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Recurrent agents and a critic of every agent's actions."""
        return self.module_spec(COMAModule, "critic_dim")


class COMACritic(JointCritic):
    """Q(s, (u^-a, .)) of every agent a, by one network that reads who it is (Figure 1c).

    Its input is N times as wide as what is stored, so it is built here, from
    [s, o^1 .. o^N, last actions]: see `COMAModule.state_of`.

    Args:
        state_dim: S.
        obs_dim: O, of one agent.
        num_agents: N.
        num_actions: A.
        critic_dim: width of the hidden layers.
    """

    def __init__(
        self, state_dim: int, obs_dim: int, num_agents: int, num_actions: int, critic_dim: int
    ) -> None:
        super().__init__()
        joint = num_agents * num_actions
        self.parts = [state_dim, num_agents * obs_dim, joint]
        self.layers = nn.Sequential(
            nn.Linear(state_dim + obs_dim + 2 * joint + num_agents, critic_dim),
            nn.ReLU(),
            nn.Linear(critic_dim, critic_dim),
            nn.ReLU(),
            nn.Linear(critic_dim, num_actions),
        )

    def action_values(self, state: Tensor, joint_actions: Tensor) -> Tensor:
        """Q of every action of every agent, the others' fixed.

        Args:
            state: [B, S + N O + N A].
            joint_actions: [B, K, N, A].

        Returns:
            [B, K, N, A].
        """
        batch, count, agents, _ = joint_actions.shape
        own = torch.eye(agents, dtype=torch.bool, device=state.device)
        others = joint_actions.unsqueeze(2).masked_fill(own.unsqueeze(-1), 0.0)  # [B, K, N, N, A]
        state, obs, last_actions = state.split(self.parts, dim=-1)
        shape = (batch, count, agents, -1)
        inputs = (
            state[:, None, None].expand(shape),
            obs.view(batch, 1, agents, -1).expand(shape),
            others.flatten(3),
            last_actions[:, None, None].expand(shape),
            own.to(state.dtype).expand(shape),
        )
        return self.layers(torch.cat(inputs, dim=-1))

    def forward(self, state: Tensor, joint_actions: Tensor) -> Tensor:
        """Of the own action, or the mean under own probabilities, [B, K, N]; see `JointCritic`."""
        return (self.action_values(state, joint_actions) * joint_actions).sum(-1)


def counterfactual_advantage(action_values: Tensor, policy: Tensor, actions: Tensor) -> Tensor:
    """A^a = Q(u) - sum_u' pi^a(u') Q(u^-a, u') (COMA, eq. 4); its mean under pi^a is zero.

    Args:
        action_values: Q of each own action, the others' fixed, [..., A].
        policy: pi, [..., A].
        actions: int [...].

    Returns:
        [...].
    """
    chosen = action_values.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    return chosen - (policy * action_values).sum(-1)


class COMAModule(RecurrentModule):
    """Recurrent agents with COMA's critic."""

    critic: COMACritic

    def make_critic(self, state_dim: int, num_agents: int, num_actions: int) -> COMACritic:
        """See `RecurrentModule`."""
        width = critic_obs_dim(self.observation_space)
        return COMACritic(
            state_dim, width, num_agents, num_actions, self.model_config["critic_dim"]
        )

    def state_of(self, columns: dict[str, Tensor]) -> Tensor:
        """[s, o^1 .. o^N, last actions], the latter one-hot and zero where an episode begins."""
        shifted = columns[LAST_ACTIONS] + 1
        last_actions = F.one_hot(shifted, self.agent.num_actions + 1)[..., 1:]  # [..., N, A]
        obs = living_obs(columns).flatten(-2)
        return torch.cat((super().state_of(columns), obs, last_actions.flatten(-2)), dim=-1)


class COMALearner(CentralQLearner[CentralQBatch, COMAModule]):
    """Score-function gradient with the counterfactual advantage."""

    batch_class = CentralQBatch

    def compute_loss_for_module(
        self, *, module_id: str, config: COMAConfig, batch: CentralQBatch, fwd_out: RecurrentOutput
    ) -> Tensor:
        """-(log pi A + c H), mean over agents and steps (Lemma 1); the critic is constant."""
        policy, weight = fwd_out.policy, batch.policy_weight
        with torch.no_grad():
            taken = F.one_hot(batch.actions, policy.shape[-1]).to(policy.dtype)  # [E, T, N, A]
            state = batch.critic_state.flatten(0, 1)
            q = self.core.critic.action_values(state, taken.flatten(0, 1).unsqueeze(1))
            advantage = counterfactual_advantage(q.view_as(policy), policy, batch.actions)
        policy_loss = -weighted_sum(fwd_out.log_prob.squeeze(-1) * advantage, weight)
        entropy = weighted_sum(fwd_out.entropy, weight)
        loss = policy_loss - self.scheduled("entropy_coeff") * entropy
        self.log_metrics(
            policy_loss=policy_loss,
            entropy=entropy,
            advantage_square=weighted_sum(advantage.square(), weight),
            total_loss=loss,
        )
        return loss


class COMA(TeamAlgorithm):
    """Counterfactual multi-agent policy gradients."""

    @classmethod
    def get_default_config(cls) -> COMAConfig:
        """The builder with this algorithm's defaults."""
        return COMAConfig()
