"""Checkpoints are found by path of trial or experiment, and damage is seen."""

from __future__ import annotations

import pickle

import pytest
from helpers.checkpoint_files import write

from rllib_seqmarl import manifest
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.checkpoints import find as checkpoints


def nothing_to_say(line):
    raise AssertionError(line)


def test_find(tmp_path):
    experiment = tmp_path / "experiment"
    first = write(experiment / "trial_1" / "checkpoint_000009")
    latest = write(experiment / "trial_1" / "checkpoint_000010")

    assert checkpoints.find(str(first), nothing_to_say) == first
    for path in (experiment / "trial_1", experiment):
        said = []
        assert checkpoints.find(str(path), said.append) == latest
        assert said == [f"Latest checkpoint there: {latest}"]

    write(experiment / "trial_2" / "checkpoint_000000")
    with pytest.raises(UserError, match="2 trials"):
        checkpoints.find(str(experiment), nothing_to_say)


def test_nothing_to_find(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, expected in (
        ("nowhere", "no such checkpoint"),
        ("file", "is a folder"),
        ("empty", "holds none"),
    ):
        with pytest.raises(UserError, match=expected):
            checkpoints.find(str(tmp_path / name), nothing_to_say)


@pytest.mark.parametrize("listed", [True, False])
def test_a_sound_checkpoint_tells_its_algorithm(listed, tmp_path):
    assert checkpoints.check(write(tmp_path / "c", listed)) == "MAT"


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    "file",
    [
        "rllib_checkpoint.json",
        "class_and_ctor_args.pkl",
        "algorithm_state.pkl",
        "learner_group/state.pkl",
        "env_runner/state.pkl",
    ],
)
def test_a_file_cut_short_is_seen(tmp_path, file, listed):
    folder = write(tmp_path / "c", listed)
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])

    with pytest.raises(UserError, match="is damaged") as caught:
        checkpoints.check(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    "file", ["rllib_checkpoint.json", "class_and_ctor_args.pkl", "algorithm_state.pkl"]
)
def test_a_missing_file_is_seen(tmp_path, file, listed):
    folder = write(tmp_path / "c", listed)
    (folder / file).unlink()

    with pytest.raises(UserError, match="is damaged"):
        checkpoints.check(folder)


def test_a_list_is_read_without_running_code(tmp_path):
    """A file of another checkpoint, and a list that never came, are seen, too."""
    folder = write(tmp_path / "c")
    other = pickle.dumps({"weights": list(range(99, -1, -1))})
    state = folder / "env_runner" / "state.pkl"
    assert len(other) == len(state.read_bytes())
    state.write_bytes(other)
    assert "env_runner/state.pkl has been changed" in checkpoints.verify(folder)

    (folder / manifest.MANIFEST).unlink()
    assert "files.json is missing" in checkpoints.verify(folder)


def test_checkpoints_that_were_cut_off_are_passed_over_and_named(tmp_path):
    trial = tmp_path / "experiment" / "trial"
    sound = write(trial / "checkpoint_000004")
    for number in (5, 6):
        write(trial / f"checkpoint_00000{number}")
    (trial / "checkpoint_000005" / "learner_group" / "state.pkl").unlink()
    (trial / "checkpoint_000006" / "rllib_checkpoint.json").unlink()  # what is copied first

    for path in trial, trial.parent:
        said = []
        assert checkpoints.find(str(path), said.append) == sound
        assert ["checkpoint_000006" in line for line in said] == [True, False, False]
        assert "checkpoint_000005 is damaged: learner_group/state.pkl is missing" in said[1]

    (sound / manifest.MANIFEST).unlink()
    with pytest.raises(UserError, match="none that is sound"):
        checkpoints.find(str(trial), said.append)
