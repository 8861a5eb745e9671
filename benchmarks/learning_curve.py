"""One training of a tuned example in this process, and its greedy evaluations as JSON.

    python benchmarks/learning_curve.py tuned_examples/srsv_smac.yaml --env-steps 400000 \\
        --settings '{"value_loss_agents": 2}' --seed 1 --out curve.json

The file is written again after every evaluation, so a run that is cut short leaves what it has. It
holds the command, the environment steps, the seconds by the clock and of the processor, and every
number that the evaluation reports.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import ray
import torch

from rllib_seqmarl import registry
from rllib_seqmarl.experiments.spec.experiment import Overrides, load_file


def algorithm_of(options: argparse.Namespace) -> Any:
    """The algorithm of the example, without runners in other processes."""
    (spec,) = load_file(options.example, Overrides())
    settings = {**spec.config, "num_env_runners": 0, "seed": options.seed, **options.settings}
    config = registry.config_class(spec.run)()
    config.environment(settings.pop("env"), env_config=settings.pop("env_config", {}))
    config.update_from_dict(settings)
    return config.build_algo()


def metrics_of(evaluation: dict[str, Any]) -> dict[str, float]:
    """What an evaluation says of its episodes: returns, lengths and the environment's metrics."""
    counts = ("num_", "env_", "sample", "weights_")
    return {
        name: round(float(value), 4)
        for name, value in sorted(evaluation["env_runners"].items())
        if not isinstance(value, dict) and not name.startswith(counts)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("example", help="a file of tuned_examples")
    parser.add_argument("--env-steps", type=int, required=True, help="when the run ends")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON, of the config")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR")
    algorithm = algorithm_of(options)
    begin, processor = time.perf_counter(), time.process_time()
    curve: list[dict[str, float]] = []
    steps = 0
    if not algorithm.config.evaluation_interval:
        parser.error(f"{options.example} evaluates never: add evaluation_interval to --settings.")
    while steps < options.env_steps:
        result = algorithm.train()
        steps = int(result["env_runners"]["num_env_steps_sampled_lifetime"])
        # RLlib reports an evaluation again until the next one.
        if result["training_iteration"] % algorithm.config.evaluation_interval == 0:
            curve.append({"env_steps": steps, **metrics_of(result["evaluation"])})
        run = {
            "command": shlex.join(["python", *sys.argv]),
            "seed": options.seed,
            "settings": options.settings,
            "env_steps": steps,
            "seconds": round(time.perf_counter() - begin, 1),
            "cpu_seconds": round(time.process_time() - processor, 1),
            "evaluations": curve,
        }
        options.out.write_text(json.dumps(run, indent=1) + "\n")
        exploring = result["env_runners"].get("episode_return_mean", math.nan)
        print(f"{steps:9,} steps, {run['cpu_seconds']:7.1f} s, return {exploring:.3f}", flush=True)
    algorithm.stop()


if __name__ == "__main__":
    main()
