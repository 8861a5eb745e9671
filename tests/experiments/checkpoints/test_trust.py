"""The warning about checkpoints of others."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from rllib_seqmarl.experiments.checkpoints import trust


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment with one checkpoint, in a home of which nothing is known."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "storage" / "mine"
    (folder / "MAT_1" / "checkpoint_1").mkdir(parents=True)
    return folder


def checkpoint(folder: Path) -> Path:
    return folder / "MAT_1" / "checkpoint_1"


def test_nothing_is_said_of_own_experiments(experiment: Path) -> None:
    trust.remember(experiment)
    assert trust.note(checkpoint(experiment)) is None


def test_it_is_said_once_of_a_foreign_checkpoint(experiment: Path) -> None:
    assert trust.note(checkpoint(experiment)) == trust.TRUST
    assert trust.note(checkpoint(experiment)) is None
    (experiment / "MAT_1" / "checkpoint_2").mkdir()
    assert trust.note(experiment / "MAT_1" / "checkpoint_2") == trust.TRUST


def test_a_copy_and_another_folder_in_the_same_place_are_foreign(experiment: Path) -> None:
    trust.remember(experiment)
    copy = experiment.with_name("copy")
    shutil.copytree(experiment, copy)
    assert trust.note(checkpoint(copy)) == trust.TRUST
    shutil.move(experiment, experiment.with_name("old"))
    shutil.copytree(copy, experiment)
    assert trust.note(checkpoint(experiment)) == trust.TRUST


def test_another_users_checkpoint_in_an_own_folder_is_foreign(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust.remember(experiment)
    monkeypatch.setattr(os, "getuid", lambda: checkpoint(experiment).stat().st_uid + 1)
    assert trust.note(checkpoint(experiment)) == trust.TRUST


def test_a_home_that_cannot_be_written_is_no_error(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = experiment.parent / "file"
    file.touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(file))
    for _ in range(2):
        assert trust.note(checkpoint(experiment)) == trust.TRUST
