"""Other values to stop at, for trials that run, have finished, failed, or were ended otherwise."""

from __future__ import annotations

import json

import pytest

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.checkpoints.tune_state import set_stop

WIN_RATE = "env_runners/win_rate"


@pytest.fixture
def state(tmp_path):
    """Writes a state of trials, and the checkpoints of those that have some."""
    path = tmp_path / "experiment_state-1.json"

    def write(*trials, stop=None):
        data = []
        for name, status, iteration, checkpoints in trials:
            last = {"training_iteration": iteration, "env_runners": {"win_rate": iteration / 10}}
            settings = {
                "trial_id": name,
                "status": status,
                "stopping_criterion": stop or {"training_iteration": 4},
                "relative_logdir": name,
            }
            data.append([json.dumps(settings), json.dumps({"last_result": last})])
            for number in range(checkpoints):
                folder = tmp_path / name / f"checkpoint_{number:06}"
                folder.mkdir(parents=True)
                at = json.dumps({"training_iteration": number + 1})
                (folder / "rllib_checkpoint.json").write_text(at)
        path.write_text(json.dumps({"trial_data": data}))
        return path

    return write


def trials(path):
    found = [json.loads(trial) for trial, _ in json.loads(path.read_text())["trial_data"]]
    return {t["trial_id"]: (t["status"], t["stopping_criterion"]) for t in found}


def test_nothing_is_written_where_nothing_has_changed(state):
    path = state(("a", "TERMINATED", 4, 0))
    before = path.stat().st_mtime_ns

    assert set_stop(path, {"training_iteration": 4}) == []
    assert path.stat().st_mtime_ns == before


def test_a_finished_trial_goes_on_and_one_that_a_scheduler_ended_does_not(state):
    path = state(
        *(("end", "TERMINATED", 4, 1), ("scheduler", "TERMINATED", 2, 1), ("bad", "ERROR", 3, 1)),
        ("going", "PAUSED", 1, 1),
    )

    lines = set_stop(path, {"training_iteration": 6})

    later = {"training_iteration": 6}
    assert trials(path) == {
        "end": ("PENDING", later),
        "scheduler": ("TERMINATED", later),
        "bad": ("ERROR", later),
        "going": ("PAUSED", later),
    }
    assert lines == ["trials stop at training_iteration 6 (before: training_iteration 4)."]


def test_a_trial_that_is_past_the_new_end_is_finished(state):
    path = state(
        *(("past", "PAUSED", 3, 3), ("before", "PENDING", 1, 1), ("done", "TERMINATED", 4, 4)),
        ("killed", "PENDING", 3, 2),
    )

    lines = set_stop(path, {WIN_RATE: 0.3})

    assert {name: status for name, (status, _) in trials(path).items()} == {
        "past": "TERMINATED",
        "before": "PENDING",
        "done": "TERMINATED",
        "killed": "PENDING",  # its last checkpoint is older: it comes to the end once more
    }
    assert lines[1:] == ["trial past has come to that end."]


def test_no_stop_at_all_goes_on_for_ever(state):
    path = state(("a", "TERMINATED", 4, 1))

    assert set_stop(path, {}) == ["trials stop at nothing (before: training_iteration 4)."]
    assert trials(path) == {"a": ("PENDING", {})}


def test_a_finished_trial_without_a_checkpoint_cannot_go_on(state):
    path = state(("a", "TERMINATED", 4, 0))
    before = path.read_text()

    with pytest.raises(UserError, match=r"trial a .* no checkpoint"):
        set_stop(path, {"training_iteration": 5})
    assert path.read_text() == before
