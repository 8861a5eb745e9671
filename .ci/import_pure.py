"""Compiles every file, and imports every module that needs neither Ray nor torch."""

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

FOLDERS = ("rllib_seqmarl", "tests", "benchmarks", "examples", "docs", "docker")
#: Not installed here; what is built on one of them is left out.
SIMULATORS = {"jax", "jaxmarl", "mujoco", "gymnasium_robotics", "pettingzoo", "gfootball"}
PURE = ("errors", "manifest", "names", "settings", "registry", "envs")

files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
for file in files:
    compile(file.read_text(encoding="utf-8"), str(file), "exec")

modules = 0
for file in sorted((ROOT / "rllib_seqmarl").rglob("*.py")):
    parts = file.relative_to(ROOT).with_suffix("").parts
    if len(parts) > 1 and parts[1] in PURE:
        try:
            importlib.import_module(".".join(part for part in parts if part != "__init__"))
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in SIMULATORS:
                raise
        else:
            modules += 1
print(f"Python {sys.version.split()[0]}: {len(files)} files compile, {modules} modules import.")
