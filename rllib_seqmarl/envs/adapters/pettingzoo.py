"""Any parallel game of PettingZoo's interface, by its import path.

``env_config: {env: "pettingzoo.butterfly.knights_archers_zombies_v11:parallel_env", kwargs: {}}``
plays what that path names, called with ``kwargs``. PettingZoo's own games, those of mpe2 and
gymnasium-robotics, and one's own classes are named in the same way.

Terry et al., "PettingZoo: Gym for Multi-Agent Reinforcement Learning", 2021 (arXiv:2009.14471);
the interface is ``pettingzoo.ParallelEnv``. See `adapters.multi_agent` for how agents become slots.
"""

from __future__ import annotations

import importlib.util
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


class ParallelGame(DictGame):
    """One ``ParallelEnv``."""

    env_name = "pettingzoo"
    example = "pettingzoo.sisl.multiwalker_v9:parallel_env"

    def _call(self, target: Any, kwargs: Mapping[str, Any]) -> Any:
        from pettingzoo import ParallelEnv

        game = target(**kwargs)
        if not isinstance(game, ParallelEnv):
            raise UserError(
                f"{self._where} gives {type(game).__name__}, not a pettingzoo.ParallelEnv: "
                "PettingZoo's games offer one as 'parallel_env'."
            )
        return game

    def _agents(self) -> Sequence[Any]:
        return list(getattr(self._game, "possible_agents", ()))

    def _observation_space(self, agent: Any) -> Any:
        return self._game.observation_space(agent)

    def _action_space(self, agent: Any) -> Any:
        return self._game.action_space(agent)

    def _ends(self, terminated: Flags, truncated: Flags) -> tuple[bool, bool]:
        # `agents` is already without those whose last step this was.
        done = not self._game.agents or all(
            terminated[agent] or truncated.get(agent, False) for agent in terminated
        )
        # One agent that would have gone on is enough to say that a limit ended the episode.
        cut = done and any(truncated[a] and not terminated.get(a, False) for a in truncated)
        return done and not cut, cut


def check(env_config: Mapping[str, Any]) -> dict[str, Any]:
    """The complete ``env_config``; builds one game to see what it is.

    Keys:
        env: the game, "package.module:attribute"; required.
        kwargs: what that is called with.
        reward: the team's reward, ``sum`` over agents (what RLlib reports of multi-agent
            episodes) or ``mean`` over all N slots. Where a game gives every agent the team's
            reward, ``mean`` is that reward.
        state: ``none``, ``env`` (the game's ``state()``) or ``concatenate`` (the observations
            of all slots, without agent ids); adds ``state`` [S].
        agent_id: appends the one-hot slot to the observation of agents that are there.
        flatten: turns images and other structures into vectors; refused otherwise.
        autoreset: ``same_step`` or ``next_step``.

    Raises:
        UserError: unknown key, wrong type or value, PettingZoo missing, a path that names
            nothing, a game that cannot be built with ``kwargs``, or one that is no team: agents
            with discrete and with continuous actions, other kinds of actions, observations that
            are no vectors.
    """
    if importlib.util.find_spec("pettingzoo") is None:
        raise UserError(
            "pettingzoo: PettingZoo is not installed; run: pip install 'rllib-seqmarl[pettingzoo]'"
        )
    return check_game(env_config, ParallelGame)


def make(num_envs: int, **env_config: Any) -> GameVectorEnv:
    """``num_envs`` games with the given ``env_config`` (see :func:`check`)."""
    return GameVectorEnv(num_envs, ParallelGame, check(env_config))
