"""DubinsCar against hand values, brute force, and the known results of its scripted policies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rllib_seqmarl.envs import check_team_env
from rllib_seqmarl.envs.dubins_car.config import check, make
from rllib_seqmarl.envs.dubins_car.env import DubinsCar
from rllib_seqmarl.envs.dubins_car.neighbours import neighbours
from rllib_seqmarl.envs.dubins_car.obstacles import Boxes, away, ray_distances
from rllib_seqmarl.envs.dubins_car.placement import SPACING, place
from rllib_seqmarl.envs.dubins_car.scripted import Cars, drive, nominal, wrap
from rllib_seqmarl.errors import UserError


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
    near = one_box(2.0, 2.0, 0.3, 0.1, angle).near(
        np.zeros(1, int), np.array([x], np.float32), np.array([y], np.float32)
    )
    assert near.distance == pytest.approx([distance], abs=1e-6)


def test_the_way_away_from_a_box() -> None:
    boxes = one_box(2.0, 2.0, 0.3, 0.1, 0.0)
    x, y = np.array([[2.5, 2.4, 2.0], [2.0, 2.2, 1.95]], np.float32)
    away_x, away_y = away(boxes.near(np.zeros(3, int), x, y))
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
        near = boxes.near(np.full(500, e), points[:, 0], points[:, 1])
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
    shares = ray_distances(boxes.near(np.zeros(120, int), x, y), 120, heading, 16)
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
        shares = ray_distances(boxes.near(np.zeros(2, int), x, y), 2, np.zeros(2, np.float32), 4)
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
    check_team_env(make(2, num_agents=1, time_limit=20))


# -- reset -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_envs", "config"),
    [
        (16, {"num_agents": 8}),
        (3, {"num_agents": 40, "area": 3.0, "max_travel": 1.0, "min_travel": 0.3}),
        (1, {"num_agents": 1024}),
        (2, {"num_agents": 200, "area": 4.0}),
    ],
)
def test_starts_and_goals_keep_their_distances(num_envs: int, config: dict[str, Any]) -> None:
    env = make(num_envs, **config)
    env.reset(seed=5)
    c = env.cars
    for x, y in ((c.x, c.y), (c.goal_x, c.goal_y)):
        assert (x >= 0).all()
        assert (x <= env.side).all()
        assert (y >= 0).all()
        assert (y <= env.side).all()
        assert neighbours(x, y, SPACING - 1e-5).car.size == 0
        e = np.repeat(np.arange(num_envs), env.num_agents)
        assert (env.boxes.near(e, x.ravel(), y.ravel()).distance >= SPACING - 1e-5).all()
    distance = np.hypot(c.goal_x - c.x, c.goal_y - c.y)
    assert (distance <= env.config["max_travel"] + 1e-5).all()
    assert (distance >= env.config["min_travel"] - 1e-5).all()
    assert not c.v.any()
    assert (np.abs(c.theta) <= np.pi + 1e-6).all()


def test_goals_are_uniform_in_the_disc_around_the_start() -> None:
    env = make(100, num_agents=8, area=40.0, max_travel=2.0, obstacles=0)
    env.reset(seed=0)
    c = env.cars
    inside = (np.minimum(c.x, c.y) > 2) & (np.maximum(c.x, c.y) < 38)
    distance = np.hypot(c.goal_x - c.x, c.goal_y - c.y)[inside]
    # In a disc of radius 2, the squared distance is uniform: mean 2, variance 4 / 3.
    assert np.square(distance).mean() == pytest.approx(2.0, abs=4 * np.sqrt(4 / 3 / len(distance)))


def test_an_env_without_room_is_refused() -> None:
    with pytest.raises(UserError, match=r"1024 cars .* do not fit into an area of side 4"):
        check({"num_agents": 1024, "area": 4.0})
    crowded = make(1, num_agents=260, area=4.0)
    with pytest.raises(UserError, match=r"260 cars .* do not fit"):
        crowded.reset(seed=0)


def test_goals_that_are_not_found_are_not_called_a_lack_of_room() -> None:
    rngs = [np.random.default_rng(0)]
    with pytest.raises(UserError, match=r"no free goals at most 7 and at least 6 away"):
        place(np.arange(1), rngs, Boxes(1, 0, 4.0), 8, min_travel=6.0, max_travel=7.0)


def test_side_by_density() -> None:
    for cars_, side in ((8, 4.0), (64, 11.31), (256, 22.63), (512, 32.0), (1024, 45.25)):
        assert make(1, num_agents=cars_).side == pytest.approx(side, abs=0.01)
    assert make(1, num_agents=64, obstacles="density").boxes.array.shape == (1, 64, 6)


# -- observations ------------------------------------------------------------------------------


@pytest.mark.parametrize("num_agents", [1, 2, 8, 9, 70])
def test_width_does_not_depend_on_the_number_of_cars(num_agents: int) -> None:
    env = make(1, num_agents=num_agents)
    assert env.single_observation_space["obs"].shape == (num_agents, 5 + 8 * 5 + 16)


def test_ego_observation_by_hand() -> None:
    env = make(1, num_agents=3, obstacles=0, num_neighbours=2, num_rays=4)
    env.reset(seed=0)
    # Car 0 looks up; its goal is 2 to its right; car 1 is 0.3 ahead and drives to the right.
    env.cars = Cars(
        *(np.array([row], np.float32) for row in
          ([1, 1, 3], [1, 1.3, 3], [np.pi / 2, 0, 0], [0.2, 0.5, 0], [3, 1, 0], [1, 3, 0]))
    )  # fmt: skip
    everywhere = np.arange(1)
    row = env._observe(everywhere, *env._look_around(everywhere))["obs"][0, 0]
    assert row[:5] == pytest.approx([0.0, -0.5, 0.5, 0.2, 0.0], abs=1e-6)
    # Relative velocity: (0.5, 0) - (0, 0.2) in the env is (-0.2, -0.5) in the car's frame.
    assert row[5:10] == pytest.approx([0.3, 0.0, -0.2, -0.5, 1.0], abs=1e-6)
    assert not row[10:15].any()
    assert row[15:] == pytest.approx(np.ones(4))


@pytest.mark.parametrize("num_agents", [6, 80])
def test_neighbours_are_the_nearest_cars_of_the_observation(num_agents: int) -> None:
    env = make(3, num_agents=num_agents, area=6.0, obstacles=0, neighbours=True, num_neighbours=4)
    obs, _ = env.reset(seed=0)
    found = obs["neighbours"]
    assert found.dtype == np.int32
    for e, car in np.ndindex(3, num_agents):
        x, y = env.cars.x[e], env.cars.y[e]
        distance = np.hypot(x - x[car], y - y[car])
        distance[car] = np.inf
        nearest = np.argsort(distance, kind="stable")[:4]
        expected = np.where(distance[nearest] < 0.5, nearest, -1)
        assert found[e, car].tolist() == expected.tolist()
        shown = obs["obs"][e, car, 5:25].reshape(4, 5)[:, 4]
        assert ((found[e, car] >= 0) == shown).all()
    alone = make(2, num_agents=3, neighbours=True, num_neighbours=0)
    assert alone.reset(seed=0)[0]["neighbours"].shape == (2, 3, 0)
    with pytest.raises(UserError, match="'neighbours' has no meaning with observation 'paper'"):
        check({"observation": "paper", "neighbours": True})


def moved(env: DubinsCar, angle: float, shift: tuple[float, float]) -> DubinsCar:
    """The same envs, turned and shifted as a whole (the area grows so that all boxes stay in)."""
    cos, sin = np.cos(angle), np.sin(angle)

    def turn(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        return cos * x - sin * y + shift[0], sin * x + cos * y + shift[1]

    other = make(env.num_envs, num_agents=env.num_agents, area=30.0, obstacles=8)
    other.reset(seed=0)
    boxes = env.boxes.array
    other.boxes.array[..., 0], other.boxes.array[..., 1] = turn(boxes[..., 0], boxes[..., 1])
    other.boxes.array[..., 2:4] = boxes[..., 2:4]
    other.boxes.array[..., 4] = cos * boxes[..., 4] - sin * boxes[..., 5]
    other.boxes.array[..., 5] = sin * boxes[..., 4] + cos * boxes[..., 5]
    other.boxes.index(np.arange(env.num_envs))
    c = env.cars
    x, y = turn(c.x, c.y)
    goal_x, goal_y = turn(c.goal_x, c.goal_y)
    other.cars = Cars(
        *(a.astype(np.float32) for a in (x, y, wrap(c.theta + angle), c.v, goal_x, goal_y))
    )
    other.at_goal = env.at_goal
    return other


def test_ego_observation_is_the_same_wherever_the_env_lies() -> None:
    env = make(6)
    env.reset(seed=2)
    for _ in range(40):
        env.step(env.scripted_actions("full_speed"))
    everywhere = np.arange(6)
    here = env._observe(everywhere, *env._look_around(everywhere))["obs"]
    for angle, shift in ((0.0, (10.0, 3.0)), (1.1, (12.0, 9.0)), (-2.5, (15.0, 15.0))):
        other = moved(env, angle, shift)
        there = other._observe(everywhere, *other._look_around(everywhere))["obs"]
        assert there == pytest.approx(here, abs=1e-3)
    assert (here[..., 9] == 1.0).any()  # some have neighbours
    assert (here[..., 45:] < 1.0).any()  # and some see boxes


def test_far_away_cars_change_nothing() -> None:
    few, many = make(1, num_agents=4, area=9.0), make(1, num_agents=9, area=9.0)
    few.reset(seed=1)
    many.reset(seed=2)
    for small, large in zip(few.cars, many.cars, strict=True):
        large[:, :4], large[:, 4:] = small, 500.0
    many.boxes.array = few.boxes.array.copy()
    many.boxes.index(np.arange(1))
    envs = np.arange(1)
    expected = few._observe(envs, *few._look_around(envs))["obs"]
    seen = many._observe(envs, *many._look_around(envs))["obs"][:, :4]
    np.testing.assert_array_equal(seen, expected)


def test_paper_observation_is_absolute() -> None:
    env = make(2, observation="paper", obstacles=3)
    obs, _ = env.reset(seed=0)
    assert obs["obs"].shape == (2, 8, 12)
    np.testing.assert_array_equal(obs["obs"][..., 0], env.cars.x)
    np.testing.assert_array_equal(obs["obs"][..., 5], env.cars.goal_y)
    np.testing.assert_array_equal(obs["obs"][1, 4, 6:], env.boxes.array[1, :, :2].reshape(-1))


# -- reward, collisions, ends ------------------------------------------------------------------


def test_reward_terms() -> None:
    weights = {"w_nominal": 0.5, "w_goal": 7.0, "w_collision": 3.0, "w_step": 0.25}
    env = make(1, num_agents=2, obstacles=0, w_progress=2.0, **weights)
    env.reset(seed=0)
    # Car 0 arrives at its goal in this step, car 1 drives away from its own; both are close.
    env.cars = Cars(
        *(np.array([row], np.float32) for row in
          ([1.0, 1.06], [1.0, 1.0], [0.0, 0.0], [0.8, 0.8], [1.12, 0.0], [1.0, 1.0]))
    )  # fmt: skip
    env.at_goal[:] = False
    u_ref = nominal(env.cars)
    _, reward, *_ = env.step(np.array([[[0.0, 1.0], [0.0, 1.0]]], np.float32))
    u = np.array([[0.0, 3.0], [0.0, 3.0]])
    terms = -0.5 * np.square(u - u_ref[0]).sum(-1) - 0.25 - 3.0
    terms += [7.0 + 2.0 * 0.024, -2.0 * 0.024]
    assert reward == pytest.approx([terms.mean()], abs=1e-4)
    # Leaving the goal pays the bonus back.
    for _ in range(20):
        _, reward, *_ = env.step(np.array([[[0.0, 1.0], [0.0, 1.0]]], np.float32))
        if not env.at_goal[0, 0]:
            break
    assert reward[0] < -3.5
    assert env.reached[0, 0]


def test_continue_drives_through_and_counts() -> None:
    env = make(1, num_agents=2, obstacles=0, time_limit=30)
    env.reset(seed=0)
    env.cars = Cars(
        *(np.array([row], np.float32) for row in
          ([1.0, 1.3], [1.0, 1.0], [0.0, np.pi], [0.5, 0.5], [1.6, 0.7], [1.0, 1.0]))
    )  # fmt: skip
    metrics: dict[str, Any] = {}
    for _ in range(30):
        *_, infos = env.step(env.scripted_actions("full_speed"))
        metrics = infos.get("final_info", metrics)
    assert metrics["reach_ratio"] == [1.0]
    assert metrics["safe_ratio"] == [0.0]
    assert metrics["success_ratio"] == [0.0]


def test_freeze_stops_a_car_for_good() -> None:
    env = make(12, on_collision="freeze", num_agents=12, area=3.0, time_limit=400)
    obs, _ = env.reset(seed=0)
    places: dict[tuple[int, int], tuple[float, float, bool]] = {}
    for _ in range(200):
        obs, *_ = env.step(env.scripted_actions("nominal"))
        np.testing.assert_array_equal(obs["alive"], ~env.collided)
        assert not obs["obs"][~obs["alive"]].any()
        for e, car in zip(*np.nonzero(env.collided), strict=True):
            now = (env.cars.x[e, car], env.cars.y[e, car], env.reached[e, car])
            assert places.setdefault((e, car), now) == now
    assert len(places) > 20
    # The wreck is an obstacle: what touches it is stopped as well, and it stays in collision.
    assert env.colliding[env.collided].all()


def test_a_stopped_car_earns_nothing_but_its_collision() -> None:
    env = make(1, num_agents=2, obstacles=0, on_collision="freeze")
    env.reset(seed=0)
    env.cars = Cars(
        *(np.array([row], np.float32) for row in
          ([1.0, 1.05], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [3.0, 3.0], [1.0, 1.0]))
    )  # fmt: skip
    env.step(np.zeros((1, 2, 2), np.float32))
    assert env.collided.all()
    _, reward, *_ = env.step(np.ones((1, 2, 2), np.float32))
    assert reward == pytest.approx([-0.1])


@pytest.mark.parametrize("freeze", [True, False])
def test_ends(freeze: bool) -> None:
    config = {"on_collision": "freeze" if freeze else "continue", "time_limit": 512}
    early = make(8, end_when_all_reached=True, **config)
    early.reset(seed=3)
    ended = np.zeros(8, bool)
    for t in range(1, 513):
        _, _, terminated, truncated, infos = early.step(early.scripted_actions("full_speed"))
        for e in np.flatnonzero(terminated):
            metrics = infos["final_info"]
            assert metrics["episode_length"][e] < 512
            assert freeze or metrics["reach_ratio"][e] == 1.0
        assert t == 512 or not truncated.any()
        ended |= terminated
    assert ended.all()
    late = make(2, **(config | {"time_limit": 9}))
    late.reset(seed=3)
    for t in range(1, 19):
        _, _, terminated, truncated, _ = late.step(late.scripted_actions("full_speed"))
        assert not terminated.any()
        assert truncated.all() == truncated.any() == (t % 9 == 0)


def test_residual_actions_add_to_the_nominal_ones() -> None:
    direct, residual = make(3), make(3, action_mode="residual")
    for env in (direct, residual):
        env.reset(seed=4)
    for _ in range(20):
        left = direct.step(direct.scripted_actions("nominal"))
        right = residual.step(np.zeros((3, 8, 2), np.float32))
        np.testing.assert_allclose(left[0]["obs"], right[0]["obs"], atol=1e-4)
        np.testing.assert_allclose(left[1], right[1], atol=1e-4)
    assert residual.scripted_actions("nominal") == pytest.approx(np.zeros((3, 8, 2)), abs=1e-6)


# -- seeds and scripted policies ---------------------------------------------------------------


def test_an_env_is_the_same_alone_and_among_others() -> None:
    many, single = make(4, time_limit=40), make(1, time_limit=40)
    many.reset(seed=8)
    single.reset(seed=8)  # the first of the envs' seeds is the same
    for _ in range(100):
        together, alone = (
            many.step(many.scripted_actions("nominal")),
            single.step(single.scripted_actions("nominal")),
        )
        np.testing.assert_array_equal(together[0]["obs"][:1], alone[0]["obs"])
        np.testing.assert_array_equal(together[1][:1], alone[1])


def played(policy: str, envs: int = 48, **config: Any) -> dict[str, float]:
    env = make(envs, **config)
    env.reset(seed=0)
    infos: dict[str, Any] = {}
    while not infos:
        *_, infos = env.step(env.scripted_actions(policy))
    return {name: float(value.mean()) for name, value in infos["final_info"].items()}


def test_published_figures_of_the_nominal_policy() -> None:
    fixed = {"area": 4.0, "max_travel": 0.0}
    metrics = played("nominal", **fixed)
    assert 0.83 <= metrics["reach_ratio"] <= 0.90
    assert 0.44 <= metrics["safe_ratio"] <= 0.58
    assert played("nominal", **fixed, time_limit=512)["reach_ratio"] > 0.99
    assert played("full_speed", **fixed)["reach_ratio"] == 1.0


def test_avoiding_is_better_than_not() -> None:
    for config in ({}, {"on_collision": "freeze"}):
        straight, around = (played(name, **config) for name in ("nominal", "potential_field"))
        assert around["success_ratio"] > straight["success_ratio"] + 0.2


def test_unknown_policy() -> None:
    with pytest.raises(UserError, match=r"no scripted policy 'nominale'.*'nominal'"):
        make(1).scripted_actions("nominale")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_agents": 0}, "between 1 and 4096"),
        ({"area": "dense"}, "'area' must be 'density' or a number"),
        ({"obstacles": 2.5}, "'obstacles' must be 'density' or a whole number"),
        ({"obstacle": 3}, "unknown env_config key 'obstacle'.*'obstacles'"),
        ({"on_collision": "stop"}, "'on_collision' must be one of continue, freeze"),
        ({3: 3}, "unknown env_config key 3"),
        ({"area": 1001}, "'area' must be 'density' or a number from 0 to 1,000"),
        ({"area": float("nan")}, "'area' must be 'density' or a number"),
        ({"w_goal": -1.0}, "'w_goal' must not be negative"),
        ({"w_goal": float("nan")}, "'w_goal' must be finite"),
        ({"observation": "paper", "num_rays": 8}, "'num_rays' has no meaning with observation"),
        ({"min_travel": 2.9}, "'min_travel' must be below 2.828"),
        ({"goal_radius": 0.0}, "'goal_radius' must be above 0"),
        ({"min_travel": 5.0}, "'max_travel' must be above min_travel"),
    ],
)
def test_mistakes(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(config)
