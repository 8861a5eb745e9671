"""The particle envs against mpe2, and SQDDPG's rules against values computed by hand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rllib_seqmarl import registry
from rllib_seqmarl.envs import TeamVectorEnv
from rllib_seqmarl.envs.mpe.env import TASKS
from rllib_seqmarl.errors import UserError

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
from mpe2 import simple_spread_v3, simple_tag_v3

mpe = registry.environment("mpe")

NONE, RIGHT, LEFT, UP, DOWN = range(5)  # SQDDPG's meaning of the actions
FAR = [[8.0, 8.0], [-8.0, 8.0]]


def place(env: TeamVectorEnv, positions: Any, velocities: Any, **envs: Any) -> None:
    """Puts every env into the same given state."""
    state = env.get_state()
    state["envs"]["positions"][:] = positions
    state["envs"]["velocities"][:] = velocities
    for name, value in envs.items():
        state["envs"][name][:] = value
    env.set_state(state)


def make(num_envs: int = 1, **env_config: Any) -> TeamVectorEnv:
    env = mpe.make(num_envs, **env_config)
    env.reset(seed=0)
    return env


class Reference:
    """One env of mpe2, brought into the state of an env of ours."""

    def __init__(self, task: str, config: Mapping[str, Any]) -> None:
        agents, shared = config["num_agents"], {"max_cycles": config["episode_length"]}
        shared["terminate_on_success"] = config.get("terminate_on_success", False)
        if task == "cooperative_navigation":
            ratio = config.get("local_ratio", 0.5)
            self.env = simple_spread_v3.parallel_env(N=agents, local_ratio=ratio, **shared)
        else:
            self.env = simple_tag_v3.parallel_env(num_adversaries=agents, **shared)
        self.env.reset(seed=0)
        self.names = list(self.env.possible_agents)
        self.team = self.names[:agents]
        self.world = self.env.aec_env.unwrapped.world

    def start(self, positions: NDArray[np.float64]) -> NDArray[np.float32]:
        self.env.reset()
        for entity, position in zip(self.world.entities, positions, strict=True):
            entity.state.p_pos = position.copy()
        unwrapped = self.env.aec_env.unwrapped
        return np.stack([unwrapped.observe(name) for name in self.team])

    def step(self, actions: NDArray[Any]) -> tuple[NDArray[np.float32], list[float], bool, bool]:
        obs, rewards, terminated, truncated, _ = self.env.step(
            dict(zip(self.names, actions.tolist(), strict=True))
        )
        return (
            np.stack([obs[name] for name in self.team]),
            [rewards[name] for name in self.team],
            terminated[self.team[0]],
            truncated[self.team[0]],
        )

    def state(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return (
            np.array([entity.state.p_pos for entity in self.world.entities]),
            np.array([agent.state.p_vel for agent in self.world.agents]),
        )


@pytest.mark.parametrize(
    ("task", "config", "contacts", "ends"),
    [
        ("cooperative_navigation", {"num_agents": 3, "episode_length": 200}, 100, 0),
        ("cooperative_navigation", {"num_agents": 6, "local_ratio": 0.2}, 300, 0),
        ("cooperative_navigation", {"num_agents": 1, "terminate_on_success": True}, 0, 3),
        ("predator_prey", {"num_agents": 3, "episode_length": 200}, 100, 0),
        ("predator_prey", {"num_agents": 5}, 100, 0),
        ("predator_prey", {"num_agents": 4, "terminate_on_success": True}, 20, 10),
    ],
)
def test_transitions_are_those_of_mpe2(
    task: str, config: dict[str, Any], contacts: int, ends: int
) -> None:
    """Whole episodes side by side: nothing is brought into line but the initial state."""
    envs, steps = 12, 220
    config = {"episode_length": 25, **config}
    env = mpe.make(envs, task=task, rules="mpe2", reward="per_agent", **config)
    references = [Reference(task, config) for _ in range(envs)]
    obs, _ = env.reset(seed=1)
    rng = np.random.default_rng(1)
    fresh = np.ones(envs, np.bool_)
    seen_contacts = seen_ends = 0
    for _ in range(steps):
        before = env.get_state()["envs"]
        for e in np.flatnonzero(fresh):
            start = references[e].start(before["positions"][e])
            np.testing.assert_array_equal(obs["obs"][e], start)
        team = rng.integers(5, size=(envs, env.num_agents))
        prey = before["scripted"][np.arange(envs), before["time"]]
        obs, reward, terminated, truncated, infos = env.step(team)
        after = env.get_state()["envs"]
        fresh = terminated | truncated
        for e, reference in enumerate(references):
            shown, paid, ended, cut = reference.step(np.concatenate([team[e], prey[e]]))
            ours = infos["final_obs"]["obs"] if fresh[e] else obs["obs"]
            np.testing.assert_allclose(ours[e], shown, rtol=0, atol=1e-6)
            assert reward[e] == pytest.approx(paid, rel=1e-6, abs=1e-6)
            assert (terminated[e], truncated[e]) == (ended, cut)
            if not fresh[e]:
                positions, velocities = reference.state()
                np.testing.assert_allclose(after["positions"][e], positions, atol=1e-6)
                np.testing.assert_allclose(after["velocities"][e], velocities, atol=1e-6)
            colliding = [entity for entity in reference.world.entities if entity.collide]
            for agent in reference.world.agents:
                for other in colliding:
                    gap = np.linalg.norm(agent.state.p_pos - other.state.p_pos)
                    seen_contacts += agent is not other and gap < agent.size + other.size
        seen_ends += terminated.sum()
    assert seen_contacts >= contacts
    assert (seen_ends >= ends) if ends else (seen_ends == 0)


def test_actions_and_order_of_integration() -> None:
    """From rest an action gives 5 x 0.1 of velocity, which SQDDPG's envs move with at once."""
    start = [[0.0, 0.0], [3.0, 3.0]]
    for rules, order, moved in (
        ("sqddpg", (NONE, RIGHT, LEFT, UP, DOWN), 0.05),
        ("mpe2", (NONE, LEFT, RIGHT, DOWN, UP), 0.0),
    ):
        env = make(5, rules=rules, num_agents=1)
        place(env, start, 0.0)
        obs = env.step(np.arange(5)[:, None])[0]["obs"][:, 0]
        compass = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], float)[list(order)]
        np.testing.assert_allclose(obs[:, :2], 0.5 * compass, atol=1e-7)
        np.testing.assert_allclose(obs[:, 2:4], moved * compass, atol=1e-7)
        # The second step: 3/4 of the old velocity remains.
        obs = env.step(np.zeros((5, 1), int))[0]["obs"][:, 0]
        np.testing.assert_allclose(obs[:, :2], 0.375 * compass, atol=1e-7)
        later = 0.0875 if rules == "sqddpg" else 0.05
        np.testing.assert_allclose(obs[:, 2:4], later * compass, atol=1e-7)


