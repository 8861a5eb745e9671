"""How the package is built: its imports, and the counts that say how much of it one must read.

    python benchmarks/structure.py                            # all counts, beside version 0.1's
    python benchmarks/structure.py --algorithms MAT --files   # and which files are to be read

Files to read for all equations and nets of an algorithm are traced: a training of seconds runs
under a profiler that notes which functions of the package are called, from the policy's decisions
to the gradient step. A file counts with all of its lines where one of its functions was called,
unless it is plumbing, or a faster form of what stands elsewhere in a plain form (see `PLUMBING` and
`FAST`).
"""

from __future__ import annotations

import argparse
import ast
import json
import logging
import re
import subprocess
import sys
import threading
import tokenize
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

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


# -- what one must read ------------------------------------------------------------------------

#: Moves data and holds no equation: path below the package, or a folder -> what it does.
PLUMBING = {
    "__init__.py": "names of the package",
    "_checkpoint_aliases.py": "old class names",
    "_ray_compat.py": "private parts of Ray",
    "cli.py": "the command",
    "errors.py": "messages",
    "manifest.py": "files of a checkpoint",
    "names.py": "names",
    "registry.py": "names",
    "settings.py": "reading of settings",
    "envs/": "environments",
    "experiments/": "files, commands, reports",
    "rollout/": "collects rollouts",
    "learning/base/": "the update's loops, batches, settings of all algorithms",
    "learning/sequential/config.py": "settings",
    "learning/sequential/module.py": "RLlib's shell around the policy",
    "learning/central_q/module.py": "RLlib's shell around agents and critic",
    "learning/actor_critic/config.py": "settings",
    "learning/central_q/config.py": "settings",
    "learning/central_q/replay.py": "stores sequences",
    "nets/networks.py": "which parts a network has, by name",
    "nets/orders/base.py": "what an order is; gathers by it",
    "nets/values/base.py": "what a value function is",
}
#: Computes the same as a plain form, in less time or memory: path or folder -> the plain form.
FAST = {
    "nets/decoding/": "the decoder in nets/transformer/model.py, once for every agent",
    "nets/transformer/kv_cache.py": "the same",
    "nets/transformer/sparse_attention.py": "attention with a mask",
    "nets/values/suffix_pass.py": "nets/values/sequential_reference.py",
    "nets/values/suffixes.py": "the same",
}
#: What is read in place of a fast form: algorithm -> paths.
PLAIN = {"SrSv": ("nets/values/sequential_reference.py",)}


def small_config(name: str) -> Any:
    """The config of an algorithm by name, on a toy, for a training of seconds."""
    from seeded_figures import config_of

    return config_of(name)


def called_files(function: Callable[[], object]) -> set[str]:
    """Paths below the package of all files in which a function was called by ``function()``."""
    found: set[str] = set()
    names = {str(file): str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py")}

    def note(frame: FrameType, event: str, _: object) -> None:
        # The body of a module or class is no function.
        if event == "call" and frame.f_code.co_flags & 0x2:  # CO_NEWLOCALS
            name = names.get(frame.f_code.co_filename)
            if name is not None:
                found.add(name)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return found


def files_to_read(name: str) -> list[str]:
    """Paths below the package of all equations and nets of an algorithm.

    Networks are made under the profiler too: what only a constructor reads is read.
    """

    def train() -> None:
        algorithm = small_config(name).build_algo()
        algorithm.train()
        algorithm.stop()

    skipped = (*PLUMBING, *FAST)
    files = {file for file in called_files(train) if not file.startswith(skipped)}
    return sorted(files | set(PLAIN.get(name, ())))


def lines_of(files: Iterable[Path]) -> int:
    """Lines of all these files."""
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def code_lines_of(files: Iterable[Path]) -> int:
    """Lines that hold more than blanks, comments and docstrings."""
    ignored = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    ignored |= {tokenize.ENCODING, tokenize.ENDMARKER}
    total = 0
    for file in files:
        texts: set[int] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                texts.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        with file.open("rb") as stream:
            tokens = [one for one in tokenize.tokenize(stream.readline) if one.type not in ignored]
        total += len({n for one in tokens for n in range(one.start[0], one.end[0] + 1)} - texts)
    return total


def depths(name: str) -> tuple[int, int, int]:
    """Classes in the method resolution order of an algorithm's learner, module and config."""
    from rllib_seqmarl import registry

    config = registry.config_class(name)()
    module = config.get_default_rl_module_spec().module_class
    classes = (config.get_default_learner_class(), module, type(config))
    return tuple(len(cls.__mro__) for cls in classes)  # type: ignore[return-value]


def depths_of_ppo() -> tuple[int, int, int]:
    """The same of RLlib's PPO."""
    from ray.rllib.algorithms.ppo import PPOConfig

    config = PPOConfig()
    module = config.get_default_rl_module_spec().module_class
    classes = (config.get_default_learner_class(), module, PPOConfig)
    return tuple(len(cls.__mro__) for cls in classes)  # type: ignore[return-value]


def name_sets(package: Path = PACKAGE) -> list[str]:
    """Constants in the body of a class such as ``_POSITIVE``, which list names of settings."""
    found = []
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef):
                continue
            for item in node.body:
                target = item.target if isinstance(item, ast.AnnAssign) else None
                if isinstance(item, ast.Assign):
                    target = item.targets[0]
                texts = [n for n in ast.walk(item) if isinstance(n, ast.Constant)]
                listed = any(isinstance(text.value, str) for text in texts)
                if isinstance(target, ast.Name) and re.fullmatch("_[A-Z_]+", target.id) and listed:
                    found.append(f"{file.relative_to(package)}:{item.lineno} {target.id}")
    return found


