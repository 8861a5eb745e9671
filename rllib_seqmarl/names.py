"""Names and what they stand for: tables of targets, and import paths in place of names."""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, cast

from rllib_seqmarl.errors import UserError, nearest

Target = str | type | Callable[..., Any]
V = TypeVar("V")

#: How the names of files with policies end (see `policies.file`).
SHARED = ".safetensors"
#: And how those with one step of a policy as a program (see `policies.export`).
PROGRAMS = (".pt2", ".onnx")

logger = logging.getLogger("rllib_seqmarl")
_told: set[str] = set()


def tell_once(message: str) -> None:
    """Logs a warning, the same one only once per process."""
    if message not in _told:
        _told.add(message)
        logger.warning(message)


def is_import_path(name: object) -> bool:
    """Whether ``name`` is "package.module:attribute"."""
    return isinstance(name, str) and ":" in name


#: Folders beyond Python's own in which modules are looked for, here and in processes of Ray.
MODULE_FOLDERS: list[str] = []


def look_for_modules_in(folder: Path) -> None:
    """Lets imports find the modules of a folder, after all that is found without it."""
    path = str(folder.absolute())
    if path not in sys.path:
        sys.path.append(path)
    if path not in MODULE_FOLDERS:
        MODULE_FOLDERS.append(path)


def why_not_imported(error: BaseException, path: str) -> str:
    """Why an import path names nothing, and what to do if its module is not there."""
    says_enough = isinstance(error, ImportError | AttributeError)
    reason = " ".join(str(error).split()) if says_enough else ""
    reason = f"{reason or reason_of(error)}."
    missing = getattr(error, "name", None)
    if (
        not isinstance(error, ModuleNotFoundError)
        or missing != path.partition(":")[0].split(".")[0]
    ):
        return reason
    return (
        f"{reason} Put {missing}.py into the folder of the command or beside the experiment's "
        "file, install it, or set PYTHONPATH; for the machines of a cluster that do not share the "
        "folder: ray job submit --working-dir . -- rllib ..."
    )


