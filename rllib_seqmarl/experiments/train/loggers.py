"""Where results are written beside TensorBoard's files."""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ray.air.constants import EXPR_PROGRESS_FILE
from ray.tune.experiment import Trial
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback, LoggerCallback

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.checkpoints.storage import ExperimentFolder
from rllib_seqmarl.experiments.spec.experiment import ExperimentSpec
from rllib_seqmarl.experiments.spec.metrics import flatten
from rllib_seqmarl.experiments.train.ray_session import RunOptions


class Results(JsonLoggerCallback):
    """Ray Tune's ``result.json``, as JSON that every program reads.

    What is no finite number is null there; Tune's own writes NaN and Infinity, which JSON lacks.
    """

    def log_trial_result(self, iteration: int, trial: Trial, result: Mapping[str, Any]) -> None:
        """Adds a line."""
        finite = {key: _finite(value) for key, value in result.items()}
        super().log_trial_result(iteration, trial, finite)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, float | np.floating) and not math.isfinite(value):
        return None
    return value


class ProgressTable(CSVLoggerCallback):
    """Ray Tune's ``progress.csv``, with a column for every metric that was ever reported.

    Tune's own fixes the columns by the first result, so that metrics of an evaluation, which
    come later, are left out; and it ignores the columns that a resumed trial's file has.
    """

    def __init__(self) -> None:
        super().__init__()
        self._columns: dict[str, list[str]] = {}

    def log_trial_result(self, iteration: int, trial: Trial, result: Mapping[str, Any]) -> None:
        """Adds a line, and columns where there are new ones."""
        row = flatten({key: value for key, value in result.items() if key != "config"})
        if trial.trial_id not in self._columns:
            trial.init_local_path()
            self._restore_from_remote(EXPR_PROGRESS_FILE, trial)
        file = Path(trial.local_path, EXPR_PROGRESS_FILE)
        columns = self._columns.get(trial.trial_id, [])
        if row.keys() <= set(columns):
            with file.open("a", newline="", encoding="utf-8") as stream:
                csv.DictWriter(stream, columns).writerow(row)
            return
        before = _rows(file)
        columns = list(dict.fromkeys([*(before[0] if before else ()), *row]))
        new = file.with_name(f"{file.name}.new")
        with new.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows([*before, row])
        os.replace(new, file)
        self._columns[trial.trial_id] = columns

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """Nothing is left open."""


def _rows(file: Path) -> list[dict[str, str]]:
    """The whole lines of a table; a kill may have left half a line behind."""
    if not file.exists():
        return []
    text = file.read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))


def trackers(spec: ExperimentSpec, options: RunOptions, folder: ExperimentFolder) -> list[Any]:
    """Callbacks that send results to Weights & Biases and MLflow, as ``options`` say.

    Args:
        spec: the experiment.
        options: name the project of the one and the experiment of the other.
        folder: where Weights & Biases keeps its files, which are all there is of offline runs.

    Raises:
        UserError: the package is missing, or it cannot be used as it is set up.
    """
    chosen: list[Any] = []
    if options.wandb is not None:
        _check_installed("--wandb", "wandb")
        from ray.air.integrations.wandb import WandbLoggerCallback

        # Settings change in a trial of a population.
        chosen.append(
            WandbLoggerCallback(
                project=options.wandb,
                group=spec.name,
                log_config=spec.search.takes_turns,
                # Beside the trials: their own folders are copied before the last results are in.
                dir=None if folder.path is None else str(folder.path),
            )
        )
        _check_set_up(
            "--wandb", chosen[-1], "run `wandb login`, set WANDB_API_KEY, or WANDB_MODE=offline"
        )
    if options.mlflow is not None:
        _check_installed("--mlflow", "mlflow")
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        chosen.append(
            MLflowLoggerCallback(
                tracking_uri=os.environ.get("MLFLOW_TRACKING_URI"),
                experiment_name=options.mlflow,
                tags={"experiment": spec.name, "algorithm": spec.algorithm},
                # MLflow takes the settings of a run only once.
                log_params_on_trial_end=spec.search.takes_turns,
            )
        )
        _check_set_up("--mlflow", chosen[-1], "set MLFLOW_TRACKING_URI, e.g. sqlite:///mlflow.db")
    return chosen


def _check_installed(option: str, package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"{option}: the package {package} is not installed: python -m pip install {package}"
        )


def _check_set_up(option: str, callback: LoggerCallback, advice: str) -> None:
    try:
        callback.setup()
    except Exception as error:  # whatever these packages raise, it is about how they are set up
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise UserError(f"{option}: {reason.rstrip('.')}. Perhaps {advice}.") from error
