"""Car dynamics, and the scripted policies that learned policies are compared with.

Symbols: position (x, y), heading theta in (-pi, pi], speed v; all float32 [E, N]. Units: lengths
of the area, seconds, radians. An action u is (turn command, acceleration), each in [-3, 3].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.dubins_car.neighbours import Neighbours
from rllib_seqmarl.envs.dubins_car.obstacles import NearbyBoxes, away

Array = NDArray[np.float32]

TIME_STEP = 0.03
MAX_ACTION = 3.0
MAX_SPEED = 0.8
CAR_RADIUS = 0.05
#: Nearer to its goal than this a car stays where it is for good.
PARKING_RADIUS = 0.025
#: Beyond this distance to the goal the nominal policy drives no faster.
_SLOWING_DISTANCE = 0.5

_TURN_GAIN, _POSITION_GAIN, _SPEED_GAIN = 1.0, 2.3, 2.5  # k_omega, k_v, k_a of GCBF+


class Cars(NamedTuple):
    """State and goals of all cars."""

    x: Array
    y: Array
    theta: Array
    v: Array
    goal_x: Array
    goal_y: Array

    def to_goal(self) -> tuple[Array, Array, Array]:
        """Offset to the goal and its length."""
        dx, dy = self.goal_x - self.x, self.goal_y - self.y
        return dx, dy, np.hypot(dx, dy)


def wrap(angle: Array) -> Array:
    """The same angle in [-pi, pi]."""
    turns = np.rint(angle * np.float32(0.5 / np.pi))
    return angle - np.float32(2.0 * np.pi) * turns


def drive(cars: Cars, action: Array, turn_gain: float, moves: NDArray[np.bool_]) -> Cars:
    """One explicit Euler step with the old heading and speed (SrSv eq. 11-12).

    Args:
        cars: before the step.
        action: u in [-3, 3], [E, N, 2].
        turn_gain: radians per second and unit of the turn command.
        moves: bool [E, N]; the others keep their state.
    """
    dt = TIME_STEP * moves.astype(np.float32)
    travelled = dt * cars.v
    return cars._replace(
        x=cars.x + travelled * np.cos(cars.theta),
        y=cars.y + travelled * np.sin(cars.theta),
        theta=wrap(cars.theta + np.float32(turn_gain) * dt * action[..., 0]),
        v=np.clip(cars.v + dt * action[..., 1], -MAX_SPEED, MAX_SPEED),
    )


def nominal(cars: Cars) -> Array:
    """u_ref of GCBF+, [E, N, 2]: turns towards the goal, slows down near it, sees nothing else."""
    dx, dy, distance = cars.to_goal()
    turn = _TURN_GAIN * wrap(np.arctan2(dy, dx) - cars.theta)
    target_speed = _POSITION_GAIN * np.minimum(distance, _SLOWING_DISTANCE)
    return _bounded(turn, target_speed - _SPEED_GAIN * cars.v)


def full_speed(cars: Cars) -> Array:
    """Turns towards the goal as `nominal` and drives as fast as it can still stop there."""
    dx, dy, distance = cars.to_goal()
    return _steer(cars, dx, dy, _stopping_speed(distance))


def potential_field(cars: Cars, neighbours: Neighbours, boxes: NearbyBoxes, reach: float) -> Array:
    """`full_speed` along the sum of a pull to the goal and a push from each car and box.

    The pull is of length 1; a push grows from 0 at distance ``reach`` as 1 / clearance, and
    turns sideways to the right in part, so that two cars that meet head on pass each other.
    """
    dx, dy, distance = cars.to_goal()
    scale = 1.0 / np.maximum(distance, 1e-6)
    pull_x, pull_y = (dx * scale).ravel(), (dy * scale).ravel()
    x, y = cars.x.ravel(), cars.y.ravel()
    car, other = neighbours.car, neighbours.other
    gap = np.maximum(neighbours.distance, 1e-6)
    away_x, away_y = (x[car] - x[other]) / gap, (y[car] - y[other]) / gap
    push = _push(neighbours.distance - 2.0 * CAR_RADIUS, reach)
    force_x, force_y = push * (away_x + 0.5 * away_y), push * (away_y - 0.5 * away_x)
    box_x, box_y = away(boxes)
    box_push = _push(boxes.distance - CAR_RADIUS, reach)
    for at, along_x, along_y in (
        (car, force_x, force_y),
        (boxes.point, box_push * (box_x + 0.5 * box_y), box_push * (box_y - 0.5 * box_x)),
    ):
        pull_x += np.bincount(at, along_x, len(x))
        pull_y += np.bincount(at, along_y, len(x))
    shape = cars.x.shape
    return _steer(cars, pull_x.reshape(shape), pull_y.reshape(shape), _stopping_speed(distance))


def _push(clearance: Array, reach: float) -> NDArray[np.floating]:
    return 0.08 * np.maximum(1.0 / np.maximum(clearance, 0.01) - 1.0 / reach, 0.0)


def _stopping_speed(distance: Array) -> Array:
    return np.minimum(MAX_SPEED, np.sqrt(2.0 * 0.8 * MAX_ACTION * distance))


def _steer(cars: Cars, along_x: NDArray[Any], along_y: NDArray[Any], target_speed: Array) -> Array:
    """Turns towards a direction, slower the further the heading is from it."""
    error = wrap((np.arctan2(along_y, along_x) - cars.theta).astype(np.float32))
    speed = target_speed * np.maximum(np.cos(error), 0.0)
    return _bounded(_TURN_GAIN * error, (speed - cars.v) / TIME_STEP)


def _bounded(turn: Array, acceleration: Array) -> Array:
    action = np.stack([turn, acceleration], axis=-1, dtype=np.float32)
    return np.clip(action, -MAX_ACTION, MAX_ACTION)
