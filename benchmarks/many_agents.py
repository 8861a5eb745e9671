"""Training iterations with many agents: seconds and memory, by algorithm and number of cars.

    python benchmarks/many_agents.py [--agents 8 64 256 1024] [--cases MAT PMAT SrSv]

DubinsCar, one env x 16 steps, two epochs, settings of the tuned examples otherwise. SrSv has
teacher-forced successors, and values of all agents; only where it attends to all, those of 32 drawn
ones above 64 agents (``value_agents``). A name ending in ``-neighbours`` restricts attention to
them. Every row is a process of its own, whose peak of memory is that of all its threads and of what
it loaded; the row with N = 8 is what is there without many agents. Times are of the last of the
iterations: cars start far from each other, and are closer together after more earlier steps.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from typing import Any

STEPS = 16
EPOCHS = 2
#: Decoder positions, or agents, per forward and backward pass.
MICRO_BATCH = 2048
#: Above this many agents, SrSv that attends to all learns from `VALUE_AGENTS` of them.
ALL_VALUES, VALUE_AGENTS = 64, 32
CASES = ("MAT", "PMAT", "SrSv", "MAT-neighbours", "PMAT-neighbours", "SrSv-neighbours")


def settings_of(case: str, agents: int) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Algorithm, its settings and ``env_config``."""
    algorithm, _, restricted = case.partition("-")
    env_config = {"num_agents": agents, "neighbours": bool(restricted)}
    settings: dict[str, Any] = {
        "num_envs_per_env_runner": 1,
        "rollout_fragment_length": STEPS,
        "num_epochs": EPOCHS,
        "micro_batch_size": max(1, MICRO_BATCH // agents),
        "clip_param": 0.2,
        "entropy_coeff": 0.0,
        "seed": 1,
    }
    if restricted:
        settings["attention"] = "neighbours"
    if algorithm == "SrSv":
        settings["successors"] = "teacher_forced"
        if agents > ALL_VALUES and not restricted:
            settings["value_agents"] = VALUE_AGENTS
    return algorithm, settings, env_config


def measure(case: str, agents: int, more: dict[str, Any], earlier_steps: int) -> dict[str, float]:
    """One row, in this process."""
    import resource

    import ray

    from rllib_seqmarl import registry

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    algorithm, settings, env_config = settings_of(case, agents)
    config = registry.config_class(algorithm)()
    config.environment("dubins_car", env_config=env_config)
    config.update_from_dict({**settings, **more})
    running = config.build_algo()
    for _ in range(math.ceil(earlier_steps / STEPS)):
        running.train()
    split = running.train()["time_split"]
    running.stop()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    acting = split["decode"] / STEPS
    learning = (split["forward_backward"] + split["learning_other"]) / (STEPS * EPOCHS)
    return {"decode": acting, "learn": learning, "peak_gib": peak}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=int, nargs="+", default=[8, 64, 256, 1024])
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument(
        "--earlier-steps", type=int, default=STEPS, help="env steps before those measured"
    )
    parser.add_argument("--settings", type=json.loads, default={}, help="config keys as JSON")
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        row = measure(options.cases[0], options.agents[0], options.settings, options.earlier_steps)
        print("row " + json.dumps(row))
        return
    print(f"{'case':15} {'agents':>6} {'decode ms/step':>15} {'learn ms/step':>14} ", end="")
    print(f"{'of MAT':>7} {'us/agent':>9} {'peak GiB':>9}   ", end="")
    print("(learn: forward and backward of one step, one epoch)")
    learn: dict[tuple[str, int], float] = {}
    for case in options.cases:
        for agents in options.agents:
            command = [sys.executable, __file__, "--row", "--agents", str(agents)]
            command += ["--cases", case, "--settings", json.dumps(options.settings)]
            command += ["--earlier-steps", str(options.earlier_steps)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            lines = [line for line in done.stdout.splitlines() if line.startswith("row ")]
            row = json.loads(lines[-1][4:])
            per_agent = (row["decode"] + EPOCHS * row["learn"]) / agents * 1e6
            learn[case, agents] = row["learn"]
            algorithm = case.partition("-")[0]
            of_mat = learn.get((case.replace(algorithm, "MAT"), agents), math.nan)
            print(
                f"{case:15} {agents:6} {row['decode'] * 1e3:15.1f} {row['learn'] * 1e3:14.1f} "
                f"{row['learn'] / of_mat:7.1f} {per_agent:9.0f} {row['peak_gib']:9.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
