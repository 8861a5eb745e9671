"""Paths that a user gives, and files that are written as a whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from rllib_seqmarl.errors import UserError

#: Characters of a path that a message repeats.
_SHOWN = 120
#: What is wrong with a path itself, whatever is to be done with it.
_UNUSABLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES)
#: The beginning of a URI, with one slash or more.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def is_uri(path: str) -> bool:
    """Whether a path is an address such as ``s3://bucket/results``, and no local one."""
    return "://" in path


def user_path(given: str | os.PathLike[str], what: str = "") -> Path:
    """A local path as the user means it, with ``~`` and ``~name`` replaced by homes.

    Args:
        given: the path; nothing need be there.
        what: the option or setting that it comes from, for the message.

    Raises:
        UserError: it is empty, names no home, is too long, goes in a circle, leads through a folder
            that may not be entered, or is a URI.
    """
    text = os.fspath(given)
    where = f"{what}: " if what else ""
    if not text:
        raise UserError(f"{where}the path is empty.")
    if "\0" in text:
        raise UserError(f"{where}a path cannot hold the character NUL.")
    if _SCHEME.match(text):
        raise UserError(f"{where}{shown(text)} is a URI: give a folder or a file of this machine.")
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        home = text.partition("/")[0]
        reason = "HOME is not set" if home == "~" else f"there is no user {home[1:]!r}"
        raise UserError(f"{where}{shown(text)}: {reason}.") from None
    try:
        os.stat(path)
    except OSError as error:
        if error.errno in _UNUSABLE:
            raise UserError(f"{where}cannot use {shown(text)}: {error.strerror}.") from None
    return path


def shown(path: str | os.PathLike[str]) -> str:
    """A path for a message: one that is very long is cut short."""
    text = os.fspath(path)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def check_writable(path: Path, what: str) -> None:
    """Makes sure that `write` will find a place, before the work whose result it is.

    Args:
        path: of the file.
        what: the option that names it.

    Raises:
        UserError: its folder is missing or cannot be written to, or something else is there.
    """
    target = Path(os.path.realpath(path))
    folder = target.parent
    if target.is_dir():
        raise UserError(f"{what}: {shown(path)} is a folder; give the name of a file.")
    if not folder.exists():
        raise UserError(f"{what}: the folder of {shown(path)} does not exist.")
    if not folder.is_dir():
        raise UserError(f"{what}: {shown(folder)} is a file, so {path.name} cannot be in it.")
    denied = target if target.exists() else folder
    # A file that is replaced needs a folder that can be written to; a device is written to itself.
    needed = (denied,) if _is_special(target) else (denied, folder)
    for place in needed:
        if not os.access(place, os.W_OK):
            raise UserError(f"{what}: cannot write {shown(path)}: no permission to write {place}.")


def write(path: Path, content: bytes, what: str) -> None:
    """Writes a file, see `replace`.

    Raises:
        UserError: it cannot be written; the line begins with ``what``, the option that names it.
    """
    try:
        replace(path, content)
    except OSError as error:
        raise UserError(f"{what}: cannot write {shown(path)}: {error.strerror}.") from None


def replace(path: Path, content: bytes) -> None:
    """Writes a file so that at every moment it is either the old or the new one.

    What a symbolic link points to is replaced, and a device or a pipe is written to.

    Raises:
        OSError: it cannot be written; nothing has changed, and nothing new is left behind.
    """
    target = Path(os.path.realpath(path))
    if _is_special(target):
        with target.open("wb", buffering=0) as stream:
            stream.write(content)
        return
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    # A name of its own: the target's can be as long as names may be, and containers that share a
    # folder have the same process ids.
    new = target.with_name(f".{secrets.token_hex(8)}.new")
    try:
        with new.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())  # a disk can be found full as late as here
        if target.exists():
            shutil.copymode(target, new)
        os.replace(new, target)
    except BaseException:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def remove(files: Iterable[Path], folders: Iterable[Path]) -> None:
    """Removes files, and folders, each in the next, up to one that holds anything."""
    with suppress(OSError):
        for file in files:
            file.unlink(missing_ok=True)
        for folder in folders:
            folder.rmdir()


def _is_special(path: Path) -> bool:
    """Whether a path is a device, a pipe or a socket."""
    return path.exists() and not path.is_file() and not path.is_dir()
