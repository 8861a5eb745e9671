"""Any ``MultiAgentEnv`` of RLlib, by its import path, as one team.

``env_config: {env: "my_package.my_module:MyMultiAgentEnv", kwargs: {size: 8}}`` builds that class
in RLlib's way, with one argument: the dict ``kwargs``.

Agents act when they get an observation, so games in which agents take turns are played too. See
:mod:`rllib_seqmarl.envs.adapters.multi_agent` for how agents become slots.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from rllib_seqmarl.envs.adapters.multi_agent import (
    DictGame,
    Flags,
    GameConfig,
    GameVectorEnv,
    try_game,
)
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.settings import settings

ALL = "__all__"


class RLlibGame(DictGame):
    """One ``MultiAgentEnv``."""

    env_name = "multi_agent_env"
    example = "ray.rllib.examples.envs.classes.multi_agent:TwoStepGame"

    def _call(self, target: Callable[..., Any], kwargs: Mapping[str, Any]) -> object:
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
        try_game(self, RLlibGame)


def make(num_envs: int, config: MultiAgentEnvConfig) -> GameVectorEnv:
    """``num_envs`` games."""
    return GameVectorEnv(num_envs, RLlibGame, config)
