"""From one action space per agent to the actions of a team as one array, and back.

An agent's space is `Discrete`, `MultiDiscrete`, a `Box` of one axis of floats, or a `Tuple` or
`Dict` of these. Where all agents choose one of A actions, or give A real numbers, so does the team.
Otherwise it has the choices and real numbers of all (`mixed_actions`): choice p of the team is the
p-th of every agent that has so many, as wide as the widest of them. What an agent lacks its mask
says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from rllib_seqmarl.envs.core.contract import continuous_actions, discrete_actions, mixed_actions
from rllib_seqmarl.errors import UserError


class AgentActions:
    """What one agent may do, and what its game takes for it.

    Attributes:
        space: as the game has it.
        sizes: of its choices, in order; a `MultiDiscrete` space is one for each number.
        low, high: bounds of its real numbers, float64 [C].
    """

    def __init__(self, space: object, where: str) -> None:
        """Takes the space.

        Args:
            space: of the agent's actions.
            where: begins the line of an error.

        Raises:
            UserError: a kind of action that a team has not, or real numbers without bounds.
        """
        leaves = list(_leaves(space, where))
        assert isinstance(space, spaces.Space)
        self.space = space
        self.sizes: list[int] = []
        for leaf in leaves:
            if isinstance(leaf, spaces.Discrete):
                self.sizes.append(int(leaf.n))
            elif isinstance(leaf, spaces.MultiDiscrete):
                self.sizes += leaf.nvec.ravel().tolist()
        bounds = [(leaf.low, leaf.high) for leaf in leaves if isinstance(leaf, spaces.Box)]
        self.low, self.high = np.concatenate([np.zeros((2, 0)), *bounds], axis=1)

    def flags(self, given: object) -> ArrayLike:
        """An action mask that a game gave, as one vector over all choices.

        Args:
            given: that vector, or what ``space.sample(mask=...)`` takes: for each entry of a tuple
                or dict one of its own, for each number of a `MultiDiscrete` space likewise.

        Raises:
            KeyError, TypeError, ValueError: it is nothing of this.
        """
        return _flags(self.space, given)

    def taken(self, choices: Sequence[int], numbers: NDArray[np.float64]) -> object:
        """An element of the space: from its choices, counted from 0, and its real numbers."""
        return _taken(self.space, iter(choices), iter(numbers))


class TeamActions:
    """The actions of a team as one array, and what the game takes for them.

    Attributes:
        space: of the team's actions.
        masked: whether it takes an action mask.
        exists: bool [N, A], which actions or dimensions an agent has.
        no_op: bool [N, A], what of these a dead agent has: action 0 of each choice.
    """

    def __init__(self, team: Sequence[AgentActions]) -> None:
        """Takes what every agent may do, in the order of the slots."""
        self._team = team
        self._discrete = all(isinstance(agent.space, spaces.Discrete) for agent in team)
        self._parts = parts = max(len(agent.sizes) for agent in team)
        sizes = [max((*agent.sizes, *[0] * parts)[p] for agent in team) for p in range(parts)]
        reals = max(len(agent.low) for agent in team)
        count = len(team)
        self.space: spaces.MultiDiscrete | spaces.Box
        if self._discrete:
            self.space = discrete_actions(count, sizes[0])
        elif parts:
            self.space = mixed_actions(count, sizes, reals)
        else:
            self.space = continuous_actions(count, reals)
        starts = [sum(sizes[:p]) for p in range(parts + 1)]
        self.exists = np.zeros((count, starts[-1] + reals), np.bool_)
        self.no_op = np.zeros_like(self.exists)
        self._low, self._high = np.zeros((2, count, reals))
        self._columns: list[NDArray[np.int64]] = []  # of each agent, where its choices' flags stand
        for m, agent in enumerate(team):
            has = range(len(agent.sizes))
            columns = [starts[p] + a for p in has for a in range(agent.sizes[p])]
            self._columns.append(np.array(columns, np.int64))
            self.exists[m, columns] = True
            self.no_op[m, [starts[p] for p in has]] = True
            for flags in (self.exists, self.no_op):
                flags[m, starts[-1] :][: len(agent.low)] = True
            self._low[m, : len(agent.low)] = agent.low
            self._high[m, : len(agent.low)] = agent.high
        self.masked = parts > 0 or not bool(self.exists.all())
        if self._discrete:
            self._first = np.array([int(agent.space.start) for agent in team])

    def set_mask(self, mask: NDArray[np.bool_], m: int, flags: ArrayLike, what: str) -> None:
        """Writes what the agent of slot m may choose.

        Args:
            mask: of the team, bool [N, A].
            m: the slot.
            flags: as `AgentActions.flags` gave them.
            what: begins the line of an error.

        Raises:
            UserError: a choice among several of which nothing is left.
        """
        mask[m, self._columns[m]] = flags
        if self._discrete:
            return  # the runner looks at all agents at once
        ends = np.cumsum(self._team[m].sizes)
        for part, legal in enumerate(np.split(np.asarray(flags, np.bool_), ends[:-1])):
            if not legal.any():
                raise UserError(f"{what} leaves nothing of choice {part}: fix the game.")

    def decode(self, actions: NDArray[Any]) -> list[Any]:
        """What the game takes, by slot.

        [-1, 1] becomes an agent's bounds; what lies outside (a Gaussian sample) is clipped first.

        Args:
            actions: int [N], float32 [N, A], or float32 [N, P + C] of several parts.
        """
        if self._discrete:
            return list((actions + self._first).tolist())
        share = (np.clip(actions[:, self._parts :], -1.0, 1.0) + 1.0) / 2.0
        bounded = share * self._high + (1.0 - share) * self._low
        choices = actions[:, : self._parts].astype(np.int64).tolist()
        return [
            agent.taken(chosen, numbers)
            for agent, chosen, numbers in zip(self._team, choices, bounded, strict=True)
        ]


def _leaves(space: object, where: str) -> Iterator[spaces.Space[Any]]:
    """The spaces that a space is made of, in order, each of a kind that a team has."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for inner in space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces:
            yield from _leaves(inner, where)
        return
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        yield space
        return
    if not isinstance(space, spaces.Box) or len(space.shape) != 1 or space.dtype.kind != "f":
        raise UserError(
            f"{where}: the action space is {short(space)}; a team takes Discrete ones, "
            "MultiDiscrete ones, Box ones of one axis of floats, and tuples and dicts of these. "
            "Wrap the game so that it offers one of them."
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise UserError(
            f"{where}: the action space {short(space)} has no finite bounds, to which [-1, 1] "
            "could be scaled. Wrap the game so that it has."
        )
    yield space


def _flags(space: spaces.Space[Any], given: object) -> ArrayLike:
    """See `AgentActions.flags`; None in the place of a part's mask stands for all its choices."""
    if isinstance(space, spaces.Box):
        return []
    if isinstance(space, spaces.MultiDiscrete) and given is not None:
        return _of_numbers(space.nvec, given)
    if isinstance(space, spaces.Dict) and isinstance(given, Mapping):
        free = {name: None for name, one in space.spaces.items() if isinstance(one, spaces.Box)}
        inner = [(one, {**free, **given}[name]) for name, one in space.spaces.items()]
    elif isinstance(space, spaces.Tuple) and not _is_flat(given):
        inner = list(zip(space.spaces, cast(Sequence[object], given), strict=True))
    else:
        return cast(ArrayLike, given)
    flags = [_all(one) if entry is None else _flags(one, entry) for one, entry in inner]
    return np.concatenate([np.ravel(part) for part in flags])


def _of_numbers(sizes: NDArray[Any], given: object) -> ArrayLike:
    """The same of the numbers of a `MultiDiscrete` space, of these sizes."""
    if given is None:
        return np.ones(int(np.sum(sizes)), np.bool_)
    if np.ndim(sizes) == 0 or _is_flat(given):
        return cast(ArrayLike, given)
    each = zip(sizes, cast(Sequence[object], given), strict=True)
    return np.concatenate([np.ravel(_of_numbers(size, entry)) for size, entry in each])


def _is_flat(given: object) -> bool:
    """Whether a mask is one vector, and has no parts."""
    return not isinstance(given, tuple | list) or all(map(np.isscalar, given))


def _all(space: spaces.Space[Any]) -> NDArray[np.bool_]:
    """The mask that leaves all choices of a space."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        inner = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return np.concatenate([_all(one) for one in inner])
    size = 0
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        size = int(space.n if isinstance(space, spaces.Discrete) else space.nvec.sum())
    return np.ones(size, np.bool_)


def _taken(space: spaces.Space[Any], choices: Iterator[int], numbers: Iterator[float]) -> object:
    """See `AgentActions.taken`; takes from both iterators what it needs."""
    if isinstance(space, spaces.Discrete):
        return next(choices) + int(space.start)
    if isinstance(space, spaces.MultiDiscrete):
        chosen = np.fromiter(islice(choices, space.nvec.size), space.dtype)
        return chosen.reshape(space.nvec.shape) + space.start
    if isinstance(space, spaces.Tuple):
        return tuple(_taken(inner, choices, numbers) for inner in space.spaces)
    if isinstance(space, spaces.Dict):
        return {name: _taken(inner, choices, numbers) for name, inner in space.spaces.items()}
    return np.fromiter(islice(numbers, space.shape[0]), space.dtype)


def short(space: object) -> str:
    """A space in a few words, without bounds."""
    if isinstance(space, spaces.Box):
        return f"{space.dtype} {space.shape}"
    return str(space)
