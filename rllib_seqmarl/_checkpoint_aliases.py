"""Modules that pickles of checkpoints before version 0.2 name, by where they are today.

A pickle names classes by their module. The import system finds the old names here, so that a
checkpoint from before loads as one from today.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: Module before 0.2 -> module of today, below ``rllib_seqmarl``.
MOVED = {
    "learning.module": "learning.sequential.module",
    "learning.actor_module": "learning.actor_critic.module",
    "learning.recurrent": "learning.central_q.module",
    "rollout.block": "rollout.rollout_batch",
    # Modules that environments from outside import.
    "envs.team_env": "envs.core.contract",
    "envs.separate_worlds": "envs.core.sync_vector",
    "envs.distinct_actions": "envs.toy.distinct_actions",
    "envs.private_cue": "envs.toy.private_cue",
}

_PACKAGE = __name__.rpartition(".")[0]


class _Alias(Loader):
    def __init__(self, today: str) -> None:
        self.today = today

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return importlib.import_module(self.today)

    def exec_module(self, module: ModuleType) -> None:
        """It was executed when it was imported under today's name."""


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        today = MOVED.get(name.removeprefix(f"{_PACKAGE}."))
        if today is None:
            return None
        return ModuleSpec(name, _Alias(f"{_PACKAGE}.{today}"))


def install() -> None:
    """Makes the old names known to the import system of this process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
