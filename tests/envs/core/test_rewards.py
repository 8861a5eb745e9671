"""Rewards of every agent: their form, what an episode's return is, and who pays what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.own_cues import OwnCues, OwnCuesConfig

from rllib_seqmarl import registry
from rllib_seqmarl.envs import check_team_env
from rllib_seqmarl.envs.core.contract import TeamVectorEnv, VectorStep, random_actions
from rllib_seqmarl.errors import UserError

CARS = {"num_agents": 3, "obstacles": 4, "episode_length": 12, "w_progress": 1.0}
CHASE = {"task": "predator_prey", "episode_length": 9}
KINDS = ("team", "mean", "per_agent")


def played(env: TeamVectorEnv, steps: int = 25) -> list[tuple[Any, ...]]:
    rng, (obs, _) = np.random.default_rng(0), env.reset(seed=0)
    found = []
    for _ in range(steps):
        obs, reward, terminated, truncated, infos = env.step(random_actions(env, obs, rng))
        found.append((reward, terminated | truncated, infos))
    return found


@pytest.mark.parametrize(
    ("name", "env_config"),
    [
        ("dubins_car", CARS),
        ("mpe", CHASE),
        ("mpe", {"rules": "mpe2", "num_agents": 8}),
        ("pettingzoo", {"env": "helpers.small_games:Herd", "kwargs": {"end": 7}}),
        ("helpers.own_cues:OwnCues", {"episode_length": 6}),
    ],
)
def test_sum_and_mean_are_of_the_agents_rewards(name: str, env_config: dict[str, Any]) -> None:
    envs = {
        kind: registry.make_environment(name, 4, {**env_config, "reward": kind}) for kind in KINDS
    }
    check_team_env(envs["per_agent"], 30)
    agents = envs["team"].num_agents
    steps = zip(*(played(env) for env in envs.values()), strict=True)
    total = np.zeros(4)
    episodes = 0
    for (team, done, _), (mean, _, _), (rewards, _, infos) in steps:
        assert rewards.shape == (4, agents)
        assert team.shape == mean.shape == (4,)
        np.testing.assert_allclose(rewards.sum(1), team, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(rewards.mean(1), mean, rtol=1e-5, atol=1e-6)
        total += rewards.sum(1, dtype=np.float64)
        for e in np.flatnonzero(done):
            assert infos["final_info"]["episode_return"][e] == pytest.approx(total[e], abs=1e-4)
            total[e], episodes = 0.0, episodes + 1
    assert episodes


def test_an_agent_that_has_left_is_paid_nothing() -> None:
    herd = {"env": "helpers.small_games:Herd", "kwargs": {"deaths": {"b": 2}, "end": 4}}
    env = registry.make_environment("pettingzoo", 1, {**herd, "reward": "per_agent"})
    rewards = [reward[0].tolist() for reward, *_ in played(env, 4)]
    # What the step pays in which it dies is still its own.
    assert rewards == [[1, 2, 3], [1, 2, 3], [1, 0, 3], [1, 0, 3]]


class TeamReward(OwnCues):
    """Promises a reward of every agent and gives the team's."""

    def _step_envs(self, actions: Any, frozen: Any) -> VectorStep:
        step = super()._step_envs(actions, frozen)
        return step._replace(reward=step.reward.sum(-1))


def test_the_form_is_that_of_every_agent() -> None:
    env = TeamReward(3, OwnCuesConfig(reward="per_agent"))
    env.reset(seed=0)
    with pytest.raises(UserError, match=r"'reward' of _step_envs is of shape \(3,\), not \(3, 2\)"):
        env.step(np.zeros((3, 2), int))


def test_rllibs_own_runners_are_paid_as_a_team() -> None:
    with pytest.raises(UserError, match="which take one reward for the team") as caught:
        OwnCues(1, OwnCuesConfig(reward="per_agent", autoreset="next_step"))
    assert "\n" not in str(caught.value)


def test_the_former_name_of_the_sum_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    read = registry.environment("dubins_car").check
    assert read({"reward": "sum", "num_agents": 5})["reward"] == "team"
    assert read({"reward": "sum", "num_agents": 6})["reward"] == "team"
    told = [record.message for record in caplog.records]
    assert told == ["dubins_car: env_config 'reward': 'sum' is called 'team' now."]
