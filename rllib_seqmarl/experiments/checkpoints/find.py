"""Finds and checks checkpoints on disk, without building an algorithm from them."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

from rllib_seqmarl import manifest
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.checkpoints.content import (
    CLASS,
    METADATA,
    MODULE_PATH,
    WEIGHTS,
    Damage,
    needs_code,
    read_class,
    read_json,
    read_metadata,
    read_weights,
    results,
    unpickle,
)
from rllib_seqmarl.files import user_path

#: Name under which results hold the score of the checkpoint of their iteration.
SCORE = "checkpoint_score"

_NUMBERED = re.compile(r"checkpoint_\d+")


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint of an algorithm, complete or not."""
    return (path / METADATA).exists() or (path / CLASS).exists()


def in_trial(path: Path) -> list[Path]:
    """The checkpoints in a trial's folder, the latest first, incomplete ones included."""
    numbered = (folder for folder in path.glob("checkpoint_*") if _NUMBERED.fullmatch(folder.name))
    return sorted((folder for folder in numbered if folder.is_dir()), reverse=True)


def find(path: str, say: Callable[[str], None], *, best: bool = True) -> Path:
    """The checkpoint that a path means: itself, or one of a trial or experiment.

    Args:
        path: of a checkpoint, a trial or an experiment.
        say: told of every damaged checkpoint that is passed over, and of the one that is taken
            where the path is not its own.
        best: of a trial the one with the best score, if the training scored them; otherwise the
            latest.

    Raises:
        UserError: there is none, or there are several trials to choose from.
    """
    folder = user_path(path).absolute()
    if not folder.exists():
        raise UserError(f"no such checkpoint: {path}")
    if is_checkpoint(folder):
        return folder
    if not folder.is_dir():
        raise UserError(f"{path} is not a checkpoint: a checkpoint is a folder.")
    trials = [folder] if in_trial(folder) else [t for t in sorted(folder.iterdir()) if in_trial(t)]
    if len(trials) > 1:
        raise UserError(
            f"{path} holds {len(trials)} trials with checkpoints; name one of them, e.g. "
            f"{trials[-1]}"
        )
    there = in_trial(trials[0]) if trials else []
    scores = _scores(trials[0]) if best and trials else {}
    ranks = {found: _rank(found, scores) for found in there}
    for found in sorted(there, key=ranks.__getitem__):
        problem = verify(found)
        if problem is None:
            scored = ranks[found] < math.inf
            which = "Best checkpoint by its score" if scored else "Latest checkpoint"
            say(f"{which} there: {found}")
            return found
        say(f"note: {problem}")
    raise UserError(
        f"{path} is not a checkpoint and holds none that is sound (a checkpoint is a folder with "
        f"a file {METADATA})."
    )


def _scores(trial: Path) -> dict[int, float]:
    """The scores of a trial's checkpoints by iteration, less is better; empty without scores."""
    try:
        settings = read_json(trial.parent / "experiment.json")
        sign = 1.0 if settings["checkpoint_config"]["score_order"] == "min" else -1.0
    except (Damage, KeyError, TypeError):
        return {}  # started by other means
    scored = (result for result in results(trial) if isinstance(result.get(SCORE), int | float))
    return {result["training_iteration"]: sign * result[SCORE] for result in scored}


def _rank(checkpoint: Path, scores: dict[int, float]) -> float:
    """Less is better; infinite where there is no score."""
    try:
        score = scores.get(iteration(checkpoint) or 0, math.nan) if scores else math.nan
    except Damage:
        return math.inf
    return math.inf if math.isnan(score) else score


def verify(path: Path) -> str | None:
    """Why a checkpoint is not complete, in one line; None if it is. Runs no code of it."""
    try:
        problem = manifest.verify(path) if "manifest" in read_metadata(path) else None
        required = [CLASS, "learner_group", "env_runner/state", "algorithm_state"]
        if (path / MODULE_PATH.parents[1]).exists():
            required += [f"{MODULE_PATH.parents[1]}/state", f"{MODULE_PATH / CLASS}", str(WEIGHTS)]
        for name in required:
            if problem is None and not list(path.glob(f"{name}*")):
                problem = f"{name} is missing"
    except Damage as damage:
        problem = str(damage)
    except OSError as error:
        problem = f"{Path(error.filename or path).name}: {error.strerror or error}"
    return None if problem is None else _damaged(path, problem)


def _damaged(path: Path, problem: str) -> str:
    return f"checkpoint {path} is damaged: {problem}."


def check(path: Path) -> str:
    """Reads a checkpoint through once, to see that it is complete.

    Returns:
        The name of the algorithm's class.

    Raises:
        UserError: a file is missing, cut short, of another shape, or not readable with this
            installation; weights are not finite. The line names the newest checkpoint of the same
            trial that can be read.
    """
    try:
        return _read_through(path)
    except Damage as damage:
        raise UserError(f"{damage} {_advice(path)}") from None


def problem(path: Path) -> str | None:
    """Why a checkpoint cannot be read, in one line; None if it can. It is unpickled."""
    try:
        _read_through(path)
    except ValueError as error:
        return str(error)
    return None


def newest_sound(trial: Path) -> Path | None:
    """The newest checkpoint in a trial's folder that can be read; None without one."""
    return next((path for path in in_trial(trial) if problem(path) is None), None)


def _read_through(path: Path) -> str:
    """What `check` does, without advice."""
    incomplete = verify(path)
    if incomplete is not None:
        raise Damage(incomplete)
    try:
        name = read_class(path).__name__
        # What has no list of its files is looked at file by file.
        for file in path.rglob("*") if not (path / manifest.MANIFEST).exists() else ():
            if file.suffix == ".pkl":
                unpickle(file)
            elif file.suffix == ".pt" and not zipfile.is_zipfile(file):
                raise Damage(f"{file.relative_to(path)}")
        if (path / WEIGHTS).parent.exists():  # an algorithm of others may have other modules
            read_weights(path)
    except (ImportError, AttributeError) as error:
        raise needs_code(path, error) from None
    except Damage as damage:
        raise Damage(_damaged(path, str(damage))) from None
    return name


def _advice(path: Path) -> str:
    """What to do where a checkpoint is damaged."""
    if not _NUMBERED.fullmatch(path.name):
        return "Give another checkpoint."
    other = newest_sound(path.parent)
    if other is None:
        return f"No checkpoint in {path.parent} can be read: give that of another trial."
    return f"The newest one there that can be read is {other}."


def iteration(path: Path) -> int | None:
    """The iteration after which a checkpoint was written; None if it does not say.

    Raises:
        Damage: its metadata cannot be read.
    """
    found: int | None = read_metadata(path).get("training_iteration")
    return found
