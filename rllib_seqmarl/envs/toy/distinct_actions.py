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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.contract import (
    AUTORESET_MODES,
    Observation,
    TeamVectorEnv,
    VectorStep,
    check_env_config,
    continuous_actions,
    discrete_actions,
    observation_space,
)
from rllib_seqmarl.envs.core.generators import EnvGenerators
from rllib_seqmarl.errors import UserError, nearest

CONTEXT_SIZE = 2
REWARDS = ("all", "fraction")

DEFAULTS: dict[str, Any] = {
    "num_agents": 4,
    "num_actions": 0,  # 0: as many as agents
    "episode_length": 1,
    "reward": "all",
    "continuous": False,
    "min_gap": 0.0,  # 0: half of the largest gap that N equidistant actions can keep
    "autoreset": "same_step",
}


def check(env_config: Mapping[str, Any]) -> dict[str, Any]:
    """The complete ``env_config``.

    Keys: ``num_agents`` N; ``num_actions`` A (0: N); ``episode_length`` in steps; ``reward``
    (``all``: 1 if all actions differ, else 0; ``fraction``: the part of the N agents, or of
    the N - 1 neighbouring gaps, that is right); ``continuous``; ``min_gap`` (0: 1 / (N - 1),
    half of the gap of N equidistant numbers in [-1, 1]); ``autoreset``.

    Raises:
        UserError: unknown key, wrong type, or a value that makes the task senseless.
    """
    config = check_env_config(env_config, DEFAULTS, "distinct_actions")

    def refuse(key: str, why: str) -> None:
        raise UserError(f"distinct_actions: env_config {key!r} {why}, got {config[key]!r}.")

    if config["num_agents"] < 2:
        refuse("num_agents", "must be at least 2")
    config["num_actions"] = config["num_actions"] or config["num_agents"]
    if config["num_actions"] < config["num_agents"]:
        refuse("num_actions", f"must be at least num_agents ({config['num_agents']})")
    if config["episode_length"] < 1:
        refuse("episode_length", "must be at least 1")
    config["min_gap"] = config["min_gap"] or 1.0 / (config["num_agents"] - 1)
    if not 0.0 < config["min_gap"] <= 2.0 / (config["num_agents"] - 1):
        refuse("min_gap", f"must be in (0, {2.0 / (config['num_agents'] - 1):g}]")
    for key, known in (("reward", REWARDS), ("autoreset", tuple(AUTORESET_MODES))):
        if config[key] not in known:
            refuse(key, f"must be one of {', '.join(known)} ({nearest(config[key], known)})")
    return config


def make(num_envs: int, **env_config: Any) -> DistinctActions:
    """``num_envs`` envs with the given ``env_config`` (see :func:`check`)."""
    return DistinctActions(num_envs, **check(env_config))


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

    def __init__(
        self,
        num_envs: int,
        *,
        num_agents: int,
        num_actions: int,
        episode_length: int,
        reward: str,
        continuous: bool,
        min_gap: float,
        autoreset: str,
    ) -> None:
        """Takes the complete ``env_config`` that :func:`check` returns."""
        super().__init__(
            num_envs,
            observation_space(
                num_agents, episode_length + CONTEXT_SIZE, None if continuous else num_actions
            ),
            continuous_actions(num_agents, 1)
            if continuous
            else discrete_actions(num_agents, num_actions),
            autoreset,
        )
        self._num_actions = num_actions
        self._steps = episode_length
        self._all_or_nothing = reward == "all"
        self._continuous = continuous
        self._min_gap = min_gap
        self._time = np.zeros(num_envs, np.int64)
        self._context = np.zeros((num_envs, CONTEXT_SIZE), np.float32)
        self._rngs = EnvGenerators(num_envs)
        self._distinct_sum = np.zeros(num_envs)
        self._last: tuple[Observation, dict[str, NDArray[np.float32]]] = ({}, {})

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
        time = self._time[:, None] == np.arange(self._steps)
        row = np.concatenate([time, self._context], axis=1, dtype=np.float32)
        shape = (self.num_envs, self.num_agents)
        obs: Observation = {
            "obs": np.repeat(row[:, None], self.num_agents, axis=1),
            "alive": np.ones(shape, np.bool_),
        }
        if not self._continuous:
            obs["action_mask"] = np.ones((*shape, self._num_actions), np.bool_)
        return obs

    def _distinct_ratio(self, actions: NDArray[Any]) -> NDArray[np.float64]:
        """The part of the team that is right, [E]: 1.0 if and only if the task is solved."""
        if self._continuous:
            gaps = np.diff(np.sort(actions[..., 0], axis=1), axis=1)
            # float32 actions that are exactly min_gap apart must count.
            return (gaps >= self._min_gap - 1e-6).mean(axis=1)
        ordered = np.sort(actions, axis=1)
        return (1 + (np.diff(ordered, axis=1) != 0).sum(axis=1)) / self.num_agents

    def _step_envs(self, actions: NDArray[Any], frozen: NDArray[np.bool_] | None) -> VectorStep:
        active = np.ones(self.num_envs, np.bool_) if frozen is None else ~frozen
        ratio = np.where(active, self._distinct_ratio(actions), 0.0)
        reward = np.floor(ratio) if self._all_or_nothing else ratio
        self._distinct_sum += ratio
        self._time += active
        terminated = self._time == self._steps
        if terminated.any():
            metric = (self._distinct_sum / self._steps).astype(np.float32)
            self._last = (self._observe(), {"distinct_ratio": metric})
            self._start(terminated)
        return VectorStep(
            self._observe(),
            reward.astype(np.float32),
            terminated,
            np.zeros(self.num_envs, np.bool_),
        )

    def _final_obs_and_metrics(self) -> tuple[Observation, dict[str, NDArray[np.float32]]]:
        return self._last

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
