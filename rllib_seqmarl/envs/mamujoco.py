"""Multi-Agent MuJoCo: one robot whose joints are divided among the agents.

Robots, divisions, observations and rewards are those of gymnasium-robotics' ``mamujoco_v1`` on
gymnasium's ``-v5`` robots (Peng et al. 2021, "FACMAC: Factored Multi-Agent Centralised Policy
Gradients", is where the benchmark comes from). Returns are not comparable with papers that used
the ``-v2`` robots.

Beside the divisions of gymnasium-robotics there is ``<joints>x1`` for every robot (Ant 8x1,
Walker2d 6x1, Humanoid 17x1, ...): its first division below, split into single joints.

What gymnasium-robotics has wrong with Humanoid is kept, so that results are of the same task:
the agent that moves the joint abdomen_y observes abdomen_z as its own, and the other way round.
"""

from __future__ import annotations

import importlib.util
import io
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.mamujoco_layout import factorization, find_layout
from rllib_seqmarl.envs.team_env import (
    AUTORESET_MODES,
    Observation,
    TeamVectorEnv,
    WorldStep,
    check_env_config,
    continuous_actions,
    observation_space,
)
from rllib_seqmarl.errors import UserError, nearest


class Robot(NamedTuple):
    """A robot and how it can be divided.

    Attributes:
        joints: the number of joints that are driven.
        partitions: gymnasium-robotics' divisions.
        max_episode_steps: its time limit.
    """

    joints: int
    partitions: tuple[str, ...]
    max_episode_steps: int = 1000


ROBOTS: dict[str, Robot] = {
    "Ant": Robot(8, ("4x2", "2x4", "2x4d")),
    "HalfCheetah": Robot(6, ("6x1", "2x3")),
    "Hopper": Robot(3, ("3x1",)),
    "Humanoid": Robot(17, ("9|8",)),
    "HumanoidStandup": Robot(17, ("9|8",)),
    "Pusher": Robot(7, ("3p",), 100),
    "Reacher": Robot(2, ("2x1",), 50),
    "Swimmer": Robot(2, ("2x1",)),
    "Walker2d": Robot(6, ("2x3",)),
}

#: The swimmer with as many joints as its division, "<agents>x<joints of each>", asks for.
MANY_SEGMENT_SWIMMER = "ManySegmentSwimmer"

#: Scenarios of gymnasium-robotics that cannot be played -> why.
BROKEN: dict[str, str] = {
    "CoupledHalfCheetah": "its tendon cannot be observed with present versions of MuJoCo",
    "ManySegmentAnt": "its agents observe other joints than those that they move",
}

#: What the next step and observation depend on beside MuJoCo's integration state: quantities of
#: the last simulation step, which rewards compare with those of the next one.
DERIVED_FIELDS = ("xpos", "xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")

DEFAULTS: dict[str, Any] = {
    "scenario": "HalfCheetah",
    "partition": "6x1",
    "agent_obsk": 1,
    "agent_id": True,
    "state": False,
    "max_episode_steps": 0,  # 0: the robot's own limit
    "autoreset": "same_step",
}


def partitions(scenario: str) -> tuple[str, ...]:
    """The names of all divisions of a robot of ``ROBOTS``."""
    robot = ROBOTS[scenario]
    return tuple(dict.fromkeys((*robot.partitions, f"{robot.joints}x1")))


def check(env_config: Mapping[str, Any]) -> dict[str, Any]:
    """The complete ``env_config``; imports no simulator.

    Keys:
        scenario: a robot of ``ROBOTS``, or ``ManySegmentSwimmer``.
        partition: how its joints are divided, one of :func:`partitions`; for
            ``ManySegmentSwimmer`` any ``<agents>x<joints of each>``.
        agent_obsk: an agent sees the positions of joints up to this many joints away, and of
            its own joints and the torso everything; 0 for only the latter.
        agent_id: appends the one-hot agent slot to the observation.
        state: adds ``state`` [S], the robot's whole observation in gymnasium.
        max_episode_steps: after how many steps an episode is truncated; 0 for the robot's own
            limit (1,000; Pusher 100, Reacher 50), which becomes part of the complete config.
        autoreset: ``same_step`` or ``next_step``.

    Raises:
        UserError: unknown key, wrong type, impossible value, unknown or broken scenario, unknown
            partition, or MuJoCo missing.
    """
    config = check_env_config(env_config, DEFAULTS, "mamujoco")
    _check_partition(config["scenario"], config["partition"])
    for key in ("agent_obsk", "max_episode_steps"):
        if config[key] < 0:
            raise UserError(f"mamujoco: env_config {key!r} must not be negative: {config[key]!r}.")
    if config["autoreset"] not in AUTORESET_MODES:
        hint = nearest(config["autoreset"], AUTORESET_MODES)
        raise UserError(f"mamujoco: unknown autoreset {config['autoreset']!r}. {hint}")
    robot = ROBOTS.get(config["scenario"], ROBOTS["Swimmer"])
    config["max_episode_steps"] = config["max_episode_steps"] or robot.max_episode_steps
    if any(importlib.util.find_spec(name) is None for name in ("mujoco", "gymnasium_robotics")):
        raise UserError(
            "mamujoco: MuJoCo or gymnasium-robotics is not installed; run: "
            "pip install 'rllib-seqmarl[mamujoco]'"
        )
    return config


