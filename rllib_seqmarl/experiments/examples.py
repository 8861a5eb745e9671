"""The tuned examples: one YAML or Python file each.

The first line of a file says what it is. A line of its head that begins with "Expected:" says what
comes of it and how long that takes, of those that were trained to their end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import rllib_seqmarl
from rllib_seqmarl import registry
from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.experiments.spec.files import read_text
from rllib_seqmarl.files import user_path

_EXPECTED = re.compile(r"^# Expected: (.*(?:\n#   .*)*)", re.MULTILINE)
_ALGORITHM = re.compile(r"^  run: (\S+)|import (\w+)Config$", re.MULTILINE)
_ENVIRONMENT = re.compile(r"^  env: (\S+)|\.environment\(\"(\w+)\"", re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """A tuned example.

    Attributes:
        path: its file.
        description: the first line of it.
        expected: what comes of it and in which time; empty where nobody has seen that.
        algorithms: names of the algorithms of its experiments.
        environments: names of their environments.
    """

    path: Path
    description: str
    expected: str
    algorithms: frozenset[str]
    environments: frozenset[str]

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem


def _read(path: Path) -> Example:
    text = read_text(path)
    first = text.partition("\n")[0]
    description = first.strip('#" ') if first.startswith(("#", '"""')) else ""
    expected = match[1].replace("\n#  ", "") if (match := _EXPECTED.search(text)) else ""
    algorithms, environments = (
        frozenset(next(filter(None, names)) for names in pattern.findall(text))
        for pattern in (_ALGORITHM, _ENVIRONMENT)
    )
    return Example(path, description, expected, algorithms, environments)


def folder() -> Path:
    """The folder of the examples: inside an installed package, beside it in a source checkout."""
    package = Path(rllib_seqmarl.__file__).parent
    for candidate in (package / "tuned_examples", package.parent / "tuned_examples"):
        if any(candidate.glob("*.yaml")):
            return candidate
    raise UserError(f"the tuned examples are not part of this installation ({package}).")


def examples(
    containing: str = "", algorithm: str | None = None, environment: str | None = None
) -> list[Example]:
    """Some of the examples, sorted by name.

    Args:
        containing: a text in name or description.
        algorithm: only those of this algorithm.
        environment: only those in this environment.

    Raises:
        UserError: no such algorithm or environment; the line names the nearest.
    """
    if algorithm is not None:
        algorithm = registry.algorithm_name(algorithm)
    if environment is not None and environment not in registry.ENVIRONMENTS:
        hint = nearest(environment, registry.ENVIRONMENTS)
        raise UserError(f"unknown environment {environment!r}. {hint}")
    paths = sorted(path for path in folder().iterdir() if path.suffix in (".py", ".yaml"))
    return [
        example
        for example in map(_read, paths)
        if containing.lower() in f"{example.name} {example.description}".lower()
        and (algorithm is None or algorithm in example.algorithms)
        and (environment is None or environment in example.environments)
    ]


def example(name: str) -> Example:
    """The example of a name.

    Raises:
        UserError: there is none; the line names the nearest.
    """
    known = {found.name: found for found in examples()}
    stem = name.removesuffix(".yaml").removesuffix(".py")
    if stem not in known:
        raise UserError(f"unknown example {name!r}. {nearest(name, known)}")
    return known[stem]


def find(file: str) -> str:
    """``file``, or the path of the example of that name where there is no such file.

    Raises:
        UserError: neither a file nor an example; the line names the nearest example.
    """
    path = user_path(file)
    if path.exists() or path.name != file or path.suffix not in ("", ".yaml", ".py"):
        return file
    try:
        return str(example(file).path)
    except UserError as error:
        raise UserError(f"no such file: {file}. As an example: {error}") from None
