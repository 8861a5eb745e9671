"""Private parts of Ray are used in one file only, and are there in the Ray that is installed."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from rllib_seqmarl import _ray_compat

PACKAGE = Path(_ray_compat.__file__).parent
FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if file.name != "_ray_compat.py"]

#: Private names of Python and of other libraries than Ray.
OTHERS = {"_SubParsersAction", "_asdict", "_exit", "_fields", "_get_obs"}
OTHERS |= {"_decode_discrete_actions", "_parameters", "_version"}


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
