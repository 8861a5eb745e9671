"""From one observation space per agent to the observations of a team as one array.

An observation is taken apart into its arrays, in gymnasium's order: a `Box` or `MultiBinary` is
one, `Discrete` and `MultiDiscrete` are one-hot vectors, and a `Dict` or `Tuple` holds those of its
entries, ``name/entry`` where they are nested. A team's layout has the arrays of all its agents by
name: vectors are padded with zeros to the longest, and what an agent lacks is zero.

Bytes mean the same wherever they stand: 255 is 1. Where a team sees nothing else, beside what is
either 0 or 1, its observations are kept as bytes, a quarter of the memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from rllib_seqmarl.envs.adapters.actions import short
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.layout import Entry, Layout

Reader = Callable[[Any], Any]


class Part(NamedTuple):
    """One array of an agent's observation.

    Attributes:
        entry: its name, and its shape in the layout.
        shape: as the game gives it.
        one: what stands for 1: 255 of bytes; 1 of what is 0 or 1; None of real numbers.
        read: the array in an observation of the game.
    """

    entry: Entry
    shape: tuple[int, ...]
    one: int | None
    read: Reader


def parts(space: object, flatten: bool, what: str) -> list[Part]:
    """The arrays of an element of ``space``; with ``flatten`` one vector of real numbers.

    Raises:
        UserError: it is no space, or has no fixed size.
    """
    if not isinstance(space, spaces.Space):
        raise UserError(f"{what} is {space!r}, not a space of gymnasium.")
    if flatten:
        size, read = vector(space, flatten, what)
        return [Part(Entry("obs", (size,)), (size,), None, read)]
    found = list(_parts(space, "", _unchanged, what))
    names = [part.entry.name for part in found]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{what} has two entries {twice[0]!r}: give them different names.")
    if not found:
        raise UserError(f"{what} is {space}, which holds nothing.")
    return found


def _parts(space: spaces.Space[Any], name: str, read: Reader, what: str) -> list[Part]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        keys = list(space.spaces) if isinstance(space, spaces.Dict) else range(len(space.spaces))
        inner = [
            _parts(space[key], f"{name}/{key}" if name else str(key), _entry(read, key), what)
            for key in keys
        ]
        return [part for several in inner for part in several]
    name = name or "obs"
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        shape = tuple(int(side) for side in space.shape)
        one = {"u1": 255, "b1": 1}.get(space.dtype.str[1:])
        if isinstance(space, spaces.MultiBinary):
            one = 1
        return [Part(Entry(name, shape or (1,)), shape, one, read)]
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        size = spaces.flatdim(space)
        one_hot = partial(_one_hot, space, read)
        return [Part(Entry(name, (size,)), (size,), 1, one_hot)]
    raise UserError(
        f"{what} has {name!r}, {space}, which has no fixed size: a team sees Box, Discrete, "
        "MultiDiscrete and MultiBinary, and Dict and Tuple of them. Wrap the game so that it does."
    )


class TeamObservations:
    """The observations of a team as one array [N, D].

    Attributes:
        layout: what the D numbers are.
        dtype: of the array: uint8 where 255 is 1, or float32.
    """

    def __init__(
        self, team: Mapping[Hashable, Sequence[Part]], ids: NDArray[np.float32], where: str
    ) -> None:
        """Takes the arrays of every agent, in the order of the slots.

        Args:
            team: by the game's names of the agents.
            ids: what follows them, of every agent, [N, I] (see `agent_ids`).
            where: begins the line of an error.

        Raises:
            UserError: arrays of one name that are no vectors and have different shapes.
        """
        self._where = where
        shapes: dict[str, tuple[int, ...]] = {}
        for agent, arrays in team.items():
            for part in arrays:
                name, shape = part.entry
                known = shapes.setdefault(name, shape)
                if known != shape and (len(known) != 1 or len(shape) != 1):
                    raise UserError(
                        f"{where}: {name!r} of the observation of {agent!r} is {list(shape)} and "
                        f"of another agent {list(known)}: give them one shape, or set env_config "
                        "'flatten: true'."
                    )
                shapes[name] = max(known, shape)
        self.layout = Layout.of(shapes, ids.shape[1])
        ones = {part.one for arrays in team.values() for part in arrays}
        self.dtype: type = np.uint8 if ones <= {255, 1} and 255 in ones else np.float32
        self._ids = (ids * (255 if self.dtype == np.uint8 else 1)).astype(self.dtype)
        starts, start = {}, 0
        for entry in self.layout.entries:
            starts[entry.name] = start
            start += entry.size
        self._places = [
            [(part, starts[part.entry.name]) for part in arrays] for arrays in team.values()
        ]
        self._agents = list(team)

    def write(self, row: NDArray[Any], m: int, seen: object) -> None:
        """Fills the row [D] of agent m, zeros, with what the game says that it sees.

        Raises:
            UserError: that is not of its observation space.
        """
        for part, start in self._places[m]:
            row[start : start + part.entry.size] = self._numbers(part, m, seen)
        row[self.layout.size - self.layout.agent_id :] = self._ids[m]

    def of_all(self, obs: NDArray[Any]) -> NDArray[np.float32]:
        """All observations [N, D], without agent ids, as one vector of real numbers."""
        own = obs[:, : self.layout.size - self.layout.agent_id].ravel().astype(np.float32)
        return own / np.float32(255.0) if self.dtype == np.uint8 else own

    def _numbers(self, part: Part, m: int, seen: object) -> NDArray[Any]:
        """An array [size] in the units of the row."""
        agent = self._agents[m]
        try:
            given = part.read(seen)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self._where}: the observation of {agent!r}, {named(seen)}, is not of its "
                f"observation space ({type(error).__name__}: {error}): fix the game."
            ) from error
        name = part.entry.name
        what = f"the obs of {agent!r}" if name == "obs" else f"{name!r} in the obs of {agent!r}"
        shape = shape_of(given)
        if shape != part.shape:
            raise UserError(
                f"{self._where}: {what} has shape {shape} ({named(given)}) where its "
                f"spaces say {part.shape}: fix the game."
            )
        try:
            numbers = np.asarray(given, np.float32) if part.one is None else np.asarray(given)
        except (TypeError, ValueError, OverflowError):
            numbers = np.empty(0, object)
        if numbers.dtype.kind not in "fiub":
            raise UserError(
                f"{self._where}: {what} holds other things than numbers ({named(given)}): fix the "
                "game."
            )
        if part.one is None:
            return numbers.ravel()
        if self.dtype == np.float32:
            return numbers.ravel().astype(np.float32) / np.float32(part.one)
        whole = numbers.astype(np.uint8)
        if (numbers.dtype != np.uint8 and (whole != numbers).any()) or (whole > part.one).any():
            raise UserError(
                f"{self._where}: {what} holds other numbers than 0 to {part.one} ({named(given)}): "
                "fix the game."
            )
        return whole.ravel() * np.uint8(255 // part.one)


def agent_ids(agents: Sequence[Hashable], kind: bool | Literal["type"]) -> NDArray[np.float32]:
    """What is appended to each agent's observation, [N, I]; see `multi_agent.GameConfig`.

    Types stand in the order in which ``agents`` has them.
    """
    if kind != "type":
        return np.eye(len(agents), len(agents) if kind else 0, dtype=np.float32)
    names = [re.sub(r"[^a-zA-Z]*\d+$", "", str(agent)) for agent in agents]
    types = list(dict.fromkeys(names))
    return np.eye(len(types), dtype=np.float32)[[types.index(name) for name in names]]


def vector(space: object, flatten: bool, what: str) -> tuple[int, Reader]:
    """Size of ``space`` as a vector, and what makes one of an element of it.

    With ``flatten``, bytes are divided by 255, alone or as an entry of something else.

    Raises:
        UserError: it is no space, or no vector and ``flatten`` is False or impossible.
    """
    if isinstance(space, spaces.Box | spaces.MultiBinary) and len(space.shape) == 1:
        bytes_too = flatten and space.dtype == np.uint8 and isinstance(space, spaces.Box)
        return int(space.shape[0]), _bytes if bytes_too else _unchanged
    if not isinstance(space, spaces.Space):
        raise UserError(f"{what} is {space!r}, not a space of gymnasium.")
    if not space.is_np_flattenable:
        raise UserError(f"{what} is {space}, which has no fixed size: a team needs vectors.")
    size = spaces.flatdim(space)
    if not flatten:
        raise UserError(
            f"{what} is {short(space)}, not a vector: use a vector form of the game if it has "
            f"one, or set env_config 'flatten: true', which makes {size:,} numbers of it."
        )
    return size, _flattened(space)


def _flattened(space: spaces.Space[Any]) -> Reader:
    """What makes a vector of an element of ``space``; entries stand as in `spaces.flatten`."""
    if isinstance(space, spaces.Box):
        return _bytes if space.dtype == np.uint8 else np.ravel
    if isinstance(space, spaces.Dict | spaces.Tuple):
        names = list(space.spaces) if isinstance(space, spaces.Dict) else range(len(space.spaces))
        readers = [(name, _flattened(space[name])) for name in names]
        return partial(_concatenated, readers)
    return partial(spaces.flatten, space)


def named(value: object) -> str:
    """A value that a game gave, short enough for a line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else f"a {type(value).__name__} {text[:40]}…"


def shape_of(given: object) -> tuple[int, ...] | str:
    """The shape of an array or nested lists; "ragged" where lists of one axis differ in length."""
    try:
        return np.shape(cast(ArrayLike, given))
    except ValueError:
        return "ragged"


def _unchanged(given: object) -> object:
    return given


def _entry(read: Reader, key: Hashable) -> Reader:
    return lambda given: read(given)[key]


def _one_hot(space: spaces.Space[Any], read: Reader, given: object) -> NDArray[Any]:
    value = read(given)
    if not space.contains(value):
        raise ValueError(f"{named(value)} is not in {space}")
    return np.asarray(spaces.flatten(space, value))


def _bytes(given: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.ravel(given).astype(np.float32) / np.float32(255.0)


def _concatenated(
    readers: Sequence[tuple[Any, Reader]], given: Mapping[Any, Any] | Sequence[Any]
) -> NDArray[np.float32]:
    """The entries of a dict or tuple, side by side."""
    return np.concatenate([np.asarray(read(given[name]), np.float32) for name, read in readers])
