"""Frames of battles: who is where, alive, hurt and shooting, told by the pixels."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from helpers.frames import assert_drawing_changes_nothing, centre, changed_text, count

from rllib_seqmarl import registry
from rllib_seqmarl.envs.core.rendering import LEGEND_HEIGHT, SIZE
from rllib_seqmarl.envs.smax.rendering import (
    ALLY,
    DEAD,
    ENEMY,
    HEALTH,
    LOST_HEALTH,
    SYMBOLS,
    Scene,
    draw,
    outcome,
)
from rllib_seqmarl.envs.smax.scenarios import UNIT_TYPES


def scene(**changes: Any) -> Scene:
    """A marine and a zealot on the left, a stalker on the right; nobody shoots."""
    return dataclasses.replace(
        Scene(
            size=(32, 32),
            num_allies=2,
            positions=np.array([[8.0, 20.0], [8.0, 10.0], [24.0, 16.0]]),
            unit_types=np.array([0, 3, 2]),
            health=np.ones(3),
            targets=np.full(3, -1),
            fired=np.zeros(3, bool),
            step=7,
            max_steps=101,
            over=False,
        ),
        **changes,
    )


def test_units_stand_where_they_are_in_the_colour_of_their_side() -> None:
    frame = draw(scene())
    assert frame.shape == (SIZE + LEGEND_HEIGHT, SIZE, 3)
    assert frame.dtype == np.uint8
    column, row = centre(frame, ENEMY)
    assert abs(column - SIZE * (24 / 32 + 0.03) / 1.06) < 3
    assert abs(row - SIZE / 2) < 3
    moved = draw(scene(positions=np.array([[8.0, 20.0], [8.0, 10.0], [24.0, 26.0]])))
    assert centre(moved, ENEMY)[1] < row - 150  # y points upwards
    assert centre(moved, ALLY) == centre(frame, ALLY)
    assert count(frame, LOST_HEALTH) == count(frame, DEAD) == 0


def test_each_type_has_a_look_of_its_own() -> None:
    assert set(SYMBOLS) == set(UNIT_TYPES)
    looks = {draw(scene(unit_types=np.array([0, 0, unit]))).tobytes() for unit in range(6)}
    assert len(looks) == 6


def test_health_is_the_full_part_of_a_bar() -> None:
    whole = count(draw(scene()), HEALTH)
    hurt = draw(scene(health=np.array([1.0, 0.25, 1.0])))
    assert count(hurt, HEALTH) == pytest.approx(0.75 * whole, rel=0.05)
    assert count(hurt, LOST_HEALTH) == pytest.approx(0.25 * whole, rel=0.2)


def test_the_dead_are_grey_crosses() -> None:
    frame = draw(scene())
    dead = draw(scene(health=np.array([1.0, 1.0, 0.0])))
    assert count(dead, ENEMY) == 0
    assert count(dead, DEAD) > 20
    assert count(dead, ALLY) == count(frame, ALLY)
    assert changed_text(frame, dead)  # enemies 0/1


def test_a_shot_is_a_line_from_shooter_to_target() -> None:
    frame = draw(scene())
    targets = np.array([2, -1, 0])
    fired = draw(scene(targets=targets, fired=np.array([True, False, True])))
    assert count(fired, ALLY) > count(frame, ALLY) + 300
    assert count(fired, ENEMY) > count(frame, ENEMY) + 300
    aiming = draw(scene(targets=targets))  # paler
    assert abs(count(aiming, ALLY) - count(frame, ALLY)) < 50
    assert not np.array_equal(aiming, frame)
    dead = draw(scene(targets=targets, health=np.array([0.0, 1.0, 0.0])))
    assert np.array_equal(dead, draw(scene(health=np.array([0.0, 1.0, 0.0]))))


def test_the_end_says_how_it_ended() -> None:
    assert outcome(2, 0) == "won"
    assert outcome(0, 1) == "lost"
    assert outcome(1, 1) == "time is up"
    assert changed_text(draw(scene()), draw(scene(over=True)))


def test_a_battle_is_drawn_and_not_changed() -> None:
    smac = registry.environment("smac")
    env = smac.make(2, map_name="3s_vs_3z", max_steps=60)
    obs, _ = env.reset(seed=3)
    begin = assert_drawing_changes_nothing(env)
    assert env.render_frame(1).shape == begin.shape
    most_shots, ended = 0, np.zeros(2, bool)
    while not ended[0]:
        mask = obs["action_mask"]
        shoots = np.where(mask[..., 5:].any(-1), 5 + mask[..., 5:].argmax(-1), 1)
        living = np.where(obs["alive"], shoots, 4)
        obs, _, terminated, truncated, _ = env.step(living)
        ended = terminated | truncated
        if not ended[0]:
            most_shots = max(most_shots, count(env.render_frame(0), ALLY))
    assert most_shots > count(begin, ALLY) + 100
    final, after = env.render_final_frame(0), assert_drawing_changes_nothing(env)
    assert final is not None
    assert count(final, DEAD) > 50
    assert count(after, DEAD) == 0  # the next battle has begun
    assert changed_text(final, after)
