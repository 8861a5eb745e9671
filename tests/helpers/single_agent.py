"""Tasks of gymnasium for one agent, as teams of one, to compare with what knows no teams."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.contract import (
    Observation,
    continuous_actions,
    discrete_actions,
    observation_space,
)
from rllib_seqmarl.envs.core.sync_vector import SingleEnv, SyncVectorEnv


class Task(SingleEnv):
    """One env of one agent."""

    def __init__(self, task: str) -> None:
        self.env = gymnasium.make(task)
        self._obs: NDArray[Any] = np.zeros(0)

    def reset(self, seed: int | None) -> None:
        self._obs, _ = self.env.reset(seed=seed)

    def step(self, actions: NDArray[Any]) -> tuple[float, bool, bool]:
        action, space = actions[0], self.env.action_space
        if isinstance(space, spaces.Box):  # [-1, 1] -> the task's bounds
            action = space.low + (np.clip(action, -1.0, 1.0) + 1.0) / 2.0 * (space.high - space.low)
        self._obs, reward, terminated, truncated, _ = self.env.step(action)
        return float(reward), terminated, truncated and not terminated

    def observe(self, row: Observation) -> None:
        row["obs"][0] = self._obs
        row["alive"][0] = True
        if "action_mask" in row:
            row["action_mask"][0] = True

    def close(self) -> None:
        self.env.close()


class TeamOfOne(SyncVectorEnv):
    """E envs of ``task``, by gymnasium's name: ``env: helpers.single_agent:TeamOfOne``."""

    simulator = "gymnasium"

    def __init__(self, num_envs: int, task: str = "CartPole-v1") -> None:
        envs = [Task(task) for _ in range(num_envs)]
        size = envs[0].env.observation_space.shape[0]  # type: ignore[index]
        space = envs[0].env.action_space
        if isinstance(space, spaces.Discrete):
            observed = observation_space(1, size, int(space.n))
            super().__init__(envs, observed, discrete_actions(1, int(space.n)))
        else:
            assert isinstance(space, spaces.Box)
            actions = continuous_actions(1, space.shape[0])
            super().__init__(envs, observation_space(1, size), actions)
