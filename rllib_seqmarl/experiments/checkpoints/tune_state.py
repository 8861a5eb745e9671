"""What is read and changed in the state that Ray Tune keeps of an experiment, before a resume.

A state file holds, under ``trial_data``, a pair of JSON texts of every trial: its settings and
status, and its last result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.checkpoints.content import Damage, read_json
from rllib_seqmarl.experiments.checkpoints.find import in_trial, iteration
from rllib_seqmarl.experiments.spec.metrics import flatten
from rllib_seqmarl.files import replace

#: What Ray Tune means to do with a trial once its checkpoint is written. It keeps this in its
#: state, and would stop a trial whose checkpoint could not be written right after the next one.
_DECISIONS = ("_cached_trial_decisions", "_queued_trial_decisions")

_FINISHED, _FAILED, _WAITING = "TERMINATED", "ERROR", "PENDING"


def trial_ids(state: Path) -> list[str] | None:
    """The ids of the trials in a state file, None if it is damaged."""
    try:
        content = read_json(state)
        pairs = [tuple(map(json.loads, pair)) for pair in content["trial_data"]]
        sound = isinstance(content.get("runner_data", {}), dict) and all(
            isinstance(trial["trial_id"], str)
            and isinstance(trial["status"], str)
            and isinstance(trial.get("relative_logdir", ""), str)
            and isinstance(trial.get("stopping_criterion") or {}, dict)
            and isinstance(results.get("last_result") or {}, dict)
            for trial, results in pairs
        )
        return [trial["trial_id"] for trial, _ in pairs] if sound else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def forget_decisions(state: Path) -> None:
    """Forgets what Tune meant to do with a trial after its checkpoint."""
    content = json.loads(state.read_text(encoding="utf-8"))
    decided = content.get("runner_data", {})
    if any(decided.get(key) for key in _DECISIONS):
        decided.update({key: {} for key in _DECISIONS})
        replace(state, json.dumps(content).encode())


def set_stop(state: Path, stop: Mapping[str, float]) -> list[str]:
    """Lets every trial stop at other values than it was started with.

    A trial that had come to its end goes on where it has not come to the new one, and one that has
    reached the new end is finished. A trial that a scheduler ended stays as it is.

    Args:
        state: the state file, in the experiment's folder.
        stop: flat metric name -> value.

    Returns:
        What has changed, a line each; none where nothing has.

    Raises:
        UserError: a finished trial would have to go on and has no checkpoint.
    """
    content = json.loads(state.read_text(encoding="utf-8"))
    lines: list[str] = []
    for pair in content["trial_data"]:
        trial, last = json.loads(pair[0]), flatten(json.loads(pair[1]).get("last_result") or {})
        before = trial.get("stopping_criterion") or {}
        if before == stop:
            continue
        if not lines:
            lines.append(f"trials stop at {_text(stop)} (before: {_text(before)}).")
        trial["stopping_criterion"] = dict(stop)
        if _met(stop, last) and trial["status"] not in (_FINISHED, _FAILED):
            # Otherwise it trains on from its last checkpoint to that end, and writes another one.
            if _is_saved(state.parent / trial["relative_logdir"], last):
                trial["status"] = _FINISHED
                lines.append(f"trial {trial['trial_id']} has come to that end.")
        elif not _met(stop, last) and _met(before, last) and trial["status"] == _FINISHED:
            if not in_trial(state.parent / trial["relative_logdir"]):
                raise UserError(
                    f"trial {trial['trial_id']} has come to its end and left no checkpoint to go "
                    "on from: leave 'stop' as it was, or start a new experiment with "
                    "--experiment-name NAME."
                )
            trial["status"] = _WAITING
        pair[0] = json.dumps(trial)
    if lines:
        replace(state, json.dumps(content).encode())
    return lines


def _is_saved(folder: Path, last: Mapping[str, Any]) -> bool:
    """Whether a trial's newest checkpoint is of its last result."""
    there = in_trial(folder)
    try:
        return bool(there) and iteration(there[0]) == last.get("training_iteration")
    except Damage:  # which is passed over, and said, when the trial goes on
        return False


def _text(stop: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in stop.items()) or "nothing"


def _met(stop: Mapping[str, float], result: Mapping[str, Any]) -> bool:
    """Whether any of the values has been reached, by Tune's rule."""
    known = {name: result[name] for name in stop if isinstance(result.get(name), int | float)}
    return any(value >= stop[name] for name, value in known.items())
