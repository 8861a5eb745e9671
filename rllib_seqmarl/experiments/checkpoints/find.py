"""Finds and checks checkpoints on disk, without building an algorithm from them."""

from __future__ import annotations

import json
import math
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rllib_seqmarl import manifest
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.files import user_path

#: Name under which results hold the score of the checkpoint of their iteration.
SCORE = "checkpoint_score"

_METADATA = "rllib_checkpoint.json"
_CLASS = "class_and_ctor_args.pkl"
_NUMBERED = re.compile(r"checkpoint_\d+")


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint of an algorithm, complete or not."""
    return (path / _METADATA).exists() or (path / _CLASS).exists()


def in_trial(path: Path) -> list[Path]:
    """The checkpoints in a trial's folder, the latest first, incomplete ones included."""
    numbered = (folder for folder in path.glob("checkpoint_*") if _NUMBERED.fullmatch(folder.name))
    return sorted((folder for folder in numbered if folder.is_dir()), reverse=True)


def find(path: str, say: Callable[[str], None], *, best: bool = False) -> Path:
    """The checkpoint that a path means: itself, or one of a trial or experiment.

    Args:
        path: of a checkpoint, a trial or an experiment.
        say: told of every damaged checkpoint that is passed over.
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
    for found in _by_score(there) if best else there:
        problem = verify(found)
        if problem is None:
            return found
        say(f"note: {problem}")
    raise UserError(
        f"{path} is not a checkpoint and holds none that is sound (a checkpoint is a folder with "
        f"a file {_METADATA})."
    )


def _by_score(checkpoints: list[Path]) -> list[Path]:
    """The checkpoints of a trial, the best first; in their order where they have no scores."""
    trial = checkpoints[0].parent if checkpoints else Path()
    try:
        settings = json.loads((trial.parent / "experiment.json").read_text(encoding="utf-8"))
        lines = (trial / "result.json").read_text(encoding="utf-8").splitlines()
        lowest = settings["checkpoint_config"]["score_order"] == "min"
    except (OSError, ValueError, KeyError, TypeError):
        return checkpoints  # started by other means, or nothing was reported
    scores: dict[int, float] = {}
    for line in lines:
        try:
            result = json.loads(line)
            scores[result["training_iteration"]] = float(result[SCORE])
        except (ValueError, KeyError, TypeError):
            continue  # cut short by a kill, or without a score

    def rank(checkpoint: Path) -> float:
        try:
            score = scores.get(iteration(checkpoint) or 0, math.nan)
        except (OSError, ValueError):  # a damaged checkpoint
            return math.inf
        return math.inf if math.isnan(score) else score if lowest else -score

    return sorted(checkpoints, key=rank)


def verify(path: Path) -> str | None:
    """Why a checkpoint is not complete, in one line; None if it is. Runs no code of it."""
    try:
        metadata = json.loads((path / _METADATA).read_text(encoding="utf-8"))
        problem = manifest.verify(path) if "manifest" in metadata else None
        for required in (_CLASS, "learner_group", "env_runner", "algorithm_state"):
            if problem is None and not list(path.glob(f"{required}*")):
                problem = f"{required} is missing"
    except OSError as error:
        problem = f"{Path(error.filename or path).name}: {error.strerror or error}"
    except (ValueError, AttributeError):
        problem = f"{_METADATA} is cut short"
    return None if problem is None else f"checkpoint {path} is damaged: {problem}."


def check(path: Path) -> str:
    """Reads a checkpoint through once, to see that it is complete.

    Returns:
        The name of the algorithm's class.

    Raises:
        UserError: a file is missing, cut short, or not readable with this installation.
    """
    problem = verify(path)
    if problem is not None:
        raise UserError(problem)
    try:
        name: str = _load(path / _CLASS)["class"].__name__
        # What has no list of its files is looked at file by file.
        for file in path.rglob("*") if not (path / manifest.MANIFEST).exists() else ():
            if file.suffix == ".pkl" and file.name != _CLASS:
                _load(file)
            elif file.suffix == ".pt" and not zipfile.is_zipfile(file):
                raise UserError(f"checkpoint {path} is damaged: {file.relative_to(path)}.")
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"checkpoint {path} needs code that is not part of this installation: {error}."
        ) from None
    except OSError as error:
        missing = Path(error.filename or path).name
        raise UserError(
            f"checkpoint {path} is damaged: {missing}: {error.strerror or error}."
        ) from None
    except (ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"checkpoint {path} is damaged: {error}.") from None
    return name


def iteration(path: Path) -> int | None:
    """The iteration after which a sound checkpoint was written; None if it does not say."""
    metadata = json.loads((path / _METADATA).read_text(encoding="utf-8"))
    return metadata.get("training_iteration")


def _load(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        try:
            state: dict[str, Any] = pickle.load(stream)
            return state
        except (EOFError, pickle.UnpicklingError, ValueError, IndexError, KeyError) as error:
            reason = str(error) or type(error).__name__
            raise pickle.UnpicklingError(f"{file.name} ({reason})") from None
