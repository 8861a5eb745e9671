"""Any ``MultiAgentEnv`` of RLlib, by its import path, as one team.

``env_config: {env: "my_package.my_module:MyMultiAgentEnv", kwargs: {size: 8}}`` builds that class
in RLlib's way, with one argument: the dict ``kwargs``.

Agents act when they get an observation, so games in which agents take turns are played too. See
:mod:`rllib_seqmarl.envs.adapters.multi_agent` for how agents become slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rllib_seqmarl.envs.adapters.multi_agent import (
    DEFAULTS,
    DictGame,
    Flags,
    GameVectorEnv,
    check_game,
)
from rllib_seqmarl.errors import UserError

__all__ = ["DEFAULTS", "check", "make"]

ALL = "__all__"


class RLlibGame(DictGame):
    """One ``MultiAgentEnv``."""

    env_name = "multi_agent_env"
    example = "ray.rllib.examples.envs.classes.multi_agent:TwoStepGame"

    def _call(self, target: Any, kwargs: Mapping[str, Any]) -> Any:
        from ray.rllib.env.multi_agent_env import MultiAgentEnv

        game = target(dict(kwargs))
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

    def _observation_space(self, agent: Any) -> Any:
        return self._game.get_observation_space(agent)

    def _action_space(self, agent: Any) -> Any:
        return self._game.get_action_space(agent)

    def _ends(self, terminated: Flags, truncated: Flags) -> tuple[bool, bool]:
        if ALL not in terminated:
            raise UserError(f"{self._where}: step returned terminateds without {ALL!r}.")
        ends = bool(terminated[ALL])
        return ends, not ends and bool(truncated.get(ALL, False))


def check(env_config: Mapping[str, Any]) -> dict[str, Any]:
    """The complete ``env_config``; builds one game to see what it is.

    Keys:
        env: the class, "package.module:attribute"; required.
        kwargs: the dict that it is called with, RLlib's ``env_config``.
        reward: the team's reward, ``sum`` over agents (what RLlib reports of multi-agent
            episodes) or ``mean`` over all N slots.
        state: ``none``, ``env`` (the game's ``state()``, where it has one) or ``concatenate``
            (the observations of all slots, without agent ids); adds ``state`` [S].
        agent_id: appends the one-hot slot to the observation of agents that are there.
        flatten: turns images and other structures into vectors; refused otherwise.
        autoreset: ``same_step`` or ``next_step``.

    Raises:
        UserError: unknown key, wrong type or value, a path that names nothing, a class that
            cannot be built with ``kwargs``, or one that is no team: agents with discrete and
            with continuous actions, other kinds of actions, observations that are no vectors.
    """
    return check_game(env_config, RLlibGame)


def make(num_envs: int, **env_config: Any) -> GameVectorEnv:
    """``num_envs`` games with the given ``env_config`` (see :func:`check`)."""
    return GameVectorEnv(num_envs, RLlibGame, check(env_config))
