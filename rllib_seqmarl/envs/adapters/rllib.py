"""Any ``MultiAgentEnv`` of RLlib as one team, by its import path or by what makes it.

``env_config: {env: "my_package.my_module:MyMultiAgentEnv", kwargs: {size: 8}}`` builds that class
in RLlib's way, with one argument: the dict ``kwargs``, an ``EnvContext`` of RLlib that also knows
the index of the runner and that of the environment.

Agents act when they get an observation, so games in which agents take turns are played too. See
:mod:`rllib_seqmarl.envs.adapters.multi_agent` for how agents become slots.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from rllib_seqmarl.envs.adapters.multi_agent import (
    HERE,
    DictGame,
    Flags,
    GameConfig,
    GameVectorEnv,
    said_of,
    try_game,
    try_once,
)
from rllib_seqmarl.envs.adapters.pettingzoo import ParallelGame, PettingZooConfig
from rllib_seqmarl.envs.core.contract import TeamVectorEnv
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.layout import Layout
from rllib_seqmarl.names import Place, reason_of
from rllib_seqmarl.registry import game_kind, not_a_team
from rllib_seqmarl.settings import settings

ALL = "__all__"


class RLlibGame(DictGame):
    """One ``MultiAgentEnv``."""

    env_name = "multi_agent_env"
    example = "ray.rllib.examples.envs.classes.multi_agent:TwoStepGame"

    def _call(self, target: Callable[..., Any], kwargs: Mapping[str, Any], place: Place) -> object:
        from ray.rllib.env.multi_agent_env import MultiAgentEnv

        game = target(_context(kwargs, place))
        if not isinstance(game, MultiAgentEnv):
            raise UserError(
                f"{self._where} gives {type(game).__name__}, not a ray.rllib MultiAgentEnv."
            )
        return game

    def _agents(self) -> Sequence[Any]:
        old = set(getattr(self._game, "_agent_ids", ()))
        agents = list(self._game.possible_agents) or list(old)
        # Classes of RLlib's old API name a set, whose order differs from process to process.
        if set(agents) == old:
            agents.sort(key=lambda agent: (len(str(agent)), str(agent)))
        return agents

    def _observation_space(self, agent: Hashable) -> object:
        return self._game.get_observation_space(agent)

    def _action_space(self, agent: Hashable) -> object:
        return self._game.get_action_space(agent)

    def _ends(self, terminated: Flags, truncated: Flags) -> tuple[bool, bool]:
        if ALL not in terminated:
            raise UserError(f"{self._where}: step returned terminateds without {ALL!r}.")
        ends = bool(terminated[ALL])
        return ends, not ends and bool(truncated.get(ALL, False))


@settings
class MultiAgentEnvConfig(GameConfig):
    """``env_config``; ``kwargs`` is the dict that the class is called with."""

    def check(self) -> None:
        """Builds one game to see what it is.

        Raises:
            UserError: a path that names nothing, a class that cannot be built with ``kwargs``, or
                one that is no team: other kinds of actions than `adapters.actions` has,
                observations without a fixed size.
        """
        self.observation_layout()

    def observation_layout(self) -> Layout:
        """See `try_game`."""
        return try_game(self, RLlibGame)


def make(
    num_envs: int, config: MultiAgentEnvConfig, worker_index: int = 0, num_workers: int = 0
) -> GameVectorEnv:
    """``num_envs`` games."""
    place = Place(worker_index, num_workers=num_workers)
    return GameVectorEnv(num_envs, RLlibGame, config, place)


# -- what ``tune.register_env`` was given --------------------------------------------------------

#: Makes an environment of an ``EnvContext``.
Creator = Callable[[Mapping[str, Any]], object]


class _CreatedGame(RLlibGame):
    """The ``MultiAgentEnv`` that a creator makes."""

    def __init__(self, creator: Creator, config: GameConfig, place: Place = HERE) -> None:
        self._creator = creator
        super().__init__(config, place)

    def _build(self, config: GameConfig, place: Place) -> object:
        return self._call(self._creator, config.kwargs, place)


class _CreatedParallelGame(ParallelGame):
    """The parallel game of PettingZoo that a creator makes."""

    def __init__(self, creator: Creator, config: GameConfig, place: Place = HERE) -> None:
        self._creator = creator
        super().__init__(config, place)

    def _build(self, config: GameConfig, place: Place) -> object:
        return self._creator(_context(config.kwargs, place))


def try_creator(creator: Creator, name: str, env_config: Mapping[str, Any]) -> Layout | None:
    """Looks at what ``tune.register_env`` was given, once per process and ``env_config``.

    Returns:
        What an agent's observation consists of; None where no more is known than its size.

    Raises:
        UserError: it makes no team, or fails.
    """
    attempt = partial(_try_creator, creator, name, env_config)
    return try_once(attempt, creator, name, dict(env_config))


def _try_creator(creator: Creator, name: str, env_config: Mapping[str, Any]) -> Layout | None:
    try:
        build = _game_of(creator, name, env_config, 1, HERE)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a creator from outside may fail in any way
        raise UserError(
            f"environment {name!r} with env_config {dict(env_config)!r}: its creator raised "
            f"{reason_of(error)}"
        ) from error
    if not isinstance(build, TeamVectorEnv):
        return try_game(*build)
    with said_of(f"environment {name!r}", "close"):
        build.close()
    return getattr(build.single_observation_space["obs"], "layout", None)


def make_by_creator(
    creator: Creator, name: str, env_config: Mapping[str, Any], num_envs: int, place: Place
) -> TeamVectorEnv:
    """``num_envs`` environments of what a creator in Ray's registry makes.

    Args:
        creator: takes an ``EnvContext``. What makes a `TeamVectorEnv` finds ``num_envs`` in it;
            what makes one game, a ``MultiAgentEnv`` or a parallel game of PettingZoo, is called for
            each of them and finds there what RLlib itself gives.
        name: under which it is registered.
        env_config: for it.
        num_envs: E.
        place: where the first of them is.

    Raises:
        UserError: it makes no team.
        Exception: whatever the creator raises.
    """
    made = _game_of(creator, name, env_config, num_envs, place)
    if isinstance(made, TeamVectorEnv):
        return made
    config, build = made
    return GameVectorEnv(num_envs, build, config, place)


def _game_of(
    creator: Creator, name: str, env_config: Mapping[str, Any], num_envs: int, place: Place
) -> TeamVectorEnv | tuple[GameConfig, Callable[..., DictGame]]:
    """The environments, or the settings of a game and what builds it."""
    made = _created(creator, env_config, num_envs, place)
    if isinstance(made, TeamVectorEnv):
        return made
    kind = game_kind(type(made))
    if kind is None:
        raise not_a_team(f"environment {name!r} makes a {type(made).__name__}")
    with said_of(f"environment {name!r}", "close"):
        cast("Any", made).close()
    if kind == RLlibGame.env_name:
        return MultiAgentEnvConfig(env=name, kwargs=env_config), partial(_CreatedGame, creator)
    return PettingZooConfig(env=name, kwargs=env_config), partial(_CreatedParallelGame, creator)


def _created(
    creator: Creator, env_config: Mapping[str, Any], num_envs: int, place: Place
) -> object:
    try:
        return creator(_context({**env_config, "num_envs": num_envs}, place))
    except UserError:
        raise
    except Exception as with_num_envs:
        try:  # RLlib gives no num_envs, and many a class takes no keyword that it does not know
            made = creator(_context(env_config, place))
        except Exception as error:
            wants_it = isinstance(error, KeyError) and error.args == ("num_envs",)
            raise (with_num_envs if wants_it else error) from None
        if isinstance(made, TeamVectorEnv):  # it has failed for another reason
            made.close()
            raise
        return made


def _context(env_config: Mapping[str, Any], place: Place) -> dict[str, Any]:
    from ray.rllib.env.env_context import EnvContext

    context: dict[str, Any] = EnvContext(dict(env_config), **place._asdict())
    return context
