"""The slots of a team: from one observation space and one action space per agent.

Agent m of the game's own list has slot m, for ever. What becomes of observations is in
`adapters.observations`, of actions in `adapters.actions`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

from gymnasium import spaces

from rllib_seqmarl.envs.adapters.actions import AgentActions, short
from rllib_seqmarl.envs.adapters.observations import Part, parts
from rllib_seqmarl.errors import UserError

MASK = "action_mask"

#: What stands beside the mask in the observation dicts of PettingZoo and of RLlib.
_BESIDE_THE_MASK = ("observation", "observations")


class Slot(NamedTuple):
    """How one agent is read and how it acts.

    Attributes:
        agent: the game's name of it.
        parts: the arrays of its observation, without its action mask.
        action: what it may do.
        mask_in_obs: its observation is a dict that holds its action mask.
    """

    agent: Hashable
    parts: Sequence[Part]
    action: AgentActions
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
        flatten: makes one vector of an observation.
        where: begins the line of an error.

    Raises:
        UserError: an observation that has no fixed size, or a kind of action that a team has not.
    """
    return [
        _slot(agent, observation_space(agent), action_space(agent), flatten, f"{where}: {agent!r}")
        for agent in agents
    ]


def _slot(agent: Hashable, obs: object, action: object, flatten: bool, where: str) -> Slot:
    mask_in_obs = isinstance(obs, spaces.Dict) and MASK in obs.spaces
    name: Any = None
    if mask_in_obs:
        assert isinstance(obs, spaces.Dict)
        rest = {key: space for key, space in obs.spaces.items() if key != MASK}
        obs = spaces.Dict(rest)
        if len(rest) == 1 and next(iter(rest)) in _BESIDE_THE_MASK:
            ((name, obs),) = rest.items()
    found = parts(obs, flatten, f"{where}: the observation")
    if name is not None:
        found = [part._replace(read=_inside(name, part)) for part in found]
    taken = AgentActions(action, where)
    if mask_in_obs and not taken.sizes:
        raise UserError(f"{where}: an {MASK!r} has no meaning for the continuous {short(action)}.")
    return Slot(agent, found, taken, mask_in_obs)


def _inside(name: str, part: Part) -> Callable[[Any], Any]:
    return lambda given: part.read(given[name])
