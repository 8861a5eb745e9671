"""Results of trials on disk: recorded ones, and small ones written by a test."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parents[1] / "data" / "results.tar.xz"
METRIC = "env_runners/episode_return_mean"


def extract(folder: Path) -> Path:
    """The results of MAT and MAPPO on distinct_actions, three seeds each, as trained."""
    with tarfile.open(RECORDED) as archive:
        archive.extractall(folder, filter="data")
    return folder / "results"


def row(iteration: int, value: float | None, **more: Any) -> dict[str, Any]:
    """A result of an iteration of 100 steps, 10 seconds and 20 CPU seconds."""
    metrics = {} if value is None else {"episode_return_mean": value}
    return {
        "training_iteration": iteration,
        "num_env_steps_sampled_lifetime": 100 * iteration,
        "time_total_s": 10.0 * iteration,
        "cpu_time_total_s": 20.0 * iteration,
        "env_runners": metrics,
        **more,
    }


def write_run(
    folder: Path,
    rows: Iterable[Mapping[str, Any] | float | None],
    algorithm: str = "MAT",
    env: str = "mpe",
    **config: Any,
) -> Path:
    """A trial's folder.

    Args:
        folder: the new folder.
        rows: results, or the metric alone (None: without it), for iterations 1, 2, ...
        algorithm: its name.
        env: the environment's name.
        config: the other settings.
    """
    folder.mkdir(parents=True)
    about = {"algorithm": algorithm, "config": {"env": env, **config}}
    results = [
        {**(given if isinstance(given, Mapping) else row(i, given)), **about}
        for i, given in enumerate(rows, 1)
    ]
    text = "".join(json.dumps(result) + "\n" for result in results)
    (folder / "result.json").write_text(text, encoding="utf-8")
    return folder
