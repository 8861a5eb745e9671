"""The closing report, and errors of trials in one line."""

from __future__ import annotations

import math
import shutil
from types import SimpleNamespace

import pytest
from helpers.checkpoint_files import write
from pyarrow.fs import LocalFileSystem
from ray.tune.experiment import Trial

from rllib_seqmarl.experiments.spec.experiment import ExperimentSpec
from rllib_seqmarl.experiments.spec.search import SearchSettings
from rllib_seqmarl.experiments.train.report import Outcome, best_trials, error_line, lines


class FakeTrial(SimpleNamespace):
    __hash__ = object.__hash__

    def __str__(self):
        return self.trial_id

    def get_pickled_error(self):
        return self.error

    def get_error(self):
        return None


def trial(
    name,
    *,
    checkpoint=None,
    filesystem=None,
    status=Trial.TERMINATED,
    error=None,
    value=1.0,
    **result,
):
    saved = SimpleNamespace(path=checkpoint, filesystem=filesystem)
    best = SimpleNamespace(checkpoint=saved) if checkpoint else None
    manager = SimpleNamespace(best_checkpoint_result=best)
    return FakeTrial(
        trial_id=name,
        status=status,
        error=error,
        path=f"/r/{name}",
        config={},
        evaluated_params={"lr": 1e-3, "env_config/num_agents": 4},
        stopping_criterion={"training_iteration": 5, "env_runners/win_rate": 0.9},
        last_result={
            "training_iteration": 5,
            "iterations_since_restore": 5,
            "env_runners": {"episode_return_mean": value},
            **result,
        },
        run_metadata=SimpleNamespace(checkpoint_manager=manager),
    )


def outcome(*trials, out_of_time=False):
    spec = ExperimentSpec("mine", "f", "MAT", {}, time_budget_s=60.0)
    return Outcome(spec, list(trials), out_of_time)


def report(*outcomes, stopped_by=None):
    return lines(outcomes, stopped_by=stopped_by, resume="rllib train file f.yaml --resume")


def test_the_end_of_a_good_run_names_every_checkpoint_and_the_next_command():
    text = report(
        outcome(trial("a", checkpoint="/r/a/c1"), trial("b", checkpoint="/r/b/c1", value=1.5)),
        outcome(trial("c", checkpoint="/r 2/c/c1")),
    )

    assert text == [
        "",
        "Your training finished.",
        "Best of 2 trials of mine: b (env_runners/episode_return_mean 1.5, lr 0.001, num_agents 4)",
        "Best available checkpoint for each trial:",
        "  /r/a/c1",
        "  /r/b/c1",
        "  /r 2/c/c1",
        "",
        "You can now evaluate your trained algorithm from any checkpoint, e.g.:",
        "  rllib evaluate /r/b/c1",
        "  rllib evaluate '/r 2/c/c1'",
    ]


def test_the_best_trial_is_that_of_mode_and_of_what_was_reported():
    spec = ExperimentSpec("mine", "f", "MAT", {}, search=SearchSettings(mode="min"))
    few, none = trial("a", value=2.0), trial("b", value=math.nan)

    assert best_trials(Outcome(spec, [few, none])) == ([few], 2.0)
    assert best_trials(Outcome(spec, [few, trial("c", value=1.0)]))[1] == 1.0
    assert best_trials(Outcome(spec, [none, none])) is None
    assert best_trials(Outcome(spec, [few])) is None


def test_a_tie_for_the_best_trial_is_said():
    spec = ExperimentSpec("mine", "f", "MAT", {})
    trials = [trial("a", value=1.0), trial("b", value=0.5), trial("c", value=1.0)]

    text = lines([Outcome(spec, trials)], stopped_by=None, resume="")
    (at,) = (i for i, line in enumerate(text) if line.startswith("Best of 3 trials of mine: a ("))
    assert text[at + 1] == "  a tie: c reached the same."


