"""Names of stop metrics: before the run, and by its first results."""

from __future__ import annotations

import pytest

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.spec.metrics import OLD_NAMES, check_name, flatten, never_reported


def check(name, evaluation_interval=None, custom=False):
    return check_name(name, "f", evaluation_interval=evaluation_interval, custom=custom)


def test_names_of_today_are_kept_and_old_ones_translated():
    assert check("env_runners/win_rate") == "env_runners/win_rate"
    assert check("learners/default_policy/entropy") == "learners/default_policy/entropy"
    assert check("timesteps_total") == "num_env_steps_sampled_lifetime"
    assert check("episode_reward_mean") == "env_runners/episode_return_mean"


def test_every_translation_is_a_known_name():
    for old in OLD_NAMES:
        assert check(check(old, evaluation_interval=1), evaluation_interval=1)


def test_unknown_names_are_refused_with_a_name_of_today():
    with pytest.raises(UserError, match="'env_runners/episode_return_mean'"):
        check("episode_reward_men")
    with pytest.raises(UserError, match="'training_iteration'"):
        check("training_iterations")
    with pytest.raises(UserError, match="Known: "):
        check("zzzzzzzzzzzz")
    assert check("env_runners/my_own", custom=True) == "env_runners/my_own"


def test_metrics_of_the_evaluation_need_an_evaluation():
    name = "evaluation/env_runners/win_rate"

    with pytest.raises(UserError, match="evaluation_interval"):
        check(name)
    assert check(name, evaluation_interval=5) == name


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a/b": 1, "a/c/d": 2, "e": 3}


@pytest.mark.parametrize(
    ("name", "result", "iterations", "missing"),
    [
        ("training_iteration", {"training_iteration": 1}, 1, False),
        ("learners/x/loss", {"training_iteration": 1}, 1, True),
        # No episode has ended yet: nothing can be said.
        ("env_runners/win_rate", {"training_iteration": 1}, 50, False),
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