def test_speed_limits() -> None:
    env = make(task="predator_prey", num_agents=1, rules="mpe2", episode_length=50)
    place(env, [[0, 0], [5, 0], *FAR], 0.0, scripted=RIGHT + 1)  # mpe2: 2 is right
    for _ in range(40):
        env.step(np.array([[3]]))  # and 3 is down
    velocities = env.get_state()["envs"]["velocities"][0]
    np.testing.assert_allclose(velocities, [[0.0, -1.0], [1.3, 0.0]], atol=1e-9)
    free = make(num_agents=1)
    for _ in range(40):
        free.step(np.array([[RIGHT]]))
    # Without a limit the velocity tends to 5 x 0.1 / 0.25.
    np.testing.assert_allclose(free.get_state()["envs"]["velocities"][0, 0], [2.0, 0.0], atol=1e-4)


def collision_course(env: TeamVectorEnv, **envs: Any) -> None:
    """Two agents meet: after one step at (-1/8, 0) and (1/8, 0), the third at (5, 5)."""
    agents = [[-0.2, 0.0], [0.2, 0.0], [5.0, 5.0]]
    landmarks = [[-0.125, 0.0], [0.125, 0.3], [5.0, 4.0]]
    place(env, [*agents, *landmarks], [[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], **envs)


def test_sqddpg_reward_of_cooperative_navigation() -> None:
    env = make(episode_length=2)
    collision_course(env)
    obs, reward, terminated, truncated, _ = env.step(np.zeros((1, 3), int))
    np.testing.assert_allclose(obs["obs"][0, :, 2:4], [[-0.125, 0], [0.125, 0], [5, 5]], atol=1e-7)
    # Distances 0, 0.3 and 1; each of three agents pays for itself, two for each other.
    assert reward[0] == pytest.approx(3 * -(0.0 + 0.3 + 1.0) - (3 + 2))
    assert not terminated[0]
    assert not truncated[0]
    # The overlap of 0.05 pushes each with 100 x 0.05, against 3/4 of the velocity of 0.75.
    _, second, terminated, truncated, infos = env.step(np.zeros((1, 3), int))
    last, metrics = infos["final_obs"]["obs"], infos["final_info"]
    np.testing.assert_allclose(last[0, :2, 0], [0.5625 - 0.5, -0.5625 + 0.5], atol=1e-6)
    np.testing.assert_allclose(last[0, :2, 2], [-0.125 + 0.00625, 0.125 - 0.00625], atol=1e-7)
    distances = 0.00625 + np.hypot(0.00625, 0.3) + 1.0
    assert second[0] == pytest.approx(-3 * distances - (3 + 2))
    assert (terminated[0], truncated[0]) == (False, True)
    assert metrics["collisions"][0] == 1.0
    assert metrics["coverage"][0] == pytest.approx(1 / 3)
    assert metrics["success"][0] == 0.0
    assert metrics["step_reward"][0] == pytest.approx((reward[0] + second[0]) / 2)


def test_success_of_cooperative_navigation() -> None:
    spots = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    for rules, ends in (("sqddpg", False), ("mpe2", True)):
        env = make(rules=rules, episode_length=5, terminate_on_success=ends)
        place(env, [*spots, [0.0, 0.09], [1.0, 0.09], [0.0, 1.11]], 0.0, time=2)
        _, _, terminated, truncated, _ = env.step(np.zeros((1, 3), int))
        assert not terminated[0]
        assert not truncated[0]
        place(env, [*spots, [0.0, 0.09], [1.0, 0.09], [0.0, 1.09]], 0.0, time=3)
        _, _, terminated, truncated, infos = env.step(np.zeros((1, 3), int))
        assert terminated[0] == ends
        if not ends:
            infos = env.step(np.zeros((1, 3), int))[4]
        assert infos["final_info"]["success"][0] == infos["final_info"]["coverage"][0] == 1.0
        assert infos["final_info"]["collisions"][0] == 0.0


def chase(env: TeamVectorEnv, **envs: Any) -> tuple[Any, ...]:
    """One predator of three touches the resting prey in the next step."""
    movers = [[0.0, 0.0], [-3.0, 0.0], [0.0, -4.0], [0.18, 0.0]]
    place(env, [*movers, *FAR], [[1.0, 0.0], *[[0.0, 0.0]] * 3], **envs)
    return env.step(np.zeros((1, 3), int))


def test_sqddpg_predator_prey_ends_at_contact() -> None:
    env = make(task="predator_prey", prey="still")
    _, reward, terminated, truncated, infos = chase(env, time=6)
    # 0.18 - 0.075 is below 0.075 + 0.05; identical for three predators, then summed.
    distances = 0.105 + 3.18 + np.hypot(0.18, 4.0)
    assert reward[0] == pytest.approx(3 * (10.0 - 0.1 * distances), rel=1e-6)
    assert terminated[0]
    assert not truncated[0]
    assert infos["final_info"]["captured"][0] == 1.0
    assert infos["final_info"]["turns_to_capture"][0] == 7.0
    # Without a contact only the distances count.
    place(env, [[0, 0], [-3, 0], [0, -4], [4, 0], *FAR], 0.0)
    _, reward, terminated, *_ = env.step(np.zeros((1, 3), int))
    assert reward[0] == pytest.approx(-0.3 * (4 + 7 + np.hypot(4, 4)), rel=1e-6)
    assert not terminated[0]


def test_contact_in_the_last_step() -> None:
    shared = {"task": "predator_prey", "prey": "still", "episode_length": 30}
    _, _, terminated, truncated, infos = chase(make(**shared), time=29)
    assert (terminated[0], truncated[0]) == (True, False)
    assert infos["final_info"]["turns_to_capture"][0] == 30.0
    strict = make(**shared, rules="mpe2", terminate_on_success=True)
    _, _, terminated, truncated, infos = chase(strict, time=29)
    assert (terminated[0], truncated[0]) == (False, True)
    assert infos["final_info"]["captured"][0] == 1.0


@pytest.mark.parametrize(("rules", "limit"), [("sqddpg", 200), ("mpe2", 25)])
def test_time_limits(rules: str, limit: int) -> None:
    for task in TASKS:
        env = make(2, task=task, rules=rules)
        if task == "predator_prey":  # out of each other's reach
            place(env, [[50, 0], [60, 0], [70, 0], [0, 50], *FAR], 0.0)
        for step in range(1, limit + 1):
            _, _, terminated, truncated, infos = env.step(np.zeros((2, 3), int))
            assert not terminated.any()
            assert truncated.all() == truncated.any() == (step == limit)
        if task == "predator_prey":
            np.testing.assert_array_equal(infos["final_info"]["captured"], 0.0)
            np.testing.assert_array_equal(infos["final_info"]["turns_to_capture"], limit)


def test_mpe2_counts_every_contact_and_runs_on() -> None:
    env = make(task="predator_prey", rules="mpe2", prey="still")
    _, reward, terminated, truncated, _ = chase(env)
    # Old velocity: 0.18 - 0.1; three predators are paid 10 each for one contact.
    assert reward[0] == 30.0
    assert not terminated[0]
    assert not truncated[0]


def test_prey_moves_at_random_and_every_env_has_its_own_randomness() -> None:
    env = make(400, task="predator_prey", episode_length=50)
    scripted = env.get_state()["envs"]["scripted"]
    share = np.bincount(scripted.ravel(), minlength=5) / scripted.size
    np.testing.assert_allclose(share, 0.2, atol=0.02)
    assert len(np.unique(scripted[..., 0], axis=0)) == 400
    far = [[50, 0], [60, 0], [70, 0], [0, 50], *FAR]
    place(env, far, 0.0)
    env.step(np.zeros((400, 3), int))
    compass = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    np.testing.assert_allclose(
        env.get_state()["envs"]["velocities"][:, 3],
        0.1 * 4.0 * compass[scripted[:, 0, 0]],
        atol=1e-12,
    )


@pytest.mark.parametrize("task", sorted(TASKS))
def test_trajectories_do_not_depend_on_the_number_of_envs(task: str) -> None:
    few, many = (mpe.make(envs, task=task, episode_length=9) for envs in (2, 7))
    shown = [few.reset(seed=3)[0]["obs"], many.reset(seed=3)[0]["obs"][:2]]
    np.testing.assert_array_equal(*shown)
    rng = np.random.default_rng(0)
    for _ in range(60):
        actions = rng.integers(5, size=(7, 3))
        for ours, theirs in zip(few.step(actions[:2])[:4], many.step(actions)[:4], strict=True):
            ours = ours["obs"] if isinstance(ours, dict) else ours
            theirs = theirs["obs"] if isinstance(theirs, dict) else theirs
            np.testing.assert_array_equal(ours, theirs[:2])


@pytest.mark.parametrize(
    ("task", "landmarks"), [("cooperative_navigation", 1.0), ("predator_prey", 0.9)]
)
def test_start_positions_fill_their_squares(task: str, landmarks: float) -> None:
    envs = make(1000, task=task).get_state()["envs"]
    assert not envs["velocities"].any()
    moving = envs["velocities"].shape[1]
    for positions, reach in (
        (envs["positions"][:, :moving], 1.0),
        (envs["positions"][:, moving:], landmarks),
    ):
        assert -reach <= positions.min() < -0.99 * reach
        assert 0.99 * reach < positions.max() <= reach
        assert abs(positions.mean()) < 0.03
        assert positions.std() == pytest.approx(reach / np.sqrt(3), rel=0.03)


def test_agent_ids_and_state() -> None:
    env = mpe.make(3, task="predator_prey", agent_id=True, state=True)
    obs, _ = env.reset(seed=0)
    assert obs["obs"].shape == (3, 3, 16 + 3)
    np.testing.assert_array_equal(obs["obs"][..., 16:], np.broadcast_to(np.eye(3), (3, 3, 3)))
    obs, *_ = env.step(np.full((3, 3), UP))
    envs = env.get_state()["envs"]
    expected = [envs["positions"].reshape(3, -1), envs["velocities"].reshape(3, -1)]
    np.testing.assert_array_equal(obs["state"], np.concatenate(expected, 1).astype(np.float32))
    assert mpe.make(1).single_observation_space["obs"].shape == (3, 18)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"task": "predator_pray"}, "'task' must be one of .*predator_prey, got 'predator_pray'"),
        ({"rules": "mpe"}, "'rules' must be one of sqddpg, mpe2, got 'mpe'"),
        ({"prey": "flees"}, "'prey' must be one of random, still, got 'flees'"),
        ({"num_agents": 0}, "'num_agents' must be at least 1"),
        ({"episode_length": -1}, "'episode_length' must not be negative"),
        ({"local_ratio": 1.5, "rules": "mpe2"}, "'local_ratio' must lie between 0 and 1"),
        ({"local_ratio": 0.3}, "'local_ratio' has no meaning with rules 'sqddpg'"),
        (
            {"local_ratio": 0.3, "rules": "mpe2", "task": "predator_prey"},
            "'local_ratio' has no meaning with task 'predator_prey'",
        ),
        ({"terminate_on_success": True}, "'terminate_on_success' has no meaning with rules"),
        ({"prey": "still"}, "'prey' has no meaning with task 'cooperative_navigation'"),
    ],
)
def test_wrong_configs_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        mpe.check(config)
    assert "\n" not in str(error.value)
