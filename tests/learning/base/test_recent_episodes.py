"""Means over the last episodes stand in every result, also where no episode ended."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from rllib_seqmarl import registry

NAMES = ("episode_return_mean", "episode_return_max", "episode_len_min", "distinct_ratio")


def shown(algorithm: Any) -> tuple[float, ...] | None:
    """The metrics of an iteration; None where all are absent."""
    reported = algorithm.train()["env_runners"]
    there = [name for name in NAMES if name in reported]
    assert not there or len(there) == len(NAMES)
    values = tuple(reported[name] for name in there)
    assert all(math.isfinite(value) for value in values)
    return values or None


@pytest.mark.parametrize("runners", [0, 2])
def test_metrics_stay_where_no_episode_ends(runners: int, small: Any, tmp_path: Path) -> None:
    """An episode is as long as two rollouts and a half."""
    game = {"num_agents": 2, "episode_length": 25}
    config = small("MAT", env_config=game, num_env_runners=runners, num_envs_per_env_runner=2)
    algorithm = config.build_algo()
    rollouts = [shown(algorithm) for _ in range(4)]
    assert rollouts[:2] == [None, None]
    assert rollouts[2] is not None
    assert rollouts[3] == rollouts[2]
    algorithm.save_to_path(str(tmp_path))
    algorithm.stop()

    resumed = registry.algorithm_class("MAT").from_checkpoint(str(tmp_path))
    if runners == 0:  # a second episode ends in the fifth rollout
        assert shown(resumed) not in (None, rollouts[3])
    else:  # other processes begin new ones
        assert shown(resumed) == rollouts[3]
    resumed.stop()
