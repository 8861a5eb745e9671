"""The RLModule shell around recurrent agents with a central critic of their joint action."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.base.batch import TrainBatch
from rllib_seqmarl.learning.base.explanation import (
    NO_ATTENTION,
    NO_CRITIC,
    NO_ORDER,
    Explanation,
    Quantity,
)
from rllib_seqmarl.learning.base.module import NO_STATE, TeamModule, critic_obs_dim
from rllib_seqmarl.nets.acting.recurrent import RecurrentActor
from rllib_seqmarl.nets.agents.recurrent import HIDDEN, previous_actions
from rllib_seqmarl.nets.critics.joint import HypernetworkCritic, JointCritic, TargetCritic
from rllib_seqmarl.nets.distributions import masked_logits
from rllib_seqmarl.nets.encoders.reader import as_reals
from rllib_seqmarl.rollout.rollout_batch import ACTION_MASK, ACTIONS, ALIVE, OBS, STATE

#: What each agent did at the step before, -1 at the first step of an episode: beside the
#: observation columns for critics that read it, int [..., N].
LAST_ACTIONS = "last_actions"


def state_dim(space: spaces.Dict, source: str) -> int:
    """Width S of what the critic reads, from the observation space of one environment.

    Raises:
        UserError: the environment has no ``state`` though it is asked for, or images in it.
    """
    if source != "environment":
        return space[OBS].shape[0] * critic_obs_dim(space)
    if STATE not in space.spaces:
        raise UserError(NO_STATE)
    return int(np.prod(space[STATE].shape))


def living_obs(columns: dict[str, Tensor]) -> Tensor:
    """Observations for a critic, [..., N, O]: zeros for dead agents, as StarCraft gives them."""
    return as_reals(columns[OBS]).masked_fill(~columns[ALIVE].unsqueeze(-1), 0.0)


@dataclass(kw_only=True)
class CentralQBatch(TrainBatch):
    """Sequences [E, T, N, ...]; targets, and values, are [E, T], or [E, T, N] (COMA)."""

    is_first: Tensor  # bool [E, T]
    hidden: Tensor  # the agents' recurrent state before the first step, [E, N, H]
    previous_actions: Tensor  # what they did before the first step, int [E, N]
    critic_state: Tensor  # what the critic reads beside the joint action, [E, T, S]
    mean_entropy: Tensor | None = None  # of the minibatch, a scalar; see ``entropy_ratio``


class RecurrentOutput(NamedTuple):
    """The agents' outputs on sequences."""

    log_prob: Tensor  # of the actions that were taken, [E, T, N, 1]
    entropy: Tensor  # [E, T, N]
    policy: Tensor  # probabilities, [E, T, N, A]
    logits: Tensor  # [E, T, N, A]


class Path(NamedTuple):
    """The states and policies of T steps; the last of the T + 1 points follows them."""

    state: Tensor  # [E, T + 1, S]
    policy: Tensor  # [E, T + 1, N, A], probabilities with which they acted
    not_done: Tensor  # bool [E, T], whether point t + 1 is of the same episode as point t


