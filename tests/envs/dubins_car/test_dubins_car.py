"""DubinsCar against hand values, and the known results of its scripted policies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rllib_seqmarl import registry
from rllib_seqmarl.envs.dubins_car.env import DubinsCar
from rllib_seqmarl.envs.dubins_car.neighbours import neighbours
from rllib_seqmarl.envs.dubins_car.obstacles import Boxes
from rllib_seqmarl.envs.dubins_car.placement import SPACING, place
from rllib_seqmarl.envs.dubins_car.scripted import Cars, nominal, wrap
from rllib_seqmarl.errors import UserError

DUBINS_CAR = registry.environment("dubins_car")
check, make = DUBINS_CAR.check, DUBINS_CAR.make


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
        assert (env.boxes.nearby(e, x.ravel(), y.ravel()).distance >= SPACING - 1e-5).all()
    distance = np.hypot(c.goal_x - c.x, c.goal_y - c.y)
    assert (distance <= env.config.max_travel + 1e-5).all()
    assert (distance >= env.config.min_travel - 1e-5).all()
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


def test_an_env_without_space_is_refused() -> None:
    with pytest.raises(UserError, match=r"1024 cars .* do not fit into an area of side 4"):
        check({"num_agents": 1024, "area": 4.0})
    crowded = make(1, num_agents=260, area=4.0)
    with pytest.raises(UserError, match=r"260 cars .* do not fit"):
        crowded.reset(seed=0)


def test_goals_that_are_not_found_are_not_called_a_lack_of_space() -> None:
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
    env = make(1, num_agents=2, obstacles=0, w_progress=2.0, reward="per_agent", **weights)
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
    assert reward[0] == pytest.approx(terms, abs=1e-4)
    # Leaving the goal pays the bonus back.
    for _ in range(20):
        _, reward, *_ = env.step(np.array([[[0.0, 1.0], [0.0, 1.0]]], np.float32))
        if not env.at_goal[0, 0]:
            break
    assert reward[0].mean() < -3.5
    assert env.reached[0, 0]


def test_continue_drives_through_and_counts() -> None:
    env = make(1, num_agents=2, obstacles=0, episode_length=30)
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
    env = make(12, on_collision="freeze", num_agents=12, area=3.0, episode_length=400)
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
    config = {"on_collision": "freeze" if freeze else "continue", "episode_length": 512}
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
    late = make(2, **(config | {"episode_length": 9}))
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
    many, single = make(4, episode_length=40), make(1, episode_length=40)
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


def test_published_results_of_the_nominal_policy() -> None:
    fixed = {"area": 4.0, "max_travel": 0.0}
    metrics = played("nominal", **fixed)
    assert 0.83 <= metrics["reach_ratio"] <= 0.90
    assert 0.44 <= metrics["safe_ratio"] <= 0.58
    assert played("nominal", **fixed, episode_length=512)["reach_ratio"] > 0.99
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
        ({"area": "dense"}, "'area' must be a number or 'density'"),
        ({"obstacles": 2.5}, "'obstacles' must be a whole number or 'density'"),
        ({"obstacle": 3}, "unknown env_config key 'obstacle'.*'obstacles'"),
        ({"on_collision": "stop"}, "'on_collision' must be one of continue, freeze"),
        ({3: 3}, "unknown env_config key 3"),
        ({"area": 1001}, "'area' must lie between 0 and 1000"),
        ({"area": float("nan")}, "'area' must be a finite number"),
        ({"w_goal": -1.0}, "'w_goal' must not be negative"),
        ({"w_goal": float("nan")}, "'w_goal' must be a finite number"),
        ({"observation": "paper", "num_rays": 8}, "'num_rays' has no meaning with observation"),
        ({"min_travel": 2.9}, "'min_travel' must be below 2.828"),
        ({"goal_radius": 0.0}, "'goal_radius' must be above 0"),
        ({"min_travel": 5.0}, "'max_travel' must be above min_travel"),
    ],
)
def test_mistakes(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(config)


def test_the_old_name_of_the_episode_length_works() -> None:
    assert check({"time_limit": 12})["episode_length"] == 12
    with pytest.raises(UserError, match="'time_limit' and 'episode_length' mean the same"):
        check({"time_limit": 12, "episode_length": 12})
