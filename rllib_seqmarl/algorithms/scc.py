"""SCC: Shapley Counterfactual Credits (Li et al., KDD 2021).

Recurrent agents act simultaneously; a central critic Q(o, u) of all observations and actions says
what each has added. The credit of agent i is its Shapley value in the game of Q over coalitions C,
in which the agents outside of C act as if they were absent:

    phi_i = sum_{C without i} |C|! (N - 1 - |C|)! / N!  [Q(o, u^{C + i}) - Q(o, u^C)]

estimated from ``num_coalitions`` samples M. It is used in one of two ways:

- ``mode: policy`` (the default): A^i = phi_i in COMA's policy gradient, -log pi A - c H.
- ``mode: value``, as in the authors' release: the agents' outputs are values Q_i(tau^i, .), learned
  by (Q_i(tau^i, u^i) - phi_i)^2, and the agents act epsilon-greedily.

The release's settings, beside ``mode: value``: ``sampler: released``, ``lambda_: 0``, ``epsilon:
[[0, 1.0], [50_000, 0.0]]``, ``entropy_coeff: 0``, ``replay_capacity: 1000``, ``critic_steps: 1``,
``grad_clip: 5``, ``grad_clip_by: norm``, and for 3s5z ``agent_groups: [3, 5]``.

With ``agent_groups`` one linear layer adds up what each agent's own layers say. Such a Q is a sum
over agents: what one adds is the same in every coalition, and samples are then of no consequence.

The paper's text was not at hand: this follows its abstract and the release (TensorFlow 1, in
huawei-noah/xingtian). Deviations, each on purpose:

- Samples are random orders, in which an agent joins those before it: Shapley's weights, N + 1
  values for all agents. The release draws 1 to N - 1 absent others for each agent, which leaves out
  the case that nobody else is absent: ``sampler: released``, N > 2 (for N = 2 it takes one
  difference, with the own observation zeroed too; not here). It has one draw for a whole batch;
  here every step of a rollout has its own, which all environments share.
- Both of the release's critic inputs are one step late, for they are the same array. Not here.
- A batch is T steps of E environments, used once, or with ``replay_capacity`` (value mode) 32 of
  the last such sequences, where the release has 32 of 1,000 episodes. A cut or truncated episode
  bootstraps with Q'(o, pi), pi the probabilities with which the agents act.
- The critic takes its steps first, so credits are those of the improved critic.
- The target copy follows every 20,000 env steps; the release copies every 200 episodes.
- The agents' optimiser is Adam in policy mode. In value mode it is RMSprop with TensorFlow's decay
  of 0.9, and an epsilon of 1e-5 beside the root instead of 1e-10 under it.
- Dead agents are left out of the agents' loss; ``use_policy_active_mask: false`` counts them in.
  To the critic their observations are zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from torch import Tensor, nn

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.base.algorithm import TeamAlgorithm
from rllib_seqmarl.learning.central_q.config import (
    CentralQConfig,
    CentralQSettings,
    ReplayConfig,
    ReplaySettings,
)
from rllib_seqmarl.learning.central_q.learner import CentralQLearner
from rllib_seqmarl.learning.central_q.module import (
    CentralQBatch,
    RecurrentModule,
    RecurrentOutput,
)
from rllib_seqmarl.losses import weighted_sum
from rllib_seqmarl.nets.agents.epsilon import EpsilonCategorical
from rllib_seqmarl.nets.critics.joint import JointCritic
from rllib_seqmarl.settings import Doc, Expects, Gt, OneOf, Width, settings, training_method

#: Exact credits of this many agents take 4,096 values per step.
MAX_EXACT = 12


@settings
class SCCSettings(CentralQSettings, ReplaySettings):
    """Settings of SCC."""

    mode: Annotated[
        Literal["policy", "value"],
        Doc("what credits are for: the ``policy`` gradient, or the agents' ``value``."),
    ] = "policy"
    num_coalitions: Annotated[
        int | None, Gt(0), Doc("M, samples per step; null: exact credits, up to 12 agents.")
    ] = 3
    sampler: Annotated[
        Literal["shapley", "released"],
        Doc("how they are drawn: ``shapley``, or as the code that was ``released``."),
    ] = "shapley"
    absent: Annotated[
        Literal["zeros", "policy"],
        Doc("what stands for the action of an absent agent: ``zeros``, or its ``policy``."),
    ] = "zeros"
    agent_groups: Annotated[
        list[Annotated[int, Gt(0)]] | None,
        Expects("list numbers of agents, [3, 5]"),
        Doc("""how many agents, by slot, share the critic's layers: ``[3, 5]``. null: the critic's
        layers see all agents at once."""),
    ] = None
    critic_dim: Annotated[Width, Doc("width of the critic's two hidden layers.")] = 128
    state: Annotated[
        Literal["environment", "observations"],
        OneOf(("observations",)),
        Doc("what the critic reads."),
    ] = "observations"
    lr = 5e-4
    critic_steps = 10
    lambda_ = 0.6
    entropy_coeff = 0.09
    replay_batch_size = 32


class SCCConfig(ReplayConfig, CentralQConfig, SCCSettings):
    """The config of SCC."""

    @training_method(SCCSettings)
    def training(self) -> None:
        """See `SCCSettings`."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or SCC)

    def check(self) -> None:
        """See `CentralQConfig.check`."""
        super().check()
        if self.mode == "value" and self.entropy_coeff != 0:
            raise UserError(
                "config key 'entropy_coeff' has no meaning with mode 'value', where agents explore "
                "by epsilon: set it to 0."
            )
        if self.mode == "policy" and self.replay_capacity:
            raise UserError(
                "mode 'policy' learns from fresh rollouts only: leave replay_capacity at 0."
            )
        if self.num_coalitions is None and self.sampler != "shapley":
            raise UserError(
                f"sampler {self.sampler!r} has no exact credits: set num_coalitions, or leave "
                "sampler at 'shapley'."
            )
        if self.agent_groups == []:
            raise UserError(
                "config key 'agent_groups' must list numbers of agents, [3, 5], got []."
            )

    def get_default_learner_class(self) -> type[SCCLearner]:
        """The learner of this file."""
        return SCCLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Recurrent agents and a critic of all observations and actions."""
        names = ("mode", "num_coalitions", "sampler", "agent_groups", "critic_dim")
        return self.module_spec(SCCModule, *names)


class GroupedCritic(JointCritic):
    """SCC's Q(o, u): three layers over all agents, or two of each group's and one over all agents.

    Args:
        state_dim: N O, the observations of all agents.
        num_agents: N.
        num_actions: A.
        critic_dim: width of the hidden layers.
        groups: how many agents share their layers, by slot; None: no agent has layers of its own.
    """

    def __init__(
        self,
        state_dim: int,
        num_agents: int,
        num_actions: int,
        critic_dim: int,
        groups: list[int] | None,
    ) -> None:
        super().__init__()
        self.groups = groups or [1]
        self.num_agents = num_agents if groups else 1
        inputs = (state_dim + num_agents * num_actions) // self.num_agents
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Linear(inputs, critic_dim),
                nn.ReLU(),
                nn.Linear(critic_dim, critic_dim),
                nn.ReLU(),
            )
            for _ in self.groups
        )
        self.value = nn.Linear(self.num_agents * critic_dim, 1)

    def forward(self, state: Tensor, joint_actions: Tensor) -> Tensor:
        """See `JointCritic`."""
        batch, count = joint_actions.shape[:2]
        obs = state.view(batch, 1, self.num_agents, -1).expand(-1, count, -1, -1)
        actions = joint_actions.reshape(batch, count, self.num_agents, -1)
        groups = torch.cat((obs, actions), dim=-1).split(self.groups, dim=2)
        hidden = [layers(x) for layers, x in zip(self.layers, groups, strict=True)]
        return self.value(torch.cat(hidden, dim=2).flatten(2)).squeeze(-1)


class SCCModule(RecurrentModule):
    """Recurrent agents, by mode with policies or with values, and SCC's critic."""

    def make_critic(self, state_dim: int, num_agents: int, num_actions: int) -> GroupedCritic:
        """See `RecurrentModule`.

        Raises:
            UserError: settings that do not fit the number of agents.
        """
        settings = self.model_config
        groups = settings["agent_groups"]
        if groups is not None and sum(groups) != num_agents:
            raise UserError(f"agent_groups {groups} do not add up to the {num_agents} agents.")
        if settings["num_coalitions"] is None and num_agents > MAX_EXACT:
            raise UserError(
                f"exact credits of {num_agents} agents take 2^{num_agents} values per step: set "
                f"num_coalitions; at most {MAX_EXACT} agents can have them."
            )
        if settings["sampler"] == "released" and num_agents < 3:
            raise UserError(
                f"sampler 'released' needs three agents, and here are {num_agents}: leave it at "
                "'shapley'."
            )
        return GroupedCritic(state_dim, num_agents, num_actions, settings["critic_dim"], groups)

    @classmethod
    def actor_settings(cls, model_config: Mapping[str, Any]) -> dict[str, Any]:
        """See `RecurrentModule`; epsilon-greedy where agents have values."""
        settings = super().actor_settings(model_config)
        if model_config["mode"] == "policy":
            return settings
        return settings | {"greedy": True, "epsilon": settings["epsilon"] or 0.0}

    def policy(self, logits: Tensor, mask: Tensor | None) -> Tensor:
        """See `RecurrentModule`; epsilon-greedy where agents have values."""
        behaviour = self.agent.behaviour
        if isinstance(behaviour, EpsilonCategorical) and behaviour.greedy:
            return behaviour.probabilities(logits, mask)
        return super().policy(logits, mask)


