"""From one space per agent to the arrays of a team: slots and the vectors of observations.

Agent m of the game's own list has slot m, for ever. Observations become float32 vectors, padded
with zeros to the widest. Actions are in `adapters.actions`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rllib_seqmarl.envs.adapters.actions import agent_action, short
from rllib_seqmarl.errors import UserError

MASK = "action_mask"

#: What stands beside the mask in the observation dicts of PettingZoo and of RLlib.
_BESIDE_THE_MASK = ("observation", "observations")

Reader = Callable[[Any], Any]


class Slot(NamedTuple):
    """How one agent is read and how it acts.

    Attributes:
        agent: the game's name of it.
        obs_size: numbers in its observation.
        read: its observation as a vector [obs_size].
        action: its action space.
        num_actions: its discrete actions, or the size of its continuous action.
        mask_in_obs: its observation is a dict that holds its action mask.
    """

    agent: Hashable
    obs_size: int
    read: Reader
    action: spaces.Discrete | spaces.Box
    num_actions: int
    mask_in_obs: bool


def slots(
    agents: Sequence[Hashable],
    observation_space: Callable[[Hashable], object],
    action_space: Callable[[Hashable], object],
    flatten: bool,
    where: str,
) -> list[Slot]:
    """The slots of a team, in the order of ``agents``.

    Args:
        agents: the game's names of all agents that can ever appear.
        observation_space: the space of an agent's observations, by name.
        action_space: the same of its actions.
        flatten: turns whatever is not a vector into one.
        where: begins the line of an error.

    Raises:
        UserError: an observation that is no vector, without ``flatten`` or not to be flattened;
            a kind of action that a team has not, or discrete and continuous agents in one team.
    """
    return [
        _slot(agent, observation_space(agent), action_space(agent), flatten, f"{where}: {agent!r}")
        for agent in agents
    ]


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


def _slot(agent: Hashable, obs: object, action: object, flatten: bool, where: str) -> Slot:
    mask_in_obs = False
    reader: Reader = _unchanged
    if isinstance(obs, spaces.Dict) and MASK in obs.spaces:
        mask_in_obs = True
        rest = {name: space for name, space in obs.spaces.items() if name != MASK}
        name = next(iter(rest), None)
        if len(rest) == 1 and name in _BESIDE_THE_MASK:
            obs, reader = rest[name], lambda given: given[name]
        else:
            obs, reader = spaces.Dict(rest), partial(_members, tuple(rest))
    size, to_vector = vector(obs, flatten, f"{where}: the observation")
    read = (lambda given: to_vector(reader(given))) if mask_in_obs else to_vector
    kind, count = agent_action(action, where)
    if mask_in_obs and isinstance(kind, spaces.Box):
        raise UserError(f"{where}: an {MASK!r} has no meaning for the continuous {short(kind)}.")
    return Slot(agent, size, read, kind, count, mask_in_obs)


def _unchanged(given: object) -> object:
    return given


def _bytes(given: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.ravel(given).astype(np.float32) / np.float32(255.0)


def _concatenated(
    readers: Sequence[tuple[Any, Reader]], given: Mapping[Any, Any] | Sequence[Any]
) -> NDArray[np.float32]:
    """The entries of a dict or tuple, side by side."""
    return np.concatenate([np.asarray(read(given[name]), np.float32) for name, read in readers])


def _members(names: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in names}
