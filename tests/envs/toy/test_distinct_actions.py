from __future__ import annotations

import itertools

import numpy as np
import pytest

from rllib_seqmarl import registry
from rllib_seqmarl.envs.toy.distinct_actions import make, optimum, simultaneous_bound
from rllib_seqmarl.errors import UserError

check = registry.environment("distinct_actions").check


@pytest.mark.parametrize(("agents", "actions"), [(2, 2), (3, 3), (3, 4), (4, 4)])
def test_bound_is_the_share_of_distinct_draws(agents: int, actions: int) -> None:
    draws = list(itertools.product(range(actions), repeat=agents))
    distinct = sum(len(set(draw)) == agents for draw in draws)
    assert simultaneous_bound(agents, actions) == pytest.approx(distinct / len(draws))
    env = make(len(draws), num_agents=agents, num_actions=actions)
    env.reset(seed=0)
    _, reward, terminated, _, infos = env.step(np.array(draws))
    assert reward.mean() == pytest.approx(simultaneous_bound(agents, actions))
    assert reward.max() == optimum() == 1.0
    assert terminated.all()
    ratio = [len(set(draw)) / agents for draw in draws]
    np.testing.assert_allclose(infos["final_info"]["distinct_ratio"], ratio, rtol=1e-6)


def test_no_other_common_policy_beats_the_uniform_one() -> None:
    rng = np.random.default_rng(0)
    for probabilities in rng.dirichlet(np.ones(4), size=200):
        permutations = itertools.permutations(probabilities, 3)
        assert sum(map(np.prod, permutations)) <= simultaneous_bound(3, 4) + 1e-12


def test_agents_see_the_same_and_envs_do_not() -> None:
    env = make(6, num_agents=3, episode_length=2)
    obs, _ = env.reset(seed=1)
    np.testing.assert_array_equal(obs["obs"], np.repeat(obs["obs"][:, :1], 3, axis=1))
    np.testing.assert_array_equal(obs["obs"][:, 0, :2], [[1, 0]] * 6)
    assert len(np.unique(obs["obs"][:, 0, 2])) == 6
    later, *_ = env.step(np.zeros((6, 3), int))
    np.testing.assert_array_equal(later["obs"][:, 0, :2], [[0, 1]] * 6)
    np.testing.assert_array_equal(later["obs"][..., 2:], obs["obs"][..., 2:])
    following, _, terminated, truncated, infos = env.step(np.zeros((6, 3), int))
    assert terminated.all()
    assert not truncated.any()
    assert not np.isin(following["obs"][:, 0, 2], obs["obs"][:, 0, 2]).any()
    np.testing.assert_array_equal(infos["final_obs"]["obs"][..., 2:], obs["obs"][..., 2:])


def test_fraction_reward() -> None:
    env = make(3, num_agents=4, reward="fraction", episode_length=2)
    env.reset(seed=0)
    _, reward, *_ = env.step(np.array([[0, 0, 0, 0], [0, 1, 1, 3], [3, 2, 1, 0]]))
    np.testing.assert_allclose(reward, [0.25, 0.75, 1.0])


def test_continuous_gaps() -> None:
    actions = np.array([[0.0, 0.5, -0.5], [-1.0, 0.0, 0.49], [1.0, -1.0, 0.0]], np.float32)[
        ..., None
    ]
    for reward, expected in (("all", [1, 0, 1]), ("fraction", [1, 0.5, 1])):
        env = make(3, num_agents=3, continuous=True, reward=reward)
        obs, _ = env.reset(seed=0)
        assert "action_mask" not in obs
        np.testing.assert_allclose(env.step(actions)[1], expected)
    strict = make(3, num_agents=3, continuous=True, min_gap=1.0)
    strict.reset(seed=0)
    np.testing.assert_allclose(strict.step(actions)[1], [0, 0, 1])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_agents": 1}, "'num_agents' must be at least 2"),
        ({"num_agents": 4, "num_actions": 3}, "'num_actions' must be at least num_agents"),
        ({"episode_length": 0}, "'episode_length' must be at least 1"),
        ({"reward": "al"}, "'reward' must be one of all, fraction"),
        ({"min_gap": 0.7}, "'min_gap' must be in"),
        ({"min_gap": -0.1}, "'min_gap' must be in"),
    ],
)
def test_senseless_configs_are_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(config)
