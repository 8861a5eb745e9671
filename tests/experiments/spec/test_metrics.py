"""Names of metrics to stop at and to compare by: before the run, and by its first results."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from helpers.environments import SMALL

from rllib_seqmarl import registry
from rllib_seqmarl.envs import TeamVectorEnv
from rllib_seqmarl.envs.toy.distinct_actions import DistinctActions
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.spec.metrics import (
    OLD_NAMES,
    Metrics,
    flatten,
    never_reported,
    of_environment,
)


class Rescue(DistinctActions):
    """A user's own environment with metrics of its own."""

    metric_names = ("rescued", "won")


def make_rescue(num_envs: int) -> Rescue | DistinctActions:
    """One of two environments."""
    raise NotImplementedError


def make_something(num_envs: int) -> TeamVectorEnv:
    """Who knows what."""
    raise NotImplementedError


def name(given, own=frozenset({"win_rate"}), evaluation_interval=None, custom=False):
    return Metrics(own, evaluation_interval, custom).name(given, "f")


def test_names_of_today_are_kept_and_old_ones_translated():
    assert name("env_runners/win_rate") == "env_runners/win_rate"
    assert name("learners/default_policy/entropy") == "learners/default_policy/entropy"
    assert name("timesteps_total") == "num_env_steps_sampled_lifetime"
    assert name("episode_reward_mean") == "env_runners/episode_return_mean"
    assert name("evaluation/win_rate", evaluation_interval=1) == "evaluation/env_runners/win_rate"
    assert name("won") == "env_runners/win_rate"


def test_every_translation_is_a_known_name():
    for old in OLD_NAMES:
        assert name(name(old, evaluation_interval=1), evaluation_interval=1)


def test_unknown_names_are_refused_with_a_name_of_today():
    with pytest.raises(UserError, match="'env_runners/episode_return_mean'"):
        name("episode_reward_men")
    with pytest.raises(UserError, match="'training_iteration'"):
        name("training_iterations")
    with pytest.raises(UserError, match=r"Known: .*env_runners/win_rate"):
        name("zzzzzzzzzzzz")
    assert name("env_runners/my_own", custom=True) == "env_runners/my_own"


def test_metrics_of_the_evaluation_need_an_evaluation():
    given = "evaluation/env_runners/win_rate"

    with pytest.raises(UserError, match="evaluation_interval"):
        name(given)
    assert name(given, evaluation_interval=5) == given


def test_metrics_of_a_users_environment_come_from_its_class():
    assert of_environment(f"{__name__}:Rescue", {}) == {"rescued", "win_rate"}
    # Of a function those of all classes that it may return; of some no class is known.
    assert of_environment(f"{__name__}:make_rescue", {}) == {
        "rescued",
        "win_rate",
        "distinct_ratio",
    }
    assert of_environment(f"{__name__}:make_something", {}) is None
    assert of_environment("registered with Ray", {}) is None
    grid = {"env": {"grid_search": ["dubins_car", f"{__name__}:Rescue"]}}
    assert name("rescued", Metrics.of(grid, "f").own) == "env_runners/rescued"
    assert name("success_ratio", Metrics.of(grid, "f").own) == "env_runners/success_ratio"
    # Where only running can tell, the first results do.
    assert name("env_runners/anything", None) == "env_runners/anything"


@pytest.mark.parametrize("env", sorted(registry.ENVIRONMENTS))
def test_every_metric_of_a_real_run_is_accepted(
    env: str, ray_session: None, where_installed: Callable[[], AbstractContextManager[None]]
) -> None:
    config = registry.config_class("MAPPO")().environment(env, env_config=SMALL[env])
    config.update_from_dict(
        {
            "state": "observations",
            "num_envs_per_env_runner": 2,
            "rollout_fragment_length": 20,
            "num_epochs": 1,
            "evaluation_interval": 1,
            "evaluation_duration": 2,
        }
    )
    with where_installed():
        algorithm = config.build_algo()
    try:
        result = flatten(algorithm.train())
    finally:
        algorithm.stop()
    metrics = Metrics.of({"env": env, "env_config": SMALL[env], "evaluation_interval": 1}, "f")
    assert metrics.own is not None
    groups = ("env_runners/", "evaluation/env_runners/", "learners/", "time_split/")
    reported = [key for key in result if key.startswith(groups)]
    own = {f"{group}{metric}" for group in groups[:2] for metric in metrics.own}
    assert own <= {*reported}
    ignored = ("sample", "env_step_timer", "env_reset_timer", "weights_seq_no")
    for key in reported:
        if key.removeprefix("evaluation/").removeprefix("env_runners/") not in ignored:
            assert metrics.name(key, "f") == key
    for metric in metrics.own:
        assert metrics.name(metric, "f") == f"env_runners/{metric}"
        assert metrics.name(f"evaluation/{metric}", "f") == f"evaluation/env_runners/{metric}"
        with pytest.raises(UserError, match=f"Did you mean '.*{metric}'"):
            metrics.name(f"env_runners/{metric}z", "f")


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a/b": 1, "a/c/d": 2, "e": 3}


@pytest.mark.parametrize(
    ("name", "result", "iterations", "missing"),
    [
        ("training_iteration", {"training_iteration": 1}, 1, False),
        ("learners/x/loss", {"training_iteration": 1}, 1, True),
        # No episode has ended yet: nothing can be said.
        ("env_runners/win_rate", {"training_iteration": 1}, 50, False),
        ("env_runners/win_rate", {"env_runners/num_episodes": 0}, 50, False),
        ("env_runners/win_rate", {"env_runners/num_episodes": 3}, 1, True),
        ("env_runners/win_rate", {"env_runners/episode_return_mean": 1.0}, 1, True),
        # Evaluated every 5 iterations.
        ("evaluation/env_runners/win_rate", {}, 5, False),
        ("evaluation/env_runners/win_rate", {}, 12, True),
        (
            "evaluation/env_runners/win_rate",
            {"evaluation/env_runners/episode_return_mean": 1.0},
            5,
            True,
        ),
        ("evaluation/env_runners/win_rate", {"evaluation/env_runners/win_rate": 1.0}, 5, False),
    ],
)
def test_never_reported(name, result, iterations, missing):
    found = never_reported([name], result, iterations=iterations, evaluation_interval=5)

    assert found == (name if missing else None)
