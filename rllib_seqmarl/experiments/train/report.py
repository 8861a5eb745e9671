"""What stands on the screen when training has ended."""

from __future__ import annotations

import math
import pickle
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from pyarrow.fs import LocalFileSystem
from ray.tune.experiment import Trial
from ray.tune.result import TRAINING_ITERATION

from rllib_seqmarl.errors import why_not_loaded
from rllib_seqmarl.experiments.checkpoints import find as checkpoints
from rllib_seqmarl.experiments.spec.experiment import ExperimentSpec
from rllib_seqmarl.experiments.spec.metrics import Metrics, flatten
from rllib_seqmarl.experiments.train.shutdown import missing_metric

_ERROR_LINE = re.compile(r"^\s*(?:[\w.]+\.)?(\w+(?:Error|Exception|Interrupt|Exit)): (.+)$")


@dataclass
class Outcome:
    """How one experiment ended.

    Attributes:
        trials: all of them.
        out_of_time: its time budget was used up.
    """

    spec: ExperimentSpec
    trials: list[Trial]
    out_of_time: bool = False

    def failed(self) -> dict[Trial, str]:
        """The trials that have not done what they should, and why, in one line each."""
        reasons = {trial: failure(self.spec, trial) for trial in self.trials}
        return {trial: reason for trial, reason in reasons.items() if reason is not None}


def failure(spec: ExperimentSpec, trial: Trial) -> str | None:
    """Why a trial failed, in one line; None if it did not."""
    if trial.status == Trial.ERROR:
        return error_line(trial)
    result = flatten(trial.last_result)
    if trial.status != Trial.TERMINATED or TRAINING_ITERATION not in result:  # or never began
        return None
    missing = missing_metric(spec, trial, result)
    goals = trial.stopping_criterion
    if missing is None or any(result.get(name, -math.inf) >= goals[name] for name in goals):
        return None
    reported = Metrics.of(spec.config, spec.source).known()
    known = ", ".join(name for name in reported if name in result)
    if missing in goals:
        what = f"the stop key {missing!r} is not among the results of this trial, so that it would "
        what += "never end"
    else:
        what = f"the metric {missing!r}, by which trials are compared, is not among its results"
    return f"{what}; it was stopped with a checkpoint. Known there: {known}."


def error_line(trial: Trial) -> str:
    """The last line of the exception that ended a trial; of a user's mistake only the message."""
    try:
        error = trial.get_pickled_error() or trial.get_error()
    except (OSError, EOFError, pickle.UnpicklingError):  # the disk is full
        error = trial.get_error()
    text = [line for line in str(error or "").splitlines() if line.strip()]
    found = [
        (match[1], _whole_message(match[2], text[number:]))
        for number, line in enumerate(text, 1)
        if (match := _ERROR_LINE.match(line))
    ]
    for name, message in found:
        if name == "UserError":
            return message
    if found and found[-1][1].startswith("Unable to set up cluster storage"):
        return (
            "its folder of results is gone: it was deleted while it trained, or its disk was lost."
        )
    if found:
        return ": ".join(found[-1])
    return f"{type(error).__name__}: {' '.join(text[-1].split())}" if text else "no message"


def _whole_message(first: str, following: Iterable[str]) -> str:
    """A message of which torch puts the reason into indented lines below the first."""
    if not first.startswith(("Error(s) in loading state_dict", "Weights only load failed")):
        return first
    return why_not_loaded(
        "\n".join([first, *takewhile(lambda line: line[:1].isspace(), following)])
    )


def _searched_values(spec: ExperimentSpec, trial: Trial) -> dict[str, str]:
    """What was drawn or chosen for a trial, by the last part of its name in the config."""
    values = {name.rpartition("/")[2]: value for name, value in trial.evaluated_params.items()}
    values |= {key: trial.config[key] for key in spec.search.mutated() if key in trial.config}
    return {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in values.items()}