class RecurrentModule(RecurrentActor, TeamModule):
    """Agents, their critic and its target copy; an algorithm says which critic.

    Rollouts hold the recurrent state before their first row (RLlib's ``state_in``), from where
    learning unrolls the agents. On rollout processes the critics are left out.
    """

    critic: JointCritic
    target: TargetCritic

    @abstractmethod
    def make_critic(self, state_dim: int, num_agents: int, num_actions: int) -> JointCritic:
        """The critic, from S, N, A and ``model_config``."""

    @classmethod
    def actor_settings(cls, model_config: Mapping[str, Any]) -> dict[str, Any]:
        """See `TeamModule`; actions are drawn from pi, or from pi with a share of random ones."""
        names = ("hidden_dim", "epsilon")
        settings = {name: model_config[name] for name in names}
        # Version 0.2 had no encoders.
        encoder = model_config.get("observation_encoder")
        return settings | {"greedy": False, "observation_encoder": encoder}

    def setup(self) -> None:
        """Builds the networks from the spaces of one environment.

        Raises:
            UserError: actions that are not discrete, or no ``state`` where it is asked for.
        """
        inputs, settings = self.inputs, self.model_config
        self.build_actor(inputs, self.actor_settings(settings))
        if not self.inference_only:
            state = state_dim(self.observation_space, settings["state"])
            self.critic = self.make_critic(state, inputs.num_agents, inputs.action.size)
            self.target = TargetCritic(self.critic)

    def set_state(self, state: Mapping[str, Any]) -> None:
        """See `TeamModule`; up to version 0.2 the target's count was of steps of the critic."""
        state = dict(state)
        if state.pop("target.updates", None) is not None:
            state["target.env_steps"] = np.array(-1)
        super().set_state(state)

    def get_non_inference_attributes(self) -> list[str]:
        """What acting does not need."""
        return ["critic", "target"]

    def state_of(self, columns: dict[str, Tensor]) -> Tensor:
        """What the critic reads, from observation columns and `LAST_ACTIONS`: [..., S]."""
        environments = self.model_config["state"] == "environment"
        state = columns[STATE] if environments else living_obs(columns)
        return state.flatten(columns[OBS].ndim - 2)

    def policy(self, logits: Tensor, mask: Tensor | None) -> Tensor:
        """Probabilities [..., A], 0 for actions that are not available."""
        return masked_logits(logits, mask).softmax(-1)

    # -- what can be seen of it --------------------------------------------------------------

    @torch.no_grad()
    def episode_path(self, columns: dict[str, Tensor]) -> Path:
        """States and policies of an episode, E = 1, from columns [T, ...].

        The point after the last step, which nobody has seen, repeats the last one.
        """
        actions = columns[ACTIONS]
        before = torch.cat((torch.full_like(actions[:1], -1), actions[:-1]))  # [T, N]
        state = self.state_of(columns | {LAST_ACTIONS: before})  # [T, S]
        is_first = torch.arange(len(actions), device=actions.device).unsqueeze(0) == 0  # [1, T]
        hidden = self.agent.initial_state()[HIDDEN].unsqueeze(0)
        logits = self.agent.unroll(
            columns[OBS].unsqueeze(0), before.clamp(min=0).unsqueeze(0), hidden, is_first
        ).logits
        policy = self.policy(logits[0], columns.get(ACTION_MASK))  # [T, N, A]
        state, policy = (torch.cat((x, x[-1:])).unsqueeze(0) for x in (state, policy))
        not_done = torch.arange(len(actions), device=actions.device) < len(actions) - 1
        return Path(state, policy, not_done.unsqueeze(0))

    @torch.no_grad()
    def explain(self, columns: dict[str, Tensor]) -> Explanation:
        """The critic's values of what was done; see `TeamModule.explain`."""
        said = Explanation(missing=[NO_ORDER, NO_ATTENTION])
        if self.inference_only:
            said.missing.append(NO_CRITIC)
            return said
        state = self.episode_path(columns).state[0, :-1]
        taken = F.one_hot(columns[ACTIONS], self.agent.num_actions).to(state.dtype)  # [T, N, A]
        values = self.critic(state, taken.unsqueeze(1))[:, 0]  # [T], or [T, N]
        whose = "the team" if values.ndim == 1 else "each agent"
        values = values.reshape(len(values), -1)
        said.quantities.append(Quantity(f"action value Q of {whose} (reward units)", values))
        return said

    # -- passes ------------------------------------------------------------------------------

    def _forward_train(self, batch: CentralQBatch, **kwargs: object) -> RecurrentOutput:
        logits = self.agent.unroll(
            batch.obs,
            previous_actions(batch.actions, batch.previous_actions),
            batch.hidden,
            batch.is_first,
        ).logits
        distribution, mask = self.agent.distribution, batch.action_mask
        return RecurrentOutput(
            distribution.log_prob(logits, mask, batch.actions),
            distribution.entropy(logits, mask),
            self.policy(logits, mask),
            logits,
        )


class HypernetworkModule(RecurrentModule):
    """Recurrent agents with a hypernetwork critic."""

    def make_critic(self, state_dim: int, num_agents: int, num_actions: int) -> HypernetworkCritic:
        """See `RecurrentModule`."""
        width, hypernet = self.model_config["embed_dim"], self.model_config["hypernet_dim"]
        return HypernetworkCritic(state_dim, num_agents, num_actions, width, hypernet)
