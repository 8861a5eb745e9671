"""Env steps per second of the particle envs, against mpe2.

Run: ``python benchmarks/mpe_throughput.py [--seconds 2] [--envs 1 32 128]``.
Uniform random actions under mpe2's rules (25 steps an episode, resets included), one core. Two
ways in the same run:

- ``ours``: one call steps all E envs;
- ``mpe2``: its parallel interface, one env after the other, as its documentation shows it.

Drawing the actions is not counted. Compare the ratios: they carry over to other machines, the
rates do not.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rllib_seqmarl import registry
from rllib_seqmarl.envs.mpe.env import NUM_ACTIONS, TASKS

mpe = registry.environment("mpe")

REPEATS = 5
DRAWN = 256


def rates(ways: list[tuple[Callable[[int], None], int]], seconds: float) -> list[float]:
    """Of each way the best of some repetitions in turn, in env steps per second."""
    best = [0.0] * len(ways)
    for _ in range(REPEATS):
        for number, (step, envs) in enumerate(ways):
            calls, start = 0, time.perf_counter()
            while (passed := time.perf_counter() - start) < seconds / REPEATS:
                step(calls % DRAWN)
                calls += 1
            best[number] = max(best[number], calls * envs / passed)
    return best


def ours(task: str, envs: int) -> Callable[[int], None]:
    env = mpe.make(envs, task=task, rules="mpe2")
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(NUM_ACTIONS, size=(DRAWN, envs, 3))

    def step(call: int) -> None:
        env.step(actions[call])

    return step


def theirs(task: str) -> Callable[[int], None]:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    from mpe2 import simple_spread_v3, simple_tag_v3

    module = simple_spread_v3 if task == "cooperative_navigation" else simple_tag_v3
    env = module.parallel_env()
    env.reset(seed=0)
    names = list(env.possible_agents)
    drawn = np.random.default_rng(0).integers(NUM_ACTIONS, size=(DRAWN, len(names)))
    actions: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in drawn]

    def step(call: int) -> None:
        if not env.agents:
            env.reset()
        env.step(actions[call])

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement")
    parser.add_argument("--envs", nargs="+", type=int, default=[1, 8, 32, 128])
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(f"{'task':>22} {'E':>4} {'ours/s':>10} {'mpe2/s':>8}  ratio")
    for task in TASKS:
        for envs in args.envs:
            mine, other = rates([(ours(task, envs), envs), (theirs(task), 1)], args.seconds)
            print(f"{task:>22} {envs:>4} {mine:>10.0f} {other:>8.0f}  {mine / other:.0f} x")


if __name__ == "__main__":
    main()
