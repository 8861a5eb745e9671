"""Where cars start and where they are to go: random places that keep a distance from each other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from rllib_seqmarl.envs.dubins_car.obstacles import Boxes
from rllib_seqmarl.errors import UserError

#: Least distance between two starts, two goals, and from any of them to a box.
SPACING = 0.2

_CANDIDATES = 16  # per car and round
_ROUNDS = 256
_RESTARTS = 3

#: Discs thrown at random onto a plane, one after another, never cover more of it than this.
_JAMMING_LIMIT = 0.5470


def check_area(num_cars: int, side: float) -> None:
    """Refuses a number of cars that random places with this spacing cannot hold.

    Raises:
        UserError: the area is too small, boxes or no boxes.
    """
    # Centres may lie on the border, so discs of diameter SPACING need this much more space.
    covered = num_cars * math.pi * (0.5 * SPACING) ** 2 / (side + SPACING) ** 2
    if covered > _JAMMING_LIMIT:
        raise UserError(_too_small(num_cars, side))


def _too_small(num_cars: int, side: float) -> str:
    return (
        f"dubins_car: {num_cars} cars with {SPACING} between them do not fit into an area of side "
        f"{side:g}: set a larger 'area' (or 'density'), or fewer obstacles."
    )


def _no_goals(min_travel: float, max_travel: float, side: float) -> str:
    most = f"at most {max_travel:g} and " if max_travel > 0.0 else ""
    return (
        f"dubins_car: found no free goals {most}at least {min_travel:g} away from the starts in an "
        f"area of side {side:g}: set a wider range of travel, a larger 'area', or fewer obstacles."
    )


def place(
    envs: NDArray[np.int64],
    rngs: list[np.random.Generator],
    boxes: Boxes,
    num_cars: int,
    min_travel: float,
    max_travel: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """New boxes, starts and goals in some envs, each drawn with that env's generator alone.

    Starts are uniform in the area, goals uniform in the area within ``max_travel`` of the start;
    both are drawn again while they are within ``SPACING`` of another start (of another goal) or
    of a box.

    Args:
        envs: int [W], the envs to place; ``boxes`` and ``rngs`` are of all E.
        num_cars: N.
        min_travel, max_travel: bounds of the distance from start to goal; 0 for none.

    Returns:
        Starts float32 [W, N, 2], goals float32 [W, N, 2], headings float32 [W, N] in [-pi, pi).

    Raises:
        UserError: no free places for all cars, or no goals, were found in several attempts.
    """
    starts = np.zeros((len(envs), num_cars, 2), np.float32)
    goals = np.zeros_like(starts)
    waiting = np.arange(len(envs))
    for _ in range(_RESTARTS):
        boxes.draw(envs[waiting], rngs)
        starts[waiting], started = _scatter(envs[waiting], rngs, boxes, num_cars)
        goals[waiting], reachable = _scatter(
            envs[waiting], rngs, boxes, num_cars, starts[waiting], (min_travel, max_travel)
        )
        waiting = waiting[~(started & reachable)]
        if not len(waiting):
            uniform = np.array([rngs[e].random(num_cars) for e in envs])
            return starts, goals, (2.0 * np.pi * uniform - np.pi).astype(np.float32)
    if not started.all():
        raise UserError(_too_small(num_cars, boxes.side))
    raise UserError(_no_goals(min_travel, max_travel, boxes.side))


def _scatter(
    envs: NDArray[np.int64],
    rngs: list[np.random.Generator],
    boxes: Boxes,
    num_cars: int,
    around: NDArray[np.float32] | None = None,
    travel: tuple[float, float] = (0.0, 0.0),
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """N places per env, uniform in the area (or near ``around`` [W, N, 2]), kept apart.

    In every round each car without a place takes the first of its candidates that is free. Of
    two cars that choose places too close to each other, the first keeps its own.

    Returns:
        Places [W, N, 2] float32, and bool [W]: whether all cars of the env have one.
    """
    side = boxes.side
    nearest, furthest = travel
    places = np.zeros((len(envs), num_cars, 2), np.float32)
    placed = np.zeros(places.shape[:2], np.bool_)
    for _ in range(_ROUNDS):
        row, car = np.nonzero(~placed)  # [Q]
        if not len(row):
            break
        missing = np.bincount(row, minlength=len(envs))
        uniform = np.concatenate(
            [rngs[w].random((n, _CANDIDATES, 2)) for w, n in zip(envs, missing, strict=True)]
        )
        candidates: NDArray[Any] = side * uniform  # [Q, C, 2]
        free = np.ones(candidates.shape[:2], np.bool_)
        if around is not None:
            centre = around[row, car][:, None]
            if furthest > 0.0:
                low = np.maximum(centre - furthest, 0.0)
                candidates = low + uniform * (np.minimum(centre + furthest, side) - low)
            distance = np.hypot(*np.moveaxis(candidates - centre, -1, 0))
            free &= (distance >= nearest) & ((distance <= furthest) | (furthest <= 0.0))
        candidates = candidates.astype(np.float32)
        at = np.repeat(row, _CANDIDATES)
        nearby = boxes.nearby(envs[at], candidates[..., 0].ravel(), candidates[..., 1].ravel())
        free.reshape(-1)[nearby.point[nearby.distance < SPACING]] = False
        if placed.any():
            tree = cKDTree(_side_by_side(np.nonzero(placed)[0], places[placed], side))
            points = _side_by_side(at, candidates.reshape(-1, 2), side)
            gap, _ = tree.query(points, distance_upper_bound=SPACING)
            free &= np.isinf(gap).reshape(free.shape)
        found = free.any(1)
        row, car = row[found], car[found]
        chosen = candidates[found, free[found].argmax(1)]  # [Q', 2]
        pairs = cKDTree(_side_by_side(row, chosen, side)).query_pairs(
            SPACING, output_type="ndarray"
        )
        keep = np.ones(len(row), np.bool_)
        keep[pairs.max(1)] = False
        places[row[keep], car[keep]] = chosen[keep]
        placed[row[keep], car[keep]] = True
    return places, np.logical_and.reduce(placed, axis=1)


def _side_by_side(row: NDArray[np.int64], points: NDArray[Any], side: float) -> NDArray[np.float64]:
    """Points [Q, 2] of several envs in one plane, each env too far away from the others."""
    shifted = points.astype(np.float64)
    shifted[:, 0] += (side + 1.0) * row
    return shifted
