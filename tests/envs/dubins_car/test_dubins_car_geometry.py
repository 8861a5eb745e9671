"""Dynamics, boxes, rays and neighbours of DubinsCar against hand values and brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rllib_seqmarl import registry
from rllib_seqmarl.envs import check_team_env
from rllib_seqmarl.envs.dubins_car.neighbours import neighbours
from rllib_seqmarl.envs.dubins_car.obstacles import Boxes, away, ray_distances
from rllib_seqmarl.envs.dubins_car.scripted import Cars, drive, nominal, wrap

DUBINS_CAR = registry.environment("dubins_car")
check, make = DUBINS_CAR.check, DUBINS_CAR.make


def cars(x: float, y: float, theta: float, v: float, goal: tuple[float, float]) -> Cars:
    return Cars(*(np.full((1, 1), value, np.float32) for value in (x, y, theta, v, *goal)))


def only(array: NDArray[Any]) -> float:
    return float(array.reshape(-1)[0])


# -- dynamics and the nominal policy -------------------------------------------------------


def test_euler_step_uses_the_old_heading_and_speed() -> None:
    before = cars(1.0, 2.0, 0.5, 0.4, (3.0, 3.0))
    after = drive(before, np.array([[[0.2, 1.0]]]), 20.0, np.ones((1, 1), bool))
    assert only(after.x) == pytest.approx(1.0 + 0.03 * 0.4 * np.cos(0.5), abs=1e-6)
    assert only(after.y) == pytest.approx(2.0 + 0.03 * 0.4 * np.sin(0.5), abs=1e-6)
    assert only(after.theta) == pytest.approx(0.5 + 0.03 * 20.0 * 0.2, abs=1e-6)
    assert only(after.v) == pytest.approx(0.43, abs=1e-6)
    # A turn gain of 1 is the paper's equation 12 taken literally.
    literal = drive(before, np.array([[[0.2, 1.0]]]), 1.0, np.ones((1, 1), bool))
    assert only(literal.theta) == pytest.approx(0.506, abs=1e-6)


def test_speed_is_limited_both_ways_and_heading_wraps() -> None:
    moving = np.ones((1, 1), bool)
    fast = drive(cars(0, 0, 3.0, 0.79, (9, 9)), np.array([[[3.0, 3.0]]]), 20.0, moving)
    assert only(fast.v) == pytest.approx(0.8)
    assert only(fast.theta) == pytest.approx(3.0 + 1.8 - 2 * np.pi, abs=1e-6)
    slow = drive(cars(0, 0, 0.0, -0.79, (9, 9)), np.array([[[0.0, -3.0]]]), 20.0, moving)
    assert only(slow.v) == pytest.approx(-0.8)


def test_actions_are_clipped_and_a_parked_car_stays() -> None:
    env = make(1, num_agents=2, obstacles=0)
    env.reset(seed=0)
    env.cars = Cars(
        *(np.array([pair], np.float32) for pair in
          ([1.0, 2.0], [1.0, 2.0], [0.1, 0.0], [0.5, 0.5], [3.0, 2.02], [3.0, 2.0]))
    )  # fmt: skip
    env.step(np.array([[[100.0, -100.0], [1.0, 1.0]]], np.float32))
    # The first car: turn command and acceleration held at 3 and -3.
    assert env.cars.theta[0, 0] == pytest.approx(wrap(np.float32(0.1 + 1.8)), abs=1e-6)
    assert env.cars.v[0, 0] == pytest.approx(0.5 - 0.09, abs=1e-6)
    # The second one is 0.02 from its goal: it keeps its whole state, its speed included.
    assert [array[0, 1] for array in env.cars[:4]] == pytest.approx([2.0, 2.0, 0.0, 0.5])


@pytest.mark.parametrize("theta", [-3.1, -2.0, -0.3, 0.0, 1.0, 2.2, 3.1])
@pytest.mark.parametrize("direction", np.linspace(-3.1, 3.1, 9))
def test_nominal_policy_turns_the_short_way(theta: float, direction: float) -> None:
    goal = (0.3 * np.cos(direction), 0.3 * np.sin(direction))
    u = nominal(cars(0.0, 0.0, theta, 0.2, goal))
    difference = (direction - theta + np.pi) % (2 * np.pi) - np.pi
    assert u[0, 0, 0] == pytest.approx(np.clip(difference, -3, 3), abs=1e-5)
    assert u[0, 0, 1] == pytest.approx(2.3 * 0.3 - 2.5 * 0.2, abs=1e-5)


def test_nominal_policy_drives_no_faster_from_further_away() -> None:
    near, far = (nominal(cars(0, 0, 0, 0.1, (x, 0.0)))[0, 0, 1] for x in (0.5, 40.0))
    assert near == pytest.approx(far, abs=1e-5)


# -- boxes and rays ----------------------------------------------------------------------------


def one_box(
    x: float, y: float, half_x: float, half_y: float, angle: float, side: float = 4.0
) -> Boxes:
    boxes = Boxes(1, 1, side)
    boxes.array[0, 0] = (x, y, half_x, half_y, np.cos(angle), np.sin(angle))
    boxes.index(np.arange(1))
    return boxes


@pytest.mark.parametrize(
    ("point", "distance"),
    [
        ((2.5, 2.0), 0.2),  # off a face
        ((2.4, 2.5), np.hypot(0.1, 0.4)),  # off a corner
        ((2.0, 1.95), -0.05),  # inside, nearest to the lower face
        ((2.0, 2.1), 0.0),  # on the edge
    ],
)
@pytest.mark.parametrize("angle", [0.0, 0.7, 4.0])
def test_distance_to_a_box(point: tuple[float, float], distance: float, angle: float) -> None:
    dx, dy = point[0] - 2.0, point[1] - 2.0
    x = 2.0 + np.cos(angle) * dx - np.sin(angle) * dy
    y = 2.0 + np.sin(angle) * dx + np.cos(angle) * dy
    near = one_box(2.0, 2.0, 0.3, 0.1, angle).nearby(
        np.zeros(1, int), np.array([x], np.float32), np.array([y], np.float32)
    )
    assert near.distance == pytest.approx([distance], abs=1e-6)


def test_the_way_away_from_a_box() -> None:
    boxes = one_box(2.0, 2.0, 0.3, 0.1, 0.0)
    x, y = np.array([[2.5, 2.4, 2.0], [2.0, 2.2, 1.95]], np.float32)
    away_x, away_y = away(boxes.nearby(np.zeros(3, int), x, y))
    assert away_x == pytest.approx([1.0, np.sqrt(0.5), 0.0], abs=1e-5)
    assert away_y == pytest.approx([0.0, np.sqrt(0.5), -1.0], abs=1e-5)


@pytest.mark.parametrize(("side", "num_boxes"), [(4.0, 8), (6.0, 60), (2.0, 0)])
def test_grid_finds_every_box_in_reach(side: float, num_boxes: int) -> None:
    boxes = Boxes(3, num_boxes, side)
    rngs = [np.random.default_rng(seed) for seed in range(3)]
    boxes.draw(np.arange(3), rngs)
    boxes.draw(np.array([1]), rngs)  # of one env alone
    points = np.random.default_rng(9).uniform(-1.5, side + 1.5, (500, 2)).astype(np.float32)
    for e in range(3):
        near = boxes.nearby(np.full(500, e), points[:, 0], points[:, 1])
        found = {
            (int(p), round(float(d), 4)) for p, d in zip(near.point, near.distance, strict=True)
        }
        expected = set()
        for x, y, half_x, half_y, cos, sin in boxes.array[e].astype(np.float64):
            dx, dy = points[:, 0] - x, points[:, 1] - y
            qx = np.abs(cos * dx + sin * dy) - half_x
            qy = np.abs(cos * dy - sin * dx) - half_y
            distance = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0))
            distance += np.minimum(np.maximum(qx, qy), 0)
            expected |= {
                (int(p), round(float(distance[p]), 4)) for p in np.flatnonzero(distance < 0.4999)
            }
        assert {pair for pair in found if pair[1] < 0.4999} == expected


def brute_force_ray(boxes: NDArray[Any], x: float, y: float, angle: float) -> float:
    """Distance along a ray to the nearest edge of any box, at most 0.5; 0 from inside."""
    best = 0.5
    for bx, by, hx, hy, cos, sin in boxes.astype(np.float64):
        dx, dy = x - bx, y - by
        if abs(cos * dx + sin * dy) < hx and abs(cos * dy - sin * dx) < hy:
            return 0.0
        corners = [
            np.array([bx + cos * sx * hx - sin * sy * hy, by + sin * sx * hx + cos * sy * hy])
            for sx, sy in ((1, 1), (-1, 1), (-1, -1), (1, -1))
        ]
        for start, end in zip(corners, [*corners[1:], corners[0]], strict=True):
            edge = end - start
            matrix = np.array([[np.cos(angle), -edge[0]], [np.sin(angle), -edge[1]]])
            if abs(np.linalg.det(matrix)) < 1e-12:
                continue
            along, share = np.linalg.solve(matrix, start - (x, y))
            if along >= 0 and 0 <= share <= 1:
                best = min(best, along)
    return best


def test_rays_against_segment_intersections() -> None:
    boxes = Boxes(1, 6, 1.5)
    rngs = [np.random.default_rng(3)]
    boxes.draw(np.arange(1), rngs)
    rng = np.random.default_rng(4)
    x, y = rng.uniform(-0.3, 1.8, (2, 120)).astype(np.float32)
    heading = rng.uniform(-np.pi, np.pi, 120).astype(np.float32)
    shares = ray_distances(boxes.nearby(np.zeros(120, int), x, y), 120, heading, 16)
    expected = [
        [brute_force_ray(boxes.array[0], x[i], y[i], heading[i] + 2 * np.pi * k / 16) / 0.5
         for k in range(16)]
        for i in range(120)
    ]  # fmt: skip
    assert shares == pytest.approx(np.array(expected), abs=2e-4)
    assert {0.0, 1.0} <= set(np.unique(shares))


def test_a_ray_along_a_side_divides_by_nothing() -> None:
    boxes = one_box(2.0, 2.0, 0.2, 0.2, 0.0)
    x, y = np.array([[1.6, 2.0], [2.2, 2.0]], np.float32)
    with np.errstate(all="raise"):
        shares = ray_distances(boxes.nearby(np.zeros(2, int), x, y), 2, np.zeros(2, np.float32), 4)
    assert np.isfinite(shares).all()
    assert shares[1] == pytest.approx(np.zeros(4))


# -- neighbours --------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1.0, 3.0, 20.0])
def test_dense_and_tree_find_the_same_neighbours(side: float) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-0.5 * side, side, (2, 5, 70)).astype(np.float32)
    x[1, 3], y[1, 3] = x[1, 7], y[1, 7]  # two cars in one place
    x[2, 0] = -4.0 * side  # one that left the area
    dense, tree = (neighbours(x, y, 0.5, dense=way) for way in (True, False))
    for left, right in zip(dense, tree, strict=True):
        np.testing.assert_array_equal(left, right)
    assert (dense.car // 70 == dense.other // 70).all()
    coincident = (dense.car == 73) & (dense.other == 77)
    assert dense.distance[coincident] == pytest.approx([0.0])
    assert dense.rank[coincident] == [0]
    assert not (dense.car == dense.other).any()


def test_neighbours_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 2, (2, 3, 10)).astype(np.float32)
    found = neighbours(x, y, 0.5)
    for e in range(3):
        for i in range(10):
            gaps = np.hypot(x[e] - x[e, i], y[e] - y[e, i])
            gaps[i] = np.inf
            expected = [j for j in np.argsort(gaps, kind="stable") if gaps[j] < 0.5]
            mine = found.car == e * 10 + i
            assert list(found.other[mine] - e * 10) == expected
            assert list(found.rank[mine]) == list(range(len(expected)))


def test_one_car_has_no_neighbour() -> None:
    assert len(neighbours(np.zeros((3, 1), np.float32), np.zeros((3, 1), np.float32), 0.5).car) == 0
    check_team_env(make(2, num_agents=1, episode_length=20))