def _check_partition(scenario: str, partition: str) -> None:
    if scenario in BROKEN:
        raise UserError(
            f"mamujoco: scenario {scenario!r} of gymnasium-robotics is broken: {BROKEN[scenario]}. "
            f"Known: {', '.join((*ROBOTS, MANY_SEGMENT_SWIMMER))}."
        )
    if scenario == MANY_SEGMENT_SWIMMER:
        sizes = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", partition)
        if sizes is None or int(sizes[1]) * int(sizes[2]) < 2:
            raise UserError(
                f"mamujoco: unknown partition {partition!r} of {scenario}: it must be "
                "'<agents>x<joints of each>' with at least 2 joints, for instance '6x1'."
            )
        return
    if scenario not in ROBOTS:
        hint = nearest(scenario, (*ROBOTS, MANY_SEGMENT_SWIMMER))
        raise UserError(f"mamujoco: unknown scenario {scenario!r}. {hint}")
    known = partitions(scenario)
    if partition not in known:
        raise UserError(
            f"mamujoco: unknown partition {partition!r} of {scenario}. Known: {', '.join(known)}."
        )


def make(num_envs: int, **env_config: Any) -> MAMuJoCo:
    """``num_envs`` worlds with the given ``env_config`` (see :func:`check`); imports MuJoCo."""
    return MAMuJoCo(num_envs, **check(env_config))


@contextmanager
def quietly() -> Iterator[None]:
    """Keeps to itself what users can do nothing about while robots are loaded.

    That is a notice of gymnasium-robotics on environments that are not used here, and MuJoCo's
    warning, on the screen and in a file in the working directory, of deprecated words in its own
    robots. Other warnings of MuJoCo become Python's.
    """
    import mujoco

    def warn(message: str) -> None:
        if "deprecated" not in message:
            warnings.warn(message, RuntimeWarning, stacklevel=2)

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(warn)
    try:
        with redirect_stderr(io.StringIO()):
            import gymnasium_robotics  # noqa: F401
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _robots(scenario: str, partition: str, count: int) -> list[Any]:
    """Gymnasium's environments of the scenario, without the wrappers around them."""
    import gymnasium
    from gymnasium_robotics.envs.multiagent_mujoco.many_segment_swimmer import gen_asset

    def build(name: str, **options: Any) -> list[Any]:
        return [
            gymnasium.make(f"{name}-v5", disable_env_checker=True, **options).unwrapped
            for _ in range(count)
        ]

    if scenario != MANY_SEGMENT_SWIMMER:
        return build(scenario)
    agents, joints = partition.split("x")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "swimmer.xml")
        gen_asset(int(agents) * int(joints), path)
        return build("Swimmer", xml_file=path)


