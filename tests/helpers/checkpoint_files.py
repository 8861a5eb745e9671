"""Folders that look like checkpoints."""

from __future__ import annotations

import json
import pickle

from pyarrow.fs import LocalFileSystem

from rllib_seqmarl import manifest


class MAT:
    """Stands for the class that a checkpoint names."""


def write(folder, listed=True, **metadata):
    """A folder with the files of an RLlib checkpoint, with a list of its files or without."""
    for part in ("learner_group", "env_runner"):
        (folder / part).mkdir(parents=True)
        (folder / part / "state.pkl").write_bytes(pickle.dumps({"weights": list(range(100))}))
    (folder / "algorithm_state.pkl").write_bytes(pickle.dumps({}))
    (folder / "class_and_ctor_args.pkl").write_bytes(pickle.dumps({"class": MAT}))
    metadata |= {"version": "1", **({"manifest": manifest.MANIFEST} if listed else {})}
    (folder / "rllib_checkpoint.json").write_text(json.dumps(metadata))
    if listed:
        manifest.write(str(folder), LocalFileSystem())
    return folder
