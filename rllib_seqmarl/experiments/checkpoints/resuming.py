"""What ``--resume`` may change in a trial, and the checkpoint that the trial goes on from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ray.tune import Checkpoint
from ray.tune.experiment import Trial

from rllib_seqmarl import _ray_compat
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.checkpoints import find as checkpoints
from rllib_seqmarl.experiments.checkpoints.content import results
from rllib_seqmarl.experiments.checkpoints.score import SCORE

#: Of these depends how much an iteration learns from.
_BATCH = {"num_env_runners", "num_envs_per_env_runner"}


def note(name: str, moved: Mapping[str, tuple[Any, Any]]) -> str:
    """The line that tells which settings have changed since an experiment started."""
    changes = ", ".join(
        f"{key} is {_text(now)} (was {_text(before)})" for key, (before, now) in moved.items()
    )
    line = f"note: {name}: {changes}."
    if _BATCH & set(moved):
        line += (
            " An iteration learns from rollout_fragment_length x num_envs_per_env_runner x "
            "max(1, num_env_runners) steps, so that this number changes, too. New episodes start."
        )
    return line


def _text(value: object) -> str:
    return "the default" if value is None else str(value)


def move(trial: Trial, config: Mapping[str, Any], moved: Iterable[str]) -> None:
    """Gives a waiting trial the settings of ``config`` that are named in ``moved``."""
    moved = set(moved)
    if not moved:
        return
    kept = {key: value for key, value in trial.config.items() if key not in moved}
    trial.set_config(kept | {key: config[key] for key in moved & set(config)})
    trial.create_placement_group_factory()


def choose_checkpoint(trial: Trial) -> list[str]:
    """Lets a trial go on from the latest sound checkpoint in its local folder.

    Ray Tune takes the latest of which its state knows. A kill can leave a state that is older than
    the checkpoints, and a power cut files that are cut short.

    Returns:
        A line on each checkpoint that is passed over, and one on the checkpoint that is taken;
        none if it is the latest, and the one that Ray Tune takes.

    Raises:
        UserError: of the trial's checkpoints none is sound.
    """
    folder = Path(trial.storage.trial_fs_path)
    there = checkpoints.in_trial(folder)
    result = trial.run_metadata.checkpoint_manager.latest_checkpoint_result
    latest = None if result is None else Path(result.checkpoint.path)
    # Population based training lets a trial go on from the checkpoint of another one.
    if not there or (latest is not None and latest.parent != folder):
        return []
    # New ones get new numbers: files of two checkpoints must not mix.
    newest = int(there[0].name.rpartition("_")[2])
    trial.storage.current_checkpoint_index = max(trial.storage.current_checkpoint_index, newest)
    trial.invalidate_json_state()
    lines = []
    for path in there:
        problem = checkpoints.problem(path)
        if problem is not None:
            lines.append(f"note: {problem}")
            continue
        _take(trial, path)
        if latest != path or lines:
            lines.append(f"note: {trial} goes on from {path}.")
        return lines
    if latest is not None:
        raise UserError(
            f"{trial} has no sound checkpoint to go on from: {lines[0].removeprefix('note: ')} "
            "Start a new experiment under another name with --experiment-name NAME."
        )
    return lines  # none had been finished: the trial starts from its beginning


def _take(trial: Trial, path: Path) -> None:
    """Makes a checkpoint the latest of a trial; what is newer, or gone, is forgotten."""
    metadata = trial.run_metadata
    manager = metadata.checkpoint_manager
    known = [*manager.best_checkpoint_results, manager.latest_checkpoint_result]
    by_path = {Path(result.checkpoint.path): result for result in known if result is not None}
    if path not in by_path:
        checkpoint = Checkpoint(str(path), filesystem=trial.storage.storage_filesystem)
        by_path[path] = _ray_compat.checkpoint_result(checkpoint, _result_at(path))
    metadata.checkpoint_manager = type(manager)(manager.checkpoint_config)
    for kept in sorted(by_path):
        if kept <= path and kept.exists():
            metadata.checkpoint_manager.register_checkpoint(by_path[kept])
    metadata.invalidate_cache()


def _result_at(path: Path) -> dict[str, Any]:
    """What a trial had reported when a checkpoint was written, as far as Ray Tune had noted it."""
    found: dict[str, Any] = {SCORE: math.nan}  # Ray Tune ranks a missing score above all others
    iteration = checkpoints.iteration(path)
    if iteration is None:
        return found
    for result in results(path.parent):  # which are written later than checkpoints
        if result["training_iteration"] <= iteration:
            found |= result
    return found | {"training_iteration": iteration}
