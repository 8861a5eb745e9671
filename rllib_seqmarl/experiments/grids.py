"""``grid_search``: one value of a config that stands for several."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from rllib_seqmarl.errors import UserError

GRID = "grid_search"


def grid_values(value: Any, where: str) -> list[Any]:
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


def variants(config: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """Configs without ``grid_search``: all first values, then each other value on its own.

    That is every value at least once, and not every combination. Samplers of Ray Tune (in
    Python files) are replaced by a draw.
    """
    grids = list(_grids(config, where, ()))
    first = _resolved(config, where)
    yield first
    for path, values in grids:
        for value in values[1:]:
            variant = copy.deepcopy(first)
            parent = variant
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = _resolved(value, where)
            yield variant


def _grids(
    value: Mapping[str, Any], where: str, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            if GRID in inner:
                yield (*path, key), grid_values(inner, f"{where}: {'/'.join((*path, key))}")
            else:
                yield from _grids(inner, where, (*path, key))


def _resolved(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        if GRID in value:
            return _resolved(grid_values(value, where)[0], where)
        return {key: _resolved(inner, where) for key, inner in value.items()}
    return value.sample() if is_sampler(value) else copy.copy(value)


def is_sampler(value: Any) -> bool:
    """Whether a value is a distribution of Ray Tune, such as ``tune.loguniform(...)``."""
    # Whoever uses one has imported it; a YAML file need not wait for Ray here.
    samplers = sys.modules.get("ray.tune.search.sample")
    return samplers is not None and isinstance(value, samplers.Domain)
