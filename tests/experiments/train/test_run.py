"""Which experiments start and which go on; when a trial is stopped or paused."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.checkpoints.storage import ExperimentFolder
from rllib_seqmarl.experiments.spec.experiment import ExperimentSpec
from rllib_seqmarl.experiments.train import run
from rllib_seqmarl.experiments.train.ray_session import RunOptions
from rllib_seqmarl.experiments.train.shutdown import EndOfLoop, Signals, TrialControl

STATE = "experiment_state-2026-01-01_00-00-00.json"


@pytest.fixture
def folders(tmp_path):
    begun, new = (
        ExperimentFolder(ExperimentSpec(name, "f", "MAT", {}, storage_path=str(tmp_path)))
        for name in ("begun", "new")
    )
    begun.path.mkdir()
    begun.note_settings()
    (begun.path / STATE).write_text("{}")
    return begun, new


def test_start_and_resume(folders):
    begun, new = folders

    assert run._check_folders([new], RunOptions()) == [False]
    assert run._check_folders([begun, new], RunOptions(resume=True)) == [True, False]
    assert run._check_folders([new], RunOptions(resume=True, start=True)) == [False]
    with pytest.raises(UserError, match="holds nothing to go on with"):
        run._check_folders([new], RunOptions(resume=True))
    with pytest.raises(UserError, match="--experiment-name"):
        run._check_folders([begun, new], RunOptions())
    with pytest.raises(UserError, match="two experiments"):
        run._check_folders([new, new], RunOptions())


@pytest.fixture
def specs(tmp_path):
    """Experiments of a file, in a storage that holds the results of others."""

    def specs(names, there=(), given=False):
        for name in there:
            (tmp_path / name / "MAT_trial").mkdir(parents=True)
        return [
            ExperimentSpec(name, "f", "MAT", {}, storage_path=str(tmp_path), name_given=given)
            for name in names
        ]

    return specs


@pytest.mark.parametrize(
    ("names", "there", "resume", "chosen"),
    [
        (["a"], [], False, ["a"]),
        (["a"], ["b"], False, ["a"]),
        (["a"], ["a"], False, ["a-2"]),
        (["a"], ["a", "a-2", "a-7"], False, ["a-8"]),
        (["a", "a-2"], ["a"], False, ["a-3", "a-2"]),
        (["a"], [], True, ["a"]),
        (["a"], ["a"], True, ["a"]),
        (["a"], ["a", "a-2"], True, ["a-2"]),
        (["a", "a-2"], ["a", "a-2"], True, ["a", "a-2"]),
    ],
)
def test_names_that_nobody_said(specs, names, there, resume, chosen):
    experiments = specs(names, there)

    lines = run._choose_names(experiments, RunOptions(resume=resume))

    assert [spec.name for spec in experiments] == chosen
    assert len(lines) == sum(now != before for now, before in zip(chosen, names, strict=True))


def test_a_name_that_was_said_is_kept(specs):
    (spec,) = specs(["a"], ["a", "a-2"], given=True)

    assert run._choose_names([spec], RunOptions()) == []
    assert run._choose_names([spec], RunOptions(resume=True)) == []
    assert spec.name == "a"


def test_the_line_that_goes_on():
    arguments = ("train", "file", "my file.yaml")

    assert run._resume_line(RunOptions(arguments=arguments)) == (
        "rllib train file 'my file.yaml' --resume"
    )
    again = RunOptions(arguments=(*arguments, "--resume"), resume=True)
    assert run._resume_line(again) == "rllib train file 'my file.yaml' --resume"
    assert run._resume_line(again, "mine-2").endswith("--resume --experiment-name mine-2")


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"env": "smac"}, "smac (3s5z, smax)"),
        ({"env": "smac", "env_config": {"map_name": "3m"}}, "smac (3m, smax)"),
        ({"env": "distinct_actions"}, "distinct_actions"),
    ],
)
def test_the_simulator_is_always_named(config, text):
    spec = ExperimentSpec("x", "f", "MAT", config)

    assert run._environment(spec) == text


def test_every_trial_that_is_not_finished_is_prepared():
    """Also one that a search draws after a resume, with the stop that Ray Tune has kept."""
    prepared = []
    spec = ExperimentSpec("x", "f", "MAT", {})
    decide = TrialControl(spec, Signals(""), ["a"], lambda trial: prepared.append(trial.trial_id))
    for name, status in (("a", Trial.PENDING), ("b", Trial.TERMINATED), ("c", Trial.PENDING)):
        decide.on_trial_add(None, trial(name, status))
    assert prepared == ["a", "c"]


def trial(name="a", status=Trial.RUNNING):
    return SimpleNamespace(
        trial_id=name,
        status=status,
        config={},
        stopping_criterion={"env_runners/win_rate": 0.9},
        is_finished=lambda: status == Trial.TERMINATED,
    )


def control(signals, resumed=(), **settings):
    return TrialControl(ExperimentSpec("x", "f", "MAT", {}, **settings), signals, resumed)


def test_trials_go_on_until_a_signal_comes():
    signals = Signals("")
    decide = control(signals)
    result = {"training_iteration": 1, "iterations_since_restore": 1}
    waiting = SimpleNamespace(get_trials=lambda: [trial(status=Trial.PAUSED)])

    assert decide.on_trial_result(None, trial(), result) == TrialScheduler.CONTINUE
    assert decide.choose_trial_to_run(waiting) is not None

    signals.received = signal.SIGTERM

    assert decide.on_trial_result(None, trial(), result) == TrialScheduler.PAUSE
    assert decide.choose_trial_to_run(waiting) is None


def test_the_clock_of_the_time_budget_starts_with_the_first_trial():
    decide = control(Signals(""), time_budget_s=1e-9)

    assert not decide.ending
    decide.begin()
    assert decide.ending


def test_a_stop_key_that_is_never_reported_ends_the_trial():
    decide = control(Signals(""))
    result = {"iterations_since_restore": 1, "env_runners/episode_return_mean": 1.0}

    assert decide.on_trial_result(None, trial(), result) == TrialScheduler.STOP
    result["env_runners/win_rate"] = 0.1
    assert decide.on_trial_result(None, trial(), result) == TrialScheduler.CONTINUE


def test_a_fresh_start_in_place_of_a_resume_is_refused():
    decide = control(Signals(""), resumed=["a"])
    with pytest.raises(UserError, match="could not read the state"):
        decide.on_trial_add(None, trial("b"))

    decide = control(Signals(""), resumed=["a"])
    decide.on_trial_add(None, trial("a"))
    decide.on_trial_add(None, trial("b"))  # a sample that had not been drawn yet


def test_the_loop_ends_when_every_trial_that_ran_is_saved(monkeypatch):
    left = []
    handlers = {signal.SIGINT: lambda *args: left.append(args), signal.SIGTERM: None}
    monkeypatch.setattr(signal, "getsignal", handlers.get)
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    signals = Signals("")
    folder = SimpleNamespace(keep_copy_of_state=lambda: None)
    end = EndOfLoop(control(signals), signals, folder)
    end.setup()
    trials = [trial("a"), trial("b"), trial("c", Trial.PENDING)]

    end.on_step_end(0, trials)
    handlers[signal.SIGTERM](signal.SIGTERM, None)
    end.on_step_end(0, trials)
    trials[0].status = Trial.PAUSED
    trials[2].status = Trial.RUNNING  # took the free place; it has nothing to save
    end.on_step_end(0, trials)
    assert left == []

    trials[1].status = Trial.TERMINATED
    end.on_step_end(0, trials)
    end.on_step_end(0, trials)
    assert left == [(signal.SIGINT, None)]
