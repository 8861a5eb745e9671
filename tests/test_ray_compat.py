"""Private parts of Ray are used in one file only, and are there in the Ray that is installed."""

import ast
import importlib
import inspect
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rllib_seqmarl import _ray_compat

PACKAGE = Path(_ray_compat.__file__).parent
FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if file.name != "_ray_compat.py"]

#: Private names of Python and of other libraries than Ray.
OTHERS = {"_SubParsersAction", "_asdict", "_exit", "_fields", "_get_obs"}
OTHERS |= {"_decode_discrete_actions", "_parameters", "_replace", "_version"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def defined(tree: ast.AST) -> Iterator[str]:
    """Names that a module gives to something of its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_private_module_or_name_of_ray_is_imported(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.split(".")[0] == "ray":
                assert not any(is_private(part) for part in name.split(".")), name


def test_no_private_attribute_of_ray_is_used() -> None:
    trees = {file: ast.parse(file.read_text()) for file in FILES}
    known = OTHERS | {name for tree in trees.values() for name in defined(tree)}
    inherited = {name for names in _ray_compat.INHERITED.values() for name in names}
    for file, tree in trees.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or not is_private(node.attr):
                continue
            of_self = isinstance(node.value, ast.Name) and node.value.id == "self"
            allowed = known | inherited if of_self else known
            assert node.attr in allowed, f"{file.relative_to(PACKAGE)}:{node.lineno}: {node.attr}"


@pytest.mark.parametrize("path", _ray_compat.INHERITED)
def test_what_is_inherited_is_there(path: str) -> None:
    module, _, name = path.partition(":")
    source = inspect.getsource(getattr(importlib.import_module(module), name))
    for member in _ray_compat.INHERITED[path]:
        assert f"self.{member}" in source or f"def {member}(" in source, member


SEEDED = """
import sys
import rllib_seqmarl.learning
import torch
from ray.rllib.utils.debug import update_global_seed_if_necessary

update_global_seed_if_necessary("torch", 3)
drawn = torch.rand(2)
assert torch.are_deterministic_algorithms_enabled()
assert torch.initial_seed() == 3
assert "torch._inductor" not in sys.modules
import torch._inductor.config as compiler
assert compiler.deterministic
torch.use_deterministic_algorithms(False)
assert not compiler.deterministic
update_global_seed_if_necessary("torch", 3)
assert compiler.deterministic and torch.are_deterministic_algorithms_enabled()
assert torch.equal(torch.rand(2), drawn)
"""


def test_seeding_does_not_import_the_compiler_and_tells_it_later() -> None:
    run = subprocess.run([sys.executable, "-c", SEEDED], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


LOCAL_RAY = """
import logging
import psutil, ray
from rllib_seqmarl import _ray_compat
_ray_compat.start_local(
    num_cpus=2, log_to_driver=False, logging_level=logging.ERROR, address="local"
)

@ray.remote(num_cpus=1, runtime_env={"env_vars": {"SET_FOR_IT": "1"}})
def ask():
    import os
    return os.environ["SET_FOR_IT"]

before = [" ".join(child.cmdline()[:3]) for child in psutil.Process().children(recursive=True)]
assert ray.get(ask.remote()) == "1"
assert ray.cluster_resources()["CPU"] == 2
print("\\n".join(before))
"""


def test_a_local_ray_starts_what_is_needed_and_nothing_else() -> None:
    run = subprocess.run([sys.executable, "-c", LOCAL_RAY], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    started = run.stdout.lower().splitlines()
    # An agent is called by its file until it has named itself.
    dashboard, environments = "dashboardagent|dashboard/agent", "runtimeenvagent|env/agent"
    for kind in ("/gcs_server ", "/raylet ", dashboard, environments):
        assert sum(bool(re.search(kind, line)) for line in started) == 1, (kind, started)
    assert len(started) == 4, started


def test_a_python_user_is_not_told_what_cannot_be_helped() -> None:
    """RLlib's advice to go back to the old API stack; what a user does is still told."""
    from ray._common.deprecation import deprecation_warning
    from ray.rllib.core.rl_module.rl_module import RLModuleConfig
    from ray.util.debug import reset_log_once

    from rllib_seqmarl import MATConfig

    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("ray")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logging.getLogger("ray.rllib").setLevel(logging.WARNING)
    try:
        reset_log_once()
        MATConfig().environment("distinct_actions").validate()
        RLModuleConfig()
        assert told == []
        deprecation_warning("mine", "yours")
        assert "`mine` has been deprecated" in told[0]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
