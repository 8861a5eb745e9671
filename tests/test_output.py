"""Terminals, pipes and files that do not take what the command writes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from helpers.running import command, environment

from rllib_seqmarl.output import one_line

FAILED = "rllib: error: cannot write to standard output"


@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [
        ("> /dev/full", 1, [f"{FAILED}: No space left on device."]),
        (">&-", 0, []),
        ("<&- >&- 2>&-", 0, []),
        ("| head -n 1 > /dev/null; exit ${PIPESTATUS[0]}", 0, []),
    ],
)
def test_output_that_is_not_taken(redirection: str, status: int, said: list[str]) -> None:
    run = subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *command("example", "list")],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr.splitlines()) == (status, "", said)


def test_letters_that_the_terminal_does_not_have(tmp_path: Path) -> None:
    run = subprocess.run(
        command("evaluate", "ü\udcff\n"),
        env=environment(PYTHONIOENCODING="ascii", LC_ALL="C", COLUMNS="0"),
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert run.returncode == 2
    assert run.stderr == rb"rllib: error: no such checkpoint: \xfc\udcff\n" + b"\n"


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    code = 'cd "$1" && rmdir "$1" && shift && "$@"'
    run = subprocess.run(
        ["bash", "-c", code, "bash", str(here), *command("evaluate", "somewhere")],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert "the folder in which the command was given is gone" in line


def test_a_line_stays_one() -> None:
    assert one_line("a  b\n\x1b[2J\tü") == "a  b\\n\\x1b[2J\\tü"
