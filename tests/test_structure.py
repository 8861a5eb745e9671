"""How the package is built: imports point one way, and what is private to Ray stays in one file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import structure
import tomllib

#: From the bottom to the top. A package imports from lower layers; those of one layer do not import
#: each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "losses", "returns", "manifest", "_checkpoint_aliases", "_ray_compat"),
    ("settings",),
    ("registry",),
    ("nets", "envs"),
    ("interop", "rollout"),
    ("learning",),
    ("algorithms",),
    ("experiments",),
    ("cli",),
)
#: Arrows that point up on purpose: importing module -> imported module.
UPWARDS = {
    # The type of what `registry.make_environment` returns.
    ("rllib_seqmarl.registry", "rllib_seqmarl.envs.core.contract"),
}
#: What a package does not need, not even inside of a function.
WITHOUT = {
    "errors": {"ray", "torch", "gymnasium", "numpy"},
    "manifest": {"ray", "torch", "gymnasium", "numpy"},
    "settings": {"ray", "torch", "gymnasium"},
    "losses": {"ray", "gymnasium"},
    "returns": {"ray", "gymnasium"},
    "nets": {"ray", "gymnasium"},
    "envs": {"ray", "torch"},
}
#: A module whose purpose is the library that its package does without.
EXCEPTIONS = {("rllib_seqmarl.envs.adapters.rllib", "ray")}
#: Folders of envs that may import another's: SMAC is played in SMAX or in the game itself.
ENVS_BELOW = {"smac": {"smax", "starcraft2"}}

#: Private names of other libraries than Ray: module -> names.
NOT_RAYS = {
    "rllib_seqmarl.cli": {"_SubParsersAction"},
    "rllib_seqmarl.envs.dubins_car.env": {"_fields"},
    "rllib_seqmarl.envs.mamujoco.env": {"_get_obs"},
    "rllib_seqmarl.envs.smax.battle": {"_decode_discrete_actions"},
    "rllib_seqmarl.envs.smax.env": {"_asdict"},
    "rllib_seqmarl.experiments.train.shutdown": {"_exit"},
    "rllib_seqmarl.nets.agents.stacked": {"_version", "_parameters"},
}

#: What does not hold yet, without line numbers. Only ever gets shorter.
KNOWN: set[str] = {
    "envs.dubins_car.config imports envs.dubins_car.env",
    "envs.dubins_car.env <-> envs.dubins_car.rendering",
    "envs.football.config imports envs.football.env",
    "envs.mamujoco.config <-> envs.mamujoco.env",
    "envs.mamujoco.config imports envs.mamujoco.env",
    "envs.mpe.config imports envs.mpe.env",
    "envs.smac.config <-> envs.smax.env",
    "envs.smac.config imports envs.smax.env",
    "envs.smac.config imports envs.starcraft2.env",
    "envs.smax.env imports envs.smac.config",
    "experiments.checkpoints.resuming _TrainingResult",
    "experiments.checkpoints.resuming _internal",
    "experiments.evaluate.evaluation _global_registry",
    "experiments.share.policy_file _rl_module_spec",
    "experiments.train.loggers _restore_from_remote",
    "learning.base.algorithm _storage",
    "learning.base.config _common",
    "learning.base.config _global_registry",
    "learning.base.config _rl_module_spec",
    "learning.base.config _train_batch_size_per_learner",
    "learning.base.config _translate_special_keys",
    "learning.base.learner _check_component",
    "learning.base.learner _optimizer_lr_schedules",
    "learning.base.learner _optimizer_parameters",
    "learning.base.learner _params",
    "learning.base.learner _set_optimizer_lr",
    "learning.central_q.replay _check_component",
    "nets.transformer.kv_cache <-> nets.transformer.model",
    "registry _post_init_hooks",
    "registry _private",
    "rollout.group _worker_manager",
    "rollout.runner _check_component",
    "rollout.runner _log_env_steps",
    "rollout.runner _metrics_num_env_steps_sampled",
    "rollout.worlds _seed",
    "rollout.worlds _try_env_reset",
    "rollout.worlds _try_env_step",
}

GRAPH = structure.import_graph()
FILES = structure.module_files()
INNER = [one for one in GRAPH if one.target.partition(".")[0] == structure.NAME]


def room(module: str) -> str:
    """The package or file below ``rllib_seqmarl`` that a module belongs to."""
    return [*module.split("."), ""][1]


def new(wrong: Iterable[object]) -> list[str]:
    """Those that `KNOWN` does not name."""
    return [
        text for text in map(str, wrong) if re.sub(r":\d+|rllib_seqmarl\.", "", text) not in KNOWN
    ]


def test_no_modules_import_each_other() -> None:
    assert new(" <-> ".join(group) for group in structure.circles(INNER)) == []


def test_every_package_has_its_layer() -> None:
    found = {room(module) for module in FILES} - {"", "tuned_examples"}
    known = {name for layer in LAYERS for name in layer}
    assert found - known == set()


def test_imports_point_down() -> None:
    rank = {name: level for level, layer in enumerate(LAYERS) for name in layer}
    wrong = [
        str(one)
        for one in INNER
        if room(one.importer) not in ("", room(one.target))
        and (one.importer, one.target) not in UPWARDS
        # (-1: the package itself, for its version and the registration of all names.)
        and rank[room(one.importer)] <= rank.get(room(one.target), -1)
    ]
    assert new(wrong) == []


def test_packages_do_without_the_libraries_of_those_above() -> None:
    wrong = []
    for one in GRAPH:
        library = one.target.partition(".")[0]
        allowed = (one.importer, library) in EXCEPTIONS
        if library in WITHOUT.get(room(one.importer), ()) and not allowed:
            wrong.append(str(one))
    assert new(wrong) == []


def test_folders_of_environments_import_only_the_core() -> None:
    wrong = []
    for one in INNER:
        if room(one.importer) == room(one.target) == "envs":
            folder, other = (f"{name}..".split(".")[2] for name in (one.importer, one.target))
            foreign = other not in {folder, "core", *ENVS_BELOW.get(folder, ())}
            if foreign or (one.importer.endswith(".config") and one.target.endswith(".env")):
                wrong.append(str(one))
    assert new(wrong) == []


def private_names(module: str, file: Path) -> Iterator[tuple[int, str]]:
    """Line and name of all private names that a module reads of something else than itself."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        else:
            continue
        for name in names:
            if name.startswith("_") and not name.endswith("__"):
                yield node.lineno, name


