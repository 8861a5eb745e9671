"""What checkpoints before version 0.2 call otherwise: modules of classes, and keys of states.

A pickle names classes by their module. The import system finds the old names here, so that a
checkpoint from before loads as one from today. Keys of states are renamed where a state is read.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TypeVar

Value = TypeVar("Value")

#: Module before 0.2 -> module of today, below ``rllib_seqmarl``.
MOVED = {
    "learning.module": "learning.sequential.module",
    "learning.actor_module": "learning.actor_critic.module",
    "learning.recurrent": "learning.central_q.module",
    # Modules that environments from outside import.
    "envs.team_env": "envs.core.contract",
    "envs.separate_worlds": "envs.core.sync_vector",
    "envs.distinct_actions": "envs.toy.distinct_actions",
    "envs.private_cue": "envs.toy.private_cue",
}

#: Fields of `RolloutBatch` and `FinalObservations` before 0.2 -> of today.
ROLLOUT_FIELDS = {"memory": "recurrent_state", "world": "env"}

#: Keys of a runner's state before 0.2 -> of today.
RUNNER_KEYS = {"worlds": "envs", "memory": "recurrent_state", "starts": "num_resets"}

_PACKAGE = __name__.rpartition(".")[0]


def rename(state: Mapping[str, Value], names: Mapping[str, str]) -> dict[str, Value]:
    """A state with today's keys, for one that may have been written before 0.2."""
    return {names.get(key, key): value for key, value in state.items()}


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
