"""Values of a config that stand for several: ``grid_search``, and samplers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.spec.sampling import candidates, is_sampler

GRID = "grid_search"


def grid_values(value: object, where: str) -> list[Any]:
    """The values of a ``grid_search`` mapping; ``[value]`` where it is none.

    Raises:
        UserError: ``grid_search`` beside other keys, or not a list of values.
    """
    if not (isinstance(value, Mapping) and GRID in value):
        return [value]
    if len(value) > 1 or not isinstance(value[GRID], list) or not value[GRID]:
        raise UserError(
            f"{where}: 'grid_search' takes a list of values, alone in its mapping, e.g. "
            "{grid_search: [1, 2]}."
        )
    return list(value[GRID])


def all_values(value: object, where: str) -> list[Any]:
    """The values for which ``value`` stands: a grid's, a sampler's candidates, or itself."""
    return candidates(value) if is_sampler(value) else grid_values(value, where)


def variants(config: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """Configs without ``grid_search`` and samplers: all first values, then each other on its own.

    That is every value of a grid, and every candidate of a sampler, at least once, and not every
    combination.
    """
    searched = list(_searched(config, where, ()))
    first = _resolved(config, where)
    yield first
    for path, values in searched:
        for value in values[1:]:
            variant = copy.deepcopy(first)
            parent = variant
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = _resolved(value, where)
            yield variant


def _searched(
    value: Mapping[str, Any], where: str, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    for key, inner in value.items():
        if is_sampler(inner) or (isinstance(inner, Mapping) and GRID in inner):
            yield (*path, key), all_values(inner, f"{where}: {'/'.join((*path, key))}")
        elif isinstance(inner, Mapping):
            yield from _searched(inner, where, (*path, key))


def _resolved(value: object, where: str) -> Any:
    if is_sampler(value) or (isinstance(value, Mapping) and GRID in value):
        return _resolved(all_values(value, where)[0], where)
    if isinstance(value, Mapping):
        return {key: _resolved(inner, where) for key, inner in value.items()}
    return copy.copy(value)
