"""Any parallel game of PettingZoo's interface, by its import path.

``env_config: {env: "pettingzoo.butterfly.knights_archers_zombies_v11:parallel_env", kwargs: {}}``
plays what that path names, called with ``kwargs``. PettingZoo's own games, those of mpe2 and
gymnasium-robotics, and one's own classes are named in the same way.

Terry et al., "PettingZoo: Gym for Multi-Agent Reinforcement Learning", 2021 (arXiv:2009.14471);
the interface is ``pettingzoo.ParallelEnv``. See `adapters.multi_agent` for how agents become slots.
"""

from __future__ import annotations

import importlib.util
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
from rllib_seqmarl.layout import Layout
from rllib_seqmarl.names import Place
from rllib_seqmarl.settings import settings


class ParallelGame(DictGame):
    """One ``ParallelEnv``."""

    env_name = "pettingzoo"
    example = "pettingzoo.sisl.multiwalker_v9:parallel_env"

    def _call(self, target: Callable[..., Any], kwargs: Mapping[str, Any], place: Place) -> object:
        from pettingzoo import ParallelEnv

        game = target(**{**place.asked_for_by(target), **kwargs})
        if not isinstance(game, ParallelEnv):
            raise UserError(
                f"{self._where} gives {type(game).__name__}, not a pettingzoo.ParallelEnv: "
                "PettingZoo's games offer one as 'parallel_env'."
            )
        return game

    def _agents(self) -> Sequence[Any]:
        return list(getattr(self._game, "possible_agents", None) or ())

    def _observation_space(self, agent: Hashable) -> object:
        return self._game.observation_space(agent)

    def _action_space(self, agent: Hashable) -> object:
        return self._game.action_space(agent)

    def reset(self, seed: int | None) -> None:
        """Starts an episode; see :class:`SingleEnv`."""
        super().reset(seed)
        if not self._game.agents:
            raise UserError(
                f"{self._where}: reset left nobody in `agents`, so that the game is over before "
                "its first step: fix the game."
            )

    def _ends(self, terminated: Flags, truncated: Flags) -> tuple[bool, bool]:
        # `agents` is already without those whose last step this was, in games that keep to the
        # interface; others still name them. Flags of agents that go on may be left out.
        done = all(
            terminated.get(agent, False) or truncated.get(agent, False)
            for agent in self._game.agents
        )
        # One agent that would have gone on is enough to say that a limit ended the episode.
        cut = done and any(truncated[a] and not terminated.get(a, False) for a in truncated)
        return done and not cut, cut


@settings
class PettingZooConfig(GameConfig):
    """``env_config``; ``kwargs`` are the game's keywords."""

    def check(self) -> None:
        """Builds one game to see what it is.

        Raises:
            UserError: PettingZoo is missing, a path that names nothing, a game that cannot be
                built with ``kwargs``, or one that is no team: other kinds of actions than
                `adapters.actions` has, observations without a fixed size.
        """
        if importlib.util.find_spec("pettingzoo") is None:
            raise UserError(
                "pettingzoo: PettingZoo is not installed; run: "
                "pip install 'rllib-seqmarl[pettingzoo]'"
            )
        self.observation_layout()

    def observation_layout(self) -> Layout:
        """See `try_game`."""
        return try_game(self, ParallelGame)


def make(
    num_envs: int, config: PettingZooConfig, worker_index: int = 0, num_workers: int = 0
) -> GameVectorEnv:
    """``num_envs`` games."""
    place = Place(worker_index, num_workers=num_workers)
    return GameVectorEnv(num_envs, ParallelGame, config, place)
