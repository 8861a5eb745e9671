"""A toy team task whose best decision order changes at every step: the informed decide first.

At every step one agent, drawn uniformly, has a private cue: its action mask allows one action
only, drawn uniformly from A, and no observation says which. All agents see who is informed. The
team is paid for the part of the others who take the cued action.

Masks act on an agent's own distribution and enter no network, so the cue reaches the others
through one thing alone: the informed agent's action, seen by those who decide after it. An agent
that decides before it can only guess. In terms of the reward per step, with N agents,

- optimum: 1, and only if the informed agent decides first (:func:`optimum`);
- any order that is not chosen for who is informed, be it by index, fixed otherwise or random:
  at most ``1/2 + 1/(2 A)`` (:func:`index_order_bound`), since the informed agent's position is
  then uniform, whatever the policy;
- an order whose first agent is fixed and whose others are chosen: at most
  ``(N - 1 + 1/A) / N`` (:func:`fixed_first_agent_bound`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.config import TeamEnvConfig
from rllib_seqmarl.envs.core.contract import (
    Observation,
    TeamVectorEnv,
    VectorStep,
    discrete_actions,
    observation_space,
)
from rllib_seqmarl.envs.core.generators import EnvGenerators
from rllib_seqmarl.settings import Doc, Ge, settings


@settings
class PrivateCueConfig(TeamEnvConfig):
    """``env_config`` of the task."""

    num_agents: Annotated[int, Ge(2), Doc("Number of agents N.")] = 4
    num_actions: Annotated[int, Ge(2), Doc("Number of actions A.")] = 4
    episode_length: Annotated[
        int, Ge(1), Doc("Steps of an episode, each with a cue of its own.")
    ] = 1


def optimum(episode_length: int = 1) -> float:
    """The largest possible expected episode return: 1 per step."""
    return float(episode_length)


def index_order_bound(num_actions: int) -> float:
    """The most that can be expected per step in index order, or any other that ignores the cue.

    The informed agent decides k-th, k uniform on 1..N. The k - 1 agents before it match with
    probability 1/A at best and the N - k behind it always can: the mean over k of
    ``((k - 1) / A + N - k) / (N - 1)`` is ``1/2 + 1/(2 A)`` for every N.

    Args:
        num_actions: A.
    """
    return 0.5 + 0.5 / num_actions


def fixed_first_agent_bound(num_agents: int, num_actions: int) -> float:
    """The most that can be expected per step where all but the first decider are chosen.

    With probability 1/N the first agent is the informed one; otherwise it alone must guess.

    Args:
        num_agents: N.
        num_actions: A.
    """
    return (num_agents - 1 + 1 / num_actions) / num_agents


class PrivateCue(TeamVectorEnv):
    """E envs of the task of this module.

    Observation of an agent: one-hot of its slot, and whether it is the informed one. No agent
    ever dies.
    """

    metric_names = ("match_ratio",)
    simulator = "private_cue"

    def __init__(self, num_envs: int, config: PrivateCueConfig) -> None:
        """Takes E and the settings."""
        agents, actions = config.num_agents, config.num_actions
        super().__init__(
            num_envs,
            observation_space(agents, agents + 1, actions),
            discrete_actions(agents, actions),
            config.autoreset,
        )
        self._num_actions = actions
        self._steps = config.episode_length
        self._time = np.zeros(num_envs, np.int64)
        self._informed = np.zeros(num_envs, np.int64)
        self._cue = np.zeros(num_envs, np.int64)
        self._rngs = EnvGenerators(num_envs)
        self._match_sum = np.zeros(num_envs)

    def _reset_envs(self) -> Observation:
        self._rngs.reseed(self.np_random)
        self._time[:] = 0
        self._match_sum[:] = 0.0
        self._draw(np.ones(self.num_envs, np.bool_))
        return self._observe()

    def _draw(self, which: NDArray[np.bool_]) -> None:
        """New informed agents and cues in these envs, bool [E]."""
        for e in np.flatnonzero(which):
            rng = self._rngs[e]
            self._informed[e] = rng.integers(self.num_agents)
            self._cue[e] = rng.integers(self._num_actions)

    def _observe(self) -> Observation:
        envs, agents = self.num_envs, self.num_agents
        informed = self._informed[:, None] == np.arange(agents)  # [E, N]
        slots = np.broadcast_to(np.eye(agents, dtype=np.float32), (envs, agents, agents))
        cue = self._cue[:, None] == np.arange(self._num_actions)  # [E, A]
        return {
            "obs": np.concatenate([slots, informed[..., None]], axis=2, dtype=np.float32),
            "alive": np.ones((envs, agents), np.bool_),
            "action_mask": ~informed[..., None] | cue[:, None],
        }

    def _step_envs(self, actions: NDArray[Any], frozen: NDArray[np.bool_] | None) -> VectorStep:
        active = self._active(frozen)
        # The informed agent itself always matches.
        matching = (actions == self._cue[:, None]).sum(axis=1) - 1
        reward = np.where(active, matching / (self.num_agents - 1), 0.0)
        self._match_sum += reward
        self._time += active
        self._draw(active)
        terminated = self._time == self._steps
        if terminated.any():
            metric = (self._match_sum / self._steps).astype(np.float32)
            self._last = (self._observe(), {"match_ratio": metric})
            self._time[terminated] = 0
            self._match_sum[terminated] = 0.0
            self._draw(terminated)
        return VectorStep(
            self._observe(),
            reward.astype(np.float32),
            terminated,
            np.zeros(self.num_envs, np.bool_),
        )

    def _get_envs_state(self) -> dict[str, Any]:
        return {
            "time": self._time.copy(),
            "informed": self._informed.copy(),
            "cue": self._cue.copy(),
            "match_sum": self._match_sum.copy(),
            "random": self._rngs.get_state(),
        }

    def _set_envs_state(self, state: Mapping[str, Any]) -> None:
        self._time = state["time"].copy()
        self._informed = state["informed"].copy()
        self._cue = state["cue"].copy()
        self._match_sum = state["match_sum"].copy()
        self._rngs.set_state(state["random"])
