"""Environments made of E separate objects, one per world, that are stepped one after another.

What a simulator that knows only one world at a time needs around it: buffers that every world
fills at its own row, the automatic start of the next episode, seeds, and saving. A simulator
derives from :class:`World`; :class:`SyncVectorEnv` does the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.contract import Observation, TeamVectorEnv, WorldStep
from rllib_seqmarl.errors import UserError


class World(ABC):
    """One world of one team of N agents."""

    @abstractmethod
    def reset(self, seed: int | None) -> None:
        """Starts an episode.

        Args:
            seed: restarts the world's randomness; None goes on with it.
        """

    @abstractmethod
    def step(self, actions: NDArray[Any]) -> tuple[float, bool, bool]:
        """Acts, without starting the next episode.

        Args:
            actions: int [N] or float32 [N, A].

        Returns:
            The team's reward, terminated and truncated, never both.
        """

    @abstractmethod
    def observe(self, row: Observation) -> None:
        """Writes the present observation into this world's arrays [N, ...], all of it."""

    @abstractmethod
    def close(self) -> None:
        """Ends what the world started."""

    def figures(self) -> dict[str, float]:
        """The environment's ``metric_names`` of the episode that the last step ended."""
        return {}

    def save(self) -> Any:
        """All that the next step depends on, picklable."""
        raise NotImplementedError

    def restore(self, saved: Any) -> None:
        """Goes on from what ``save`` returned."""
        raise NotImplementedError

    def picture(self) -> NDArray[np.uint8] | None:
        """The world as it is now [height, width, 3]; None if it cannot be drawn."""
        return None


class SyncVectorEnv(TeamVectorEnv):
    """E objects behind the one interface.

    A subclass sets ``simulator`` and ``metric_names``. Worlds without a ``save`` of their own
    cannot be saved, and ``cannot_be_saved`` says so.

    Every reset of all worlds draws a new seed for each of them; the episodes that follow go on
    with the world's own randomness.
    """

    _worlds: Sequence[World] = ()  # a construction that failed is closed, too

    def __init__(
        self,
        worlds: Sequence[World],
        single_observation_space: spaces.Dict,
        single_action_space: spaces.MultiDiscrete | spaces.Box,
        autoreset: str = "same_step",
    ) -> None:
        """Takes the E worlds; see :class:`TeamVectorEnv` for the rest."""
        self._worlds = list(worlds)
        super().__init__(len(worlds), single_observation_space, single_action_space, autoreset)
        self._buffers: Observation = {
            name: np.zeros((self.num_envs, *(space.shape or ())), space.dtype)
            for name, space in single_observation_space.spaces.items()
        }
        # Views, so that a world that writes its row writes into the buffers.
        self._rows = [
            {name: buffer[world] for name, buffer in self._buffers.items()}
            for world in range(self.num_envs)
        ]
        self._last: tuple[Observation, dict[str, NDArray[np.float32]]] = ({}, {})

    def _observation(self) -> Observation:
        return {name: buffer.copy() for name, buffer in self._buffers.items()}

    def _start(self, world: int, seed: int | None) -> None:
        self._worlds[world].reset(seed)
        self._worlds[world].observe(self._rows[world])

    def _reset_worlds(self) -> Observation:
        for world, seed in enumerate(self.np_random.integers(2**31, size=self.num_envs)):
            self._start(world, int(seed))
        return self._observation()

    def _step_worlds(self, actions: NDArray[Any], frozen: NDArray[np.bool_] | None) -> WorldStep:
        reward = np.zeros(self.num_envs, np.float32)
        terminated = np.zeros(self.num_envs, np.bool_)
        truncated = np.zeros(self.num_envs, np.bool_)
        for e, world in enumerate(self._worlds):
            if frozen is None or not frozen[e]:
                reward[e], terminated[e], truncated[e] = world.step(actions[e])
                world.observe(self._rows[e])
        ended = [int(e) for e in np.flatnonzero(terminated | truncated)]
        if ended:
            figures: dict[str, NDArray[np.float32]] = {}
            for e in ended:
                for name, value in self._worlds[e].figures().items():
                    column = figures.setdefault(name, np.zeros(self.num_envs, np.float32))
                    column[e] = value
            self._last = (self._observation(), figures)
            for e in ended:
                self._start(e, None)
        return WorldStep(self._observation(), reward, terminated, truncated)

    def _finished(self) -> tuple[Observation, dict[str, NDArray[np.float32]]]:
        return self._last

    def _get_worlds(self) -> dict[str, Any]:
        return {
            "buffers": self._observation(),
            "saved": [world.save() for world in self._worlds],
        }

    def _set_worlds(self, worlds: Mapping[str, Any]) -> None:
        for name, buffer in self._buffers.items():
            buffer[...] = worlds["buffers"][name]
        for world, saved in zip(self._worlds, worlds["saved"], strict=True):
            world.restore(saved)

    def picture(self, world: int = 0) -> NDArray[np.uint8]:
        """The world as it is now, red, green and blue [height, width, 3].

        Raises:
            UserError: this environment cannot be drawn.
        """
        drawn = self._worlds[world].picture()
        if drawn is None:
            raise UserError(f"the environment ({self.simulator}) cannot be drawn.")
        return drawn

    def cannot_be_saved(self) -> str | None:
        """Why `get_state` cannot hold the worlds, in one clause; None where it can."""
        if type(self._worlds[0]).save is World.save:
            return f"{self.simulator} has no function that saves a world"
        return None

    def close_extras(self, **kwargs: Any) -> None:
        """Closes every world."""
        for world in self._worlds:
            world.close()
