"""Games of others that speak in dicts by agent, as a team environment.

What PettingZoo's parallel games and RLlib's multi-agent environments have in common:

- A game's agents are its ``possible_agents``, one slot each, in that order.
- An agent that gets no observation is absent: it died, left, has not come yet, or it is another
  agent's turn. Its observation is zero, ``alive`` is False, and action 0 is its only legal one,
  which the game never sees.
- An action mask is found under ``action_mask`` in an agent's observation dict or in its infos.
  Agents with discrete actions and no mask may do whatever their space has. For an action of
  several parts the mask is one vector over all choices, or what ``space.sample(mask=...)`` takes.
- Continuous actions are clipped to [-1, 1] and scaled to the agent's bounds. Where agents have
  different numbers of dimensions, or actions of different kinds, ``action_mask`` tells which exist
  (see `adapters.actions`).
- A full reset seeds every game; the episodes after it go on with the game's own randomness.
- Metric of an episode: ``dead_ratio``, the part of the slots whose agents were terminated or
  truncated before the episode's last step.
"""

from __future__ import annotations

import os
import pkgutil
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from rllib_seqmarl.envs.adapters.actions import TeamActions
from rllib_seqmarl.envs.adapters.observations import (
    TeamObservations,
    agent_ids,
    named,
    shape_of,
    vector,
)
from rllib_seqmarl.envs.adapters.snapshot import dump, exact_key, fault_of_copies, load
from rllib_seqmarl.envs.adapters.spaces import MASK, Slot, slots
from rllib_seqmarl.envs.core.config import PaidAgentsConfig, Reward
from rllib_seqmarl.envs.core.contract import Observation, observation_space, random_actions
from rllib_seqmarl.envs.core.sync_vector import SingleEnv, SyncVectorEnv
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.layout import Layout
from rllib_seqmarl.names import Place, reason_of, why_not_imported
from rllib_seqmarl.settings import Doc, as_dict, settings


@settings
class GameConfig(PaidAgentsConfig):
    """``env_config`` of a game by its import path."""

    env: Annotated[str, Doc('The game, "package.module:attribute"; required.')] = ""
    kwargs: Annotated[Mapping[str, Any], Doc("What that is called with.")] = field(
        default_factory=dict
    )
    reward: Annotated[
        Reward,
        Doc(
            "Where a game gives every agent the team's reward, ``mean`` is that reward; it is over "
            "all N slots."
        ),
    ] = "team"
    state: Annotated[
        Literal["none", "env", "concatenate"],
        Doc(
            "``none``, ``env`` (the game's ``state()``, where it has one) or ``concatenate`` (the "
            "observations of all slots, without agent ids); adds ``state`` [S]."
        ),
    ] = "none"
    agent_id: Annotated[
        bool | Literal["type"],
        Doc(
            "Appends the one-hot slot to the observation of agents that are there. ``type``: that "
            "of an agent's type, its name up to its number (``knight_0`` is a ``knight``), of a "
            "width that does not depend on N."
        ),
    ] = True
    flatten: Annotated[
        bool,
        Doc(
            "Turns images and other structures into vectors. Otherwise they stay what they are, "
            "for an ``observation_encoder``."
        ),
    ] = False

    def observation_layout(self) -> Layout:
        """What an agent's observation consists of; see `try_game`."""
        raise NotImplementedError


Flags = Mapping[Any, bool]

#: Where games are that are built to be looked at.
HERE = Place()

_OF_A_STEP = ("observations", "rewards", "terminations", "truncations", "infos")


