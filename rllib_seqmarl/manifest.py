"""The list of a checkpoint's files, which tells a complete checkpoint from an incomplete one.

A process can be killed, and a disk be full, while a checkpoint is written or copied. The list is
written last, names every file with its length and digest, and is read without running any code.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

#: The list itself, in the folder of the checkpoint.
MANIFEST = "files.json"


def write(folder: str, filesystem: FileSystem) -> None:
    """Lists all files in ``folder`` of a PyArrow ``filesystem``.

    Raises:
        OSError: the list cannot be written.
    """
    from pyarrow.fs import FileSelector, FileType

    files = {}
    for info in filesystem.get_file_info(FileSelector(folder, recursive=True)):
        if info.type == FileType.File and info.base_name != MANIFEST:
            with filesystem.open_input_stream(info.path) as stream:
                content = stream.read()
            files[Path(info.path).relative_to(folder).as_posix()] = _entry(content)
    with filesystem.open_output_stream(f"{folder}/{MANIFEST}") as stream:
        stream.write(json.dumps(files, indent=1, sort_keys=True).encode())


def verify(folder: Path) -> str | None:
    """What is wrong with the files in a folder that has a list, in a few words; None if nothing.

    Raises:
        OSError: a file cannot be read.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, RecursionError):
        return f"{MANIFEST} is cut short"
    if not isinstance(files, dict) or not files:
        return f"{MANIFEST} must hold a mapping with an entry of every file"
    for file in sorted(folder.rglob("*.pkl")):
        if (name := file.relative_to(folder).as_posix()) not in files:
            return f"{name} is not in {MANIFEST}"
    for name, entry in sorted(files.items()):
        if not isinstance(entry, dict) or not {"bytes", "sha256"} <= entry.keys():
            return f"{MANIFEST}: the entry of {name} must have 'bytes' and 'sha256'"
        try:
            content = (folder / name).read_bytes()
        except FileNotFoundError:
            return f"{name} is missing"
        if len(content) != entry["bytes"]:
            return f"{name} has {len(content)} of {entry['bytes']} bytes"
        if _entry(content) != entry:
            return f"{name} has been changed"
    return None


def _entry(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
