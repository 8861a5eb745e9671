"""What may look on while a trained policy plays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from ray.rllib.core.rl_module.rl_module import RLModule

    from rllib_seqmarl.envs.core.contract import Observation, TeamVectorEnv
    from rllib_seqmarl.learning.base.config import TeamConfig
    from rllib_seqmarl.rollout.rollout_batch import Columns


class Player(Protocol):
    """Who plays; see `EpisodePlayer`."""

    env: TeamVectorEnv | None

    @property
    def config(self) -> TeamConfig:
        """The algorithm's."""

    @property
    def observation(self) -> Observation:
        """What the policy sees now, arrays [E, ...]."""

    @property
    def is_cut(self) -> bool:
        """Whether the episode of env 0 was cut short, so that the env is still in it."""

    @property
    def device(self) -> torch.device:
        """On which the policy acts."""

    def full_module(self) -> RLModule:
        """The policy with its critic; without, where what was saved has none."""


class Watcher:
    """Sees the policy's first episode in env 0; does nothing by itself."""

    def on_step(self, player: Player, decided: Columns) -> None:
        """Before each step of that episode.

        Args:
            player: with the environments, and the observations that the policy has seen.
            decided: what the policy has decided, by column, each [E, N, ...].
        """

    def on_episode_end(self, player: Player) -> None:
        """After the last step.

        Env 0 is at the start of its next episode then, or, with `Player.is_cut`, still in it.
        """
