"""A toy team task that agents who decide at the same time cannot solve: all act differently.

N agents get the identical observation (time, and a random context that says nothing) and no
identity. The team is paid for choosing N distinct actions. With shared parameters and the same
input, agents that decide simultaneously draw from one common distribution; agents that see
their predecessors' actions can avoid them.

With A actions and the reward of one step being 1 if all N actions differ, else 0:

- optimum: 1 (:func:`optimum`);
- simultaneous agents: at most ``A! / ((A - N)! A^N)``, reached by the uniform policy;
  ``N! / N^N`` where A = N (:func:`simultaneous_bound`).

The continuous variant pays where all N real numbers in [-1, 1] are pairwise at least
``min_gap`` apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.config import TeamEnvConfig
from rllib_seqmarl.envs.core.contract import (
    Observation,
    TeamVectorEnv,
    VectorStep,
    continuous_actions,
    discrete_actions,
    observation_space,
)
from rllib_seqmarl.envs.core.generators import EnvGenerators
from rllib_seqmarl.settings import Doc, Ge, Refused, read, settings

CONTEXT_SIZE = 2


@settings
class DistinctActionsConfig(TeamEnvConfig):
    """``env_config`` of the task."""

    num_agents: Annotated[int, Ge(2), Doc("Number of agents N.")] = 4
    num_actions: Annotated[int, Ge(0), Doc("Number of actions A; 0: N.")] = 0
    episode_length: Annotated[int, Ge(1), Doc("Steps of an episode.")] = 1
    reward: Annotated[
        Literal["all", "fraction"],
        Doc(
            "``all``: 1 if all actions differ, else 0; ``fraction``: the part of the N agents, or "
            "of the N - 1 gaps between numbers next to each other, that is right."
        ),
    ] = "all"
    continuous: Annotated[bool, Doc("Whether actions are real numbers in [-1, 1].")] = False
    min_gap: Annotated[
        float,
        Doc(
            "Least distance of continuous actions; 0: 1 / (N - 1), half of the gap of N "
            "equidistant numbers in [-1, 1]."
        ),
    ] = 0.0

    def check(self) -> None:
        """Fills in what is 0, and checks it against the number of agents."""
        self.num_actions = self.num_actions or self.num_agents
        if self.num_actions < self.num_agents:
            raise Refused("num_actions", f"must be at least num_agents ({self.num_agents})")
        self.min_gap = self.min_gap or 1.0 / (self.num_agents - 1)
        largest = 2.0 / (self.num_agents - 1)
        if not 0.0 < self.min_gap <= largest:
            raise Refused("min_gap", f"must be in (0, {largest:g}]")


def make(num_envs: int, **env_config: object) -> DistinctActions:
    """``num_envs`` envs with the given ``env_config``."""
    config = read(DistinctActionsConfig, env_config, "distinct_actions: env_config")
    return DistinctActions(num_envs, config)


def optimum(episode_length: int = 1) -> float:
    """The largest possible episode return: 1 per step."""
    return float(episode_length)


def simultaneous_bound(num_agents: int, num_actions: int | None = None) -> float:
    """The most that N agents can expect per step if each draws from the same distribution.

    ``A! / ((A - N)! A^N)``: the probability that N draws differ is the N-th elementary
    symmetric polynomial of the action probabilities times N!, largest at the uniform one.

    Args:
        num_agents: N.
        num_actions: A; N if not given.
    """
    actions = num_actions or num_agents
    return math.perm(actions, num_agents) / actions**num_agents


class DistinctActions(TeamVectorEnv):
    """E envs of the task of this module.

    Observation: one-hot of the step in the episode, then ``CONTEXT_SIZE`` standard normal
    numbers drawn once per episode, the same for all N agents. No agent ever dies.
    """

    metric_names = ("distinct_ratio",)
    simulator = "distinct_actions"

    def __init__(self, num_envs: int, config: DistinctActionsConfig) -> None:
        """Takes E and the settings."""
        agents, actions = config.num_agents, config.num_actions
        continuous = config.continuous
        super().__init__(
            num_envs,
            observation_space(
                agents, config.episode_length + CONTEXT_SIZE, None if continuous else actions
            ),
            continuous_actions(agents, 1) if continuous else discrete_actions(agents, actions),
            config.autoreset,
        )
        self._config = config
        self._time = np.zeros(num_envs, np.int64)
        self._context = np.zeros((num_envs, CONTEXT_SIZE), np.float32)
        self._rngs = EnvGenerators(num_envs)
        self._distinct_sum = np.zeros(num_envs)

    def _reset_envs(self) -> Observation:
        self._rngs.reseed(self.np_random)
        self._start(np.ones(self.num_envs, np.bool_))
        return self._observe()

    def _start(self, which: NDArray[np.bool_]) -> None:
        self._time[which] = 0
        self._distinct_sum[which] = 0.0
        for e in np.flatnonzero(which):
            self._context[e] = self._rngs[e].standard_normal(CONTEXT_SIZE)

    def _observe(self) -> Observation:
        time = self._time[:, None] == np.arange(self._config.episode_length)
        row = np.concatenate([time, self._context], axis=1, dtype=np.float32)
        shape = (self.num_envs, self.num_agents)
        obs: Observation = {
            "obs": np.repeat(row[:, None], self.num_agents, axis=1),
            "alive": np.ones(shape, np.bool_),
        }
        if not self._config.continuous:
            obs["action_mask"] = np.ones((*shape, self._config.num_actions), np.bool_)
        return obs

    def _distinct_ratio(self, actions: NDArray[Any]) -> NDArray[np.float64]:
        """The part of the team that is right, [E]: 1.0 if and only if the task is solved."""
        if self._config.continuous:
            gaps = np.diff(np.sort(actions[..., 0], axis=1), axis=1)
            # float32 actions that are exactly min_gap apart must count.
            return (gaps >= self._config.min_gap - 1e-6).mean(axis=1)
        ordered = np.sort(actions, axis=1)
        return (1 + (np.diff(ordered, axis=1) != 0).sum(axis=1)) / self.num_agents

    def _step_envs(self, actions: NDArray[Any], frozen: NDArray[np.bool_] | None) -> VectorStep:
        active = self._active(frozen)
        ratio = np.where(active, self._distinct_ratio(actions), 0.0)
        reward = np.floor(ratio) if self._config.reward == "all" else ratio
        self._distinct_sum += ratio
        self._time += active
        terminated = self._time == self._config.episode_length
        if terminated.any():
            metric = (self._distinct_sum / self._config.episode_length).astype(np.float32)
            self._last = (self._observe(), {"distinct_ratio": metric})
            self._start(terminated)
        return VectorStep(
            self._observe(),
            reward.astype(np.float32),
            terminated,
            np.zeros(self.num_envs, np.bool_),
        )

    def _get_envs_state(self) -> dict[str, Any]:
        return {
            "time": self._time.copy(),
            "context": self._context.copy(),
            "distinct_sum": self._distinct_sum.copy(),
            "random": self._rngs.get_state(),
        }

    def _set_envs_state(self, state: Mapping[str, Any]) -> None:
        self._time = state["time"].copy()
        self._context = state["context"].copy()
        self._distinct_sum = state["distinct_sum"].copy()
        self._rngs.set_state(state["random"])
