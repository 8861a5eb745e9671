"""Checkpoints are found by path of trial or experiment, and damage is seen."""

from __future__ import annotations

import json
import pickle

import pytest

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments import checkpoints


class MAT:
    """Stands for the class that a checkpoint names."""


def write(folder):
    """A folder with the files of an RLlib checkpoint."""
    for part in ("learner_group", "env_runner"):
        (folder / part).mkdir(parents=True)
        (folder / part / "state.pkl").write_bytes(pickle.dumps({"weights": list(range(100))}))
    (folder / "algorithm_state.pkl").write_bytes(pickle.dumps({}))
    (folder / "class_and_ctor_args.pkl").write_bytes(pickle.dumps({"class": MAT}))
    (folder / "rllib_checkpoint.json").write_text(json.dumps({"version": "1"}))
    return folder


def test_find(tmp_path):
    experiment = tmp_path / "experiment"
    first = write(experiment / "trial_1" / "checkpoint_000009")
    latest = write(experiment / "trial_1" / "checkpoint_000010")

    assert checkpoints.find(str(first)) == first
    assert checkpoints.find(str(experiment / "trial_1")) == latest
    assert checkpoints.find(str(experiment)) == latest

    write(experiment / "trial_2" / "checkpoint_000000")
    with pytest.raises(UserError, match="2 trials"):
        checkpoints.find(str(experiment))


def test_nothing_to_find(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, expected in (
        ("nowhere", "no such checkpoint"),
        ("file", "is a folder"),
        ("empty", "holds none"),
    ):
        with pytest.raises(UserError, match=expected):
            checkpoints.find(str(tmp_path / name))


def test_a_sound_checkpoint_tells_its_algorithm(tmp_path):
    assert checkpoints.check(write(tmp_path / "c")) == "MAT"


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
def test_a_file_cut_short_is_seen(tmp_path, file):
    folder = write(tmp_path / "c")
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])

    with pytest.raises(UserError, match="is damaged") as caught:
        checkpoints.check(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "file", ["rllib_checkpoint.json", "class_and_ctor_args.pkl", "algorithm_state.pkl"]
)
def test_a_missing_file_is_seen(tmp_path, file):
    folder = write(tmp_path / "c")
    (folder / file).unlink()

    with pytest.raises(UserError, match="is damaged"):
        checkpoints.check(folder)