class Coalitions(NamedTuple):
    """Coalitions C of agents, and how the credit of each agent is made of the values Q(C)."""

    present: Tensor  # bool [..., K, N], who belongs to each of the K coalitions
    weight: Tensor  # [..., K, N], of Q(C) in the credit of each agent; those of an agent sum to 0


def all_coalitions(agents: int, device: torch.device | None = None) -> Coalitions:
    """All 2^N, with Shapley's weights: |C|! (N - 1 - |C|)! / N! for i's joining C."""
    masks = torch.arange(2**agents, device=device).unsqueeze(-1)
    present = (masks >> torch.arange(agents, device=device)) % 2 == 1  # [2^N, N]
    joining = [
        math.factorial(size) * math.factorial(agents - 1 - size) / math.factorial(agents)
        for size in range(agents)
    ]
    # Of Q(C): with the agent in C, that of its joining the |C| - 1 others; else of joining C.
    weights = torch.tensor([0.0, *joining, 0.0], device=device)
    size = present.sum(-1, keepdim=True)
    return Coalitions(present, torch.where(present, weights[size], -weights[size + 1]))


def sampled_coalitions(
    shape: tuple[int, ...], agents: int, samples: int, generator: torch.Generator
) -> Coalitions:
    """M random orders, in which each agent joins those before it: M (N + 1) coalitions.

    Those before an agent are any number of the others, from 0 to N - 1 alike, and any of them, so
    its credit's expectation is Shapley's. N + 1 values serve all agents, and the credits of each
    sample add up to Q(all) - Q(none).

    Args:
        shape: leading axes, with samples of their own.
        agents: N.
        samples: M.
        generator: source of the draws, on the CPU.
    """
    place = torch.rand(*shape, samples, 1, agents, generator=generator).argsort(-1)
    count = torch.arange(agents + 1).unsqueeze(-1)
    present = place < count  # [*shape, M, N + 1, N]
    weight = ((place == count - 1).float() - (place == count).float()) / samples
    return Coalitions(present.flatten(-3, -2), weight.flatten(-3, -2))


