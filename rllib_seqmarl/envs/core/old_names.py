"""Names of version 0.1 that environments from outside may still use; they are told once."""

from __future__ import annotations

import pkgutil
import warnings
from collections.abc import Callable, Mapping
from typing import Any

#: Old name -> new name of what an environment fills in: of `TeamVectorEnv`, and of `SingleEnv`.
TEAM_VECTOR_ENV = {
    "_reset_worlds": "_reset_envs",
    "_step_worlds": "_step_envs",
    "_finished": "_final_obs_and_metrics",
    "_get_worlds": "_get_envs_state",
    "_set_worlds": "_set_envs_state",
    "controllers": "scripted_policies",
    "control": "scripted_actions",
    "picture": "render_frame",
    "cannot_be_saved": "cannot_save_reason",
}
SINGLE_ENV = {
    "figures": "episode_metrics",
    "save": "get_state",
    "restore": "set_state",
    "picture": "render_frame",
}


def accept_old_members(cls: type[Any], renamed: Mapping[str, str]) -> None:
    """Lets members of a class go by their old and their new names alike.

    What ``cls`` itself defines under an old name is found under the new one, and the other way
    round, so that ``super()`` works in a subclass of either kind.

    Args:
        cls: a class that was just defined.
        renamed: old name -> new name.
    """
    defined = [old for old in renamed if old in vars(cls)]
    for old, new in renamed.items():
        if old in vars(cls) and new not in vars(cls):
            setattr(cls, new, vars(cls)[old])
        elif new in vars(cls) and old not in vars(cls):
            setattr(cls, old, vars(cls)[new])
    if defined:
        names = ", ".join(f"{old} is now {renamed[old]}" for old in defined)
        line = f"{cls.__module__}.{cls.__qualname__}: {names}."
        warnings.warn(line, FutureWarning, stacklevel=4)  # where the class is defined


def old_attributes(module: str, renamed: Mapping[str, str]) -> Callable[[str], object]:
    """The ``__getattr__`` of a module, some of whose names have changed or moved.

    Args:
        module: its name.
        renamed: old name -> "module:name" of today.
    """

    def find(name: str) -> object:
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        line = f"{module}.{name} is now {renamed[name].replace(':', '.')}."
        warnings.warn(line, FutureWarning, stacklevel=2)
        return pkgutil.resolve_name(renamed[name])

    return find
