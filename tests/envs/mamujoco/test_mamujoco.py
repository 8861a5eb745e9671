"""Multi-Agent MuJoCo against gymnasium-robotics, and what is this project's own."""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium_robotics import mamujoco_v1
from gymnasium_robotics.envs.multiagent_mujoco import many_segment_ant
from gymnasium_robotics.envs.multiagent_mujoco.obsk import get_parts_and_edges

from rllib_seqmarl import registry
from rllib_seqmarl.envs.core.contract import random_actions
from rllib_seqmarl.envs.mamujoco import config as mamujoco_config
from rllib_seqmarl.envs.mamujoco import layout as mamujoco_layout
from rllib_seqmarl.envs.mamujoco.env import MAMuJoCo
from rllib_seqmarl.envs.mamujoco.layout import factorization
from rllib_seqmarl.errors import UserError

mamujoco = registry.environment("mamujoco")

NUM_ENVS = 2


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gymnasium-robotics, used directly, makes MuJoCo write a log into the working directory."""
    monkeypatch.chdir(tmp_path)


def theirs(scenario: str, partition: str, agent_obsk: int) -> Any:
    """Gymnasium-robotics' environment, its limit of steps included."""
    native = mamujoco_config.ROBOTS.get(scenario)
    split = None
    if native is not None and partition not in native.partitions:
        split = factorization(scenario, partition, native.partitions[0])
    env = mamujoco_v1.parallel_env(scenario, partition, agent_obsk, agent_factorization=split)
    if scenario == "Pusher":  # three joints have one label, and their order is left to chance
        env.k_dicts = [
            {0: sorted(near[0], key=lambda node: (node.label, node.act_ids))}
            for near in env.k_dicts
        ]
    return env


TASKS = [
    *[("HalfCheetah", "6x1", agent_obsk) for agent_obsk in (0, 1, 2)],
    ("HalfCheetah", "2x3", 1),
    ("Ant", "4x2", 2),
    ("Ant", "2x4d", 1),
    ("Ant", "8x1", 1),
    ("Hopper", "3x1", 1),
    ("Walker2d", "2x3", 1),
    ("Walker2d", "6x1", 2),
    ("Humanoid", "9|8", 1),
    ("Humanoid", "17x1", 1),
    ("HumanoidStandup", "9|8", 0),
    ("Reacher", "2x1", 1),
    ("Swimmer", "2x1", 1),
    ("Pusher", "3p", 0),
    ("ManySegmentSwimmer", "3x2", 1),
]


@pytest.mark.parametrize(("scenario", "partition", "agent_obsk"), TASKS)
def test_steps_are_gymnasium_robotics_bit_for_bit(
    scenario: str, partition: str, agent_obsk: int
) -> None:
    ours = mamujoco.make(
        NUM_ENVS, scenario=scenario, partition=partition, agent_obsk=agent_obsk, state=True
    )
    references = [theirs(scenario, partition, agent_obsk) for _ in range(NUM_ENVS)]
    names = references[0].possible_agents
    sizes = [references[0].action_space(name).shape[0] for name in names]
    bound = references[0].single_agent_env.unwrapped.model.actuator_ctrlrange[0, 1]
    assert ours.single_action_space.shape == (len(names), max(sizes))

    def check(obs: dict[str, Any], e: int, dicts: dict[str, Any]) -> None:
        for agent, name in enumerate(names):
            expected = dicts[name].astype(np.float32)
            row = obs["obs"][e, agent]
            np.testing.assert_array_equal(row[: len(expected)], expected)
            assert not row[len(expected) : -len(names)].any()
            np.testing.assert_array_equal(row[-len(names) :], np.eye(len(names))[agent])

    obs, _ = ours.reset(seed=4)
    seeds = gymnasium.utils.seeding.np_random(4)[0].integers(2**31, size=NUM_ENVS)
    for e, env in enumerate(references):
        check(obs, e, env.reset(seed=int(seeds[e]))[0])
    rng = np.random.default_rng(0)
    episodes = 0
    for _ in range(120):
        actions = rng.uniform(-1.3, 1.3, ours.action_space.shape).astype(np.float32)
        obs, reward, terminated, truncated, infos = ours.step(actions)
        for e, env in enumerate(references):
            scaled = bound * actions[e].astype(np.float64).clip(-1.0, 1.0)
            chosen = {
                name: scaled[slot, :size]
                for slot, (name, size) in enumerate(zip(names, sizes, strict=True))
            }
            dicts, rewards, ends, cuts, _ = env.step(chosen)
            assert reward[e] == np.float32(rewards[names[0]])
            assert terminated[e] == ends[names[0]]
            assert truncated[e] == (cuts[names[0]] and not ends[names[0]])
            if terminated[e] or truncated[e]:
                episodes += 1
                check(infos["final_obs"], e, dicts)
                dicts = env.reset()[0]
            check(obs, e, dicts)
            np.testing.assert_array_equal(obs["state"][e], env.state().astype(np.float32))
    if scenario in ("Hopper", "Walker2d", "Humanoid", "Reacher", "Pusher"):
        assert episodes >= NUM_ENVS


