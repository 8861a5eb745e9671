"""The runs in folders of results: what they measured, and what sets them apart."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl import registry
from rllib_seqmarl.envs.core.contract import METRIC_NAMES
from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.experiments.checkpoints.content import Damage, read_json
from rllib_seqmarl.experiments.checkpoints.find import is_checkpoint
from rllib_seqmarl.experiments.checkpoints.storage import WORKPLACE
from rllib_seqmarl.experiments.spec.metrics import OLD_NAMES, flatten
from rllib_seqmarl.files import user_path

Array = NDArray[np.float64]

RESULTS = "result.json"
ENV_STEPS = "num_env_steps_sampled_lifetime"
WALL_TIME, CPU_TIME = "time_total_s", "cpu_time_total_s"
ITERATION = "training_iteration"

#: What is compared where nothing else is asked for: the first that all runs have.
DEFAULT_METRICS = (
    "evaluation/env_runners/win_rate",
    "env_runners/win_rate",
    "env_runners/episode_return_mean",
)

#: The setting that names a scenario; it always stands beside the environment's name.
_MAP = "env_config/map_name"

#: Whether our own environments give their state, which a critic reads: the game is the same.
_STATE = "env_config/state"


@dataclass(frozen=True)
class Curve:
    """A metric of one run where it was reported, each array [P].

    Attributes:
        steps: environment steps.
        values: of the metric, finite.
        wall: seconds of training until then.
        cpu: CPU seconds until then, NaN in results of older versions.
    """

    steps: Array
    values: Array
    wall: Array
    cpu: Array


@dataclass(frozen=True)
class Run:
    """A trial's results.

    Attributes:
        path: the trial's folder.
        algorithm: its name.
        env: the environment's name.
        config: settings, nested names joined by ``/``.
        rows: the numbers of each iteration, named likewise, in the order of iterations.
    """

    path: Path
    algorithm: str
    env: str
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, float]]

    @property
    def metrics(self) -> set[str]:
        """Names of what the run has reported a finite number of."""
        return {name for row in self.rows for name, x in row.items() if math.isfinite(x)}

    def column(self, name: str) -> Array:
        """A metric in every row, NaN where it is missing."""
        return np.array([row.get(name, math.nan) for row in self.rows])

    def curve(self, metric: str) -> Curve:
        """A metric that the run has."""
        values = self.column(metric)
        there = np.isfinite(values)
        steps, wall, cpu = (self.column(name)[there] for name in (ENV_STEPS, WALL_TIME, CPU_TIME))
        return Curve(steps, values[there], wall, cpu)


def trial_folders(path: str) -> list[Path]:
    """The trials that a path means: itself, or all below it; that of a checkpoint.

    Raises:
        UserError: there is none.
    """
    folder = user_path(path).absolute()
    if not folder.exists():
        raise UserError(f"no such folder: {path}")
    if not folder.is_dir() and folder.name != RESULTS:
        raise UserError(f"{path} is a file; give the folder of a trial or of an experiment.")
    if not folder.is_dir() or is_checkpoint(folder):
        folder = folder.parent
    here = folder / RESULTS
    found = [here] if here.exists() else sorted(folder.rglob(RESULTS))
    if not found:
        raise UserError(f"{path} holds no results: there is no {RESULTS} in it or below it.")
    return [file.parent for file in found]


def read_all(paths: Iterable[str], say: Callable[[str], None]) -> list[Run]:
    """The runs in folders, each once.

    Args:
        paths: of trials, of experiments, or of what holds experiments.
        say: told what is left out.

    Raises:
        UserError: there are no results.
    """
    folders = {folder.resolve(): folder for path in paths for folder in trial_folders(path)}
    runs = [run for folder in folders.values() if (run := read(folder, say)) is not None]
    if not runs:
        raise UserError(f"no results yet in {next(iter(folders.values()))}.")
    return runs


def read(folder: Path, say: Callable[[str], None]) -> Run | None:
    """The results of a trial, None if there are none yet.

    A trial that went on from a checkpoint repeats iterations: what was there from that iteration on
    has been trained again and is left out.

    Raises:
        UserError: the file cannot be read.
    """
    rows: list[dict[str, float]] = []
    config: dict[str, Any] = {}
    algorithm = ""
    unreadable = 0
    try:
        lines = (folder / RESULTS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"cannot read {folder / RESULTS}: {error.strerror or error}.") from None
    for number, line in enumerate(lines, 1):
        try:
            result = json.loads(line)
        except (ValueError, RecursionError):
            # The last line may be about to be written, or a kill has cut it short.
            unreadable += number < len(lines)
            continue
        if not _is_result(result):
            unreadable += 1
            continue
        iteration = result[ITERATION]
        config = result.pop("config", config)
        algorithm = result.get("algorithm", algorithm)
        while rows and rows[-1][ITERATION] >= iteration:
            rows.pop()
        repeats = _repeats_an_evaluation(iteration, config)
        rows.append(
            {
                name: float(x)
                for name, x in flatten(result).items()
                if isinstance(x, int | float) and not (repeats and name.startswith("evaluation/"))
            }
        )
    if unreadable:
        say(f"{folder / RESULTS}: lines that cannot be read and are left out: {unreadable}.")
    if not rows:
        say(f"{folder} has no results yet and is left out.")
        return None
    name = algorithm or _algorithm_by_folder(folder)
    return Run(folder, name, str(config.get("env")), flatten(config), rows)


def _is_result(value: object) -> bool:
    """Whether a line of results has what is read of each."""
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(name), int | float) for name in (ITERATION, ENV_STEPS))
        and isinstance(value.get("config", {}), dict)
        and isinstance(value.get("algorithm", ""), str)
    )


def _repeats_an_evaluation(iteration: float, config: Mapping[str, Any]) -> bool:
    """Between two evaluations results repeat the last one, which is no new point of a curve.

    RLlib counts its steps and episodes in another way then, so they do not tell which are repeated.
    """
    interval = config.get("evaluation_interval")
    return isinstance(interval, int) and interval > 0 and iteration % interval != 0


def _algorithm_by_folder(folder: Path) -> str:
    """The algorithm of results that do not name it, as those of older versions."""
    try:
        return str(read_json(folder.parent / "experiment.json")["algorithm"])
    except (Damage, KeyError):
        return folder.name.partition("_")[0]  # Ray Tune's: ALGORITHM_ENVIRONMENT_ID_...


# --- what is compared ---------------------------------------------------------------------------


def choose_metric(runs: Sequence[Run], given: str | None) -> str:
    """The metric to compare: that which is given, else the first of `DEFAULT_METRICS`.

    Args:
        runs: to be compared.
        given: its name, ``env_runners/`` may be left out.

    Raises:
        UserError: a run has not reported it.
    """
    metrics = {run.path: run.metrics for run in runs}
    everywhere = set.intersection(*metrics.values())
    if given is None:
        found = [name for name in DEFAULT_METRICS if name in everywhere]
        if not found:
            raise UserError(
                f"the runs have none of {', '.join(DEFAULT_METRICS)} in common; name one of their "
                "metrics with --metric NAME."
            )
        return found[0]
    anywhere = set.union(*metrics.values())
    last = given.rpartition("/")[2]
    today = given.removesuffix(last) + METRIC_NAMES.get(last, last)
    names = (given, OLD_NAMES.get(given, given), today, f"env_runners/{today}")
    name = next((name for name in names if name in anywhere), None)
    if name is None:
        raise UserError(f"--metric: no run has reported {given!r}. {nearest(given, anywhere)}")
    lacking = [run.path for run in runs if name not in metrics[run.path]]
    if lacking:
        others = [metric for metric in DEFAULT_METRICS if metric in everywhere]
        advice = f"compare by --metric {others[0]}, or " if others else ""
        raise UserError(
            f"--metric: {len(lacking)} of {len(runs)} runs have not reported {name!r}, e.g. "
            f"{lacking[0]}; {advice}leave them out."
        )
    return name


def group_labels(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """What the group of each run is called.

    Args:
        runs: to be compared.
        keys: what makes a group: ``algorithm``, ``env``, ``config/SETTING``. The environments are
            apart in any case, because their values cannot be averaged.

    Raises:
        UserError: a key that no run has.
    """
    settings = {f"config/{name}" for run in runs for name in run.config}
    for key in keys:
        if key not in {"algorithm", "env"} | settings:
            whole = f"config/{key}"
            hint = f"Did you mean {whole!r}?" if whole in settings else ""
            hint = hint or nearest(key, {"algorithm", "env"} | settings)
            raise UserError(f"--group: no run has {key!r}. {hint}")
    return [_group_label(run, keys) for run in runs]


def _group_label(run: Run, keys: Sequence[str]) -> str:
    parts = []
    for key in keys:
        name = key.removeprefix("config/")
        if key == "algorithm":
            parts.append(run.algorithm)
        elif key != "env" and name in run.config:
            parts.append(f"{name.rpartition('/')[2]}={_text(run.config[name])}")
    return ", ".join(parts) or "all runs"


def environment_labels(runs: Sequence[Run], keys: Collection[str]) -> list[str]:
    """What the environment of each run is called: its name, its map, and settings that differ.

    Args:
        runs: to be compared.
        keys: settings by which runs are grouped, which do not make another environment.
    """
    labels = []
    for run in runs:
        same = [other for other in runs if other.env == run.env]
        parts = [f"{run.env} {run.config[_MAP]}" if _MAP in run.config else run.env]
        for name, value in sorted(run.config.items()):
            if not name.startswith("env_config/") or name == _MAP or f"config/{name}" in keys:
                continue
            if name == _STATE and run.env in registry.ENVIRONMENTS:
                continue
            # A run that leaves a setting out may have another one than those that write it.
            if len({_text(o.config[name]) if name in o.config else None for o in same}) > 1:
                parts.append(f"{name.removeprefix('env_config/')}={_text(value)}")
        labels.append(", ".join(parts))
    return labels


def differences(runs: Sequence[Run]) -> list[str]:
    """Settings in which runs differ beside the seed, and beside where the work is done."""
    common = set.intersection(*({*run.config} for run in runs)) - WORKPLACE - {"seed"}
    return sorted(
        name
        for name in common
        if not name.startswith("_")
        # Python's text of an object has its address.
        and not any(" at 0x" in _text(run.config[name]) for run in runs)
        and len({_text(run.config[name]) for run in runs}) > 1
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
