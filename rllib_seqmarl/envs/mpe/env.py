"""The two tasks of :mod:`rllib_seqmarl.envs.mpe.config` as team environments of E envs.

Slots of what moves: the N agents, then what is scripted (the prey); landmarks follow.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.contract import (
    Observation,
    TeamVectorEnv,
    VectorStep,
    discrete_actions,
    observation_space,
)
from rllib_seqmarl.envs.core.generators import EnvGenerators
from rllib_seqmarl.envs.mpe.config import MPEConfig
from rllib_seqmarl.envs.mpe.particles import TIME_STEP, Particles
from rllib_seqmarl.envs.mpe.rendering import Scene, draw

NUM_ACTIONS = 5
#: Direction of the force of each action under each set of rules, [5, 2].
DIRECTIONS: dict[str, NDArray[np.float64]] = {
    "sqddpg": np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]),
    "mpe2": np.array([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]]),
}
#: A landmark is covered by an agent that is nearer than this (mpe2's success radius).
COVERED = 0.1
CONTACT_REWARD = 10.0
DISTANCE_COST = 0.1


class Bodies(NamedTuple):
    """What an env consists of: M discs that move, then landmarks, P in all.

    Attributes:
        radii: float64 [P].
        acceleration: float64 [M], of an action.
        max_speed: float64 [M], None for no limit.
        landmark_range: landmarks start in [-this, this]^2, what moves in [-1, 1]^2.
        landmarks_collide: whether landmarks are obstacles.
        silent_size: how many zeros an observation has for messages that nobody sends.
    """

    radii: NDArray[np.float64]
    acceleration: NDArray[np.float64]
    max_speed: NDArray[np.float64] | None
    landmark_range: float
    landmarks_collide: bool
    silent_size: int


class ParticleTask(TeamVectorEnv):
    """What both tasks share: actions, scripted movers, time, starts, observations and state.

    Observation of an agent, in this order: its velocity, its position, the offsets of all
    landmarks, the offsets of all others that move, the velocities of the scripted ones (2
    numbers each), zeros for messages that nobody sends, and its one-hot slot if ``agent_id``.
    No agent ever dies; every action is always available.
    """

    simulator = "mpe"
    #: Whether an episode ends when the task is solved, under SQDDPG's rules.
    success_ends: ClassVar[bool]

    def __init__(self, num_envs: int, config: MPEConfig) -> None:
        """Takes E and the settings."""
        num_agents = config.num_agents
        bodies = self._bodies(num_agents)
        discs, moving = len(bodies.radii), len(bodies.acceleration)
        sizes = [2, 2, 2 * (discs - moving), 2 * (moving - 1), 2 * (moving - num_agents)]
        sizes += [bodies.silent_size, num_agents * config.agent_id]
        super().__init__(
            num_envs,
            observation_space(
                num_agents,
                sum(sizes),
                NUM_ACTIONS,
                (2 * discs + 2 * moving,) if config.state else None,
            ),
            discrete_actions(num_agents, NUM_ACTIONS),
            config.autoreset,
            config.reward_per_agent,
        )
        self._config = config
        self.max_episode_steps = config.episode_length
        self._sqddpg = config.rules == "sqddpg"
        self._success_ends = self.success_ends if self._sqddpg else config.terminate_on_success
        self._particles = Particles(
            num_envs,
            bodies.radii,
            moving,
            discs if bodies.landmarks_collide else moving,
            bodies.max_speed,
            old_velocity=not self._sqddpg,
        )
        self._forces = DIRECTIONS[config.rules] * bodies.acceleration[:, None, None]  # [M, 5, 2]
        self._radii = bodies.radii
        self._start_range = np.where(np.arange(discs) < moving, 1.0, bodies.landmark_range)
        self._moving = np.arange(moving)
        # For each agent the slots of all others that move, [N, M - 1].
        self._others = np.array([np.delete(self._moving, agent) for agent in range(num_agents)])
        self._parts = np.cumsum(sizes)
        self._everywhere = np.arange(num_envs)
        self._time = np.zeros(num_envs, np.int64)
        # Actions of what is scripted, drawn for a whole episode when it starts. Every env has
        # its own generator: its episodes do not depend on when others end.
        self._scripted = np.zeros((num_envs, config.episode_length, moving - num_agents), np.int8)
        self._rngs = EnvGenerators(num_envs)
        self._tally = np.zeros(num_envs)
        self._at_end = self._places()
        self.metadata["render_fps"] = 1.0 / TIME_STEP

    @staticmethod
    @abstractmethod
    def _bodies(num_agents: int) -> Bodies:
        """What an env with N agents consists of."""

    @abstractmethod
    def _evaluate(self, active: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Every agent's reward [E, N] and where the task is solved now [E].

        Adds to ``self._tally`` [E], what the task counts during an episode, where ``active``.
        """

    @abstractmethod
    def _episode_metrics(self) -> dict[str, NDArray[Any]]:
        """The task's own metrics [E], right for the envs whose episode ends now."""

    def _reset_envs(self) -> Observation:
        self._rngs.reseed(self.np_random)
        self._start(self._everywhere)
        return self._observe()

    def _start(self, envs: NDArray[np.int64]) -> None:
        self._time[envs] = 0
        self._tally[envs] = 0.0
        self._particles.velocities[envs] = 0.0
        script_shape = self._scripted.shape[1:]
        for e in envs:
            rng = self._rngs[e]
            uniform = rng.random((len(self._start_range), 2))
            self._particles.positions[e] = (2.0 * uniform - 1.0) * self._start_range[:, None]
            if self._config.prey == "random":
                drawn = rng.integers(NUM_ACTIONS, size=script_shape, dtype=np.int8)
                self._scripted[e] = drawn
        self._particles.measure()

    def _observe(self) -> Observation:
        particles, agents, moving = self._particles, self.num_agents, len(self._moving)
        shape = (self.num_envs, agents)
        others = particles.offsets[:, self._moving[:agents, None], self._others]
        rows = np.zeros((*shape, self._parts[-1]), np.float32)
        start = 0
        for stop, part in zip(
            self._parts,
            (
                particles.velocities[:, :agents],
                particles.positions[:, :agents],
                particles.offsets[:, :agents, moving:].reshape(*shape, -1),
                others.reshape(*shape, -1),
                particles.velocities[:, None, agents:].reshape(self.num_envs, 1, -1),
            ),
            strict=False,
        ):
            rows[..., start:stop] = part
            start = stop
        if self._config.agent_id:
            rows[..., self._parts[-2] :] = np.eye(agents)
        obs: Observation = {
            "obs": rows,
            "alive": np.ones(shape, np.bool_),
            "action_mask": np.ones((*shape, NUM_ACTIONS), np.bool_),
        }
        if self._config.state:
            parts = (particles.positions, particles.velocities)
            flat = [part.reshape(self.num_envs, -1) for part in parts]
            obs["state"] = np.concatenate(flat, axis=1, dtype=np.float32)
        return obs

    def _step_envs(self, actions: NDArray[Any], frozen: NDArray[np.bool_] | None) -> VectorStep:
        active = self._active(frozen)
        scripted = self._scripted[self._everywhere, self._time]
        everyone = np.concatenate([actions, scripted], axis=1)  # [E, M]
        self._particles.step(self._forces[self._moving, everyone], frozen)
        self._time += active
        reward, solved = self._evaluate(active)
        timeout = self._time == self._config.episode_length
        # Solved in the very last step: terminated for SQDDPG, truncated for mpe2.
        terminated = active & solved & self._success_ends & (self._sqddpg | ~timeout)
        truncated = timeout & ~terminated
        done = terminated | truncated
        obs = self._observe()
        if done.any():
            metrics = {
                name: value.astype(np.float32) for name, value in self._episode_metrics().items()
            }
            self._last = (obs, metrics)
            self._at_end = self._places()
            self._start(np.flatnonzero(done))
            obs = self._observe()
        reward = self._config.paid(reward * active[:, None]).astype(np.float32)
        return VectorStep(obs, reward, terminated, truncated)

    def _final_obs_and_metrics(self) -> tuple[Observation, dict[str, NDArray[np.float32]]]:
        obs, metrics = self._last
        per_step = self._episode_return / np.maximum(self._episode_length, 1)
        return obs, {"step_reward": per_step.astype(np.float32), **metrics}

    def render_frame(self, e: int = 0) -> NDArray[np.uint8]:
        """See `TeamVectorEnv.render_frame`."""
        return draw(self._scene(e, self._places()))

    def render_final_frame(self, e: int = 0) -> NDArray[np.uint8]:
        """See `TeamVectorEnv.render_final_frame`."""
        return draw(self._scene(e, self._at_end))

    def _places(self) -> tuple[NDArray[Any], ...]:
        """Positions, velocities and steps of all envs now; what a frame is drawn of."""
        particles = self._particles
        return particles.positions.copy(), particles.velocities.copy(), self._time.copy()

    def _scene(self, e: int, places: tuple[NDArray[Any], ...]) -> Scene:
        """What is to be seen in one of E envs."""
        positions, velocities, time = (array[e] for array in places)
        agents, moving = self.num_agents, len(self._moving)
        distances = np.linalg.norm(positions - positions[:moving, None], axis=-1)  # [M, P]
        touching = (distances < self._particles.contact)[:, :moving] & ~np.eye(moving, dtype=bool)
        return Scene(
            positions=positions,
            velocities=velocities,
            radii=self._radii,
            num_agents=agents,
            obstacles=moving > agents,
            covered=distances[:agents, moving:].min(axis=0) < COVERED,
            touching=touching.any(axis=1),
            step=int(time),
            max_steps=self._config.episode_length,
        )

    def _get_envs_state(self) -> dict[str, Any]:
        return {
            "positions": self._particles.positions.copy(),
            "velocities": self._particles.velocities.copy(),
            "time": self._time.copy(),
            "scripted": self._scripted.copy(),
            "tally": self._tally.copy(),
            "random": self._rngs.get_state(),
        }

    def _set_envs_state(self, state: Mapping[str, Any]) -> None:
        self._particles.positions[...] = state["positions"]
        self._particles.velocities[...] = state["velocities"]
        self._particles.measure()
        self._time = state["time"].copy()
        self._scripted = state["scripted"].copy()
        self._tally = state["tally"].copy()
        self._rngs.set_state(state["random"])


