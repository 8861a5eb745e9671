"""One training of a tuned example in this process, and its greedy evaluations as JSON.

    python benchmarks/learning_curve.py tuned_examples/srsv_smac_5m.yaml --env-steps 400000 \\
        --settings '{"value_loss_agents": 2}' --seed 1 --out curve.json

The file is written again after every iteration, so a run that is cut short leaves what it has. It
holds the command, the environment steps, the seconds by the clock and of the processor, and every
number that the evaluations report. One metric of several such files, of one setting with several
seeds, with its mean and the half width of that mean's 95 % interval (Student's t):

    python benchmarks/learning_curve.py --table win_rate benchmarks/srsv_value_loss/3s5z_two_*.json
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from rllib_seqmarl import registry
from rllib_seqmarl.experiments.spec.experiment import Overrides, load_file

#: Number of runs -> 97.5 % quantile of Student's t for their mean.
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}


def algorithm_of(options: argparse.Namespace) -> Any:
    """The algorithm of the example, without runners in other processes."""
    (spec,) = load_file(options.files[0], Overrides())
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


def table(metric: str, files: Sequence[str]) -> None:
    """Prints a metric by environment steps: of each run, their mean, its 95 % half width."""
    runs = [json.loads(Path(file).read_text()) for file in files]
    curves = [{e["env_steps"]: e[metric] for e in run["evaluations"]} for run in runs]
    print("env_steps", *(f"seed {run['seed']}" for run in runs), "mean", "half width", sep=",")
    for steps in sorted(set().union(*curves)):
        values = [curve[steps] for curve in curves if steps in curve]
        mean, width = statistics.fmean(values), math.nan
        if len(values) > 1:
            width = STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
        cells = [f"{curve[steps]:.2f}" if steps in curve else "" for curve in curves]
        print(steps, *cells, f"{mean:.2f}", f"{width:.2f}", sep=",")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="a file of tuned_examples, or what --out wrote")
    parser.add_argument("--table", metavar="METRIC", help="of files that --out wrote")
    parser.add_argument("--env-steps", type=int, help="when the run ends")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON, of the config")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    options = parser.parse_args()
    if options.table:
        table(options.table, options.files)
        return
    if len(options.files) > 1 or options.env_steps is None or options.out is None:
        parser.error("a training takes one example, --env-steps and --out")
    torch.set_num_threads(1)
    ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR")
    algorithm = algorithm_of(options)
    begin, processor = time.perf_counter(), time.process_time()
    curve: list[dict[str, float]] = []
    steps = 0
    if not algorithm.config.evaluation_interval:
        parser.error(f"{options.files[0]} evaluates never: add evaluation_interval to --settings.")
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
