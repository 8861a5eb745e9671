"""How long an iteration and its gradient steps take: of settings, and of checkouts, in turn.

    python benchmarks/update_time.py --variants '{"matmul": "blas"}' '{"matmul": "onednn"}'
    python benchmarks/update_time.py --algorithm SrSv --against ../rllib-seqmarl-before
    python benchmarks/update_time.py --variants '{"run": "MAT"}' '{"run": "SrSv"}'
    python benchmarks/update_time.py --profile        # where the time of an update goes

Each variant is a process of its own with its own training. They run one iteration each, in turn,
round after round, so that what else the machine does meets all of them; their shortest seconds are
compared. Sampling is the environments and the policy, update everything between a rollout and
the new weights. ``--against`` adds this script's settings run with the package of another checkout.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def build(arguments: argparse.Namespace, settings: dict[str, Any]) -> Any:
    """The algorithm, after the iteration that compiles the environments."""
    import ray
    import torch

    from rllib_seqmarl import registry

    torch.set_num_threads(1)
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    settings = {"run": arguments.algorithm, **settings}
    config = registry.config_class(settings.pop("run"))()
    config.environment(arguments.env, env_config=json.loads(arguments.env_config))
    sizes = {
        "num_envs_per_env_runner": arguments.envs,
        "rollout_fragment_length": arguments.steps,
        "num_epochs": arguments.epochs,
        "seed": 0,
    }
    config.update_from_dict({**sizes, **settings})
    algorithm = config.build_algo()
    algorithm.train()
    return algorithm


def serve(arguments: argparse.Namespace) -> None:
    """Runs an iteration for every line of the standard input and prints its seconds."""
    algorithm = build(arguments, json.loads(arguments.variants[0]))
    print("ready", flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        result = algorithm.train()
        seconds = {"iteration": time.perf_counter() - begin}
        parts = result["time_split"]
        seconds["update"] = float(parts["forward_backward"]) + float(parts["learning_other"])
        seconds["environment"] = float(parts["environment"])
        seconds["decode"] = float(parts["decode"])
        print(json.dumps(seconds), flush=True)


def profile(arguments: argparse.Namespace) -> None:
    """Prints the operators of an iteration by their own processor time."""
    import torch

    algorithm = build(arguments, json.loads(arguments.variants[0]))
    rollouts, _ = algorithm._sample()
    with torch.profiler.profile(record_shapes=arguments.shapes) as found:
        algorithm.learner_group.update(
            batches=[rollouts], timesteps={"num_env_steps_sampled_lifetime": 0}
        )
    table = found.key_averages(group_by_input_shape=arguments.shapes)
    print(table.table(sort_by="self_cpu_time_total", row_limit=40, max_name_column_width=50))


class Worker:
    """A process that trains with one variant."""

    def __init__(self, name: str, checkout: Path, settings: str) -> None:
        self.name = name
        self.rounds: list[dict[str, float]] = []
        command = [sys.executable, "-P", str(Path(__file__).resolve()), *sys.argv[1:]]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        self.process = subprocess.Popen(
            [*command, "--serve", "--variants", settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def read(self) -> str:
        """The next line that the process says of itself, past what others print there."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(("ready", "{")):
                return line
        raise SystemExit(f"{self.name}: its process ended; see its message above.")

    def iterate(self) -> None:
        """One iteration."""
        assert self.process.stdin is not None
        print("next", file=self.process.stdin, flush=True)
        self.rounds.append(json.loads(self.read()))

    def shortest(self, part: str) -> float:
        """Seconds of a part of the iteration."""
        return min(one[part] for one in self.rounds)

    def stop(self) -> None:
        """Lets the process end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(arguments: argparse.Namespace) -> None:
    """Trains all variants in turn and prints their times beside the first one's."""
    workers = []
    if arguments.against is not None:
        workers.append(Worker("before", arguments.against.resolve(), "{}"))
        workers[0].read()
    for settings in arguments.variants:
        workers.append(Worker(settings, ROOT, settings))
        workers[-1].read()
    for _ in range(arguments.rounds):
        for worker in workers:
            worker.iterate()
    for worker in workers:
        worker.stop()
    parts = ("iteration", "update", "decode", "environment")
    env_steps = arguments.envs * arguments.steps
    print(
        f"{arguments.algorithm}, {arguments.envs} envs x {arguments.steps} steps, "
        f"{arguments.epochs} epochs; seconds (times the first one's speed)"
    )
    for worker in workers:
        cells = []
        for part in parts:
            seconds = worker.shortest(part)
            cells.append(f"{part} {seconds:.3f} ({workers[0].shortest(part) / seconds:.2f})")
        speed = env_steps / worker.shortest("iteration")
        print(f"{worker.name:24} {speed:,.0f} steps/s  {'  '.join(cells)}")


def main() -> None:
    """Reads the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--algorithm", default="MAT")
    parser.add_argument("--env", default="smac")
    parser.add_argument("--env-config", default='{"map_name": "3s5z"}')
    parser.add_argument("--envs", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100, help="of each env per iteration")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--variants", nargs="+", default=["{}"], help="settings, as JSON")
    parser.add_argument("--against", type=Path, help="another checkout, which comes first")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--shapes", action="store_true", help="in the profile")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments)
    elif arguments.profile:
        profile(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
