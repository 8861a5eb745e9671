"""Learning, really: a game that can only be won by deciding one after another.

All agents see the same and must choose different actions. Agents that decide at the same time
and share their parameters cannot do better than chance; agents that see their predecessors'
actions can always win.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rllib_seqmarl.envs import distinct_actions

GAME = {"num_agents": 4, "episode_length": 1}
SETTINGS = {
    "num_envs_per_env_runner": 64,
    "lr": 1e-3,
    "clip_param": 0.2,
    "num_epochs": 5,
    "embed_dim": 32,
    "seed": 0,
    "evaluation_interval": 60,
    "evaluation_duration": 200,
}


def train(small: Any, name: str, iterations: int = 60, **settings: Any) -> tuple[float, float]:
    """Share of games won while exploring (last 500) and greedily (200 games)."""
    smoothing = {"metrics_num_episodes_for_smoothing": 500}
    algorithm = small(name, env_config=GAME, **SETTINGS, **smoothing, **settings).build_algo()
    for _ in range(iterations):
        result = algorithm.train()
    algorithm.stop()
    return (
        float(result["env_runners"]["episode_return_mean"]),
        float(result["evaluation"]["env_runners"]["episode_return_mean"]),
    )


@pytest.mark.parametrize("name", ["MAT", "SrSv"])
def test_deciding_in_sequence_reaches_the_optimum(name: str, small: Any) -> None:
    exploring, greedy = train(small, name)
    assert greedy == distinct_actions.optimum()
    assert exploring > 0.9


def test_deciding_simultaneously_does_not(small: Any) -> None:
    """A network of the same size, with the predecessors' actions hidden."""
    exploring, _ = train(small, "MAT", autoregressive=False)
    bound = distinct_actions.simultaneous_bound(4, 4)
    error = np.sqrt(bound * (1 - bound) / 500)
    assert exploring < bound + 4 * error
