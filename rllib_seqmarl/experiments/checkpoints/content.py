"""Reads the files of a checkpoint, which may be damaged: what is wrong is said in one line."""

from __future__ import annotations

import json
import pickle
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rllib_seqmarl.errors import UserError

METADATA = "rllib_checkpoint.json"
CLASS = "class_and_ctor_args.pkl"
RESULTS = "result.json"
#: Where in a checkpoint the trained module lies, and the file of its weights there.
MODULE_PATH = Path("learner_group", "learner", "rl_module", "default_policy")
WEIGHTS = MODULE_PATH / "module_state.pkl"


class Damage(ValueError):
    """What is wrong with a file, in a few words that begin with its name."""


def read_json(file: Path) -> dict[str, Any]:
    """A file that holds a JSON object.

    Raises:
        Damage: it is missing, unreadable, cut short, or holds something else.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Damage(f"{file.name}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise Damage(f"{file.name} is cut short, or no JSON") from None
    if not isinstance(value, dict):
        raise Damage(f"{file.name} must hold a mapping, not a {type(value).__name__}")
    return value


def read_metadata(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        Damage: the file, or its ``training_iteration``.
    """
    metadata = read_json(checkpoint / METADATA)
    iteration = metadata.get("training_iteration")
    if iteration is not None and (isinstance(iteration, bool) or not isinstance(iteration, int)):
        raise Damage(f"{METADATA}: 'training_iteration' must be a whole number, got {iteration!r}")
    return metadata


def unpickle(file: Path) -> dict[str, Any]:
    """A file that holds a pickled dict; it is unpickled, which can run code.

    Raises:
        Damage: it is missing, unreadable, cut short, or holds something else.
        ImportError: it needs code that is not here.
        AttributeError: likewise.
    """
    try:
        with file.open("rb") as stream:
            value = pickle.load(stream)
    except (ImportError, AttributeError):
        raise
    except OSError as error:
        raise Damage(f"{file.name}: {error.strerror or error}") from None
    except Exception as error:  # damaged bytes can mean any instruction
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Damage(f"{file.name} ({reason})") from None
    if not isinstance(value, dict):
        raise Damage(f"{file.name} must hold a dict, not a {type(value).__name__}")
    return value


def read_class(checkpoint: Path) -> type:
    """The class of a checkpoint's algorithm; errors as of `unpickle`."""
    found = unpickle(checkpoint / CLASS).get("class")
    if not isinstance(found, type):
        raise Damage(f"{CLASS} names no class")
    return found


def read_weights(checkpoint: Path) -> dict[str, Any]:
    """The weights of the module in a checkpoint, by name; errors as of `unpickle`.

    Raises:
        Damage: also where a number is NaN. Infinite ones are not looked for, nor is what is no
            array of numbers: a network of one's own may have either, as masks or extra state.
    """
    weights = unpickle(checkpoint / WEIGHTS)
    for name, value in weights.items():
        array = np.asarray(value)
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise Damage(f"{WEIGHTS.name}: the weights {name!r} are not finite (NaN)")
    return weights


def check_weights(checkpoint: Path, needed: Collection[str]) -> None:
    """Makes sure that those weights in a checkpoint that are needed are there, and finite.

    Raises:
        UserError: they cannot be read, are not finite, or some are missing.
    """
    try:
        weights = read_weights(checkpoint)
        for name in needed:  # RLlib leaves a module as it is where weights are missing
            if name not in weights:
                raise Damage(f"{WEIGHTS.name} lacks the weights {name!r}")
            array = np.asarray(weights[name])
            if array.dtype.kind not in "biuf":
                raise Damage(f"{WEIGHTS.name}: {name!r} is no array of numbers")
            if not np.isfinite(array).all():
                raise Damage(f"{WEIGHTS.name}: the weights {name!r} are not finite")
    except Damage as damage:
        raise UserError(
            f"checkpoint {checkpoint} is damaged: {damage}. Give another checkpoint."
        ) from None
    except (ImportError, AttributeError) as error:
        raise needs_code(checkpoint, error) from None


def needs_code(checkpoint: Path, error: Exception) -> UserError:
    """The error of a checkpoint that names what cannot be imported."""
    return UserError(
        f"checkpoint {checkpoint} needs code that cannot be imported here ({error}): "
        "install it, or add its folder to PYTHONPATH."
    )


def results(trial: Path) -> Iterator[dict[str, Any]]:
    """The results of a trial that can be read, in the order in which they were written.

    Each has a ``training_iteration``. A kill cuts the last line short, and there may be none.
    """
    try:
        lines = (trial / RESULTS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            result = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(result, dict) and isinstance(result.get("training_iteration"), int):
            yield result
