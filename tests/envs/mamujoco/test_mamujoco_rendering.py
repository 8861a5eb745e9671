"""Frames of robots, told by the pixels: links, and joints in their agents' colours."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.frames import assert_drawing_changes_nothing, centre, changed_text, count

from rllib_seqmarl import registry
from rllib_seqmarl.envs.core.contract import TeamVectorEnv
from rllib_seqmarl.envs.core.rendering import SIZE, agent_colour
from rllib_seqmarl.envs.mamujoco.rendering import LINK


def robot(scenario: str, partition: str, max_episode_steps: int = 3) -> TeamVectorEnv:
    settings = {"scenario": scenario, "partition": partition}
    settings |= {"max_episode_steps": max_episode_steps}
    env = registry.make_environment("mamujoco", 1, settings)
    env.reset(seed=0)
    return env


@pytest.mark.parametrize(
    ("scenario", "partition", "agents"),
    [("HalfCheetah", "6x1", 6), ("Ant", "4x2", 4), ("Swimmer", "2x1", 2), ("Pusher", "3p", 3)],
)
def test_every_agent_is_seen_in_its_colour(scenario: str, partition: str, agents: int) -> None:
    frame = assert_drawing_changes_nothing(robot(scenario, partition))
    assert frame.shape[1] == SIZE
    assert count(frame, LINK) > 300
    seen = [count(frame, agent_colour(agent)) > 30 for agent in range(10)]
    assert seen == [agent < agents for agent in range(10)]


def test_the_colour_is_that_of_the_joints_owner() -> None:
    env = robot("HalfCheetah", "6x1")
    back, front = (centre(env.render_frame(0), agent_colour(agent)) for agent in (0, 3))
    assert back[0] < front[0]  # the hind hip is agent 0's, the front one's is 3
    # HalfCheetah 2x3: the hind leg is one agent's, the front leg the other's.
    shared = robot("HalfCheetah", "2x3").render_frame(0)
    hind, fore = (centre(shared, agent_colour(agent)) for agent in (0, 1))
    assert hind[0] < fore[0]


def test_a_driven_joint_is_larger_and_the_end_is_kept() -> None:
    env = robot("HalfCheetah", "6x1")
    begin = env.render_frame(0)
    actions = np.zeros((1, 6, 1), np.float32)
    actions[0, 2] = 1.0
    env.step(actions)
    driven = env.render_frame(0)
    assert count(driven, agent_colour(2)) > 1.8 * count(begin, agent_colour(2))
    assert count(driven, agent_colour(3)) < 1.5 * count(begin, agent_colour(3))
    env.step(actions)
    env.step(actions)
    final, after = env.render_final_frame(0), env.render_frame(0)
    assert final is not None
    assert count(final, agent_colour(2)) > 1.8 * count(after, agent_colour(2))
    assert changed_text(final, after)
