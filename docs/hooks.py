"""What mkdocs writes into the pages by itself, so that it is never out of date.

A page asks for it with a comment on a line of its own:

- ``<!-- settings: SrSv -->`` the settings of an algorithm, as `rllib algo show SrSv` has them;
- ``<!-- env-config: smac -->`` the keys of an environment, as `rllib env show smac` has them; also
  of a class of settings by its import path;
- ``<!-- table: smac_3s5z -->`` the numbers behind a learning curve (docs/data);
- ``<!-- comparison: smax_3s5z -->`` what the finished runs of benchmarks/papers/smax_3s5z say;
- ``<!-- evaluations: dubins_car_freeze -->`` what their last checkpoints reached elsewhere;
- ``<!-- include: tuned_examples/mat_smac.yaml -->`` a file of the repository, or one class or
  function of it: ``<!-- include: rllib_seqmarl/losses.py#huber -->``; ``file`` instead of
  ``include`` folds it up.
"""

from __future__ import annotations

import ast
import csv
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rllib_seqmarl import registry
from rllib_seqmarl.settings import Row, describe

# mkdocs runs this file by its path.
sys.path.insert(0, str(Path(__file__).parent))
import papers

ROOT = Path(__file__).parent.parent
DATA = ROOT / "docs" / "data"
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml"}


def markdown_table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    every = [header, ["---"] * len(header), *lines]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in every
    )


def settings_table(rows: Iterable[Row]) -> str:
    """Settings as a table: key, default, what is allowed, sentence."""
    lines = []
    for row in rows:
        allowed = f"{row.type}: {row.allowed}" if row.allowed else row.type
        sentence = " ".join(row.doc.replace("``", "`").split())
        lines.append(
            [f"`{row.name}`", f"`{row.default}`" if row.default else "", allowed, sentence]
        )
    return markdown_table(["key", "default", "type", "what it is"], lines)


def settings(algorithm: str) -> str:
    """Every setting of an algorithm beside RLlib's."""
    return settings_table(describe(registry.config_class(algorithm)))


def env_config(environment: str) -> str:
    """Every key of an environment's ``env_config``."""
    if registry.is_import_path(environment):
        cls = registry.import_target(environment, "env config")
    else:
        cls = registry.environment(environment).settings_class()
    return settings_table(describe(cls))


def curve_table(name: str) -> str:
    """A learning curve as numbers."""
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    lines = [[f"{int(line[0]):,}", *line[1:]] for line in lines]
    return markdown_table([header[0].replace("_", " "), *header[1:]], lines)


def include(what: str) -> str:
    """A file, or a class or function of it, as a block of code.

    Raises:
        ValueError: the file has no such class or function.
    """
    path, _, name = what.partition("#")
    text = (ROOT / path).read_text(encoding="utf-8")
    if name:
        nodes = [node for node in ast.parse(text).body if getattr(node, "name", "") == name]
        if not nodes:
            raise ValueError(f"{path} has no {name}.")
        decorators = getattr(nodes[0], "decorator_list", [])
        first = min(node.lineno for node in [*decorators, nodes[0]])
        text = "\n".join(text.splitlines()[first - 1 : nodes[0].end_lineno])
    return f"```{LANGUAGES[Path(path).suffix]}\n{text.rstrip()}\n```"


def file(what: str) -> str:
    """The same, folded up."""
    return f'??? example "{what}"\n\n{textwrap.indent(include(what), "    ")}'


MACROS: dict[str, Callable[[str], str]] = {
    "settings": settings,
    "env-config": env_config,
    "table": curve_table,
    "comparison": papers.tables,
    "evaluations": lambda row: markdown_table(*papers.evaluations(row)),
    "include": include,
    "file": file,
}
MACRO = re.compile(rf"^<!-- ({'|'.join(MACROS)}): (\S+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs for every page."""
    return MACRO.sub(lambda match: MACROS[match[1]](match[2]), markdown)
