"""The toy of the private cue: its bounds, reached by scripted teams, and what it reveals."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rllib_seqmarl import registry
from rllib_seqmarl.envs.toy.private_cue import (
    fixed_first_agent_bound,
    index_order_bound,
    optimum,
)
from rllib_seqmarl.errors import UserError

PRIVATE_CUE = registry.environment("private_cue")
check, make = PRIVATE_CUE.check, PRIVATE_CUE.make

NUM_ENVS, STEPS = 500, 40


def play(env, orders, rng: np.random.Generator) -> float:
    """Mean reward of agents who copy the informed agent if it decided before them, or guess."""
    obs, _ = env.reset(seed=0)
    rewards = []
    for _ in range(STEPS):
        informed = obs["obs"][..., -1].argmax(1)
        cue = obs["action_mask"][np.arange(NUM_ENVS), informed].argmax(1)
        rank = orders(informed).argsort(1)  # [E, N]
        knows = rank >= rank[np.arange(NUM_ENVS), informed][:, None]
        guesses = rng.integers(obs["action_mask"].shape[2], size=knows.shape)
        obs, reward, *_ = env.step(np.where(knows, cue[:, None], guesses))
        rewards.append(reward.mean())
    return float(np.mean(rewards))


def informed_first(env, first: int | None):
    """Orders with the informed agent at the head, or behind an agent that is always first."""

    def orders(informed: NDArray[np.int64]) -> NDArray[np.int64]:
        keys = np.tile(np.arange(env.num_agents, dtype=float), (NUM_ENVS, 1))
        keys[np.arange(NUM_ENVS), informed] = -1.0
        if first is not None:
            keys[:, first] = -2.0
        return keys.argsort(1)

    return orders


@pytest.mark.parametrize(("agents", "actions"), [(2, 2), (4, 4), (5, 3)])
def test_bounds_are_what_the_best_team_of_each_order_gets(agents: int, actions: int) -> None:
    env = make(NUM_ENVS, num_agents=agents, num_actions=actions, episode_length=7)
    rng = np.random.default_rng(0)
    by_index = play(env, lambda _: np.tile(np.arange(agents), (NUM_ENVS, 1)), rng)
    assert by_index == pytest.approx(index_order_bound(actions), abs=0.015)
    shuffled = play(
        env, lambda _: rng.permuted(np.tile(np.arange(agents), (NUM_ENVS, 1)), axis=1), rng
    )
    assert shuffled == pytest.approx(index_order_bound(actions), abs=0.015)
    behind_the_first = play(env, informed_first(env, 0), rng)
    assert behind_the_first == pytest.approx(fixed_first_agent_bound(agents, actions), abs=0.015)
    assert play(env, informed_first(env, None), rng) == optimum()


def test_observations_say_who_knows_and_not_what() -> None:
    """Envs with the same informed agent look alike whatever their cues."""
    env = make(NUM_ENVS, num_agents=3, num_actions=4)
    obs, _ = env.reset(seed=1)
    informed = obs["obs"][..., -1]
    np.testing.assert_array_equal(informed.sum(1), 1.0)
    np.testing.assert_array_equal(obs["action_mask"].sum(2), np.where(informed == 1.0, 1, 4))
    cues = obs["action_mask"][np.arange(NUM_ENVS), informed.argmax(1)].argmax(1)
    for agent in range(3):
        same = informed[:, agent] == 1.0
        assert len(np.unique(obs["obs"][same], axis=0)) == 1
        assert len(np.unique(cues[same])) == 4


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_agents", 1), ("num_actions", 1), ("episode_length", 0), ("autoreset", "never")],
)
def test_senseless_settings_are_refused(key: str, value: object) -> None:
    with pytest.raises(UserError, match=key):
        check({key: value})