def test_table_of_robots_is_gymnasium_robotics() -> None:
    for scenario, robot in mamujoco_config.ROBOTS.items():
        spec = gymnasium.spec(f"{scenario}-v5")
        assert robot.max_episode_steps == spec.max_episode_steps, scenario
        for partition in robot.partitions:
            parts, *_ = get_parts_and_edges(scenario, partition)
            assert sum(map(len, parts)) == robot.joints, (scenario, partition)
        single = f"{robot.joints}x1"
        if single not in robot.partitions:
            with pytest.raises(Exception, match="UNKNOWN partitioning"):
                get_parts_and_edges(scenario, single)


@pytest.mark.parametrize("scenario", mamujoco_config.ROBOTS)
def test_every_robot_divides_into_single_joints(scenario: str) -> None:
    joints = mamujoco_config.ROBOTS[scenario].joints
    env = mamujoco.make(1, scenario=scenario, partition=f"{joints}x1")
    assert env.single_action_space.shape == (joints, 1)
    assert "action_mask" not in env.single_observation_space.spaces
    # Each agent drives one actuator: alone at full strength, it alone is felt.
    driven = []
    for agent in range(joints):
        env.reset(seed=0)
        actions = np.zeros(env.action_space.shape, np.float32)
        actions[0, agent] = 1.0
        env.step(actions)
        driven.append(np.flatnonzero(env.robots[0].data.ctrl).tolist())
    assert sorted(driven) == [[joint] for joint in range(joints)]


def test_agents_of_ant_8x1_see_their_own_leg() -> None:
    """Hip and ankle of one leg after another; a hip has all hips as neighbours."""
    env = mamujoco.make(1, scenario="Ant", partition="8x1", agent_id=False)
    env.reset(seed=0)
    data = env.robots[0].data
    joints = ["hip_1", "ankle_1", "hip_2", "ankle_2", "hip_3", "ankle_3", "hip_4", "ankle_4"]
    row = env._observe()["obs"][0]
    for agent, joint in enumerate(joints):
        assert row[agent, 0] == np.float32(data.joint(joint).qpos[0])
        assert row[agent, 1] == np.float32(data.joint(joint).qvel[0])
    env.step(np.linspace(-1.0, 1.0, 8, dtype=np.float32).reshape(1, 8, 1))
    driven = env.robots[0].model.actuator_trnid[:, 0]
    for joint, action in zip(joints, np.linspace(-1.0, 1.0, 8), strict=True):
        assert data.ctrl[driven == data.joint(joint).id] == np.float32(action)


def test_agents_observe_the_joints_that_they_move() -> None:
    swapped = []
    for scenario, robot in mamujoco_config.ROBOTS.items():
        division = robot.partitions[0]
        model = mamujoco.make(1, scenario=scenario, partition=division).robots[0].model
        parts = factorization(scenario, division, None)["partition"]
        for node in [node for part in parts for node in part]:
            driven = model.actuator_trnid[node.act_ids, 0]
            if model.jnt_qposadr[driven] != node.qpos_ids % model.nq:
                swapped.append((scenario, node.label))
    names = ("abdomen_y", "abdomen_z")
    humanoids = ("Humanoid", "HumanoidStandup")
    assert sorted(swapped) == [(scenario, name) for scenario in humanoids for name in names]


