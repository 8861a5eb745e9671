"""Whose checkpoints are: a word of warning before one is loaded that this user did not write.

What is known stands in a file in the user's home, outside of all storage, so that nothing in an
archive or on a shared disk can pass itself off as the user's own: the folders of experiments that
`rllib train` has started, and checkpoints of which the note has been said.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

TRUST = (
    "note: a checkpoint can run code when it is loaded; load only what you, or people whom you "
    "trust, have written. To share a policy without this risk: rllib export."
)


def _file() -> Path:
    """The file of notes.

    Raises:
        OSError: this user has no home.
    """
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    try:
        return Path(state).expanduser() / "rllib-seqmarl" / "known_checkpoints.txt"
    except RuntimeError as error:
        raise FileNotFoundError(str(error)) from None


def _entry(folder: Path) -> str:
    """A folder in one line; another one that takes its place has another number."""
    return f"{folder.stat().st_ino} {folder}"


def remember(folder: Path) -> None:
    """Notes the folder of an experiment of one's own, or a checkpoint that is known to be trusted.

    A home in which nothing can be written is no reason to fail: the note is then said again.
    """
    with suppress(OSError, ValueError):
        file, entry = _file(), _entry(folder.resolve())
        if "\n" in entry:  # it could pass for the entry of another folder
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as stream:
            stream.write(f"{entry}\n")


def note(checkpoint: Path) -> str | None:
    """What is to be said before the first pickle of a checkpoint is loaded.

    Nothing, if the checkpoint is this user's and in an experiment that was started here, or if it
    was said before of this checkpoint.
    """
    checkpoint = checkpoint.resolve()
    try:
        known = set(_file().read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        known = set()
    if _entry(checkpoint) in known:
        return None
    own = checkpoint.stat().st_uid == os.getuid()
    if own and any(_entry(folder) in known for folder in checkpoint.parents):
        return None
    remember(checkpoint)
    return TRUST
