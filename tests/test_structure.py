"""How the package is built: imports point one way, and every package is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest
import structure
import tomllib

#: From the bottom to the top. A package imports from lower layers; those of one layer do not import
#: each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "losses", "returns", "manifest", "_checkpoint_aliases", "_ray_compat", "_version"),
    ("names", "files", "output", "matmul", "columns", "layout"),
    ("settings",),
    ("registry",),
    ("nets", "envs"),
    ("interop", "rollout", "policies"),
    ("learning",),
    ("algorithms",),
    ("experiments",),
    ("cli",),
)
#: Arrows that point up on purpose: importing module -> imported module.
UPWARDS = {
    # The type of what a creator of environments returns.
    ("rllib_seqmarl.registry", "rllib_seqmarl.envs.core.contract"),
    ("rllib_seqmarl._ray_compat", "rllib_seqmarl.envs.core.contract"),
}
#: What a package does not need, not even inside of a function.
WITHOUT = {
    "errors": {"ray", "torch", "gymnasium", "numpy"},
    "manifest": {"ray", "torch", "gymnasium", "numpy"},
    "names": {"ray", "torch", "gymnasium", "numpy"},
    "files": {"ray", "torch", "gymnasium", "numpy"},
    "output": {"ray", "torch", "gymnasium", "numpy"},
    "layout": {"ray", "torch", "gymnasium", "numpy"},
    "columns": {"ray", "torch", "gymnasium", "numpy"},
    "settings": {"ray", "torch", "gymnasium", "numpy"},
    "registry": {"torch", "gymnasium"},
    "losses": {"ray", "gymnasium"},
    "returns": {"ray", "gymnasium"},
    "matmul": {"ray", "gymnasium"},
    "nets": {"ray", "gymnasium"},
    "policies": {"ray", "gymnasium"},
    "envs": {"ray", "torch"},
}
#: A module whose purpose is the library that its package does without.
EXCEPTIONS = {("rllib_seqmarl.envs.adapters.rllib", "ray")}
#: Folders of envs that may import another's: SMAC is played in SMAX or in the game itself.
ENVS_BELOW = {"smac": {"smax", "starcraft2"}}

GRAPH = structure.import_graph()
FILES = structure.module_files()
INNER = [one for one in GRAPH if one.target.partition(".")[0] == structure.NAME]


def package_of(module: str) -> str:
    """The package or file below ``rllib_seqmarl`` that a module belongs to."""
    return [*module.split("."), ""][1]


def test_no_modules_import_each_other() -> None:
    assert structure.circles(INNER) == []


def test_every_package_has_its_layer() -> None:
    found = {package_of(module) for module in FILES} - {"", "tuned_examples"}
    known = {name for layer in LAYERS for name in layer}
    assert found - known == set()


def test_imports_point_down() -> None:
    rank = {name: level for level, layer in enumerate(LAYERS) for name in layer}
    wrong = [
        str(one)
        for one in INNER
        if package_of(one.importer) not in ("", package_of(one.target))
        and (one.importer, one.target) not in UPWARDS
        # (-1: the package itself, for its version and the registration of all names.)
        and rank[package_of(one.importer)] <= rank.get(package_of(one.target), -1)
    ]
    assert wrong == []


def test_packages_do_without_the_libraries_of_those_above() -> None:
    wrong = []
    for one in GRAPH:
        library = one.target.partition(".")[0]
        allowed = (one.importer, library) in EXCEPTIONS
        if library in WITHOUT.get(package_of(one.importer), ()) and not allowed:
            wrong.append(str(one))
    assert wrong == []


def test_folders_of_environments_import_only_the_core() -> None:
    wrong = []
    for one in INNER:
        if package_of(one.importer) == package_of(one.target) == "envs":
            folder, other = (f"{name}..".split(".")[2] for name in (one.importer, one.target))
            foreign = other not in {folder, "core", *ENVS_BELOW.get(folder, ())}
            if foreign or (one.importer.endswith(".config") and one.target.endswith(".env")):
                wrong.append(str(one))
    assert wrong == []


@pytest.mark.parametrize("blocked", [("ray", "gymnasium"), ("ray", "torch")], ids="-".join)
def test_pure_packages_import_where_ray_is_not_installed(blocked: tuple[str, ...]) -> None:
    """Not only by their text: also what they import is importable without."""
    pure = [name for name, without in WITHOUT.items() if without.issuperset(blocked)]
    modules = [module for module in FILES if package_of(module) in pure]
    code = f"""
import sys, importlib, importlib.abc

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocked())
for module in {modules!r}:
    importlib.import_module(module)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


def test_every_package_is_installed() -> None:
    """The list in pyproject.toml, which setuptools cannot find by itself (see there)."""
    project = tomllib.loads((structure.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = project["tool"]["setuptools"]["packages"]
    packages = [name for name, file in FILES.items() if file.name == "__init__.py"]
    assert sorted(listed) == sorted([*packages, f"{structure.NAME}.tuned_examples"])


#: Annotations with a bare ``Any`` in the package: as few as there were, or fewer.
MOST_ANY = 34


def test_any_is_written_no_more_often_than_before() -> None:
    pytest.importorskip("ruff", reason="the lint extra is not installed")
    assert structure.count_any() <= MOST_ANY


@pytest.mark.parametrize(
    "module",
    ["algorithms.srsv", "learning.base.config", "rollout.runner", "algorithms.coma"],
)
def test_rllib_is_imported_without_jax(module: str) -> None:
    """RLlib imports it where it is installed, which takes a second, and needs it for its tests."""
    code = f"""
import sys, {structure.NAME}.{module}
assert "ray.rllib" in sys.modules
assert not {{"jax", "flax"}} & sys.modules.keys()
import flax
"""
    pytest.importorskip("flax")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