def test_actions_are_limited_and_scaled_to_the_actuators() -> None:
    env = mamujoco.make(1, scenario="Humanoid", partition="17x1")
    for given, felt in ((1.0, 0.4), (7.0, 0.4), (-0.5, -0.2), (-1e9, -0.4), (0.0, 0.0)):
        env.reset(seed=0)
        env.step(np.full(env.action_space.shape, given, np.float32))
        np.testing.assert_allclose(env.robots[0].data.ctrl, felt, rtol=1e-12)


def test_unequal_agents_are_padded_and_masked() -> None:
    env = mamujoco.make(1, scenario="Humanoid", partition="9|8")
    space = env.single_observation_space
    assert space["obs"].shape == (2, 242 + 2)
    assert space["action_mask"].shape == (2, 9)
    obs, _ = env.reset(seed=0)
    mask = np.ones((1, 2, 9), bool)
    mask[0, 1, 8] = False
    np.testing.assert_array_equal(obs["action_mask"], mask)
    assert np.abs(obs["obs"][0, 1, :170]).sum() > 0
    assert not obs["obs"][0, 1, 170:242].any()
    np.testing.assert_array_equal(obs["obs"][0, :, 242:], np.eye(2))
    # What is said in a dimension that does not exist changes nothing.
    actions = np.random.default_rng(0).uniform(-1, 1, (1, 2, 9)).astype(np.float32)
    state = env.get_state()
    first = env.step(actions)
    env.set_state(state)
    actions[0, 1, 8] = 0.123
    second = env.step(actions)
    np.testing.assert_array_equal(first[0]["obs"], second[0]["obs"])
    assert first[1] == second[1]


def until_the_end(env: MAMuJoCo) -> tuple[bool, bool, dict[str, Any]]:
    """Terminated, truncated and metrics of the first episode of a single env."""
    obs, _ = env.reset(seed=1)
    rng = np.random.default_rng(1)
    rewards = 0.0
    while True:
        obs, reward, terminated, truncated, infos = env.step(random_actions(env, obs, rng))
        rewards += float(reward[0])
        if infos:
            metrics = {name: float(value[0]) for name, value in infos["final_info"].items()}
            assert metrics["episode_return"] == pytest.approx(rewards)
            average = metrics["episode_return"] / metrics["episode_length"]
            assert metrics["average_step_reward"] == pytest.approx(average)
            return bool(terminated[0]), bool(truncated[0]), metrics


def test_a_fall_terminates_and_the_limit_truncates() -> None:
    hopper = {"scenario": "Hopper", "partition": "3x1"}
    terminated, truncated, metrics = until_the_end(mamujoco.make(1, **hopper))
    assert (terminated, truncated) == (True, False)
    length = int(metrics["episode_length"])
    assert 2 < length < 1000
    # The fall counts where it comes in the last step that is left.
    same = mamujoco.make(1, **hopper, max_episode_steps=length)
    assert until_the_end(same) == (True, False, metrics)
    shorter = mamujoco.make(1, **hopper, max_episode_steps=length - 1)
    terminated, truncated, metrics = until_the_end(shorter)
    assert (terminated, truncated, metrics["episode_length"]) == (False, True, length - 1)


def test_half_cheetah_runs_for_1000_steps() -> None:
    terminated, truncated, metrics = until_the_end(mamujoco.make(1))
    assert (terminated, truncated, metrics["episode_length"]) == (False, True, 1000)


@pytest.mark.parametrize(
    ("scenario", "partition"),
    [
        ("HalfCheetah", "6x1"),
        ("Ant", "8x1"),
        ("Walker2d", "6x1"),
        ("Hopper", "3x1"),
        ("Humanoid", "9|8"),
        ("Reacher", "2x1"),
        ("ManySegmentSwimmer", "2x2"),
    ],
)
@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_saved_envs_go_on_elsewhere_bit_for_bit(
    scenario: str, partition: str, autoreset: str
) -> None:
    config = {"scenario": scenario, "partition": partition, "state": True}
    config |= {"autoreset": autoreset, "max_episode_steps": 60}
    env = mamujoco.make(NUM_ENVS, **config)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (250, *env.action_space.shape)).astype(np.float32)
    env.reset(seed=0)
    # In both modes the 60th step ends an episode at the latest: with next_step it is saved
    # between the end and the start of the next one.
    for action in actions[:60]:
        env.step(action)
    saved = pickle.dumps(env.get_state())
    other = mamujoco.make(NUM_ENVS, **config)
    other.reset(seed=9)
    other.set_state(pickle.loads(saved))
    ended = 0
    for action in actions[60:]:
        left, right = env.step(action), other.step(action)
        for name in left[0]:
            np.testing.assert_array_equal(left[0][name], right[0][name])
        for one, another in zip(left[1:4], right[1:4], strict=True):
            np.testing.assert_array_equal(one, another)
        ended += int((left[2] | left[3]).sum())
    assert ended >= NUM_ENVS


