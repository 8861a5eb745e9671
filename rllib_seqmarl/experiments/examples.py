"""The tuned examples: one YAML or Python file each, whose first line says what it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import rllib_seqmarl
from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.experiments.spec.files import read_text


@dataclass(frozen=True)
class Example:
    """A tuned example: its file, and the first line of it."""

    path: Path
    description: str

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem


def folder() -> Path:
    """The folder of the examples: inside an installed package, beside it in a source checkout."""
    package = Path(rllib_seqmarl.__file__).parent
    for candidate in (package / "tuned_examples", package.parent / "tuned_examples"):
        if any(candidate.glob("*.yaml")):
            return candidate
    raise UserError(f"the tuned examples are not part of this installation ({package}).")


def examples(containing: str = "") -> list[Example]:
    """The examples whose name or description contains a text, sorted by name."""
    found = []
    for path in sorted(path for path in folder().iterdir() if path.suffix in (".py", ".yaml")):
        first = read_text(path).partition("\n")[0]
        example = Example(path, first.strip('#" ') if first.startswith(("#", '"""')) else "")
        if containing.lower() in f"{example.name} {example.description}".lower():
            found.append(example)
    return found


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