def released_coalitions(
    shape: tuple[int, ...], agents: int, samples: int, generator: torch.Generator
) -> Coalitions:
    """What SCC's code draws for each agent: 1 to N - 1 of the others are absent, so that the full
    coalition, COMA's case, never occurs; N > 2. Arguments as of `sampled_coalitions`; 2 M N.
    """
    own = torch.eye(agents, dtype=torch.bool)
    keys = torch.rand(*shape, samples, agents, agents, generator=generator).masked_fill(own, 2.0)
    absent = torch.randint(1, agents, (*shape, samples, agents, 1), generator=generator)
    others = keys.argsort(-1).argsort(-1) >= absent  # [*shape, M, N, N], the own slot among them
    present = torch.stack((others, others & ~own), dim=-2)  # with the agent, without it
    weight = torch.stack((own.float(), -own.float()), dim=-2) / samples  # [N, 2, N]
    return Coalitions(present.flatten(-4, -2), weight.expand_as(present).flatten(-4, -2))


def shapley_credit(
    q: Callable[[Tensor], Tensor], actions: Tensor, absent: Tensor, coalitions: Coalitions
) -> Tensor:
    """phi_i, the mean of Q(C with i) - Q(C), N + 1 coalitions at a time.

    Args:
        q: the critic in these states.
        actions: int [B, N].
        absent: what stands for the action of an agent that does not belong to C, [B, N, A].
        coalitions: [K, N], or [B, K, N] where each state has its own.

    Returns:
        [B, N], in agent slots.
    """
    agents = actions.shape[-1]
    taken = F.one_hot(actions, absent.shape[-1]).to(absent.dtype).unsqueeze(1)  # [B, 1, N, A]
    credit = torch.zeros_like(absent[..., 0])
    parts = (column.split(agents + 1, dim=-2) for column in coalitions)
    for present, weight in zip(*parts, strict=True):
        values = q(torch.where(present.unsqueeze(-1), taken, absent.unsqueeze(1)))  # [B, k]
        credit = credit + (values.unsqueeze(-1) * weight).sum(-2)
    return credit


