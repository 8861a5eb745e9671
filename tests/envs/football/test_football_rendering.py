"""Frames of football matches, told by the pixels: from observations as the engine gives them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
from helpers.frames import Frame, assert_drawing_changes_nothing, centre, changed_text, count

from rllib_seqmarl import registry
from rllib_seqmarl.envs.core.rendering import SIZE
from rllib_seqmarl.envs.football.match import scene
from rllib_seqmarl.envs.football.rendering import BALL, CONTROLLED, OFF, OPPONENTS, TEAM, draw


def match(**changes: Any) -> Frame:
    """Two players against one: a frame of the engine's observation."""
    raw: dict[str, Any] = {
        "left_team": np.array([[-0.9, 0.0], [0.0, -0.3]], np.float32),
        "left_team_direction": np.zeros((2, 2), np.float32),
        "left_team_active": np.ones(2, bool),
        "left_agent_controlled_player": [1],
        "right_team": np.array([[0.5, 0.2]], np.float32),
        "right_team_direction": np.zeros((1, 2), np.float32),
        "right_team_active": np.ones(1, bool),
        "ball": np.array([0.2, 0.0, 0.1]),
        "ball_owned_team": -1,
        "ball_owned_player": -1,
        "score": [0, 0],
        "game_mode": 0,
        "steps_left": 390,
    }
    return draw(scene(raw | changes, step=10))


def test_players_and_ball_stand_where_they_are() -> None:
    frame = match()
    assert frame.shape[1:] == (SIZE, 3)
    column, row = centre(frame, OPPONENTS)
    assert column == pytest.approx(SIZE * (1.1 + 0.5) / 2.2, abs=2)
    assert row == pytest.approx((0.52 + 0.2) * SIZE / 2.2, abs=2)  # y points downwards
    moved = match(ball=np.array([0.2, 0.3, 0.1]))
    assert centre(moved, BALL)[1] > centre(frame, BALL)[1] + 80
    assert centre(moved, TEAM) == centre(frame, TEAM)
    high = match(ball=np.array([0.2, 0.0, 3.0]))
    assert count(high, BALL) > 1.5 * count(frame, BALL)


def test_who_is_controlled_who_has_the_ball_and_who_was_sent_off() -> None:
    frame = match()
    assert count(match(left_agent_controlled_player=[0, 1]), CONTROLLED) > 1.5 * count(
        frame, CONTROLLED
    )
    owned = match(ball_owned_team=1, ball_owned_player=0)
    assert count(owned, BALL) > count(frame, BALL) + 20
    off = match(left_team_active=np.array([True, False]))
    assert count(off, TEAM) < 0.7 * count(frame, TEAM)
    assert count(off, OFF) > count(frame, OFF) + 50


def test_the_score_is_told() -> None:
    assert changed_text(match(), match(score=[1, 0]))
    assert changed_text(match(), match(game_mode=6))


def test_a_match_is_drawn_and_not_changed(
    where_installed: Callable[[], AbstractContextManager[None]],
) -> None:
    with where_installed():
        env = registry.make_environment("football", 1, {"max_episode_steps": 3})
    env.reset(seed=0)
    begin = assert_drawing_changes_nothing(env)
    assert count(begin, TEAM) > 100
    assert count(begin, CONTROLLED) > 50
    for _ in range(3):
        env.step(np.full((1, env.num_agents), 5))
    final = env.render_final_frame(0)
    assert final is not None
    assert changed_text(final, env.render_frame(0))
    env.close()