class DictGame(SingleEnv):
    """One game with a dict by agent for everything.

    Attributes:
        env_name: the name of the kind of game in the registry.
        example: an import path that could be given.
        observation_space, action_space: of this game.
        layout: what an agent's observation consists of.
    """

    env_name: ClassVar[str]
    example: ClassVar[str]
    observation_space: spaces.Dict
    action_space: spaces.MultiDiscrete | spaces.Box
    layout: Layout
    _game: Any

    def __init__(self, config: GameConfig, place: Place = HERE) -> None:
        """Takes the settings, and where the game is.

        Raises:
            UserError: the game cannot be imported or built, or is no team (see `slots`).
        """
        self._where = f"{self.env_name}: {config.env}"
        with said_of(f"{self._where} with kwargs {dict(config.kwargs)!r}", "the constructor"):
            self._game = self._build(config, place)
        agents = self._team()
        if not agents:  # some games know their agents only when they have been started
            with said_of(self._where, "reset"):
                self._game.reset(seed=0)
            agents = self._team()
        if not agents:
            raise UserError(f"{self._where} has no agents: its possible_agents are empty.")
        self._slots = slots(
            agents,
            self._asked("observation space", self._observation_space),
            self._asked("action space", self._action_space),
            config.flatten,
            self._where,
        )
        self._known = frozenset(agents)
        self._paid = config.paid
        self._actions = TeamActions([slot.action for slot in self._slots])
        self.action_space = self._actions.space
        self._masked = self._actions.masked
        arrays = {slot.agent: slot.parts for slot in self._slots}
        self._obs = TeamObservations(arrays, agent_ids(agents, config.agent_id), self._where)
        self.layout = self._obs.layout
        self._state_kind = config.state
        state_size = len(agents) * (self.layout.size - self.layout.agent_id)
        if self._state_kind == "env":
            state_size, self._read_state = self._game_state(config.flatten)
        self.observation_space = observation_space(
            len(agents),
            self.layout,
            self._actions.exists.shape[1] if self._masked else None,
            None if self._state_kind == "none" else (state_size,),
            obs_dtype=self._obs.dtype,
        )
        self._seen: Mapping[Any, Any] = {}
        self._infos: Mapping[Any, Any] = {}
        self._acts = np.zeros(len(agents), np.bool_)
        self._left: set[Hashable] = set()
        self._terminated = False

    # What differs between kinds of games.

    def _build(self, config: GameConfig, place: Place) -> object:
        """The game; a `UserError` if it is of another kind."""
        target = imported(config.env, self.env_name, self.example)
        return self._call(target, config.kwargs, place)

    @abstractmethod
    def _call(self, target: Callable[..., Any], kwargs: Mapping[str, Any], place: Place) -> object:
        """The game that ``target`` builds; a `UserError` if it is of another kind."""

    @abstractmethod
    def _agents(self) -> Sequence[Any]:
        """The names of all agents that can ever appear, in slot order."""

    @abstractmethod
    def _observation_space(self, agent: Hashable) -> object:
        """The space of the agent's observations."""

    @abstractmethod
    def _action_space(self, agent: Hashable) -> object:
        """The space of the agent's actions."""

    @abstractmethod
    def _ends(self, terminated: Flags, truncated: Flags) -> tuple[bool, bool]:
        """Whether this step terminated or truncated the episode, never both."""

    # What is common.

    def _team(self) -> list[Any]:
        """The names of all agents, each once."""
        with said_of(self._where, "possible_agents"):
            agents = list(self._agents())
        twice = [agent for agent in agents if agents.count(agent) > 1]
        if twice:
            raise UserError(f"{self._where}: {twice[0]!r} stands twice in possible_agents.")
        return agents

    def _asked(
        self, what: str, question: Callable[[Hashable], object]
    ) -> Callable[[Hashable], object]:
        """``question`` of an agent; what it raises is said in one line."""

        def ask(agent: Hashable) -> object:
            with said_of(self._where, f"the {what} of {agent!r}"):
                return question(agent)

        return ask

    def _game_state(self, flatten: bool) -> tuple[int, Any]:
        with said_of(self._where, "reset"):
            self._game.reset(seed=0)
        try:
            state = np.asarray(self._game.state())
        except (AttributeError, NotImplementedError) as error:
            raise UserError(
                f"{self._where} has no state(): set env_config 'state' to 'concatenate' or 'none'."
            ) from error
        space = spaces.Box(0, 1, state.shape, state.dtype.type)
        return vector(space, flatten, f"{self._where}: the state")

    def reset(self, seed: int | None) -> None:
        """Starts an episode; see :class:`SingleEnv`."""
        self._seen, self._infos = self._dicts(
            "reset", self._game.reset(seed=seed), ("observations", "infos")
        )
        self._left = set()
        self._terminated = False
        self._find_present(frozenset())

    def step(self, actions: NDArray[Any]) -> tuple[NDArray[np.float64], bool, bool]:
        """Passes on the actions of the agents that are there; see :class:`SingleEnv`."""
        every = zip(self._slots, self._actions.decode(actions), self._acts, strict=True)
        decided = {slot.agent: action for slot, action, acts in every if acts}
        self._seen, rewards, terminated, truncated, self._infos = self._dicts(
            "step", self._game.step(decided), _OF_A_STEP
        )
        ended = self._ends(terminated, truncated)
        self._terminated = ended[0]
        gone = {agent for agent in self._known if terminated.get(agent, False)}
        cut = {agent for agent in self._known if truncated.get(agent, False)}
        if not any(ended):
            self._left |= gone | cut
        # An agent that a limit cut short is still there in the last observation of an episode.
        self._find_present(gone if ended[1] else gone | cut)
        self._check_known(rewards)
        paid = [self._number(rewards.get(slot.agent, 0.0), slot.agent) for slot in self._slots]
        return self._paid(np.array(paid)), *ended

    def _dicts(
        self, method: str, given: object, names: tuple[str, ...]
    ) -> tuple[Mapping[Any, Any], ...]:
        """What ``method`` returned: as many dicts by agent as there are names.

        Raises:
            UserError: it returned something else.
        """
        expected = f"({', '.join(names)}), each a dict by agent"
        if not isinstance(given, tuple | list) or len(given) != len(names):
            length = f" of {len(given)}" if isinstance(given, tuple | list) else ""
            raise UserError(
                f"{self._where}: {method} returned a {type(given).__name__}{length} where it must "
                f"return {expected}: fix the game, or wrap it."
            )
        for name, part in zip(names, given, strict=True):
            if not isinstance(part, Mapping):
                raise UserError(
                    f"{self._where}: {method} returned {named(part)} as its {name}; expected "
                    f"{expected}: fix the game."
                )
        return tuple(given)

    def _number(self, reward: object, agent: Hashable) -> float:
        """A reward; an array of one element is one."""
        if isinstance(reward, float | int):
            return float(reward)
        try:
            array = np.asarray(reward, np.float64)  # of None it makes NaN
            if array.size == 1 and reward is not None:
                return float(array.reshape(()))
        except (TypeError, ValueError):
            pass
        raise UserError(
            f"{self._where}: step returned {named(reward)} as the reward of {agent!r}; expected a "
            "number: fix the game."
        )

    def _check_known(self, by_agent: Mapping[Any, Any]) -> None:
        strangers = by_agent.keys() - self._known
        if strangers:
            raise UserError(
                f"{self._where}: {sorted(map(str, strangers))[0]!r} is not in possible_agents."
            )

    def _find_present(self, gone: set[Any] | frozenset[Any]) -> None:
        self._check_known(self._seen)
        present = self._seen.keys() - gone
        self._acts = np.array([slot.agent in present for slot in self._slots])

    def observe(self, row: Observation) -> None:
        """Fills the slots; see :class:`SingleEnv`."""
        obs = row["obs"]
        obs[...] = 0
        row["alive"][...] = self._acts
        if self._masked:
            row[MASK][...] = self._actions.exists
        for m, slot in enumerate(self._slots):
            if self._acts[m]:
                seen = self._seen[slot.agent]
                self._obs.write(obs[m], m, seen)
                if slot.action.sizes:
                    given = seen if slot.mask_in_obs else self._infos.get(slot.agent, {})
                    if not isinstance(given, Mapping):
                        raise UserError(
                            f"{self._where}: the infos of {slot.agent!r} are {named(given)}; "
                            "expected a dict: fix the game."
                        )
                    if MASK in given:
                        self._actions.set_mask(
                            row[MASK],
                            m,
                            self._flags(slot, given[MASK]),
                            f"{self._where}: the {MASK} of {slot.agent!r}",
                        )
            elif self._masked:
                row[MASK][m] = self._actions.no_op[m]
        if self._state_kind == "concatenate":
            row["state"][...] = self._obs.of_all(obs)
        elif self._state_kind == "env":
            # Some games have taken down their bodies when they terminate; no value is asked then.
            row["state"][...] = 0.0 if self._terminated else self._read_state(self._game.state())

    def _flags(self, slot: Slot, given: object) -> ArrayLike:
        """An action mask as a vector over the agent's choices."""
        try:
            flags = slot.action.flags(given)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self._where}: the {MASK} of {slot.agent!r}, {named(given)}, has not the form "
                f"of its action space ({reason_of(error)}): fix the game."
            ) from error
        return self._sized(flags, sum(slot.action.sizes), slot.agent, MASK)

    def _sized(self, given: ArrayLike, size: int, agent: Hashable, what: str) -> ArrayLike:
        """``given``, which has ``size`` numbers."""
        shape = shape_of(given)
        if shape != (size,):
            raise UserError(
                f"{self._where}: the {what} of {agent!r} has shape {shape} "
                f"({named(given)}) where its spaces say ({size},): fix the game."
            )
        try:
            return np.asarray(given, np.float32)
        except (TypeError, ValueError):
            raise UserError(
                f"{self._where}: the {what} of {agent!r} holds other things than numbers "
                f"({named(given)}): fix the game."
            ) from None

    def episode_metrics(self) -> dict[str, float]:
        """The metric ``dead_ratio`` of the episode that ended."""
        return {"dead_ratio": len(self._left) / len(self._slots)}

    def episode_infos(self) -> Mapping[str, Any]:
        """The game's infos of the last step, a dict by agent."""
        return self._infos

    def get_state(self) -> bytes:
        """The game with what it last said; see :func:`dump`."""
        return dump((self._game, self._seen, self._infos, self._acts, self._left))

    def set_state(self, state: bytes) -> None:
        """Goes on from what ``get_state`` returned."""
        self._game, self._seen, self._infos, self._acts, self._left = load(state)

    def render_frame(self) -> NDArray[np.uint8] | None:
        """The game's own frame, where it was built with ``render_mode: rgb_array``."""
        if getattr(self._game, "render_mode", None) != "rgb_array":
            return None
        return np.array(self._game.render(), np.uint8)

    def close(self) -> None:
        """Closes the game.

        Raises:
            UserError: its ``close`` raises.
        """
        with said_of(self._where, "close"):
            self._game.close()