def test_equal_seeds_equal_envs_and_different_envs_in_one_vector() -> None:
    one, other = (mamujoco.make(3, scenario="Ant", partition="8x1") for _ in range(2))
    first, second = one.reset(seed=3)[0], other.reset(seed=3)[0]
    np.testing.assert_array_equal(first["obs"], second["obs"])
    assert len({row.tobytes() for row in first["obs"]}) == 3
    rng = np.random.default_rng(0)
    for _ in range(20):
        actions = random_actions(one, first, rng)
        np.testing.assert_array_equal(one.step(actions)[0]["obs"], other.step(actions)[0]["obs"])
    assert not np.array_equal(one.reset(seed=4)[0]["obs"], first["obs"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"scenario": "HalfCheeta"}, "unknown scenario 'HalfCheeta'. Did you mean 'HalfCheetah'?"),
        ({"scenario": "Cartpole"}, "unknown scenario 'Cartpole'. Known: Ant, HalfCheetah,"),
        ({"scenario": "Ant", "partition": "6x1"}, "of Ant. Known: 4x2, 2x4, 2x4d, 8x1."),
        ({"partition": "8x1"}, "unknown partition '8x1' of HalfCheetah. Known: 6x1, 2x3."),
        ({"scenario": "CoupledHalfCheetah", "partition": "1p1"}, "is broken: its tendon cannot"),
        ({"scenario": "ManySegmentAnt", "partition": "2x3"}, "is broken: its agents observe"),
        ({"scenario": "ManySegmentSwimmer", "partition": "six"}, "'<agents>x<joints of each>'"),
        ({"scenario": "ManySegmentSwimmer", "partition": "1x1"}, "at least 2 joints"),
        ({"agent_obsk": -1}, "'agent_obsk' must not be negative, got -1"),
        ({"agent_obsk": "all"}, "'agent_obsk' must be a whole number, got 'all'"),
        ({"max_episode_steps": -5}, "'max_episode_steps' must not be negative"),
        ({"partitions": "6x1"}, "unknown env_config key 'partitions'. Did you mean 'partition'"),
    ],
)
def test_wrong_configs_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        mamujoco.check(config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_broken_scenarios_are_broken() -> None:
    """Should one of them be fixed, it can be offered."""
    with pytest.raises(IndexError):
        mamujoco_v1.parallel_env("CoupledHalfCheetah", "1p1")
    many_segment_ant.gen_asset(6, str(Path.cwd() / "ant.xml"))
    model = mujoco.MjModel.from_xml_path(str(Path.cwd() / "ant.xml"))
    nodes = [node for part in get_parts_and_edges("ManySegmentAnt", "2x3")[0] for node in part]
    for node in nodes:
        driven = model.actuator_trnid[node.act_ids, 0]
        assert model.jnt_qposadr[driven] != node.qpos_ids % model.nq, node


def test_what_is_not_known_of_an_observation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(mamujoco_layout.SOURCES, "qvel")
    with pytest.raises(UserError, match="observes something in HalfCheetah that is not known"):
        mamujoco.make(1)


@pytest.mark.parametrize("missing", ["mujoco", "gymnasium_robotics"])
def test_missing_packages_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find(name)
    )
    with pytest.raises(UserError, match=r"pip install 'rllib-seqmarl\[mamujoco\]'"):
        mamujoco.check({})


def test_checking_imports_nothing_and_making_is_silent_and_leaves_no_file() -> None:
    code = """
import sys
sys.modules["ray"] = None
from rllib_seqmarl import registry
mamujoco = registry.environment("mamujoco")
mamujoco.check({})
assert not {"mujoco", "gymnasium_robotics", "torch"} & sys.modules.keys()
env = mamujoco.make(2)
env.reset(seed=0)
env.close()
mamujoco.make(1, scenario="ManySegmentSwimmer", partition="3x1")
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    assert list(Path.cwd().iterdir()) == []
