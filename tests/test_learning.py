"""Learning, really: games that can only be won by deciding one after another, in the right order.

Where all agents see the same and must choose different actions, agents that decide at the same
time and share their parameters cannot do better than chance; agents that see their predecessors'
actions can always win. Where one agent knows what all should do, it should decide first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rllib_seqmarl.envs.toy import distinct_actions, private_cue

GAME = {"num_agents": 4, "episode_length": 1}
SETTINGS = {
    "num_envs_per_env_runner": 64,
    "lr": 1e-3,
    "clip_param": 0.2,
    "num_epochs": 5,
    "embed_dim": 32,
    "seed": 0,
    "evaluation_duration": 200,
}


def train(small: Any, name: str, iterations: int, **settings: Any) -> tuple[float, float]:
    """Share of games won while exploring (last 500) and greedily, at the end (200 games)."""
    settings |= {"metrics_num_episodes_for_smoothing": 500, "evaluation_interval": iterations}
    algorithm = small(name, env_config=GAME, **SETTINGS, **settings).build_algo()
    for _ in range(iterations):
        result = algorithm.train()
    algorithm.stop()
    return (
        float(result["env_runners"]["episode_return_mean"]),
        float(result["evaluation"]["env_runners"]["episode_return_mean"]),
    )


@pytest.mark.parametrize(("name", "iterations"), [("MAT", 55), ("SrSv", 80)])
def test_deciding_in_sequence_reaches_the_optimum(name: str, iterations: int, small: Any) -> None:
    exploring, greedy = train(small, name, iterations)
    assert greedy == distinct_actions.optimum()
    assert exploring > 0.9


def test_deciding_simultaneously_does_not(small: Any) -> None:
    """A network of the same size, with the predecessors' actions hidden."""
    exploring, _ = train(small, "MAT", 55, autoregressive=False)
    bound = distinct_actions.simultaneous_bound(4, 4)
    error = np.sqrt(bound * (1 - bound) / 500)
    assert exploring < bound + 4 * error


def played_greedily(small: Any, name: str, iterations: int, **settings: Any) -> float:
    """Mean return of 2,000 games with a private cue after training on others."""
    algorithm = small(
        name, env="private_cue", **SETTINGS | {"rollout_fragment_length": 25, "seed": 1} | settings
    ).build_algo()
    for _ in range(iterations):
        algorithm.train()
    algorithm.env_runner.pop_episodes()
    algorithm.env_runner.sample(num_episodes=2000, explore=False)
    returns = algorithm.env_runner.pop_episodes()["episode_return"]
    algorithm.stop()
    return float(np.mean(returns))


def test_priorities_put_the_informed_agent_first(small: Any) -> None:
    assert played_greedily(small, "PMAT", 25, ranking_coeff=1.0, lr=3e-3) > 0.98


def test_choosing_who_decides_next_beats_any_order_that_is_given(small: Any) -> None:
    """The first agent is given here too, so that the best is 0.8125 and the given orders' 0.625."""
    found = played_greedily(small, "AOAD-MAT", 35, lr=3e-3)
    error = np.sqrt(0.25 / 2000)  # at most, of a mean of returns between 0 and 1
    assert found > private_cue.index_order_bound(4) + 4 * error
    assert found < private_cue.fixed_first_agent_bound(4, 4) + 4 * error
