"""One writer at a time for the folder of an experiment.

Two trainings in one folder would mix their results and share one state. The lock is the operating
system's, on a file in the folder that says who holds it: it is gone when its process is, however
that ended, and holds between the nodes of a cluster where their file system passes locks on (NFS 4,
Lustre, CephFS do).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TextIO

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.files import remove

#: Name of the file; it is there while an experiment runs, and after a kill.
LOCK = "running.json"

_TRIES = 100
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)


@contextmanager
def hold(folder: Path) -> Iterator[list[str]]:
    """Keeps others from training in a folder, which is made, and removed again if it stays empty.

    Gives:
        What the user should know, a line each: a training that was cut off, a file system without
        locks.

    Raises:
        UserError: another training holds it, or the file cannot be written; nothing was changed.
    """
    lines: list[str] = []
    path = folder / LOCK
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        locked = _locked(folder, path, lines)
    except UserError:
        remove((), made)
        raise
    with locked as file:
        before = _holder(file)
        if before is not None and not lines:
            lines.append(f"note: the last training in {folder} was cut off ({before}).")
        try:
            _write(file, folder)
            yield lines
        finally:
            path.unlink(missing_ok=True)
            remove((), made)


def _locked(folder: Path, path: Path, lines: list[str]) -> TextIO:
    """The file, locked; where there are no locks, a line is added to ``lines``."""
    tries = 0
    while True:
        tries += 1
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            # Whoever held it may have removed the folder in this moment; or it cannot be made.
            if isinstance(error, FileNotFoundError) and tries < _TRIES:
                continue
            raise UserError(f"cannot write results to {folder}: {error.strerror}.") from None
        file = os.fdopen(descriptor, "r+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                lines.append(
                    f"note: the file system of {folder} has no locks: nothing keeps a second "
                    "training from writing there."
                )
                return file
            holder = _holder(file) or "just begun"
            file.close()
            raise UserError(
                f"{folder} is being written by another training ({holder}): wait for its end or "
                "stop it, or give this one a name of its own with --experiment-name NAME."
            ) from None
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return file
        file.close()  # whoever held it has ended and removed it in this moment


def _write(file: TextIO, folder: Path) -> None:
    """Writes who holds the folder."""
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    try:
        file.seek(0)
        file.truncate()
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "started": started}, file)
        file.flush()
    except OSError as error:
        raise UserError(f"cannot write results to {folder}: {error.strerror}.") from None


def _holder(file: TextIO) -> str | None:
    """Who wrote the file, for a line; None if nobody did."""
    try:
        holder = json.load(file)
        return f"process {holder['pid']} on {holder['host']}, started {holder['started']}"
    except (ValueError, KeyError, TypeError):
        return None
