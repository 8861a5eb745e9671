"""The folder of an experiment: what is there already, and what it was started with.

Beside the files of Ray Tune it holds ``experiment.json``, the settings that the experiment was
started with: ``--resume`` goes on with those, and says so if the user has changed them since.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.experiments.checkpoints import lock
from rllib_seqmarl.experiments.checkpoints.content import Damage, read_json, unpickle
from rllib_seqmarl.experiments.checkpoints.lock import LOCK
from rllib_seqmarl.experiments.checkpoints.tune_state import (
    forget_decisions,
    set_stop,
    trial_ids,
)
from rllib_seqmarl.experiments.spec.experiment import ExperimentSpec
from rllib_seqmarl.experiments.spec.metrics import flatten
from rllib_seqmarl.experiments.spec.sampling import Sampler
from rllib_seqmarl.files import is_uri, replace, shown, user_path

DEFAULT_STORAGE = "~/ray_results"
_SETTINGS = "experiment.json"
_STATE = "experiment_state-*.json"
_SEARCH_STATE = "basic-variant-state-*.json"  # a pickle, in spite of its name
_STATE_COPY = "last_good_state.json"
_COPY_EVERY_S = 5.0
#: Bytes of a file's name on Linux, and of a path less what the files of a trial need.
_LONGEST_NAME, _LONGEST_PATH = 255, 4096 - 512
#: Storages that PyArrow, through which Ray Tune writes, can reach.
_SCHEMES = ("s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")
#: When a trial ends: ``--resume`` may change that, too.
_ENDS = ("stop", "time_budget_s")

#: Settings of where, by how many processes and with what patience the work is done: those that
#: ``--resume`` may change.
WORKPLACE = frozenset(
    {
        "num_env_runners",
        "num_envs_per_env_runner",
        "num_cpus_per_env_runner",
        "num_gpus_per_env_runner",
        "sample_timeout_s",
        "num_learners",
        "num_cpus_per_learner",
        "num_gpus_per_learner",
        "num_threads_per_learner",
        "num_cpus_for_main_process",
        "evaluation_num_env_runners",
        "evaluation_sample_timeout_s",
        "restart_failed_env_runners",
        "restart_failed_sub_environments",
        "ignore_env_runner_failures",
        "max_num_env_runner_restarts",
        "delay_between_env_runner_restarts_s",
        "env_runner_health_probe_timeout_s",
        "env_runner_restore_timeout_s",
    }
)


class ExperimentFolder:
    """The folder ``<storage path>/<experiment name>``.

    Args:
        spec: the experiment.

    Raises:
        UserError: the storage path or the name cannot be one.

    Attributes:
        storage: absolute path or URI of the storage.
        path: the folder, None where the storage is not a local path. Ray Tune then looks
            after it alone.
        moved: settings of `WORKPLACE` that are not what they were -> before and now, None for the
            default; known after `check_resume`.
        notes: what else has changed, a line each; known after `check_resume`.
    """

    def __init__(self, spec: ExperimentSpec) -> None:
        storage = spec.storage_path or DEFAULT_STORAGE
        self._spec = spec
        self._copied: tuple[float, float] = (0.0, 0.0)
        self.path: Path | None = None
        self.moved: dict[str, tuple[Any, Any]] = {}
        self.notes: list[str] = []
        storage = re.sub("^file://(?=/)", "", storage)
        if is_uri(storage):
            _check_scheme(storage)
            self.storage = storage.rstrip("/")
        else:
            self.storage = str(_local(storage))
            self.path = Path(self.storage, spec.name)
            _check_name(self.path)

    def __str__(self) -> str:
        return f"{self.storage}/{self._spec.name}"

    def can_resume(self) -> bool:
        """Whether Ray Tune has left a state here."""
        return self._state() is not None

    def numbers_there(self) -> list[int]:
        """Of ``name``, ``name-2``, ``name-3``, ... those that hold results, as numbers from 1."""
        if self.path is None or not self.path.parent.is_dir():
            return []
        pattern = re.compile(rf"{re.escape(self.path.name)}(?:-([2-9]|[1-9]\d+))?")
        found = ((pattern.fullmatch(entry.name), entry) for entry in self.path.parent.iterdir())
        return sorted(int(match[1] or 1) for match, entry in found if match and _holds_any(entry))

    def check_new(self) -> None:
        """Makes sure that nothing here would be mixed with the results of a new experiment.

        Raises:
            UserError: the folder holds results.
        """
        if self.path is None or not os.path.lexists(self.path):
            return
        if not self.path.is_dir():
            raise UserError(f"{self.path} is a file; the experiment's folder would be there.")
        if _holds_any(self.path):
            raise UserError(
                f"{self.path} holds the results of an experiment of this name: go on with it with "
                "--resume, or start a new one under another name with --experiment-name NAME."
            )

    def hold(self) -> AbstractContextManager[list[str]]:
        """Keeps other trainings out of the folder, which is made; see `lock.hold`.

        Raises:
            UserError: another training holds it, or nothing can be written there.
        """
        if self.path is None:
            _reach(self.storage)
            return nullcontext([])
        return lock.hold(self.path)

    def note_settings(self) -> None:
        """Notes in the folder what the experiment is started with.

        Raises:
            UserError: it cannot be written.
        """
        settings = json.dumps(_settings(self._spec), indent=2).encode()
        self._write(lambda path: replace(path / _SETTINGS, settings))

    def _write(self, write: Callable[[Path], None]) -> None:
        if self.path is None:
            return
        try:
            write(self.path)
        except OSError as error:
            raise UserError(f"cannot write results to {self.path}: {error.strerror}.") from None

    def check_resume(self) -> list[str]:
        """Makes sure that ``--resume`` goes on with what the user means and Ray Tune can read.

        Returns:
            The ids of the trials in the state.

        Raises:
            UserError: the settings have changed, or the state is damaged beyond repair.
        """
        if self.path is None:
            return []
        self._check_settings(self.path / _SETTINGS)
        state = self._state()
        assert state is not None
        trials = trial_ids(state)
        if trials is None and (trials := trial_ids(self.path / _STATE_COPY)) is not None:
            replace(state, (self.path / _STATE_COPY).read_bytes())
        if trials is None:
            raise _damaged_state(str(state))
        for search in self.path.glob(_SEARCH_STATE):
            try:
                unpickle(search)
            except Damage as damage:
                raise _damaged_state(f"{self.path}/{damage}") from None
            except (ImportError, AttributeError):
                pass  # which Ray Tune says, whose file it is
        forget_decisions(state)
        self.notes += set_stop(state, self._spec.stop)
        return trials

    def keep_copy_of_state(self) -> None:
        """Keeps a second copy of Ray Tune's state: a kill can hit while Tune rewrites its own."""
        now = time.monotonic()
        if self.path is None or now - self._copied[0] < _COPY_EVERY_S:
            return
        state = self._state()
        if state is None or state.stat().st_mtime == self._copied[1]:
            return
        changed = state.stat().st_mtime
        if trial_ids(state) is not None:
            # A disk that is full is said by the checkpoint that cannot be written.
            with contextlib.suppress(OSError):
                replace(self.path / _STATE_COPY, state.read_bytes())
                self._copied = (now, changed)

    def _state(self) -> Path | None:
        """Ray Tune's newest state file, by the rule of Tune itself."""
        if self.path is None or not self.path.is_dir():
            return None
        return max(self.path.glob(_STATE), default=None, key=lambda path: path.name)

    def _check_settings(self, path: Path) -> None:
        """Makes sure that only those settings have changed that may."""
        self.notes = []
        if not path.exists():  # started by other means than this command, or lost
            self.notes.append(
                f"there is no {path.name} in {path.parent}: whether settings have changed since it "
                "started cannot be told."
            )
            return
        try:
            started = read_json(path)
            if not isinstance(started.get("config"), Mapping):
                raise Damage(f"{path.name} has no settings under 'config'")
        except Damage as damage:
            raise UserError(
                f"{path.parent}: {damage}: --resume cannot tell whether settings have changed. Put "
                "back a copy of the file, or remove it to go on without this check."
            ) from None
        today = json.loads(json.dumps(_settings(self._spec)))
        before, now = (
            flatten({k: v for k, v in settings.items() if k not in _ENDS})
            for settings in (started, today)
        )
        for key in sorted({*before, *now}):
            then, this = before.get(key), now.get(key)
            if then == this:
                continue
            name = key.removeprefix("config/")
            # What is searched over, or changed by a scheduler, is of each trial its own.
            if name in WORKPLACE - set(self._spec.search.mutated()) and _plain_number(then, this):
                self.moved[name] = (then, this)
                continue
            raise UserError(
                f"{self._spec.source}: {key!r} was {then!r} when the experiment in "
                f"{path.parent} started and is {this!r} now; --resume goes on with unchanged "
                "settings, but for 'stop' and those of where and by how many processes the work is "
                "done. Change it back, or start a new experiment with --experiment-name NAME (and "
                "--restore CHECKPOINT)."
            )