def best_checkpoint(trial: Trial) -> str | None:
    """The path of a trial's best checkpoint by its score attribute, else of its latest.

    One that is damaged or deleted gives way to the newest that can be read; None without any.
    """
    result = trial.run_metadata.checkpoint_manager.best_checkpoint_result
    if result is None or not result.checkpoint:
        return None
    path: str = result.checkpoint.path
    if not isinstance(result.checkpoint.filesystem, LocalFileSystem):
        return path
    if checkpoints.problem(Path(path)) is None:
        return path
    sound = checkpoints.newest_sound(Path(path).parent)
    return None if sound is None else str(sound)


def best_trials(outcome: Outcome) -> tuple[list[Trial], float] | None:
    """The trials whose last metric is the best one, and that metric; None without a comparison."""
    search = outcome.spec.search
    values = {trial: flatten(trial.last_result).get(search.metric) for trial in outcome.trials}
    known = {
        trial: value
        for trial, value in values.items()
        if isinstance(value, int | float) and not math.isnan(value)
    }
    if len(outcome.trials) < 2 or not known:
        return None
    best = (max if search.mode == "max" else min)(known.values())
    return [trial for trial, value in known.items() if value == best], best


def _trials(outcomes: Iterable[Outcome]) -> list[Trial]:
    return [trial for outcome in outcomes for trial in outcome.trials]


def lines(outcomes: Iterable[Outcome], *, stopped_by: str | None, resume: str) -> list[str]:
    """The closing report.

    Args:
        outcomes: of the experiments that ran.
        stopped_by: the signal that ended the run early, or None.
        resume: the command line that goes on.
    """
    outcomes = list(outcomes)
    text: list[str] = [""]
    for outcome in outcomes:
        for trial, reason in outcome.failed().items():
            text.append(f"{trial} failed: {reason}")
            if trial.status == Trial.ERROR:
                text.append(f"  full log: {trial.path}/error.txt")
        if outcome.out_of_time:
            text.append(
                f"{outcome.spec.name}: the time budget of {outcome.spec.time_budget_s:g} s is used "
                f"up. To go on: {resume}"
            )
    failed = sum(len(outcome.failed()) for outcome in outcomes)
    total = sum(len(outcome.trials) for outcome in outcomes)
    if stopped_by:
        text.append(f"Your training was stopped by {stopped_by}.")
    elif failed:
        text.append(f"Your training finished, but {failed} of {total} trials failed.")
    else:
        text.append("Your training finished.")

    paths: list[str] = []
    shown: list[str] = []
    for outcome in outcomes:
        group = {trial: path for trial in outcome.trials if (path := best_checkpoint(trial))}
        best = best_trials(outcome)
        if best is not None:
            (trial, *equal), value = best
            drawn = "".join(f", {k} {v}" for k, v in _searched_values(outcome.spec, trial).items())
            text.append(
                f"Best of {len(outcome.trials)} trials of {outcome.spec.name}: {trial} "
                f"({outcome.spec.search.metric} {value:.4g}{drawn})"
            )
            if equal:
                text.append(f"  a tie: {', '.join(map(str, equal))} reached the same.")
            if trial in group:
                shown.append(group[trial])
        if group and (best is None or best[0][0] not in group):
            shown.append(next(iter(group.values())))
        paths += group.values()
    if paths:
        text.append("Best available checkpoint for each trial:")
        text += [f"  {path}" for path in paths]
        text += ["", "You can now evaluate your trained algorithm from any checkpoint, e.g.:"]
        text += [f"  rllib evaluate {shlex.quote(path)}" for path in shown]
    elif any(t.run_metadata.checkpoint_manager.best_checkpoint_result for t in _trials(outcomes)):
        text.append("No checkpoint can be read: all are damaged or deleted.")
    else:
        text.append("No checkpoint was written.")
    if stopped_by:
        text += ["", f"To {'go on where it stopped' if paths else 'begin again'}:", f"  {resume}"]
    return text