# -- the report ----------------------------------------------------------------------------------

#: Version 0.1, counted in the same way where there is a way.
BEFORE: dict[str, str] = {
    "package, files": "130",
    "package, lines": "22,867",
    "package, code lines": "14,475",
    "README, lines": "473",
    "circles of imports": "4",
    "class-level sets of names": "59",
    "annotations with Any": "209",
    "depth of learners": "8-11",
    "depth of modules": "9-10",
    "depth of configs": "7-9",
    "to read for MAT": "19 / 4,165",
    "to read for SrSv": "22 / 4,593",
    "to read for PMAT": "20 / 4,232",
    "to read for AOAD-MAT": "21 / 4,452",
    "to read for SeCA": "14 / 2,454",
    "to read for A2PO": "11 / 2,174",
    "to read for MAPPO": "10 / 1,832",
}


def main() -> None:
    """Prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--algorithms", nargs="*", help="to trace; default: all, which takes a minute"
    )
    parser.add_argument("--files", action="store_true", help="name the files to read")
    arguments = parser.parse_args()
    import ray.rllib  # sets its loggers up

    from rllib_seqmarl import registry

    logging.getLogger(ray.__name__).setLevel(logging.ERROR)
    names = list(registry.ALGORITHMS) if arguments.algorithms is None else arguments.algorithms
    print(f"{'':28} {'0.1':>12} {'now':>12}")

    def row(name: str, now: object) -> None:
        print(f"{name:28} {BEFORE.get(name, '-'):>12} {now!s:>12}", flush=True)

    files = list(module_files().values())
    row("package, files", len(files))
    row("package, lines", f"{lines_of(files):,}")
    row("package, code lines", f"{code_lines_of(files):,}")
    row("README, lines", lines_of([ROOT / "README.md"]))
    inner = [one for one in import_graph() if one.target.partition(".")[0] == NAME]
    row("circles of imports", len(circles(inner)))
    row("class-level sets of names", len(name_sets()))
    row("annotations with Any", count_any())
    found = [depths(name) for name in registry.ALGORITHMS]
    for kind, each, ppo in zip(
        ("learners", "modules", "configs"), zip(*found, strict=True), depths_of_ppo(), strict=True
    ):
        row(f"depth of {kind}", f"{min(each)}-{max(each)}")
        print(f"  (RLlib's PPO: {ppo})")
    for name in names:
        to_read = files_to_read(name)
        row(f"to read for {name}", f"{len(to_read)} / {lines_of(PACKAGE / f for f in to_read):,}")
        if arguments.files:
            for file in to_read:
                print(f"  {lines_of([PACKAGE / file]):5} {file}")


if __name__ == "__main__":
    main()