def _damaged_state(what: str) -> UserError:
    return UserError(
        f"{what} is damaged: start a new experiment from the last checkpoint of each trial with "
        "--restore CHECKPOINT --experiment-name NAME."
    )


def _local(storage: str) -> Path:
    """The storage as an absolute path."""
    path = user_path(storage, "storage path").absolute()
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"storage path: {str(path)!r} is not UTF-8, as names of results must be."
        ) from None
    return path


def _check_name(path: Path) -> None:
    """Makes sure that the experiment's folder can have its name, and its trials theirs."""
    name = os.fsencode(path.name)
    if len(name) > _LONGEST_NAME:
        raise UserError(
            f"the experiment's name {shown(path.name)!r} has {len(name)} bytes; a folder's name "
            f"has at most {_LONGEST_NAME}."
        )
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise UserError(
            f"storage path: {shown(path)} is too long: it has {len(os.fsencode(path))} bytes, and "
            f"{_LONGEST_PATH} leave room for the files of trials."
        )
    user_path(path, "results")


def _check_scheme(storage: str) -> None:
    """Makes sure that a URI names a place in a storage of a known kind."""
    scheme, _, place = storage.partition("://")
    if scheme not in _SCHEMES:
        raise UserError(
            f"storage path: {shown(storage)}: there is no storage {scheme!r}. "
            f"{nearest(scheme, _SCHEMES)} Or give a folder of this machine."
        )
    if not place.strip("/"):
        raise UserError(f"storage path: {storage} names no place there, as {scheme}://NAME does.")


