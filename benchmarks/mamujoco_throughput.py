"""Environment steps per second of Multi-Agent MuJoCo, against gymnasium-robotics' own interface.

Run: ``python benchmarks/mamujoco_throughput.py [--seconds 4] [--tasks Ant:8x1 ...]``.
Uniform random actions drawn beforehand, one core. Three ways in the same run, in turns:

- ``ours``: one call steps all E envs;
- ``loop``: gymnasium-robotics' ``parallel_env`` per env, its dicts stacked to arrays;
- ``physics``: MuJoCo's part of the step and the check for a fall, without rewards and
  observations: what is left when all else costs nothing.

Compare the ratios: they carry over to other machines, the rates do not.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import mujoco
import numpy as np

from rllib_seqmarl import registry
from rllib_seqmarl.envs.mamujoco.config import ROBOTS
from rllib_seqmarl.envs.mamujoco.env import quietly
from rllib_seqmarl.envs.mamujoco.layout import factorization

mamujoco = registry.environment("mamujoco")

REPEATS = 5
DRAWN = 64
TASKS = ["HalfCheetah:6x1", "HalfCheetah:2x3", "Ant:8x1", "Walker2d:6x1", "Humanoid:17x1"]


def ours(scenario: str, partition: str, actions: np.ndarray) -> Callable[[int], object]:
    env = mamujoco.make(len(actions[0]), scenario=scenario, partition=partition, agent_id=False)
    env.reset(seed=0)
    return lambda turn: env.step(actions[turn])


def looped(scenario: str, partition: str, actions: np.ndarray) -> Callable[[int], object]:
    native = ROBOTS[scenario].partitions
    coarser = None if partition in native else native[0]
    with quietly():
        from gymnasium_robotics import mamujoco_v1

        envs = [
            mamujoco_v1.parallel_env(
                scenario,
                partition,
                agent_factorization=factorization(scenario, partition, coarser),
            )
            for _ in range(len(actions[0]))
        ]
    names = envs[0].possible_agents
    width = max(envs[0].observation_space(name).shape[0] for name in names)
    sizes = [envs[0].action_space(name).shape[0] for name in names]
    bound = envs[0].action_space(names[0]).high[0]
    rows = np.zeros((len(envs), len(names), width), np.float32)
    for e, env in enumerate(envs):
        env.reset(seed=e)

    def step(turn: int) -> None:
        for e, env in enumerate(envs):
            chosen = {
                name: bound * actions[turn, e, slot, :size]
                for slot, (name, size) in enumerate(zip(names, sizes, strict=True))
            }
            obs, _, terminated, truncated, _ = env.step(chosen)
            if any(terminated.values()) or any(truncated.values()):
                obs, _ = env.reset()
            for slot, name in enumerate(names):
                rows[e, slot, : len(obs[name])] = obs[name]

    return step


def physics(scenario: str, partition: str, actions: np.ndarray) -> Callable[[int], object]:
    env = mamujoco.make(len(actions[0]), scenario=scenario, partition=partition)
    env.reset(seed=0)
    robots = env.robots
    controls = [env._controls(one) for one in actions]

    def step(turn: int) -> None:
        for robot, control in zip(robots, controls[turn], strict=True):
            robot.data.ctrl[:] = control
            mujoco.mj_step(robot.model, robot.data, nstep=robot.frame_skip)
            mujoco.mj_rnePostConstraint(robot.model, robot.data)
            # Whoever lies on the ground has more contacts to compute: they rise as elsewhere.
            if not getattr(robot, "is_healthy", True):
                robot.reset()

    return step


def rates(scenario: str, partition: str, envs: int, seconds: float) -> tuple[float, float, float]:
    """The best of some repetitions of each way, in environment steps per second."""
    space = mamujoco.make(envs, scenario=scenario, partition=partition).action_space
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1.0, 1.0, (DRAWN, *space.shape)).astype(np.float32)
    ways = [build(scenario, partition, actions) for build in (ours, looped, physics)]
    best = [0.0] * len(ways)
    for _ in range(REPEATS):
        for way, step in enumerate(ways):
            turns, start = 0, time.perf_counter()
            while (passed := time.perf_counter() - start) < seconds / REPEATS:
                step(turns % DRAWN)
                turns += 1
            best[way] = max(best[way], turns * envs / passed)
    return best[0], best[1], best[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="per measurement")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--envs", nargs="+", type=int, default=[8, 40])
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(f"{'task':>16} {'E':>3} {'ours/s':>8} {'loop/s':>8} {'physics/s':>9}  ratios")
    for task in args.tasks:
        scenario, _, partition = task.partition(":")
        for envs in args.envs:
            mine, loop, alone = rates(scenario, partition, envs, args.seconds)
            print(
                f"{task:>16} {envs:>3} {mine:>8.0f} {loop:>8.0f} {alone:>9.0f}  "
                f"{mine / loop:.1f} x loop, {mine / alone:.2f} x physics",
                flush=True,
            )


if __name__ == "__main__":
    main()
