"""An environment with images: every agent sees one, and names the corner that is lit in it."""

import itertools
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.contract import (
    Observation,
    TeamVectorEnv,
    VectorStep,
    discrete_actions,
    observation_space,
)
from rllib_seqmarl.layout import Layout
from rllib_seqmarl.settings import Doc, Ge, settings

CORNERS = 4


@settings
class LitCornerConfig:
    """What ``env_config`` may hold."""

    num_agents: Annotated[int, Ge(1), Doc("agents N.")] = 2
    side: Annotated[int, Ge(4), Doc("height and width of an image.")] = 6
    episode_length: Annotated[int, Ge(1), Doc("images of an episode.")] = 1


class LitCorner(TeamVectorEnv):
    """E teams of N agents. Observation: an image of dim noise in which two by two pixels are lit.

    The team is paid for the share of agents that name their corner.
    """

    settings = LitCornerConfig
    simulator = "lit_corner"

    def __init__(self, num_envs: int, config: LitCornerConfig) -> None:
        agents, side = config.num_agents, config.side
        layout = Layout.of({"image": (side, side, 1)})
        super().__init__(
            num_envs,
            observation_space(agents, layout, CORNERS, obs_dtype=np.uint8),
            discrete_actions(agents, CORNERS),
        )
        self._side, self._length = side, config.episode_length
        self._time = np.zeros(num_envs, np.int64)
        self._lit = np.zeros((num_envs, agents), np.int64)
        self._last: Observation = {}

    def _reset_envs(self) -> Observation:
        self._time[:] = 0
        return self._draw()

    def _draw(self) -> Observation:
        """Other corners, and what the agents see."""
        shape = self._lit.shape
        self._lit = self.np_random.integers(CORNERS, size=shape)
        images = self.np_random.integers(100, size=(*shape, self._side, self._side), dtype=np.uint8)
        ends = (slice(2), slice(-2, None))
        for corner, (rows, columns) in enumerate(itertools.product(ends, ends)):
            images[:, :, rows, columns][self._lit == corner] = 255
        return {
            "obs": images.reshape(*shape, -1),
            "alive": np.ones(shape, np.bool_),
            "action_mask": np.ones((*shape, CORNERS), np.bool_),
        }

    def _step_envs(self, actions: NDArray[Any], frozen: NDArray[np.bool_] | None) -> VectorStep:
        reward = (actions == self._lit).mean(axis=1, dtype=np.float32)
        self._time += 1
        terminated = self._time == self._length
        self._time[terminated] = 0
        self._last = self._draw()
        return VectorStep(self._last, reward, terminated, np.zeros(self.num_envs, np.bool_))

    def _final_obs_and_metrics(self) -> tuple[Observation, dict[str, NDArray[np.float32]]]:
        return self._last, {}

    def _get_envs_state(self) -> dict[str, Any]:
        return {"time": self._time.copy(), "lit": self._lit.copy()}

    def _set_envs_state(self, state: Mapping[str, Any]) -> None:
        self._time, self._lit = state["time"].copy(), state["lit"].copy()