SAMPLERS = {"shapley": sampled_coalitions, "released": released_coalitions}


@dataclass(kw_only=True)
class SCCBatch(CentralQBatch):
    """Adds the coalitions of each step."""

    coalitions: Tensor | None = None  # bool [E, T, K, N]; None: all of them, exactly
    coalition_weight: Tensor | None = None  # of each one's value in the credits, [E, T, K, N]


class SCCLearner(CentralQLearner[SCCBatch, SCCModule]):
    """Credits by coalitions, for the policy gradient or as targets of the agents' values."""

    batch_class = SCCBatch

    def make_optimizer(self, part: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """See `CentralQLearner`; in value mode the agents' is RMSprop."""
        if self.config.mode == "value" and part == "agent":
            return torch.optim.RMSprop(parameters, alpha=0.9, eps=1e-5)
        return super().make_optimizer(part, parameters)

    def prepare_minibatch(self, minibatch: SCCBatch) -> SCCBatch:
        """Weights, and the coalitions of each step, the same in all environments."""
        minibatch = super().prepare_minibatch(minibatch)
        if self.config.num_coalitions is None:
            return minibatch
        envs, *shape, agents = minibatch.actions.shape
        sample = SAMPLERS[self.config.sampler]
        drawn = sample(tuple(shape), agents, self.config.num_coalitions, self.generator)
        present, weight = (column.to(self.device).expand(envs, *column.shape) for column in drawn)
        return minibatch.replace(coalitions=present, coalition_weight=weight)

    def update_minibatch(self, minibatch: SCCBatch) -> None:
        """With replay, from stored sequences once there are enough."""
        stored = self.replayed()
        super().update_minibatch(minibatch if stored is None else self.build_train_batch(stored))

    def compute_loss_for_module(
        self, *, module_id: str, config: SCCConfig, batch: SCCBatch, fwd_out: RecurrentOutput
    ) -> Tensor:
        """-(log pi phi + c H) or (Q_i - phi)^2, mean over agents and steps; Q is constant."""
        with torch.no_grad():
            credit = self._credit(batch, fwd_out.policy)
        weight = batch.policy_weight
        if config.mode == "value":
            values = fwd_out.logits.gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
            loss = weighted_sum((values - credit).square(), weight)
            self.log_metrics(credit_mean=weighted_sum(credit, weight), total_loss=loss)
            return loss
        policy_loss = -weighted_sum(fwd_out.log_prob.squeeze(-1) * credit, weight)
        entropy = weighted_sum(fwd_out.entropy, weight)
        loss = policy_loss - self.scheduled("entropy_coeff") * entropy
        self.log_metrics(
            policy_loss=policy_loss,
            entropy=entropy,
            advantage_square=weighted_sum(credit.square(), weight),
            total_loss=loss,
        )
        return loss

    def _credit(self, batch: SCCBatch, policy: Tensor) -> Tensor:
        """phi, [E, T, N]."""
        q = partial(self.core.critic, batch.critic_state.flatten(0, 1))
        actions = batch.actions
        if batch.coalitions is None or batch.coalition_weight is None:
            coalitions = all_coalitions(actions.shape[-1], actions.device)
        else:
            coalitions = Coalitions(
                batch.coalitions.flatten(0, 1), batch.coalition_weight.flatten(0, 1)
            )
        absent = policy if self.config.absent == "policy" else torch.zeros_like(policy)
        credit = shapley_credit(q, actions.flatten(0, 1), absent.flatten(0, 1), coalitions)
        return credit.view_as(policy[..., 0])


class SCC(TeamAlgorithm):
    """Shapley counterfactual credits."""

    @classmethod
    def get_default_config(cls) -> SCCConfig:
        """The builder with this algorithm's defaults."""
        return SCCConfig()
