"""Rates, times to go, and how they are shown."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial
from rich.console import Console

from rllib_seqmarl.experiments.spec.experiment import ExperimentSpec
from rllib_seqmarl.experiments.train.progress import Progress, Row

STEPS = "num_env_steps_sampled_lifetime"


def result(iteration, *, steps_per_s=100, **more):
    seconds = 2.0 * iteration
    return {
        "training_iteration": iteration,
        "time_total_s": seconds,
        STEPS: steps_per_s * seconds,
        "simulator": "smax",
        "env_runners": {"episode_return_mean": 0.5, "win_rate": 0.25},
        **more,
    }


def test_rates_and_time_to_go():
    row = Row({STEPS: 1000})
    row.add(result(1))
    assert row.per_second(STEPS) == pytest.approx(100)
    row.add(result(2))

    assert row.per_second(STEPS) == pytest.approx(100)
    assert row.eta() == pytest.approx(6.0)
    assert row.cells() == {
        "iteration": "2",
        "env steps": "400 / 1,000",
        "steps/s": "100",
        "return": "0.5",
        "win rate": "25.0%",
        "ETA": "0:00:06",
        "simulator": "smax",
    }


def test_the_rate_forgets_the_distant_past():
    row = Row({})
    row.add({"time_total_s": 1000.0, STEPS: 10})  # a slow start
    for second in range(1, 30):
        row.add({"time_total_s": 1000.0 + second, STEPS: 10 + 50 * second})

    assert row.per_second(STEPS) == pytest.approx(50)


def test_the_first_criterion_to_be_met_counts():
    row = Row({"training_iteration": 10, "time_total_s": 5.0, "env_runners/win_rate": 0.9})
    row.add(result(1))
    row.add(result(2))

    assert row.eta() == pytest.approx(1.0)


def test_without_steady_criteria_there_is_no_time_to_go():
    row = Row({"env_runners/episode_return_mean": 1.0})
    row.add(result(1))

    assert row.eta() is None
    assert "ETA" not in row.cells()


def test_evaluation_stays_until_the_next_and_nan_is_left_out():
    row = Row({})
    row.add(result(1, evaluation={"env_runners": {"win_rate": 0.75}}))
    row.add(result(2, env_runners={"episode_return_mean": float("nan")}))

    assert row.cells()["eval win rate"] == "75.0%"
    assert "return" not in row.cells()


class FakeTrial(SimpleNamespace):
    def __str__(self):
        return self.trial_id


def trial(status=Trial.RUNNING, name="MAT_smac_1"):
    return FakeTrial(trial_id=name, status=status, stopping_criterion={STEPS: 1000})


@pytest.fixture
def shown():
    spec = ExperimentSpec("mine", "f", "MAT", {"env": "smac"})

    def shown(terminal):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=140)
        return Progress(spec, console), console.file

    return shown


def test_plain_lines_are_sparse_but_complete(shown):
    progress, out = shown(False)
    one = trial()
    with progress:
        for iteration in range(1, 6):
            progress.on_trial_result(0, [one], one, result(iteration, done=iteration == 5))

    lines = out.getvalue().splitlines()
    assert len(lines) == 2  # the first and, within seconds, only the last
    assert lines[0].startswith("MAT_smac_1: iteration 1 | env steps 200 / 1,000 | steps/s 100")
    assert lines[1].endswith("simulator smax")


def test_every_evaluation_has_its_line(shown):
    progress, out = shown(False)
    one = trial()
    for iteration in (1, 2, 3):
        evaluation = {"evaluation": {"env_runners": {"win_rate": 0.5}}} if iteration == 3 else {}
        progress.on_trial_result(0, [one], one, result(iteration, **evaluation))

    assert "eval win rate 50.0%" in out.getvalue().splitlines()[-1]


def test_the_table_shows_every_trial_of_a_terminal(shown):
    progress, out = shown(True)
    running, waiting = trial(), trial(Trial.PENDING, "MAT_smac_2")
    with progress:
        progress.on_step_end(0, [waiting, running])
        progress.on_trial_result(0, [waiting, running], running, result(1))

    text = out.getvalue()
    for expected in ("mine", "MAT_smac_1", "running", "MAT_smac_2", "waiting", "win rate", "smax"):
        assert expected in text
