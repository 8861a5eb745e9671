"""Episodes that never end by themselves, and what callbacks learn of those that end."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from helpers.small_games import Turns
from ray.rllib.callbacks.callbacks import RLlibCallback

from rllib_seqmarl.envs.toy.distinct_actions import DistinctActions, make
from rllib_seqmarl.rollout.runner import TeamEnvRunner

#: What a turn of a game pays the team of two.
PAY = 1.0


class Endless(Turns):
    """Says in its infos how many steps it has played."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__({"end": -1, "limit": -1, **config})

    def step(self, action_dict: dict[str, Any]) -> Any:
        *returned, _ = super().step(action_dict)
        return *returned, {"first": {"step": self.time}}


def endless(small: Any, **settings: Any) -> Any:
    settings |= {"evaluation_interval": 1, "evaluation_duration": 3}
    return small("MAT", env=Endless, num_envs_per_env_runner=2, num_epochs=1, **settings)


def test_the_bound_is_set_like_rllibs_settings_of_evaluations(small: Any) -> None:
    config = small("MAT").evaluation(evaluation_max_episode_steps=7, evaluation_duration=2)
    assert (config.evaluation_max_episode_steps, config.evaluation_duration) == (7, 2)
    config.evaluation(evaluation_interval=1)
    assert config.evaluation_max_episode_steps == 7


def test_an_evaluation_cuts_episodes_short_and_says_so(small: Any) -> None:
    algorithm = endless(small, evaluation_max_episode_steps=7).build_algo()
    try:
        result = algorithm.train()
    finally:
        algorithm.stop()
    evaluated = result["evaluation"]["env_runners"]
    assert evaluated["episode_len_min"] == evaluated["episode_len_max"] == 7
    assert evaluated["episode_return_mean"] == pytest.approx(7 * PAY)
    assert evaluated["num_episodes_cut"] == 3
    assert "3 of the evaluation's episodes did not end within 7 steps" in result["notice"]


def runner_of(config: Any, make_env: Any = make) -> TeamEnvRunner:
    config.validate()
    config.in_evaluation = True

    def create(context: dict[str, Any]) -> Any:
        settings = dict(context)
        return make_env(settings.pop("num_envs"), **settings)

    return TeamEnvRunner(config=config, env_creator=create, worker_index=0, num_workers=0)


def test_episodes_that_end_by_themselves_are_as_without_a_bound(small: Any) -> None:
    game = {"episode_length": 4, "num_agents": 3}
    played = []
    for bound in (4, 5, None):
        runner = runner_of(small("MAT", env_config=game, evaluation_max_episode_steps=bound))
        runner.sample(num_episodes=20)
        assert runner.pop_num_cut()[0] == 0
        played.append(runner.pop_episodes())
    for other in played[1:]:
        assert all(np.array_equal(played[0][name], other[name]) for name in other)


class Sometimes(DistinctActions):
    """Env 0 says that its episodes never end; they do within."""

    def _step_envs(self, actions: Any, frozen: Any) -> Any:
        step = super()._step_envs(actions, frozen)
        step.terminated[0] = step.truncated[0] = False
        return step


def test_one_endless_env_among_others_gets_its_share_of_episodes(small: Any) -> None:
    from rllib_seqmarl import registry

    settings = registry.environment("distinct_actions").read({"episode_length": 2})
    config = small("MAT", num_envs_per_env_runner=3, evaluation_max_episode_steps=6)
    runner = runner_of(config, lambda num_envs, **_: Sometimes(num_envs, settings))
    runner.sample(num_episodes=7)  # three of env 0, two of each other
    episodes = runner.pop_episodes()
    assert sorted(episodes["episode_length"]) == [2] * 4 + [6] * 3
    assert set(episodes) == {"episode_return", "episode_length", "distinct_ratio"}
    assert runner.pop_num_cut() == (3, 6)


def test_without_a_word_the_environments_own_limit_holds(small: Any) -> None:
    runner = runner_of(small("MAT"))
    assert runner.env is not None
    assert runner.max_evaluated_steps == 10_000
    runner.env.max_episode_steps = 30_000
    assert runner.max_evaluated_steps == 30_000


class Reads(RLlibCallback):
    seen: list[Any] = []  # noqa: RUF012 - shared on purpose: RLlib makes the instance

    def on_episode_end(self, *, episode: Any, **kwargs: Any) -> None:
        self.seen.append(copy.deepcopy(episode.infos))


def test_a_callback_reads_the_infos_of_a_games_last_step(small: Any) -> None:
    Reads.seen.clear()
    config = small("MAT", env=Endless, env_config={"end": 3}, num_envs_per_env_runner=2)
    algorithm = config.callbacks(Reads).build_algo()
    try:
        algorithm.train()
    finally:
        algorithm.stop()
    assert Reads.seen == [{"first": {"step": 3}}] * 6  # 10 steps of 2 envs
