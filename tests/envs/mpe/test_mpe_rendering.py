"""Frames of particle environments, told by the pixels."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from helpers.frames import assert_drawing_changes_nothing, centre, changed_text, count

from rllib_seqmarl import registry
from rllib_seqmarl.envs.core.rendering import ALARM, LEGEND_HEIGHT, SIZE, agent_colour, faded
from rllib_seqmarl.envs.mpe.rendering import (
    AGENT_STRENGTH,
    COVERED_LANDMARK,
    LANDMARK,
    OBSTACLE,
    PREY,
    VIEW,
    Scene,
    draw,
)

AGENT = faded(agent_colour(0), AGENT_STRENGTH)


def scene(**changes: Any) -> Scene:
    """One agent left of one landmark."""
    return dataclasses.replace(
        Scene(
            positions=np.array([[-0.5, 0.0], [0.5, 0.0]]),
            velocities=np.zeros((1, 2)),
            radii=np.array([0.15, 0.05]),
            num_agents=1,
            obstacles=False,
            covered=np.array([False]),
            touching=np.array([False]),
            step=3,
            max_steps=25,
        ),
        **changes,
    )


def test_an_agent_moves_and_a_landmark_is_covered() -> None:
    frame = draw(scene())
    assert frame.shape == (SIZE + LEGEND_HEIGHT, SIZE, 3)
    assert count(frame, LANDMARK) > 100
    assert count(frame, COVERED_LANDMARK) == count(frame, ALARM) == 0
    moved = draw(scene(positions=np.array([[-0.5, 0.5], [0.5, 0.0]])))
    (column, row), (same_column, higher) = centre(frame, AGENT), centre(moved, AGENT)
    assert same_column == pytest.approx(column, abs=1)
    assert row - higher == pytest.approx(0.5 * SIZE / (2 * VIEW), abs=1)
    covered = draw(scene(covered=np.array([True])))
    assert count(covered, COVERED_LANDMARK) == count(frame, LANDMARK)
    assert changed_text(frame, covered)


def test_contacts_and_velocities_are_seen() -> None:
    frame = draw(scene())
    assert count(draw(scene(touching=np.array([True]))), ALARM) > 200
    fast = draw(scene(velocities=np.array([[2.0, 0.0]])))
    assert not np.array_equal(fast[:SIZE], frame[:SIZE])
    assert not changed_text(frame, fast)


@pytest.mark.parametrize("task", ["cooperative_navigation", "predator_prey"])
def test_an_env_is_drawn_and_not_changed(task: str) -> None:
    env = registry.environment("mpe").make(2, task=task, rules="mpe2", episode_length=4)
    env.reset(seed=1)
    begin = assert_drawing_changes_nothing(env)
    for agent in range(3):
        assert count(begin, faded(agent_colour(agent), AGENT_STRENGTH)) > 100
    is_prey = task == "predator_prey"
    assert (count(begin, PREY) > 100) == (count(begin, OBSTACLE) > 100) == is_prey
    for _ in range(4):
        last = env.render_frame(0)
        env.step(np.full((2, 3), 4))  # up
    final, after = env.render_final_frame(0), env.render_frame(0)
    assert final is not None
    for agent in range(3):  # the end is one step on from the last frame, not the next start
        colour = faded(agent_colour(agent), AGENT_STRENGTH)
        assert 0 < centre(last, colour)[1] - centre(final, colour)[1] < 0.3 * SIZE
    assert changed_text(final, after)