def reason_of(error: BaseException) -> str:
    """An exception of somebody else's code in one line: its type and what it says."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def import_target(target: Target, kind: str) -> Any:
    """The object that a target is or names.

    Raises:
        UserError: it cannot be imported; the line gives the reason.
    """
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    try:
        return attrgetter(attribute)(importlib.import_module(module))
    except (Exception, SystemExit) as error:  # a module from outside may fail in any way
        reason = why_not_imported(error, target)
        raise UserError(f"{kind} {target!r} cannot be imported: {reason}") from error


def check_target(target: object, kind: str) -> None:
    """Makes sure that something could be a target: an import path, or what was imported.

    Raises:
        UserError: it is no import path, or a plain value.
    """
    if isinstance(target, str):
        module, _, attribute = target.partition(":")
        if module and attribute:
            return
        raise UserError(f"{kind} {target!r} is no import path such as 'my_package.module:Name'.")
    if not callable(target) and type(target).__module__ in ("builtins", "types"):
        raise UserError(f"{kind} must be an import path or what it names, got {target!r}.")


def import_path(target: Target) -> str | None:
    """ "package.module:Name" of a target; None where another process could not import it."""
    if isinstance(target, str):
        return target
    path = f"{target.__module__}:{target.__qualname__}"
    return None if target.__module__ == "__main__" or "<" in path else path


class Place(NamedTuple):
    """Where an environment is, in the words of RLlib's ``EnvContext``: for ports and folders.

    Attributes:
        worker_index: 0 in the trial's own process, from 1 in runners of other processes.
        vector_index: which of the environments of that process; 0 for one that steps all of them.
        num_workers: the number of runners in other processes.
    """

    worker_index: int = 0
    vector_index: int = 0
    num_workers: int = 0

    def asked_for_by(self, target: Callable[..., Any]) -> dict[str, int]:
        """Those of these numbers that ``target`` names among its parameters."""
        try:
            parameters = inspect.signature(target).parameters
        except (TypeError, ValueError):  # a class of a C extension
            return {}
        return {name: value for name, value in self._asdict().items() if name in parameters}


class Table(Mapping[str, V], Generic[V]):
    """Name -> target, for one kind of thing.

    Args:
        kind: what these are, for messages.
        targets: this package's own.
        aliases: other spellings that people type, in lower case.
        old_names: names from before; who uses one is told today's once.
        base: import path of the class of which every target is a subclass or, with ``instances``,
            an instance; None: anything that can be imported.
        instances: see ``base``.
    """

    def __init__(
        self,
        kind: str,
        targets: Mapping[str, V],
        aliases: Mapping[str, str] | None = None,
        old_names: Mapping[str, str] | None = None,
        base: str | None = None,
        instances: bool = False,
    ) -> None:
        self.kind = kind
        self._base, self._instances = base, instances
        self._targets = dict(targets)
        self._own = frozenset(targets)
        self._aliases = {name.lower(): name for name in targets} | dict(aliases or {})
        self._old_names = dict(old_names or {})

    def __getitem__(self, name: str) -> V:
        return self._targets[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    def register(self, name: str, target: V) -> None:
        """Makes ``name`` known, or changes what it stands for.

        Raises:
            UserError: it is one of this package's own names, looks like an import path, or is no
                name; or the target cannot be one.
        """
        if not isinstance(name, str) or not name or name != name.strip():
            raise UserError(
                f"the {self.kind} name {name!r} must be text, not empty and without spaces around "
                "it."
            )
        check_target(target, self.kind)
        if self.is_own(name) or is_import_path(name):
            reason = "contains a colon" if is_import_path(name) else "is taken"
            raise UserError(f"the {self.kind} name {name!r} {reason}: choose another one.")
        self._targets[name] = target

    def knows(self, name: str) -> bool:
        """Whether it is a name, in any of its spellings."""
        return name in self or self._spelling(name) in self

    def is_own(self, name: str) -> bool:
        """Whether this package itself has the name, in any of its spellings."""
        return self._spelling(name) in self._own

    def _spelling(self, name: str) -> str:
        return self._old_names.get(name, self._aliases.get(name.lower(), name))

    def name(self, given: str) -> str:
        """The registered spelling of a name; an import path is returned as it is.

        Raises:
            UserError: no such name; the line says the nearest one.
        """
        if given in self or is_import_path(given):
            return given
        spelled = self._spelling(given)
        if spelled not in self:
            raise UserError(f"unknown {self.kind} {given!r}. {nearest(given, self)}")
        if given in self._old_names:
            tell_once(f"{self.kind} {given!r} is called {spelled!r} now.")
        return spelled

    def resolve(self, given: str) -> Any:
        """What a name or an import path stands for, imported.

        Raises:
            UserError: no such name, it cannot be imported, or it is of another kind.
        """
        name = self.name(given)
        target = import_target(cast(Target, self._targets.get(name, name)), self.kind)
        if self._base is not None and name not in self._own:
            self._check_kind(given, target, import_target(self._base, self.kind))
        return target

    def _check_kind(self, given: str, target: object, base: type) -> None:
        cls = target if isinstance(target, type) else None
        if self._instances:
            fits = isinstance(target, base)
        else:
            fits = cls is not None and issubclass(cls, base)
        if not fits:
            what = f"a {type(target).__name__}" if cls is None else f"the class {cls.__name__}"
            raise UserError(
                f"{self.kind} {given!r} is {what}, and must be "
                f"{'an instance' if self._instances else 'a subclass'} of {base.__module__}:"
                f"{base.__name__}."
            )

    def portable(self, given: str) -> str:
        """A name that means the same in another process: an own one, or an import path.

        Raises:
            UserError: no such name, or it cannot be imported.
        """
        name = self.name(given)
        if name in self._own:
            return name
        self.resolve(name)
        return import_path(cast(Target, self._targets.get(name, name))) or name


#: Kind -> its table: "algorithm", "environment", "order", "value", "network",
#: "observation encoder"; filled in by `rllib_seqmarl.registry`, which the package itself imports.
TABLES: dict[str, Table[Any]] = {}