def test_failures_come_with_reason_and_log():
    failed = trial("a", status=Trial.ERROR, error=ValueError("loss is NaN"), checkpoint="/r/a/c")
    stopped = trial("b", training_iteration=1)
    good = trial("c")
    one = outcome(failed, stopped, good)

    text = report(one)

    assert list(one.failed()) == [failed, stopped]
    assert "a failed: ValueError: loss is NaN" in text
    assert "  full log: /r/a/error.txt" in text
    assert any(line.startswith("b failed: the stop key 'env_runners/win_rate'") for line in text)
    assert any(
        line.endswith(
            "Known there: training_iteration, iterations_since_restore, "
            "env_runners/episode_return_mean."
        )
        for line in text
    )
    assert "Your training finished, but 2 of 3 trials failed." in text
    assert "  rllib evaluate /r/a/c" in text


def test_a_stopped_run_says_how_to_go_on():
    text = report(outcome(trial("a", status=Trial.PAUSED)), stopped_by="Ctrl-C")

    assert "Your training was stopped by Ctrl-C." in text
    assert "No checkpoint was written." in text
    assert text[-1] == "  rllib train file f.yaml --resume"


def test_a_run_that_is_stopped_before_its_first_result_can_only_begin_again():
    waiting = trial("a", status=Trial.TERMINATED)
    waiting.last_result = {}
    text = report(outcome(waiting), stopped_by="SIGTERM")

    assert text[1:3] == ["Your training was stopped by SIGTERM.", "No checkpoint was written."]
    assert text[-2:] == ["To begin again:", "  rllib train file f.yaml --resume"]


def test_no_checkpoint_is_recommended_that_cannot_be_read(tmp_path):
    """The newest that can be read takes its place, and nothing one that is gone."""
    first, second, best = (write(tmp_path / f"checkpoint_00000{i}") for i in range(3))

    def recommended():
        failed = trial("a", checkpoint=str(best), filesystem=LocalFileSystem(), status=Trial.ERROR)
        return [line.strip() for line in report(outcome(failed))]

    assert f"rllib evaluate {best}" in recommended()
    (best / "algorithm_state.pkl").write_bytes(b"")
    assert f"rllib evaluate {second}" in recommended()
    assert not [line for line in recommended() if str(best) in line]
    shutil.rmtree(second)
    assert f"rllib evaluate {first}" in recommended()
    shutil.rmtree(first)
    assert "No checkpoint can be read: all are damaged or deleted." in recommended()


def test_a_used_up_time_budget_says_how_to_go_on():
    text = report(outcome(trial("a", status=Trial.PAUSED), out_of_time=True))

    assert "time budget of 60 s is used up" in text[1]
    assert "--resume" in text[1]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("bad"), "ValueError: bad"),
        (RuntimeError("ray::MAT.train()\n  File x\nValueError: one\n"), "ValueError: one"),
        (
            RuntimeError(
                "ray::MAT\nrllib_seqmarl.errors.UserError: loss is NaN\n\nDuring handling ...\n"
                "AttributeError: 'NoneType' object\n"
            ),
            "loss is NaN",
        ),
        (RuntimeError("The actor died:\n\tkilled by the kernel"), "RuntimeError: killed by the"),
        (
            RuntimeError(
                "ray::MAT\nRuntimeError: Error(s) in loading state_dict for Own:\n"
                "\tsize mismatch for a.weight: copying a param with shape [1].\n"
                "\tsize mismatch for b.weight: copying a param with shape [2].\n"
            ),
            "RuntimeError: size mismatch for a.weight: copying a param with shape [1] (and 1 more)",
        ),
        (
            RuntimeError(
                "_pickle.UnpicklingError: Weights only load failed. This file can still be "
                "loaded, ... \n\t(1) ... `weights_only=False` ...\n"
                "\tWeightsUnpickler error: Unsupported global: GLOBAL a.B. Please use ...\n"
            ),
            "UnpicklingError: it holds more than weights (Unsupported global: GLOBAL a.B)",
        ),
        (
            RuntimeError(
                "RuntimeError: Unable to set up cluster storage with the following:\n\t/r"
            ),
            "its folder of results is gone: it was deleted",
        ),
        (None, "no message"),
    ],
)
def test_error_line(error, line):
    found = error_line(trial("a", status=Trial.ERROR, error=error))

    assert found.startswith(line)
    assert "\n" not in found
