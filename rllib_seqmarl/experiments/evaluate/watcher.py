"""What may look on while a trained policy plays."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rllib_seqmarl.experiments.evaluate.evaluation import EpisodePlayer, SavedPolicy
    from rllib_seqmarl.rollout.rollout_batch import Columns


class Watcher:
    """Sees the policy's first episode in env 0; does nothing by itself."""

    def on_start(self, player: EpisodePlayer, policy: SavedPolicy) -> None:
        """Before anything is played.

        Args:
            player: with the environments and the policy that acts.
            policy: on disk.
        """

    def on_step(self, player: EpisodePlayer, decided: Columns) -> None:
        """Before each step of that episode.

        Args:
            player: with the environments, and the observations that the policy has seen.
            decided: what the policy has decided, by column, each [E, N, ...].
        """

    def on_episode_end(self, player: EpisodePlayer) -> None:
        """After the last step: env 0 is at the start of its next episode."""