class MAMuJoCo(TeamVectorEnv):
    """E worlds of one robot.

    Actions are limited to [-1, 1] and scaled to the range of each joint's actuator. Where agents
    have unequally many joints, actions are padded to the largest number A and ``action_mask``
    [N, A] says which dimensions exist; the values of others are ignored. Shorter observations
    are padded with zeros, and the agent's one-hot slot stands after the padding.

    The reward is the robot's. An episode terminates where the robot falls and is truncated
    after ``max_episode_steps``. No agent ever dies.

    Attributes:
        robots: gymnasium's environments of the robot, one per world, without wrappers.
    """

    metric_names = ("average_step_reward",)
    simulator = "mujoco"

    def __init__(
        self,
        num_envs: int,
        *,
        scenario: str,
        partition: str,
        agent_obsk: int,
        agent_id: bool,
        state: bool,
        max_episode_steps: int,
        autoreset: str,
    ) -> None:
        """Takes the complete ``env_config`` that :func:`check` returns."""
        with quietly():
            # One at least: that there are too few worlds is for the base class to say.
            self.robots = _robots(scenario, partition, max(1, num_envs))
            native = scenario not in ROBOTS or partition in ROBOTS[scenario].partitions
            coarser = None if native else ROBOTS[scenario].partitions[0]
            self._layout = find_layout(
                scenario,
                factorization(scenario, partition, coarser),
                agent_obsk,
                self.robots[0],
            )
        sizes = self._layout.action_sizes
        num_agents, self._obs_size = self._layout.columns.shape
        mask = np.arange(sizes.max()) < sizes[:, None]
        self._ids = np.eye(num_agents, num_agents if agent_id else 0, dtype=np.float32)
        self._mask = None if mask.all() else mask
        self._with_state = state
        self._max_episode_steps = max_episode_steps
        super().__init__(
            num_envs,
            observation_space(
                num_agents,
                self._obs_size + self._ids.shape[1],
                None if self._mask is None else mask.shape[1],
                self.robots[0].observation_space.shape if state else None,
            ),
            continuous_actions(num_agents, mask.shape[1]),
            autoreset,
        )
        lower, upper = self.robots[0].model.actuator_ctrlrange.T
        self._center, self._half_range = (lower + upper) / 2, (upper - lower) / 2
        self._data = [robot.data for robot in self.robots]
        self._last_obs: Observation = {}

    def _reset_worlds(self) -> Observation:
        seeds = self.np_random.integers(2**31, size=self.num_envs)
        for robot, seed in zip(self.robots, seeds.tolist(), strict=True):
            robot.reset(seed=seed)
        return self._observe()

    def _observe(self) -> Observation:
        shape = (self.num_envs, self.num_agents)
        rows = np.empty((*shape, self._obs_size + self._ids.shape[1]), np.float32)
        rows[..., : self._obs_size] = self._layout.read(self._data)
        rows[..., self._obs_size :] = self._ids
        obs: Observation = {"obs": rows, "alive": np.ones(shape, np.bool_)}
        if self._mask is not None:
            obs["action_mask"] = np.repeat(self._mask[None], self.num_envs, axis=0)
        if self._with_state:
            obs["state"] = np.stack([robot._get_obs() for robot in self.robots], dtype=np.float32)
        return obs

    def _controls(self, actions: NDArray[Any]) -> NDArray[np.float64]:
        """What the actuators get, [E, U], from the agents' actions [E, N, A].

        Raises:
            UserError: an action is NaN or infinite.
        """
        flat = actions.reshape(self.num_envs, -1)[:, self._layout.slots].astype(np.float64)
        if not np.isfinite(flat).all():
            raise UserError("mamujoco: an action is NaN or infinite.")
        return self._center + self._half_range * flat.clip(-1.0, 1.0)

    def _step_worlds(self, actions: NDArray[Any], frozen: NDArray[np.bool_] | None) -> WorldStep:
        controls = self._controls(actions)
        active = np.ones(self.num_envs, np.bool_) if frozen is None else ~frozen
        reward = np.zeros(self.num_envs, np.float32)
        terminated = np.zeros(self.num_envs, np.bool_)
        for world in np.flatnonzero(active):
            _, reward[world], terminated[world], _, _ = self.robots[world].step(controls[world])
        out_of_time = active & (self._episode_length + 1 >= self._max_episode_steps)
        truncated = out_of_time & ~terminated
        obs = self._observe()
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            self._last_obs = obs
            for world in ended:
                self.robots[world].reset()
            obs = self._observe()
        return WorldStep(obs, reward, terminated, truncated)

    def _finished(self) -> tuple[Observation, dict[str, NDArray[np.float32]]]:
        average = self._episode_return / np.maximum(self._episode_length, 1)
        return self._last_obs, {"average_step_reward": average.astype(np.float32)}

    def _get_worlds(self) -> dict[str, Any]:
        import mujoco

        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        size = mujoco.mj_stateSize(self.robots[0].model, kind)
        physics = np.zeros((self.num_envs, size))
        for robot, row in zip(self.robots, physics, strict=True):
            mujoco.mj_getState(robot.model, robot.data, row, kind)
        return {
            "physics": physics,
            "derived": {
                name: np.stack([getattr(data, name) for data in self._data])
                for name in DERIVED_FIELDS
            },
            "random": [robot.np_random.bit_generator.state for robot in self.robots],
        }

    def _set_worlds(self, worlds: Mapping[str, Any]) -> None:
        import mujoco

        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        for world, robot in enumerate(self.robots):
            mujoco.mj_setState(robot.model, robot.data, worlds["physics"][world], kind)
            for name, values in worlds["derived"].items():
                getattr(robot.data, name)[...] = values[world]
            robot.np_random.bit_generator.state = worlds["random"][world]
