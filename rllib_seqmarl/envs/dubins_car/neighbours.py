"""Which cars are near each other: the pairs closer than a radius, over E envs of N cars at once.

Cars are numbered ``e * N + i`` over all envs; all arrays of pairs are sorted by the first car,
then by distance, then by the second car.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

#: Up to this many cars per env all N x N distances are computed, above it a tree is built.
DENSE_LIMIT = 64

#: Both searches look a little further than asked: the distances that decide are computed after.
_SLACK = 1.0 + 1e-5


class Neighbours(NamedTuple):
    """Ordered pairs of cars of one env, P of them.

    Attributes:
        car: int [P], whose neighbour it is.
        other: int [P], the neighbour.
        distance: float32 [P], between their centres.
        rank: int [P], 0 for the nearest neighbour of ``car``.
    """

    car: NDArray[np.int64]
    other: NDArray[np.int64]
    distance: NDArray[np.float32]
    rank: NDArray[np.int64]


def neighbours(
    x: NDArray[np.float32], y: NDArray[np.float32], radius: float, dense: bool | None = None
) -> Neighbours:
    """All ordered pairs of different cars of one env whose centres are closer than ``radius``.

    Args:
        x, y: positions, float32 [E, N].
        radius: in the unit of the positions.
        dense: whether to compute all N x N distances; None decides by N.
    """
    if dense is None:
        dense = x.shape[1] <= DENSE_LIMIT
    car, other = _dense(x, y, radius) if dense else _tree(x, y, radius)
    x, y = x.ravel(), y.ravel()
    distance = np.hypot(x[other] - x[car], y[other] - y[car])
    is_near = distance < radius
    car, other, distance = car[is_near], other[is_near], distance[is_near]
    order = np.lexsort((other, distance, car))
    car, other, distance = car[order], other[order], distance[order]
    rank = np.arange(len(car)) - np.searchsorted(car, car)
    return Neighbours(car, other, distance, rank)


def _dense(
    x: NDArray[np.float32], y: NDArray[np.float32], radius: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    cars = x.shape[1]
    dx = x[:, :, None] - x[:, None]  # [E, N, N]
    dy = y[:, :, None] - y[:, None]
    is_near = dx * dx + dy * dy < (radius * _SLACK) ** 2
    is_near[:, np.arange(cars), np.arange(cars)] = False
    pair = np.flatnonzero(is_near)
    car, slot = np.divmod(pair, cars)
    return car, car // cars * cars + slot


def _tree(
    x: NDArray[np.float32], y: NDArray[np.float32], radius: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One tree for all envs, which lie side by side, too far apart to be neighbours."""
    envs = x.shape[0]
    # The span of now: nothing keeps the cars inside their area. In float64, which holds the
    # shifted positions exactly enough.
    stride = float(x.max() - x.min()) + 2.0 * radius
    shifted = x.astype(np.float64) + stride * np.arange(envs)[:, None]
    points = np.stack([shifted.ravel(), y.ravel()], axis=-1)
    tree = cKDTree(points, balanced_tree=False, compact_nodes=False)
    pairs = tree.query_pairs(radius * _SLACK, output_type="ndarray")
    return np.concatenate([pairs[:, 0], pairs[:, 1]]), np.concatenate([pairs[:, 1], pairs[:, 0]])
