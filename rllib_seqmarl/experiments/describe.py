"""``rllib algo`` and ``rllib env``: what there is, and every setting with its type and default."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from rllib_seqmarl import registry
from rllib_seqmarl.settings import Row, describe

#: Columns of a terminal that nobody has made wider.
WIDTH = 80


def list_names(kind: str) -> int:
    """Prints every name of a kind, "algorithm" or "environment", with its first sentence.

    Returns:
        The exit status.
    """
    table = registry.table(kind)
    width = max(map(len, table)) + 2
    for name, target in table.items():
        first = registry.summary(target).removeprefix(f"{name}: ").replace("``", "")
        print(
            textwrap.fill(
                first, WIDTH, initial_indent=f"{name:<{width}}", subsequent_indent=" " * width
            )
        )
    command = {"algorithm": "algo", "environment": "env"}[kind]
    print(f"\nSettings of one of them: rllib {command} show NAME")
    return 0


def show_algorithm(name: str, *, everything: bool = False) -> int:
    """Prints the settings of an algorithm; ``everything``: RLlib's as well.

    Returns:
        The exit status.

    Raises:
        UserError: no such algorithm; the line says the nearest one.
    """
    from rllib_seqmarl.learning.base.rllib_settings import RLlibSettings

    name = registry.algorithm_name(name)
    target = registry.ALGORITHMS.get(name, name)
    config = registry.config_class(name)
    print(textwrap.fill(registry.summary(target), WIDTH))
    print("\nSettings of training(), and keys of `config:` in a YAML file:\n")
    _print(describe(config))
    if everything:
        print("\nRLlib's settings, of its other methods, and keys of `config:` as well:\n")
        _print(describe(RLlibSettings))
    else:
        print(f"\nProcesses, envs, evaluation, seed: rllib algo show {name} --all")
    return 0


def show_environment(name: str) -> int:
    """Prints the settings of an environment.

    Returns:
        The exit status.

    Raises:
        UserError: no such environment; the line says the nearest one.
    """
    entry = registry.environment(name)
    print(textwrap.fill(registry.summary(entry), WIDTH))
    cls = entry.settings_class()
    if cls is None:
        print("\nIt declares no settings: what it takes is up to its constructor.")
        return 0
    print("\nKeys of `env_config`:\n")
    _print(describe(cls))
    return 0


def _print(rows: Iterable[Row]) -> None:
    for row in rows:
        allowed = f" ({row.allowed})" if row.allowed else ""
        head = f"{row.name}: {row.type}{allowed}, default {row.default}"
        print(textwrap.fill(head, WIDTH, subsequent_indent=" " * 8, break_on_hyphens=False))
        if row.doc:
            sentence = textwrap.fill(
                row.doc.replace("``", ""),
                WIDTH,
                initial_indent=" " * 4,
                subsequent_indent=" " * 4,
                break_on_hyphens=False,
            )
            print(sentence)
