"""E envs of one MuJoCo robot whose joints are divided among the agents."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.contract import (
    Observation,
    TeamVectorEnv,
    VectorStep,
    continuous_actions,
    observation_space,
)
from rllib_seqmarl.envs.mamujoco.config import MANY_SEGMENT_SWIMMER, MAMuJoCoConfig
from rllib_seqmarl.envs.mamujoco.layout import factorization, find_layout
from rllib_seqmarl.envs.mamujoco.rendering import Stage, draw

#: What the next step and observation depend on beside MuJoCo's integration state: quantities of
#: the last simulation step, which rewards compare with those of the next one.
DERIVED_FIELDS = ("xpos", "xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")


@contextmanager
def quietly() -> Iterator[None]:
    """Keeps to itself what users can do nothing about while robots are loaded.

    That is a message of gymnasium-robotics on environments that are not used here, and MuJoCo's
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

    def build(name: str, **options: object) -> list[Any]:
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


class _Pose(NamedTuple):
    """What a frame of a robot is drawn of."""

    qpos: NDArray[np.float64]
    control: NDArray[np.float64]  # of the actuators, in the last step
    step: int
    fell: bool


class MAMuJoCo(TeamVectorEnv):
    """E envs of one robot.

    Actions are limited to [-1, 1] and scaled to the range of each joint's actuator. Where agents
    have unequally many joints, actions are padded to the largest number A and ``action_mask``
    [N, A] says which dimensions exist; the values of others are ignored. Shorter observations
    are padded with zeros, and the agent's one-hot slot stands after the padding.

    The reward is the robot's. An episode terminates where the robot falls and is truncated
    after ``max_episode_steps``. No agent ever dies.

    Attributes:
        robots: gymnasium's environments of the robot, one per env, without wrappers.
    """

    metric_names = ("average_step_reward",)
    simulator = "mujoco"

    def __init__(self, num_envs: int, config: MAMuJoCoConfig) -> None:
        """Loads E robots, with these settings."""
        scenario, partition = config.scenario, config.partition
        with quietly():
            # One at least: that there are too few envs is for the base class to say.
            self.robots = _robots(scenario, partition, max(1, num_envs))
            self._layout = find_layout(
                scenario,
                factorization(scenario, partition, config.coarser_partition),
                config.agent_obsk,
                self.robots[0],
            )
        sizes = self._layout.action_sizes
        num_agents, self._obs_size = self._layout.columns.shape
        mask = np.arange(sizes.max()) < sizes[:, None]
        self._ids = np.eye(num_agents, num_agents if config.agent_id else 0, dtype=np.float32)
        self._mask = None if mask.all() else mask
        self._with_state = config.state
        self.max_episode_steps = self._max_episode_steps = config.max_episode_steps
        super().__init__(
            num_envs,
            observation_space(
                num_agents,
                self._obs_size + self._ids.shape[1],
                None if self._mask is None else mask.shape[1],
                self.robots[0].observation_space.shape if config.state else None,
            ),
            continuous_actions(num_agents, mask.shape[1]),
            config.autoreset,
        )
        lower, upper = self.robots[0].model.actuator_ctrlrange.T
        self._center, self._half_range = (lower + upper) / 2, (upper - lower) / 2
        self._data = [robot.data for robot in self.robots]
        self._last_obs: Observation = {}
        self._scenario = scenario
        self._stage: Stage | None = None  # made for the first frame
        self._at_end: dict[int, _Pose] = {}
        self.metadata["render_fps"] = self.robots[0].metadata["render_fps"]

    def _reset_envs(self) -> Observation:
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
        """What the actuators get, [E, U], from the agents' actions [E, N, A]."""
        flat = actions.reshape(self.num_envs, -1)[:, self._layout.slots].astype(np.float64)
        return self._center + self._half_range * flat.clip(-1.0, 1.0)

    def _step_envs(self, actions: NDArray[Any], frozen: NDArray[np.bool_] | None) -> VectorStep:
        controls = self._controls(actions)
        active = self._active(frozen)
        reward = np.zeros(self.num_envs, np.float32)
        terminated = np.zeros(self.num_envs, np.bool_)
        for e in np.flatnonzero(active):
            _, reward[e], terminated[e], _, _ = self.robots[e].step(controls[e])
        out_of_time = active & (self._episode_length + 1 >= self._max_episode_steps)
        truncated = out_of_time & ~terminated
        obs = self._observe()
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            self._last_obs = obs
            self._at_end = {
                e: self._pose(e, int(self._episode_length[e]) + 1, bool(terminated[e]))
                for e in ended.tolist()
            }
            for e in ended:
                self.robots[e].reset()
            obs = self._observe()
        return VectorStep(obs, reward, terminated, truncated)

    def _final_obs_and_metrics(self) -> tuple[Observation, dict[str, NDArray[np.float32]]]:
        average = self._episode_return / np.maximum(self._episode_length, 1)
        return self._last_obs, {"average_step_reward": average.astype(np.float32)}

    def render_frame(self, e: int = 0) -> NDArray[np.uint8]:
        """See `TeamVectorEnv.render_frame`."""
        return self._draw(self._pose(e, int(self._episode_length[e])))

    def render_final_frame(self, e: int = 0) -> NDArray[np.uint8]:
        """See `TeamVectorEnv.render_final_frame`."""
        return self._draw(self._at_end[e])

    def _pose(self, e: int, step: int, fell: bool = False) -> _Pose:
        data = self._data[e]
        return _Pose(data.qpos.copy(), data.ctrl.copy(), step, fell)

    def _draw(self, pose: _Pose) -> NDArray[np.uint8]:
        if self._stage is None:
            drivers = self._layout.slots // self._layout.action_sizes.max()
            model = self.robots[0].model
            self._stage = Stage(model, self._scenario, drivers, self._max_episode_steps)
        drive = (pose.control - self._center) / self._half_range
        return draw(self._stage.scene(pose.qpos, drive, pose.step, pose.fell))

    def _get_envs_state(self) -> dict[str, Any]:
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

    def _set_envs_state(self, state: Mapping[str, Any]) -> None:
        import mujoco

        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        for e, robot in enumerate(self.robots):
            mujoco.mj_setState(robot.model, robot.data, state["physics"][e], kind)
            for name, values in state["derived"].items():
                getattr(robot.data, name)[...] = values[e]
            robot.np_random.bit_generator.state = state["random"][e]
