"""The episodes over which a training's metrics are smoothed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rllib_seqmarl.rollout.metrics import RecentEpisodes


def played(*returns: float) -> dict[str, Any]:
    values = np.array(returns, np.float32)
    return {"episode_return": values, "won": values > 1}


def test_the_last_episodes_count_whoever_played_them() -> None:
    recent = RecentEpisodes(4, "game")
    reported = {"episode_return_mean": math.nan, "num_episodes": 0}
    recent.put_into(reported)
    assert reported == {"num_episodes": 0}

    recent.add([played(9, 8), played(1)])
    recent.add([played(3, 2)])
    recent.put_into(reported)
    assert reported == {
        "num_episodes": 0,
        "episode_return_mean": (8 + 1 + 3 + 2) / 4,
        "episode_return_min": 1,
        "episode_return_max": 8,
        "win_rate": 3 / 4,
    }


def test_a_checkpoint_brings_back_episodes_of_the_same_game_only() -> None:
    recent = RecentEpisodes(4, "game")
    recent.add([played(1, 2, 3)])
    shorter, other = RecentEpisodes(2, "game"), RecentEpisodes(4, "another game")
    for resumed, means in ((shorter, [2.5]), (other, [])):
        resumed.set_state(recent.get_state())
        reported: dict[str, float] = {}
        resumed.put_into(reported)
        assert [v for k, v in reported.items() if k == "episode_return_mean"] == means
