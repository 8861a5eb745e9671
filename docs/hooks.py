"""What mkdocs writes into the pages by itself, so that it is never out of date.

A page asks for it with a comment on a line of its own:

- ``<!-- settings: SrSv -->`` the settings of an algorithm, as `rllib algo show SrSv` has them;
- ``<!-- env-config: smac -->`` the keys of an environment, as `rllib env show smac` has them;
- ``<!-- table: smac_3s5z -->`` the numbers behind a learning curve (docs/data).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

DATA = Path(__file__).parent / "data"


def rows(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    every = [header, ["---"] * len(header), *lines]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in every
    )


def settings(algorithm: str) -> str:
    """Every setting of an algorithm beside RLlib's."""
    return f"`rllib algo show {algorithm}`"


def env_config(environment: str) -> str:
    """Every key of an environment's ``env_config``."""
    return f"`rllib env show {environment}`"


def table(name: str) -> str:
    """A learning curve as numbers."""
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    lines = [[f"{int(line[0]):,}", *line[1:]] for line in lines]
    return rows([header[0].replace("_", " "), *header[1:]], lines)


MACROS: dict[str, Callable[[str], str]] = {
    "settings": settings,
    "env-config": env_config,
    "table": table,
}
MACRO = re.compile(rf"^<!-- ({'|'.join(MACROS)}): (\S+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs for every page."""
    return MACRO.sub(lambda match: MACROS[match[1]](match[2]), markdown)