class CooperativeNavigation(ParticleTask):
    """N agents cover N landmarks and keep off each other.

    Metrics: ``step_reward`` (mean reward of the team per step: SQDDPG's measure), ``coverage``
    (part of the landmarks covered at the end), ``success`` (all of them), ``collisions`` (mean
    number of pairs in contact per step).
    """

    metric_names = ("step_reward", "coverage", "success", "collisions")
    success_ends = False

    @staticmethod
    def _bodies(num_agents: int) -> Bodies:
        return Bodies(
            radii=np.repeat([0.15, 0.05], num_agents),
            acceleration=np.full(num_agents, 5.0),
            max_speed=None,
            landmark_range=1.0,
            landmarks_collide=False,
            silent_size=2 * (num_agents - 1),
        )

    def _nearest(self) -> NDArray[np.float64]:
        """Distance of the nearest agent to each landmark, [E, N]."""
        return self._particles.distances[:, :, self.num_agents :].min(axis=1)

    def _evaluate(self, active: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        agents, nearest = self.num_agents, self._nearest()
        touching = self._particles.distances[:, :, :agents] < self._particles.contact[:, :agents]
        contacts = touching.sum(axis=2)  # [E, N], each agent with itself, too
        others = contacts - 1
        self._tally += active * (others.sum(axis=1) / 2)
        common = -nearest.sum(axis=1)[:, None]  # [E, 1]
        if self._sqddpg:
            reward = common - contacts
        else:
            reward = (1.0 - self._config.local_ratio) * common - self._config.local_ratio * others
        return reward, nearest.max(axis=1) < COVERED

    def _episode_metrics(self) -> dict[str, NDArray[Any]]:
        covered = self._nearest() < COVERED
        return {
            "coverage": covered.mean(axis=1),
            "success": covered.all(axis=1),
            "collisions": self._tally / np.maximum(self._time, 1),
        }


class PredatorPrey(ParticleTask):
    """N predators, one prey that is faster and scripted, two obstacles.

    Metrics: ``step_reward`` (mean reward of the team per step), ``captured`` (a predator
    touched the prey), ``turns_to_capture`` (the step of the first contact, the episode's
    length if there was none: SeCA's and SQDDPG's measure, lower is better).
    """

    metric_names = ("step_reward", "captured", "turns_to_capture")
    success_ends = True

    @staticmethod
    def _bodies(num_agents: int) -> Bodies:
        return Bodies(
            radii=np.array([0.075] * num_agents + [0.05] + [0.2] * 2),
            acceleration=np.array([3.0] * num_agents + [4.0]),
            max_speed=np.array([1.0] * num_agents + [1.3]),
            landmark_range=0.9,
            landmarks_collide=True,
            silent_size=0,
        )

    def _evaluate(self, active: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        prey = self.num_agents
        distances = self._particles.distances[:, :prey, prey]
        contacts = (distances < self._particles.contact[:prey, prey]).sum(axis=1)
        caught = contacts > 0
        self._tally = np.where(active & caught & (self._tally == 0.0), self._time, self._tally)
        each = CONTACT_REWARD * contacts
        if self._sqddpg:
            each -= DISTANCE_COST * distances.sum(axis=1)
        return np.repeat(each[:, None], prey, axis=1), caught

    def _episode_metrics(self) -> dict[str, NDArray[Any]]:
        captured = self._tally > 0.0
        return {
            "captured": captured,
            "turns_to_capture": np.where(captured, self._tally, self._time),
        }


TASKS: dict[str, type[ParticleTask]] = {
    "cooperative_navigation": CooperativeNavigation,
    "predator_prey": PredatorPrey,
}


def metric_names(config: MPEConfig) -> tuple[str, ...]:
    """The metrics of the task that the settings name."""
    return TASKS[config.task].metric_names


def make(num_envs: int, config: MPEConfig) -> ParticleTask:
    """The task that the settings name."""
    return TASKS[config.task](num_envs, config)
