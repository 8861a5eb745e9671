"""Keys of experiments from the times of Ray <= 2.40."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rllib_seqmarl.errors import UserError

#: Keys of older Ray versions -> where their value belongs today.
_OLD_CHECKPOINT_KEYS = {
    "checkpoint_freq": "checkpoint_frequency",
    "checkpoint_frequency": "checkpoint_frequency",
    "checkpoint_at_end": "checkpoint_at_end",
    "keep_checkpoints_num": "num_to_keep",
    "num_to_keep": "num_to_keep",
    "checkpoint_score_attr": "checkpoint_score_attribute",
}
_OLD_STORAGE_KEYS = ("local_dir", "upload_dir")
_REFUSED_KEYS = {
    "resources_per_trial": "set num_env_runners, num_learners and num_cpus_per_env_runner in the "
    "config; the trial's resources follow from them",
    "trial_resources": "set num_env_runners and num_learners in the config",
    "sync_config": "results are written to storage_path directly",
    "log_to_file": "RLlib has no place for it; --verbose shows the output of the workers",
    "framework": "this is torch only; remove it",
}


def translate(given: dict[str, Any], where: str, notes: list[str]) -> None:
    """Moves the values of old keys, in place, to where they belong today."""
    for key, advice in _REFUSED_KEYS.items():
        if key in given:
            raise UserError(f"{where}: {key!r} is not supported: {advice}.")
    for old in _OLD_STORAGE_KEYS:
        if old in given:
            if "storage_path" in given:
                raise UserError(f"{where}: {old!r} and 'storage_path' mean the same; keep one.")
            given["storage_path"] = given.pop(old)
            notes.append(f"{where}: {old!r} is called 'storage_path' now.")
    old_keys = [key for key in _OLD_CHECKPOINT_KEYS if key in given]
    if not old_keys:
        return
    checkpoints = given.get("checkpoint_config") or {}
    if not isinstance(checkpoints, Mapping):
        return  # refused later, with the others of a wrong type
    checkpoints = dict(checkpoints)
    for old in old_keys:
        new = _OLD_CHECKPOINT_KEYS[old]
        if new in checkpoints:
            raise UserError(
                f"{where}: {old!r} and 'checkpoint_config: {new}' mean the same; keep one."
            )
        checkpoints[new] = given.pop(old)
        notes.append(f"{where}: {old!r} is called 'checkpoint_config: {new}' now.")
    given["checkpoint_config"] = checkpoints
