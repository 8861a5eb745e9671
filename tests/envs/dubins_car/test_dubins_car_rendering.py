"""Pictures of DubinsCar: what is where, in which colour, told by the pixels."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any

import numpy as np
import pytest
from helpers.frames import assert_drawing_changes_nothing, changed_text
from numpy.typing import NDArray

from rllib_seqmarl import registry
from rllib_seqmarl.envs.core.rendering import GROUND, LEGEND_HEIGHT, SIZE
from rllib_seqmarl.envs.dubins_car.rendering import (
    BOX,
    CAR_COLOURS,
    COLLISION,
    HALTED,
    Scene,
    draw,
)
from rllib_seqmarl.errors import UserError

SIDE = 4.0


def scene(**changes: Any) -> Scene:
    """Two cars far from each other, heading along x and y, and one flat box turned upright."""
    no = np.zeros(2, np.bool_)
    return dataclasses.replace(
        Scene(
            side=SIDE,
            positions=np.array([[1.0, 1.0], [3.0, 1.0]]),
            headings=np.array([0.0, np.pi / 2]),
            goals=np.array([[1.0, 3.0], [3.0, 3.5]]),
            boxes=np.array([[2.0, 2.0, 0.3, 0.1, 0.0, 1.0]]),
            trails=np.zeros((0, 2, 2)),
            car_radius=0.05,
            goal_radius=0.1,
            reached=no,
            colliding=no,
            collided=no,
            frozen=no,
            step=12,
            seconds=0.36,
        ),
        **changes,
    )


def at(frame: NDArray[np.uint8], x: float, y: float) -> tuple[int, ...]:
    """The colour at a place of the env."""
    column, row = ((0.03 + place) * SIZE / 1.06 for place in (x / SIDE, 1.0 - y / SIDE))
    return tuple(frame[int(row), int(column)].tolist())


def count(frame: NDArray[np.uint8], colour: tuple[int, ...]) -> int:
    """How many pixels of the area have exactly this colour."""
    return int((frame[:SIZE] == colour).all(-1).sum())


def test_everything_is_where_it_belongs() -> None:
    frame = draw(scene())
    assert frame.shape == (SIZE + LEGEND_HEIGHT, SIZE, 3)
    assert frame.dtype == np.uint8
    assert at(frame, 1.0, 1.0) == CAR_COLOURS[0]
    assert at(frame, 3.0, 1.0) == CAR_COLOURS[1]
    assert at(frame, 2.0, 2.0) == at(frame, 2.0, 2.25) == BOX
    assert at(frame, 2.25, 2.0) == GROUND  # turned by a right angle, the box is high, not wide
    # The noses point along x and, upwards, along y.
    assert at(frame, 1.075, 1.0) == CAR_COLOURS[0]
    assert at(frame, 3.0, 1.075) == CAR_COLOURS[1]
    assert at(frame, 1.0, 0.925) == at(frame, 2.925, 1.0) == GROUND
    assert count(frame, COLLISION) == 0


def test_a_goal_is_filled_when_it_was_reached() -> None:
    inside = (1.05, 3.05)
    assert at(draw(scene()), *inside) == GROUND
    filled = at(draw(scene(reached=np.array([True, False]))), *inside)
    assert filled != GROUND
    assert max(filled) == filled[2]  # pale blue, as its car is blue


@pytest.mark.parametrize("flag", ["colliding", "collided", "frozen"])
def test_what_happened_to_a_car_is_seen_at_that_car(flag: str) -> None:
    before = draw(scene())
    after = draw(scene(**{flag: np.array([False, True])}))
    changed = np.argwhere((before != after).any(-1)[:SIZE])
    centre = np.array([(0.03 + 0.75) * SIZE / 1.06] * 2)[::-1]
    assert len(changed) > 20
    assert np.abs(changed - centre).max() < 25
    assert count(after, HALTED if flag == "frozen" else COLLISION) > 10
    assert (before[SIZE:] != after[SIZE:]).any()  # the text counts it


def test_a_trail_fades_with_age() -> None:
    x = np.linspace(1.5, 2.5, 30)
    trail = np.stack([x, np.full(30, 0.5)], axis=-1)[:, None]
    parked = np.broadcast_to([1.0, 1.0], (30, 1, 2))
    positions = np.array([[1.0, 1.0], [2.5, 0.5]])
    frame = draw(scene(trails=np.concatenate([parked, trail], 1), positions=positions))
    blue = [at(frame, place, 0.5)[2] for place in (1.2, 1.55, 2.0, 2.4)]
    assert blue[0] == 255
    assert blue == sorted(blue, reverse=True)
    assert len(set(blue)) == 4


def test_many_cars_in_a_large_area_are_still_seen() -> None:
    rng = np.random.default_rng(0)
    cars, side = 1024, 45.25
    no = np.zeros(cars, np.bool_)
    frame = draw(
        scene(
            side=side,
            positions=rng.uniform(0, side, (cars, 2)),
            headings=rng.uniform(-np.pi, np.pi, cars),
            goals=rng.uniform(0, side, (cars, 2)),
            reached=~no,
            colliding=no,
            collided=no,
            frozen=no,
            trails=np.zeros((0, cars, 2)),
        )
    )
    # To scale, a car would have 0.6 x pi pixels; a disc of 3 pixels has 28, less its edge 20.
    assert sum(count(frame, colour) for colour in CAR_COLOURS) > 15 * cars


def test_a_car_outside_the_area_is_counted() -> None:
    outside = scene(positions=np.array([[1.0, 1.0], [3.0, -9.0]]))
    inside = scene(positions=np.array([[1.0, 1.0], [3.0, 1.0]]))
    right = slice(2 * SIZE // 3, None)
    assert (draw(outside)[SIZE:, right] != draw(inside)[SIZE:, right]).any()


def test_without_pillow_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "PIL" else find(name)
    )
    with pytest.raises(UserError, match=r"pip install 'rllib-seqmarl\[render\]'"):
        draw(scene())


def test_an_environment_draws_its_envs_with_the_trails_of_the_present_episode() -> None:
    env = registry.environment("dubins_car").make(
        2, num_agents=3, episode_length=5, max_travel=1.0, on_collision="freeze"
    )
    env.reset(seed=0)
    assert env.render_frame(0).shape == env.render_frame(1).shape == (SIZE + LEGEND_HEIGHT, SIZE, 3)
    assert (env.render_frame(0) != env.render_frame(1)).any()
    trail = []
    for step in range(8):
        found = env._scene(1)
        assert found.step == step % 5
        assert found.seconds == pytest.approx(0.03 * found.step)
        before = np.array([[x[1], y[1]] for x, y in trail[len(trail) - found.step :]])
        np.testing.assert_array_equal(found.trails, before.reshape(-1, 2, 3).transpose(0, 2, 1))
        np.testing.assert_array_equal(found.frozen, env.collided[1])
        trail.append((env.cars.x.copy(), env.cars.y.copy()))
        env.step(env.scripted_actions("full_speed"))


def test_the_end_of_an_episode_is_kept_where_frames_are_asked_for() -> None:
    settings = {"num_agents": 2, "obstacles": 0, "episode_length": 3}
    env = registry.make_environment("dubins_car", 2, settings)
    env.reset(seed=0)
    before = assert_drawing_changes_nothing(env)
    for _ in range(3):
        env.step(np.ones((2, 2, 2), np.float32))
    final, after = env.render_final_frame(0), env.render_frame(0)
    assert final is not None
    assert changed_text(before, final)  # step 3
    assert not np.array_equal(final[:SIZE], after[:SIZE])
    assert env.render_final_frame(1) is None
