"""Rates, times to go, and how they are shown."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.tune import PlacementGroupFactory
from ray.tune.experiment import Trial
from ray.util import placement_group, remove_placement_group
from rich.console import Console

from rllib_seqmarl.experiments.spec.experiment import ExperimentSpec
from rllib_seqmarl.experiments.train.progress import Progress, Row, trial_name

STEPS = "num_env_steps_sampled_lifetime"


def result(iteration, *, steps_per_s=100, **more):
    seconds = 2.0 * iteration
    return {
        "training_iteration": iteration,
        "time_total_s": seconds,
        STEPS: steps_per_s * seconds,
        "simulator": "smax",
        "env_runners": {"episode_return_mean": 0.5, "win_rate": 0.25},
        **more,
    }


def test_rates_and_time_to_go():
    row = Row({STEPS: 1000})
    row.add(result(1))
    assert row.per_second(STEPS) == pytest.approx(100)
    row.add(result(2))

    assert row.per_second(STEPS) == pytest.approx(100)
    assert row.eta() == pytest.approx(6.0)
    assert row.cells() == {
        "iteration": "2",
        "env steps": "400 / 1,000",
        "steps/s": "100",
        "return": "0.5",
        "win rate": "25.0%",
        "ETA": "0:00:06",
    }


def test_the_rate_forgets_the_distant_past():
    row = Row({})
    row.add({"time_total_s": 1000.0, STEPS: 10})  # a slow start
    for second in range(1, 30):
        row.add({"time_total_s": 1000.0 + second, STEPS: 10 + 50 * second})

    assert row.per_second(STEPS) == pytest.approx(50)


def test_the_first_criterion_to_be_met_counts():
    row = Row({"training_iteration": 10, "time_total_s": 5.0, "env_runners/win_rate": 0.9})
    row.add(result(1))
    row.add(result(2))

    assert row.eta() == pytest.approx(1.0)


def test_without_steady_criteria_there_is_no_time_to_go():
    row = Row({"env_runners/episode_return_mean": 1.0})
    row.add(result(1))

    assert row.eta() is None
    assert "ETA" not in row.cells()


def test_evaluation_stays_until_the_next_and_nan_is_left_out():
    row = Row({})
    row.add(result(1, evaluation={"env_runners": {"win_rate": 0.75}}))
    row.add(result(2, env_runners={"episode_return_mean": float("nan")}))

    assert row.cells()["eval win rate"] == "75.0%"
    assert "return" not in row.cells()


class FakeTrial(SimpleNamespace):
    def __str__(self):
        return self.trial_id


def trial(status=Trial.RUNNING, name="MAT_smac_1"):
    return FakeTrial(trial_id=name, status=status, stopping_criterion={STEPS: 1000})


@pytest.fixture
def shown():
    spec = ExperimentSpec("mine", "f", "MAT", {"env": "smac"})

    def shown(terminal):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=140)
        return Progress(spec, console), console.file

    return shown


def test_plain_lines_are_sparse_but_complete(shown):
    progress, out = shown(False)
    one = trial()
    with progress:
        for iteration in range(1, 6):
            progress.on_trial_result(0, [one], one, result(iteration, done=iteration == 5))

    lines = out.getvalue().splitlines()
    assert len(lines) == 2  # the first and, within seconds, only the last
    assert lines[0].startswith("MAT_smac_1: iteration 1 | env steps 200 / 1,000 | steps/s 100")
    assert lines[0].endswith("simulator smax")
    assert "simulator" not in lines[1]


def test_every_evaluation_has_its_line(shown):
    progress, out = shown(False)
    one = trial()
    for iteration in (1, 2, 3):
        evaluation = {"evaluation": {"env_runners": {"win_rate": 0.5}}} if iteration == 3 else {}
        progress.on_trial_result(0, [one], one, result(iteration, **evaluation))

    assert "eval win rate 50.0%" in out.getvalue().splitlines()[-1]


def test_a_slow_start_is_no_lack_of_resources(shown, ray_session, monkeypatch):
    monkeypatch.setattr("rllib_seqmarl.experiments.train.progress._WAITING_WARNING_S", -1.0)
    progress, out = shown(False)
    waiting = trial(Trial.PENDING)
    waiting.placement_group_factory = PlacementGroupFactory([{"CPU": 1000}])
    progress.on_step_end(0, [waiting])
    assert out.getvalue() == ""

    group = placement_group([{"CPU": 1000}])
    progress.on_step_end(0, [waiting])
    remove_placement_group(group)
    assert out.getvalue() == "mine: waiting until the cluster has 1000 CPU free.\n"


def test_what_a_stop_at_once_loses_is_said(shown):
    progress, out = shown(False)
    one, other = trial(), trial(name="MAT_smac_2")
    saved = SimpleNamespace(metrics={"training_iteration": 1, STEPS: 200})
    for each, latest in ((one, saved), (other, None)):
        manager = SimpleNamespace(latest_checkpoint_result=latest)
        each.run_metadata = SimpleNamespace(checkpoint_manager=manager)
        for iteration in (1, 2, 3):
            progress.on_trial_result(0, [one, other], each, result(iteration))
    progress.on_step_end(0, [one, other])
    progress.stop_at_once()

    assert out.getvalue().splitlines()[-2:] == [
        "MAT_smac_1: lost since its last checkpoint: 2 iterations, 400 steps",
        "MAT_smac_2: lost since its last checkpoint: 3 iterations, 600 steps",
    ]


def test_a_restored_trial_has_lost_what_it_did_itself():
    row = Row({})
    row.add(result(101, iterations_since_restore=1))
    assert row.lost({}) == "1 iteration"
    assert row.lost({"training_iteration": 101, STEPS: 20_200}) == "nothing"


def test_the_folder_of_a_trial_is_short():
    made = SimpleNamespace(trainable_name="AOAD-MAT", trial_id="3f2a1_00003")
    assert trial_name(made) == "AOAD-MAT_3f2a1_00003"


#: Draws tables of one and of six trials in terminals of these widths.
DRAW = """
import fcntl, struct, sys, termios
from rich.console import Console
from test_progress import STEPS, Progress, ExperimentSpec, Trial, result, trial