def own_names() -> set[str]:
    """Every name that some module of the package gives to something."""
    names = {module.rpartition(".")[2] for module in FILES}
    for file in FILES.values():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
    return names


def test_private_names_of_ray_stand_in_one_file() -> None:
    own = own_names()
    wrong = [
        f"{module}:{line} {name}"
        for module, file in FILES.items()
        if room(module) != "_ray_compat"
        for line, name in private_names(module, file)
        if name not in own and name not in NOT_RAYS.get(module, ())
    ]
    assert new(wrong) == []


@pytest.mark.parametrize("blocked", [("ray", "gymnasium"), ("ray", "torch")], ids="-".join)
def test_pure_packages_import_where_ray_is_not_installed(blocked: tuple[str, ...]) -> None:
    """Not only by their text: also what they import is importable without."""
    pure = [name for name, without in WITHOUT.items() if without.issuperset(blocked)]
    modules = [module for module in FILES if room(module) in pure]
    code = f"""
import sys, importlib, importlib.abc

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")

sys.argv = ["rllib"]  # the program that does not register names when the package is imported
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
MOST_ANY = 209


def test_any_is_written_no_more_often_than_before() -> None:
    pytest.importorskip("ruff", reason="the lint extra is not installed")
    assert structure.count_any() <= MOST_ANY
