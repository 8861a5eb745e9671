"""Imports point downwards only: the pure rooms work where the rooms above them cannot."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rllib_seqmarl"

#: A room, and the packages that it must not need.
ROOMS = {
    "nets": ("ray", "gymnasium"),
    "losses": ("ray", "gymnasium"),
    "returns": ("ray", "gymnasium"),
    "envs": ("ray", "torch"),
    "errors": ("ray", "torch", "gymnasium", "numpy"),
    "manifest": ("ray", "torch", "gymnasium", "numpy"),
    "registry": ("ray", "torch", "gymnasium", "numpy"),
    "settings": ("ray", "torch", "gymnasium", "numpy"),
    "_ray_compat": ("ray", "torch", "gymnasium", "numpy"),
}


def modules(room: str) -> list[str]:
    path = PACKAGE / room
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    names = []
    for file in files:
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        names.append(".".join(part for part in parts if part != "__init__"))
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_without_the_rooms_above(room: str) -> None:
    blocked = ROOMS[room]
    above = ("algorithms", "learning", "rollout", "experiments", "cli")
    code = f"""
import sys, importlib, importlib.abc

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")
        if name.startswith({tuple(f"rllib_seqmarl.{room}" for room in above)!r}):
            raise ImportError(name + " is a room above")

sys.meta_path.insert(0, Blocked())
for module in {modules(room)!r}:
    importlib.import_module(module)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


def test_every_room_is_either_pure_or_known() -> None:
    rooms = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    above = {"algorithms", "learning", "rollout", "experiments", "cli", "__init__"}
    above |= {"interop", "_checkpoint_aliases"}
    assert rooms == above | set(ROOMS)
