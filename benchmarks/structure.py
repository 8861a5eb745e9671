"""How the package is built: its imports, and the counts that say how much of it one must read.

    python benchmarks/structure.py                   # everything
    python benchmarks/structure.py --algorithms MAT SrSv
    python benchmarks/structure.py --compare benchmarks/structure_0.1.json

Files to read for an algorithm are traced, not listed: a training of seconds runs under a profiler
that notes which functions of the package are called while the algorithm acts, completes its train
batch, computes its losses and their gradients. A file counts where at least one of its functions or
classes was used and it is not plumbing (`PLUMBING`, with the reason for each entry); its lines are
all of its lines, docstrings included.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
NAME = "rllib_seqmarl"
PACKAGE = ROOT / NAME


class Import(NamedTuple):
    """One import statement's target, as written in one module."""

    importer: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


def module_files(package: Path = PACKAGE) -> dict[str, Path]:
    """Dotted name of every module of a package -> its file."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = file
    return found


def imports_of(module: str, file: Path, known: Iterable[str] = ()) -> Iterator[Import]:
    """All imports of a module: those under TYPE_CHECKING and inside of functions included.

    ``from package import name`` is an import of ``package.name`` where that is a module in
    ``known``, and of ``package`` otherwise.
    """
    known = set(known)
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield Import(module, inner if inner in known else base, node.lineno)


def import_graph(package: Path = PACKAGE) -> list[Import]:
    """Every import of every module of the package, of its own modules and of others."""
    files = module_files(package)
    return [found for name, file in files.items() for found in imports_of(name, file, files)]


def circles(graph: Iterable[Import]) -> list[list[str]]:
    """Groups of modules that import each other (strongly connected components, Tarjan 1972)."""
    after: dict[str, set[str]] = {}
    for importer, target, _ in graph:
        after.setdefault(importer, set()).add(target)
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for target in sorted(after.get(module, ())):
            if target not in number:
                visit(target)
                lowest[module] = min(lowest[module], lowest[target])
            elif target in stack:
                lowest[module] = min(lowest[module], number[target])
        if lowest[module] == number[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1 or module in after.get(module, ()):
                found.append(sorted(group))

    for module in sorted(after):
        if module not in number:
            visit(module)
    return found


def count_any(package: Path = PACKAGE) -> int:
    """Annotations that are a bare ``Any``, as ruff counts them (ANN401)."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "ANN401"]
    command += ["--exit-zero", "--output-format", "json", str(package)]
    return len(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))