def _reach(storage: str) -> None:
    """Makes sure that there is such a storage, which Ray Tune would find out later."""
    from pyarrow.fs import FileSystem

    try:
        FileSystem.from_uri(storage)
    except (ValueError, OSError, NotImplementedError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"storage path: {shown(storage)} cannot be used: {reason}.") from None


def _holds_any(path: Path) -> bool:
    """Whether anything stands at a path that a new experiment must leave alone."""
    if not path.is_dir():
        return True
    return any(entry.name not in (_SETTINGS, LOCK) for entry in path.iterdir())


def _plain_number(*values: object) -> bool:
    return all(value is None or isinstance(value, bool | int | float) for value in values)


def _settings(spec: ExperimentSpec) -> dict[str, Any]:
    return _plain(
        {
            "algorithm": spec.algorithm,
            "config": spec.config,
            "stop": spec.stop,
            "checkpoint_config": asdict(spec.checkpoints),
            "num_samples": spec.num_samples,
            "search": _search(spec),
            "max_failures": spec.max_failures,
            "time_budget_s": spec.time_budget_s,
        }
    )


def _search(spec: ExperimentSpec) -> dict[str, Any]:
    """What the search does; how many trials run at a time is no part of it."""
    settings = {name: getattr(spec.search, name) for name in ("metric", "mode", "scheduler")}
    return settings if spec.search.scheduler is not None else {}


def _plain(value: object) -> Any:
    """What JSON can hold; anything else by the name of its type."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, type):
        return value.__qualname__
    if isinstance(value, Sampler):
        return repr(value)
    return type(value).__qualname__
