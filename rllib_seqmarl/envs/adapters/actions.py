"""From one action space per agent to the actions of a team as one array, and back.

Actions are either one of A (a `Discrete` space each) or A numbers in [-1, 1] (a `Box` each), padded
to the largest, with a mask over what an agent lacks.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.contract import continuous_actions, discrete_actions
from rllib_seqmarl.errors import UserError


def agent_action(space: object, where: str) -> tuple[spaces.Discrete | spaces.Box, int]:
    """The action space of one agent, and how many actions or dimensions it has.

    Raises:
        UserError: neither `Discrete` nor a `Box` of one axis of floats with finite bounds.
    """
    if isinstance(space, spaces.Discrete):
        return space, int(space.n)
    if not isinstance(space, spaces.Box) or len(space.shape) != 1 or space.dtype.kind != "f":
        raise UserError(
            f"{where}: the action space is {short(space)}; a team takes Discrete ones, or Box "
            "ones of one axis of floats. Wrap the game so that it offers one of them."
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise UserError(
            f"{where}: the action space {short(space)} has no finite bounds, to which [-1, 1] "
            "could be scaled. Wrap the game so that it has."
        )
    return space, int(space.shape[0])


class TeamActions:
    """The actions of a team as one array, and what the game takes for them.

    Attributes:
        discrete: one of A actions per agent, or A numbers in [-1, 1].
        space: of the team's actions.
        exists: bool [N, A], which of the A actions or dimensions an agent has.
    """

    def __init__(self, team: Mapping[Hashable, spaces.Space[Any]], where: str) -> None:
        """Takes the action space of every agent, by name and in the order of the slots.

        Args:
            team: spaces that `agent_action` takes.
            where: begins the line of an error.

        Raises:
            UserError: discrete and continuous agents in one team.
        """
        kinds = {isinstance(space, spaces.Discrete): agent for agent, space in team.items()}
        if len(kinds) > 1:
            raise UserError(
                f"{where}: {kinds[True]!r} has discrete actions and {kinds[False]!r} continuous "
                "ones; all agents of a team must have the same kind."
            )
        self._spaces = list(team.values())
        self._sizes = [agent_action(space, where)[1] for space in self._spaces]
        count, most = len(team), max(self._sizes)
        self.discrete = isinstance(self._spaces[0], spaces.Discrete)
        self.space = (discrete_actions if self.discrete else continuous_actions)(count, most)
        self.exists: NDArray[np.bool_] = np.arange(most) < np.array(self._sizes)[:, None]
        if self.discrete:
            self._first = np.array([int(space.start) for space in self._spaces])
        else:
            self._low, self._high = np.zeros((2, count, most))
            for m, space in enumerate(self._spaces):
                self._low[m, : self._sizes[m]] = space.low
                self._high[m, : self._sizes[m]] = space.high

    def decode(self, actions: NDArray[Any]) -> list[Any]:
        """What the game takes, by slot.

        [-1, 1] becomes an agent's bounds; what lies outside (a Gaussian sample) is clipped first.

        Args:
            actions: int [N] or float32 [N, A].
        """
        if self.discrete:
            return list((actions + self._first).tolist())
        share = (np.clip(actions, -1.0, 1.0) + 1.0) / 2.0
        bounded = share * self._high + (1.0 - share) * self._low
        return [
            row[:size].astype(space.dtype)
            for row, size, space in zip(bounded, self._sizes, self._spaces, strict=True)
        ]


def short(space: object) -> str:
    """A space in a few words, without bounds."""
    if isinstance(space, spaces.Box):
        return f"{space.dtype} {space.shape}"
    return str(space)