for width in 80, 100, 120:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    for number in 1, 6:
        progress = Progress(ExperimentSpec("mine", "f", "SrSv", {"env": "smac"}), Console())
        trials = [trial(Trial.RUNNING, f"3f2a1_0000{i}") for i in range(number)]
        for one in trials:
            one.stopping_criterion[STEPS] = 12_345_678
        evaluation = {"env_runners": {"win_rate": 0.75, "episode_return_mean": 17.25}}
        more = {"evaluation": evaluation, "env_runners": {"episode_return_mean": -123.4}}
        with progress:
            progress.on_step_end(0, trials)
            for one in trials[:-1] or trials:
                progress.on_trial_result(0, trials, one, result(1234, steps_per_s=567.8))
                progress.on_trial_result(0, trials, one, result(1235, steps_per_s=567.8, **more))
        print(f"== {width} {number}")
"""


#: A training whose second Ctrl-C comes three iterations after its only checkpoint.
STOP = """
import os, signal
from types import SimpleNamespace
from rich.console import Console
from rllib_seqmarl.experiments.train.shutdown import Signals
from test_progress import STEPS, Progress, ExperimentSpec, Trial, result, trial

saved = SimpleNamespace(metrics={"training_iteration": 5, STEPS: 1000})
manager = SimpleNamespace(latest_checkpoint_result=saved)
one = trial(name="3f2a1_00000")
one.run_metadata = SimpleNamespace(checkpoint_manager=manager)
progress = Progress(ExperimentSpec("mine", "f", "SrSv", {"env": "smac"}), Console())
with Signals("rllib train --resume") as signals, progress:
    signals.orderly, signals.before_stop = True, progress.stop_at_once
    progress.on_step_end(0, [one])
    progress.on_trial_result(0, [one], one, result(8))
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
"""


def in_terminal(program):
    """What a program writes into a pseudo-terminal, without colours, and its exit status."""
    ours, theirs = pty.openpty()
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "PYTHONPATH": path, "TERM": "xterm", "COLUMNS": ""},
    ) as process:
        os.close(theirs)
        text = b""
        with contextlib.suppress(OSError):  # the terminal is closed
            while read := os.read(ours, 65536):
                text += read
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.decode()), process.returncode


def test_after_a_second_interrupt_the_table_says_what_is_lost():
    text, status = in_terminal(STOP)
    assert status == 130, text
    _, _, table = text.rpartition("mine on smax")
    assert "lost: what came after the last checkpoint" in table
    (row,) = (line for line in table.splitlines() if "3f2a1_00000" in line)
    assert "3 iterations, 600 steps" in row
    assert "To go on from the last checkpoint, if there is one: rllib train --resume" in table


def test_the_table_is_readable_in_narrow_terminals():
    text, status = in_terminal(DRAW)
    assert status == 0, text
    screens = re.split(r"== (\d+ \d)", text)
    tables = dict(zip(screens[1::2], screens[0::2], strict=False))
    assert list(tables) == ["80 1", "80 6", "100 1", "100 6", "120 1", "120 6"]
    for name, screen in tables.items():
        width, number = map(int, name.split())
        table = [line.rstrip() for line in screen.rpartition("mine on smax")[2].splitlines()]
        assert max(map(len, table)) <= width, screen
        assert "…" not in "".join(table)
        head = " ".join(" ".join(table[:3]).split())
        for title in ("trial", "status", "env steps", "win rate", "eval", "ETA"):
            assert title in head, screen
        assert ("iteration" in head) == ("steps/s" in head) == (width > 80), screen
        rows = [line for line in table if "3f2a1_0000" in line]
        assert len(rows) == number
        assert "running" in rows[0]
        assert "75.0%" in rows[0]
        assert ("1.4M / 12.3M" if width < 120 else "1,402,466 / 12,345,678") in rows[0]


def test_the_table_shows_every_trial_of_a_terminal(shown):
    progress, out = shown(True)
    running, waiting = trial(), trial(Trial.PENDING, "MAT_smac_2")
    with progress:
        progress.on_step_end(0, [waiting, running])
        progress.on_trial_result(0, [waiting, running], running, result(1))

    text = out.getvalue()
    for expected in ("mine", "MAT_smac_1", "running", "MAT_smac_2", "waiting", "win rate", "smax"):
        assert expected in text