class GameVectorEnv(SyncVectorEnv):
    """E games of one kind.

    They are saved where a copy goes on bit for bit, which is tried when they are built.
    """

    metric_names = ("dead_ratio",)

    def __init__(
        self,
        num_envs: int,
        build: Callable[[GameConfig, Place], DictGame],
        config: GameConfig,
        place: Place = HERE,
    ) -> None:
        """Takes E, what builds one game, the settings, and where the first game is."""
        self.simulator = config.env
        trial = build(config, place)
        both = trial.observation_space, trial.action_space
        self._fault = fault_of_copies(trial, *both, config.reward_per_agent)
        games = [build(config, place._replace(vector_index=e)) for e in range(num_envs)]
        super().__init__(games, *both, config.autoreset, config.reward_per_agent)

    def cannot_save_reason(self) -> str | None:
        """Why `get_state` cannot hold the games, in one clause; None where it can."""
        return None if self._fault is None else f"a copy of {self.simulator} {self._fault}"


def imported(path: str, env_name: str, example: str) -> Callable[..., Any]:
    """What ``path``, "package.module:attribute", names.

    Raises:
        UserError: it has no colon, or what it names is not there.
    """
    # Games that draw greet on import and open a window, where nobody looks at either.
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if ":" not in path:
        raise UserError(
            f"{env_name}: env_config 'env' must be an import path such as {example!r}, "
            f"got {path!r}."
        )
    try:
        return pkgutil.resolve_name(path)
    except (Exception, SystemExit) as error:  # a module of others may raise anything
        raise UserError(
            f"{env_name}: env_config 'env' {path!r} cannot be imported: "
            f"{why_not_imported(error, path)}"
        ) from error


