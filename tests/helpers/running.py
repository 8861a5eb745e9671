"""The ``rllib`` command as a process of its own, and what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: A tuned example, and an experiment of seconds.
EXAMPLE = str(ROOT / "tuned_examples" / "mat_distinct_actions.yaml")
SMALL = """\
small:
  run: MAT
  env: distinct_actions
  stop: {training_iteration: 3}
  config:
    num_env_runners: 0
    num_envs_per_env_runner: 4
    rollout_fragment_length: 8
    num_epochs: 1
    lr: 5e-4
"""
LAUNCH = "import sys; sys.argv[0] = 'rllib'; from rllib_seqmarl.cli import main; sys.exit(main())"


def command(*arguments):
    return [sys.executable, "-c", LAUNCH, *arguments]


def environment(**variables):
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**inherited, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}


def rllib(*arguments, timeout=300, **variables):
    """Runs the command to its end; standard output and error together."""
    return subprocess.run(
        command(*arguments),
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


class Running:
    """The command while it runs; its output goes to a file."""

    def __init__(self, log, *arguments):
        self.log = log
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                command(*arguments), env=environment(), stdout=stream, stderr=subprocess.STDOUT
            )

    def wait_for(self, condition, seconds=90):
        """Waits until ``condition()`` is true while the process lives."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise AssertionError(self.log.read_text())
            time.sleep(0.1)

    def family(self):
        """All its descendants: process id -> command."""
        listing = subprocess.run(
            ["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True
        )
        children: dict[int, list[tuple[int, str]]] = {}
        for line in listing.stdout.splitlines():
            pid, parent, name = line.split(maxsplit=2)
            children.setdefault(int(parent), []).append((int(pid), name))
        found: dict[int, str] = {}
        todo = [self.process.pid]
        while todo:
            below = children.get(todo.pop(), [])
            found.update(below)
            todo += [pid for pid, _ in below]
        return found


def results(experiment):
    """The results of an experiment's only trial, in the order in which they were written."""
    (file,) = experiment.glob("*/result.json")
    # The last line may be half written.
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]


def iterations(experiment):
    return [result["training_iteration"] for result in results(experiment)]
