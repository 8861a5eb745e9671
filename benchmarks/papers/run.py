"""Runs a comparison of a paper: every algorithm of a folder beside this file, with several seeds.

    python benchmarks/papers/run.py smax_3s5z
    rllib compare benchmarks/papers/results/smax_3s5z --out /tmp/smax_3s5z --threshold 1

As many runs at a time as there are cores, seed by seed. The same command goes on where it was cut
off: finished runs are left alone, others are resumed from their last checkpoint. The folders of Ray
are in ``--out``. What is kept of a finished run goes to
``benchmarks/papers/results/ROW/ALGORITHM_seedN``: ``result.json`` with the iterations that were
evaluated, ``params.json``, and ``run.json`` with command, seed, commit, env steps and seconds.
Where the row's folder holds an ``evaluate.json``, every last checkpoint plays episodes of the
environments that it names, for example with more agents; ``evaluations.json`` keeps the means.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RLLIB = Path(sys.executable).with_name("rllib")
STEPS = "num_env_steps_sampled_lifetime"
#: What is kept of a line of ``result.json``.
KEPT = (
    "algorithm", "training_iteration", STEPS, "time_total_s",
    "cpu_time_total_s", "trial_id", "date", "done",
)  # fmt: skip
#: What is not kept of the metrics of episodes.
DROPPED = ("agent_", "module_", "num_agent_steps", "num_module_steps", "sample", "weights", "env_")


def train(file: Path, seed: int, out: Path, results: Path) -> None:
    """One run, unless it is finished, and what is kept of it."""
    name = f"{file.stem}_seed{seed}"
    kept = results / name
    environments = file.parent / "evaluate.json"
    evaluated = not environments.exists() or (kept / "evaluations.json").exists()
    if evaluated and (kept / "run.json").exists():
        print(f"{name}: finished before", flush=True)
        return
    command = [
        *("rllib", "train", "file", str(file.relative_to(ROOT)), "--seed", str(seed)),
        *("--experiment-name", name, "--ray-num-cpus", "1", "--resume-or-start"),
    ]
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"{name}.log").open("a") as log:
        code = subprocess.run(
            [RLLIB, *command[1:], "--storage-path", str(out)],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if code:
        print(f"{name}: ended with {code}, see {out / name}.log", flush=True)
        return
    (trial,) = (path.parent for path in (out / name).glob("*/result.json"))
    keep(trial, kept, shlex.join(command), seed)
    try:
        if not evaluated:
            evaluate(trial, kept, json.loads(environments.read_text()))
    except subprocess.CalledProcessError as error:
        print(f"{name}: trained, but not evaluated: {error}", flush=True)
        return
    print(f"{name}: finished", flush=True)


def evaluate(trial: Path, kept: Path, environments: list[dict[str, Any]]) -> None:
    """Episodes of a trial's last checkpoint in other environments.

    Args:
        trial: its folder.
        kept: where ``evaluations.json`` is written.
        environments: of each the ``env_config`` and the number of ``episodes``.

    Raises:
        subprocess.CalledProcessError: an evaluation failed.
    """
    evaluations = []
    for asked in environments:
        options = ["--seed", "100", "--env-config", json.dumps(asked["env_config"])]
        options += ["--episodes", str(asked["episodes"]), "--scripted-policies", "none"]
        file = trial.parent / "evaluation.json"
        subprocess.run(
            [RLLIB, "evaluate", str(trial), *options, "--out", str(file)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        metrics = compact({"env_runners": json.loads(file.read_text())["metrics"]})["env_runners"]
        command = shlex.join(["rllib", "evaluate", "CHECKPOINT", *options])
        evaluations.append({"command": command, **asked, "metrics": metrics})
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "evaluations.json").write_text(json.dumps(evaluations, indent=1) + "\n")


def keep(trial: Path, kept: Path, command: str, seed: int) -> None:
    """Copies the small part of a trial's folder."""
    results = list(lines_of(trial / "result.json"))
    interval = results[-1]["config"]["evaluation_interval"]
    lines = [
        compact(result)
        for result in results
        if result["training_iteration"] % interval == 0 or result is results[-1]
    ]
    lines[0]["config"] = results[-1]["config"]
    kept.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (kept / "result.json").write_text(text)
    shutil.copy(trial / "params.json", kept)
    git = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(git, cwd=HERE, capture_output=True, text=True, check=False)
    facts = {"command": command, "seed": seed, "commit": commit.stdout.strip()}
    facts |= {name: lines[-1][name] for name in (STEPS, "time_total_s", "cpu_time_total_s")}
    (kept / "run.json").write_text(json.dumps(facts, indent=1) + "\n")


def lines_of(file: Path) -> Iterator[dict[str, Any]]:
    """The results, without lines that a kill has cut short."""
    for line in file.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


def compact(result: dict[str, Any]) -> dict[str, Any]:
    """A line of ``result.json`` with what is compared, in the same places."""

    def metrics(of: dict[str, Any]) -> dict[str, Any]:
        return {
            name: round(value, 5) if isinstance(value, float) else value
            for name, value in of.items()
            if not name.startswith(DROPPED) and isinstance(value, int | float)
        }

    line = {name: result[name] for name in KEPT if name in result}
    line["env_runners"] = metrics(result["env_runners"])
    if "evaluation" in result:
        line["evaluation"] = {"env_runners": metrics(result["evaluation"]["env_runners"])}
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    rows = sorted(path.name for path in HERE.iterdir() if list(path.glob("*.yaml")))
    parser.add_argument("row", choices=rows)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="of the row's files; default: all"
    )
    parser.add_argument("--out", type=Path, default=Path.home() / "ray_results" / "papers")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--at-a-time", type=int, default=os.cpu_count())
    options = parser.parse_args()
    out, results = options.out / options.row, options.results / options.row
    files = {file.stem: file for file in sorted((HERE / options.row).glob("*.yaml"))}
    if unknown := set(options.only or ()) - set(files):
        parser.error(
            f"--only: no {', '.join(sorted(unknown))} in {options.row}: {', '.join(files)}"
        )
    with ThreadPoolExecutor(options.at_a_time) as pool:
        runs = [
            pool.submit(train, file, seed, out.resolve(), results)
            for seed in options.seeds
            for name, file in files.items()
            if not options.only or name in options.only
        ]
    for run in runs:
        run.result()


if __name__ == "__main__":
    main()