@contextmanager
def said_of(where: str, what: str) -> Iterator[None]:
    """Whatever a game raises is said in one line, which names the game and the method."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{where}: {what} raised {reason_of(error)}") from error


#: What was tried in this process, and what the agents see there.
_tried: dict[bytes, Layout | None] = {}


def try_once(attempt: Callable[[], Layout | None], *about: object) -> Layout | None:
    """What ``attempt`` gives; it is made once for things ``about`` which it is."""
    key = exact_key(*about)
    if key is None:
        return attempt()
    if key not in _tried:
        _tried[key] = attempt()
    return _tried[key]


def try_game(config: GameConfig, build: Callable[[GameConfig], DictGame]) -> Layout:
    """Builds one game and plays its first step, once per config and process.

    Returns:
        What an agent's observation consists of.

    Raises:
        UserError: it cannot be a team's, or one of its methods raises or returns what it must not.
    """
    layout = try_once(partial(_try_game, config, build), type(config), as_dict(config), build)
    assert layout is not None
    return layout


def _try_game(config: GameConfig, build: Callable[[GameConfig], DictGame]) -> Layout:
    game = build(config)
    both = game.observation_space, game.action_space
    env = SyncVectorEnv([game], *both, reward_per_agent=config.reward_per_agent)
    where = f"{game.env_name}: {config.env}"
    with said_of(where, "reset"):
        obs, _ = env.reset(seed=0)
    with said_of(where, "step"):
        env.step(random_actions(env, obs, np.random.default_rng(0)))
    try:
        env.close()
    finally:
        env.closed = True  # else gymnasium closes it once more when it is thrown away
    return game.layout
