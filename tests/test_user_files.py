"""Paths that cannot be meant, and files that are written as a whole or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.files import check_writable, replace, user_path, write


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "the path is empty"),
        ("~nosuchuser/results", "there is no user 'nosuchuser'"),
        ("a\0b", "cannot hold the character NUL"),
        ("n" * 256, "File name too long"),
        ("d/" * 2100, "File name too long"),
        ("s3://bucket/results", "is a URI"),
        ("s3:/bucket", "is a URI"),
        ("http://host/file", "is a URI"),
        ("circle/file", "Too many levels of symbolic links"),
    ],
)
def test_paths_that_cannot_be_meant(
    path: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("circle").symlink_to("circle")
    with pytest.raises(UserError, match=reason) as raised:
        user_path(path, "--out")
    message = str(raised.value)
    assert message.startswith("--out: ")
    assert len(message) < 250


@pytest.mark.parametrize("path", ["n" * 255, "missing/a", "a b", "ü", "a:b", "\udcff", "~"])
def test_paths_that_can_be_meant(path: str) -> None:
    assert user_path(path) == Path(path).expanduser()


def test_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user may have neither a name nor HOME."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    with pytest.raises(UserError, match="~/results: HOME is not set"):
        user_path("~/results")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("folder", "is a folder"),
        ("nowhere/a", "does not exist"),
        ("file/a", "is a file"),
    ],
)
def test_a_place_that_takes_no_file_is_told_before_the_work(
    path: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"--out: .*{reason}"):
        check_writable(tmp_path / path, "--out")


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / ("n" * 255)  # no letter of a temporary name fits behind it
    replace(file, b"old")
    link = tmp_path / "link"
    link.symlink_to(file.name)
    replace(link, b"new")
    assert link.is_symlink()
    assert file.read_bytes() == b"new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~_umask()
    assert sorted(os.listdir(tmp_path)) == ["link", file.name]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_devices_are_written_to_and_not_replaced(tmp_path: Path) -> None:
    replace(Path("/dev/null"), b"x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    link = tmp_path / "full.png"
    link.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"--render: cannot write .*full\.png: No space left"):
        write(link, b"x", "--render")
    with pytest.raises(UserError, match=r"--out: cannot write .*: Is a directory"):
        write(tmp_path, b"x", "--out")
    assert os.listdir(tmp_path) == ["full.png"]


FULL = """\
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
from pathlib import Path
from rllib_seqmarl.files import write
write(Path("file"), bytes(5000), "--out")
"""


def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path: Path) -> None:
    """A limit of the operating system stands for the disk: bytes fail half-way."""
    file = tmp_path / "file"
    file.write_bytes(b"old")
    run = subprocess.run(
        [sys.executable, "-c", FULL], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "UserError: --out: cannot write file: File too large." in run.stderr
    assert os.listdir(tmp_path) == ["file"]
    assert file.read_bytes() == b"old"
