"""What a resumed trial goes on from, and with how many processes."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from pathlib import Path

import pytest
from helpers.checkpoint_files import write
from ray.train._internal.session import _TrainingResult
from ray.train._internal.storage import StorageContext
from ray.tune import Checkpoint, CheckpointConfig
from ray.tune.experiment import Trial

from rllib_seqmarl import registry
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.checkpoints import resuming
from rllib_seqmarl.experiments.checkpoints.score import SCORE


@pytest.fixture
def trial(tmp_path):
    """A trial of two checkpoints, after iterations 2 and 4, of which Ray Tune knows."""
    registry.register()
    trial = Trial(
        "MAT",
        config={"env": "distinct_actions", "num_env_runners": 3, "lr": 0.1},
        storage=StorageContext(str(tmp_path), "experiment", trial_dir_name="trial"),
        checkpoint_config=CheckpointConfig(num_to_keep=2),
    )
    Path(trial.storage.trial_fs_path).mkdir()
    for number in (0, 1):
        add(trial, number, known=True)
    return trial


def add(trial, number, known):
    """One more checkpoint and its result."""
    folder = folder_of(trial)
    metrics = {"training_iteration": 2 * (number + 1), "time_total_s": 10.0 * (number + 1)}
    path = write(folder / f"checkpoint_{number:06}", training_iteration=2 * (number + 1))
    with (folder / "result.json").open("a") as stream:
        stream.write(json.dumps(metrics) + "\n")
    if known:
        trial.on_checkpoint(_TrainingResult(Checkpoint(str(path)), metrics))
    return path


def folder_of(trial):
    return Path(trial.storage.trial_fs_path)


def latest(trial):
    result = trial.latest_checkpoint_result
    return result.checkpoint.path.rpartition("/")[2], result.metrics["time_total_s"]


def test_the_latest_checkpoint_goes_on_without_a_word(trial):
    assert resuming.choose_checkpoint(trial) == []
    assert latest(trial) == ("checkpoint_000001", 20.0)
    assert trial.storage.current_checkpoint_index == 1


def test_a_checkpoint_that_is_gone_is_forgotten(trial):
    """Ray Tune would fail to delete it once more."""
    shutil.rmtree(folder_of(trial) / "checkpoint_000000")

    assert resuming.choose_checkpoint(trial) == []
    add(trial, 2, known=True)
    add(trial, 3, known=True)
    assert latest(trial) == ("checkpoint_000003", 40.0)
    assert trial.storage.current_checkpoint_index == 3
    names = {path.name for path in folder_of(trial).glob("checkpoint_*")}
    assert names == {"checkpoint_000002", "checkpoint_000003"}


def test_a_damaged_checkpoint_is_passed_over(trial):
    (folder_of(trial) / "checkpoint_000001" / "algorithm_state.pkl").unlink()

    damaged, taken = resuming.choose_checkpoint(trial)

    assert "checkpoint_000001 is damaged: algorithm_state.pkl is missing" in damaged
    assert taken.endswith("checkpoint_000000.")
    assert latest(trial) == ("checkpoint_000000", 10.0)
    # The next one is number 2: nothing is written into the damaged one.
    assert trial.storage.current_checkpoint_index == 1


def test_a_checkpoint_without_a_list_of_its_files_is_read_through(trial):
    """One of another shape is passed over, as one that is cut short is."""
    newest = write(folder_of(trial) / "checkpoint_000002", listed=False, training_iteration=6)
    (newest / "algorithm_state.pkl").write_bytes(pickle.dumps([1]))

    damaged, taken = resuming.choose_checkpoint(trial)

    assert "algorithm_state.pkl must hold a dict, not a list" in damaged
    assert taken.endswith("checkpoint_000001.")


def test_a_state_that_is_older_than_the_checkpoints(trial):
    """Killed between a checkpoint and the state that names it; an older one is gone already."""
    for name in ("checkpoint_000000", "checkpoint_000001"):
        (folder_of(trial) / name).rename(folder_of(trial) / f"gone_{name}")
    add(trial, 5, known=False)
    # Results, too, come a second later, and the last one was cut short.
    results = (folder_of(trial) / "result.json").read_text().splitlines()[:-1]
    results += ['{"training_iteration": 11, "time_total_s": 55.0}', '{"training_iteration": 12, "t']
    (folder_of(trial) / "result.json").write_text("\n".join(results))
    (folder_of(trial) / "checkpoint_000006").mkdir()  # the kill came in the midst of this one

    damaged, taken = resuming.choose_checkpoint(trial)

    assert "checkpoint_000006 is damaged" in damaged
    assert taken.endswith("checkpoint_000005.")
    assert latest(trial) == ("checkpoint_000005", 55.0)
    assert trial.latest_checkpoint_result.metrics["training_iteration"] == 12
    assert trial.storage.current_checkpoint_index == 6


def test_a_cut_off_checkpoint_of_which_the_state_does_not_know(trial):
    (folder_of(trial) / "checkpoint_000002").mkdir()

    damaged, taken = resuming.choose_checkpoint(trial)

    assert "checkpoint_000002 is damaged" in damaged
    assert taken.endswith("checkpoint_000001.")
    assert latest(trial) == ("checkpoint_000001", 20.0)
    assert trial.storage.current_checkpoint_index == 2


def test_copies_of_checkpoints_under_other_names_are_left_alone(trial):
    shutil.copytree(folder_of(trial) / "checkpoint_000000", folder_of(trial) / "checkpoint_best")

    assert resuming.choose_checkpoint(trial) == []
    assert latest(trial) == ("checkpoint_000001", 20.0)


def test_a_trial_without_a_sound_checkpoint_is_refused(trial):
    for path in folder_of(trial).glob("checkpoint_*"):
        (path / "algorithm_state.pkl").unlink()

    with pytest.raises(UserError, match=r"no sound checkpoint to go on from: .*checkpoint_000001"):
        resuming.choose_checkpoint(trial)


def test_results_may_come_later_than_checkpoints(trial):
    add(trial, 2, known=False)
    (folder_of(trial) / "result.json").unlink()

    (taken,) = resuming.choose_checkpoint(trial)

    assert taken.endswith("checkpoint_000002.")
    assert math.isnan(trial.latest_checkpoint_result.metrics[SCORE])


def test_population_based_training_goes_on_from_another_trial(trial, tmp_path):
    other = write(tmp_path / "other" / "checkpoint_000000")
    trial.on_checkpoint(_TrainingResult(Checkpoint(str(other)), {}))
    (folder_of(trial) / "checkpoint_000001" / "algorithm_state.pkl").unlink()

    assert resuming.choose_checkpoint(trial) == []
    assert trial.checkpoint.path == str(other)


def test_the_trial_asks_for_what_its_new_settings_need(trial):
    trial.create_placement_group_factory()
    assert len(trial.placement_group_factory.bundles) == 4

    resuming.move(trial, {"num_env_runners": 1, "lr": 0.5}, ["num_env_runners", "num_learners"])

    assert trial.config == {"env": "distinct_actions", "num_env_runners": 1, "lr": 0.1}
    assert len(trial.placement_group_factory.bundles) == 2


def test_the_note_says_what_changes():
    moved = {"num_gpus_per_learner": (0, 1), "sample_timeout_s": (30.0, None)}
    line = resuming.note("mine", moved)
    assert line == (
        "note: mine: num_gpus_per_learner is 1 (was 0), sample_timeout_s is the default (was 30.0)."
    )
    assert "max(1, num_env_runners) steps" in resuming.note("mine", {"num_env_runners": (0, 2)})
