"""Seconds until something is to be seen: import, help, the first line of a training, an evaluation.

    python benchmarks/startup.py --against ../other_checkout

Every command is a process of its own. With ``--against`` the two checkouts take turns, so that
whatever else the machine does meets both. "train" and "evaluate" find in their cache folder what a
run before them left there, "cold" is a training with an empty one. CPU seconds are those of all
processes of the command, and depend least on what else runs; of both, the least of all rounds is
printed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = "import sys; sys.argv[0] = 'rllib'; from rllib_seqmarl.cli import main; sys.exit(main())"
PARTS = ("import", "help", "cold", "train", "evaluate")


class Seconds(NamedTuple):
    wall: float
    cpu: float


def environment(root: Path, cache: Path) -> dict[str, str]:
    own = {"PYTHONPATH": str(root), "XDG_CACHE_HOME": str(cache), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "", **own}


def cpu_seconds(process: psutil.Process) -> float:
    """Of a process and all that descend from it and live, or were waited for."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            total += sum(one.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def measure(code: str, arguments: list[str], env: dict[str, str], until: str | None) -> Seconds:
    """Runs Python code until it prints ``until``, or to its end; the last figures before that."""
    began, cpu, printed = time.monotonic(), 0.0, []
    with tempfile.TemporaryDirectory() as elsewhere:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, *arguments],
            env=env,
            cwd=elsewhere,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        watched = psutil.Process(process.pid)
        for line in process.stdout:
            printed.append(line)
            if until is not None and until in line:
                figures = Seconds(time.monotonic() - began, cpu_seconds(watched))
                for _ in range(2):  # the first one asks for an orderly end
                    process.send_signal(signal.SIGTERM)
                    time.sleep(0.5)
                process.stdout.read()
                process.wait()
                return figures
        # Its output has ended, it has not been waited for: a zombie that still has its times.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        cpu = sum(watched.cpu_times()[:4])
        if process.wait() != 0 or until is not None:
            raise SystemExit("".join(printed) or f"{arguments} printed nothing.")
    return Seconds(time.monotonic() - began, cpu)


def run(part: str, root: Path, cache: Path, options: argparse.Namespace) -> Seconds:
    env = environment(root, cache)
    example = str(root / "tuned_examples" / f"{options.example}.yaml")
    with tempfile.TemporaryDirectory() as results:
        if part == "import":
            return measure("import rllib_seqmarl.algorithms.srsv", [], env, None)
        if part == "help":
            return measure(LAUNCH, ["--help"], env, None)
        if part in ("cold", "train"):
            env["XDG_CACHE_HOME"] = results if part == "cold" else str(cache)
            arguments = ["train", "file", example, "--storage-path", results]
            return measure(LAUNCH, arguments, env, "iteration 1 |")
        arguments = ["evaluate", str(cache / "results"), "--episodes", str(options.episodes)]
        return measure(LAUNCH, arguments, env, None)


def train_once(root: Path, cache: Path, example: str) -> None:
    """A checkpoint for the evaluation; what was compiled stays in the cache."""
    file = str(root / "tuned_examples" / f"{example}.yaml")
    arguments = ["train", "file", file, "--storage-path", str(cache), "-n", "results"]
    stop = ["--stop", json.dumps({"training_iteration": 1})]
    measure(LAUNCH, [*arguments, *stop], environment(root, cache), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--against", type=Path, help="another checkout, measured in turn")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--example", default="srsv_smac", help="the tuned example that is trained")
    parser.add_argument("--episodes", type=int, default=8, help="of the evaluation")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    roots = [ROOT, *([options.against.resolve()] if options.against else [])]
    figures: dict[tuple[str, Path], list[Seconds]] = {}
    with tempfile.TemporaryDirectory() as folder:
        caches = {root: Path(folder, str(index)) for index, root in enumerate(roots)}
        if {"train", "evaluate"} & {*options.parts}:
            for root, cache in caches.items():
                train_once(root, cache, options.example)
        for _ in range(options.rounds):
            for part in options.parts:
                for root, cache in caches.items():
                    seconds = run(part, root, cache, options)
                    figures.setdefault((part, root), []).append(seconds)
    for (part, root), seconds in figures.items():
        least = Seconds(*(min(values) for values in zip(*seconds, strict=True)))
        print(f"{part:<12} {least.wall:6.2f} s, {least.cpu:6.2f} s of CPU   {root.name}")


if __name__ == "__main__":
    main()
