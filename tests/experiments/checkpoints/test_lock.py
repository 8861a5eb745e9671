"""One training at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys

import pytest

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.checkpoints.lock import LOCK, hold

HOLD = """
import sys, time
from pathlib import Path
from rllib_seqmarl.experiments.checkpoints.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "mine")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_one_is_told_who_holds_it(tmp_path, other):
    with (
        pytest.raises(UserError, match=rf"another training \(process {other.pid} on .*\)"),
        hold(tmp_path / "mine"),
    ):
        pass
    assert json.loads((tmp_path / "mine" / LOCK).read_text())["pid"] == other.pid


def test_after_a_kill_it_is_free_and_said(tmp_path, other):
    other.kill()
    other.wait()

    with hold(tmp_path / "mine") as lines:
        assert len(lines) == 1
        assert f"was cut off (process {other.pid} on" in lines[0]
        assert json.loads((tmp_path / "mine" / LOCK).read_text())["pid"] == os.getpid()
    with hold(tmp_path / "mine") as lines:
        assert lines == []


def test_nothing_is_left_of_what_stayed_empty(tmp_path):
    with hold(tmp_path / "a" / "b" / "mine"):
        assert (tmp_path / "a" / "b" / "mine" / LOCK).exists()
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "a").mkdir()
    with hold(tmp_path / "a" / "mine"):
        (tmp_path / "a" / "mine" / "result").touch()
    assert [path.name for path in (tmp_path / "a" / "mine").iterdir()] == ["result"]


def test_an_error_frees_it(tmp_path):
    with pytest.raises(KeyError), hold(tmp_path / "mine"):
        raise KeyError
    with hold(tmp_path / "mine") as lines:
        assert lines == []


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def flock(*args):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    with hold(tmp_path / "mine") as lines:
        assert len(lines) == 1
        assert "has no locks" in lines[0]


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write results"), hold(tmp_path / "file" / "mine"):
        pass
