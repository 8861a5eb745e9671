"""Games whose actions have several parts: one of ours, and one of PettingZoo's interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from rllib_seqmarl.envs.core.contract import (
    Observation,
    TeamVectorEnv,
    VectorStep,
    mixed_actions,
    observation_space,
)
from rllib_seqmarl.settings import Doc, Ge, settings


@settings
class WorkshopConfig:
    """What ``env_config`` may hold."""

    num_agents: Annotated[int, Ge(2), Doc("N; there are N + 1 tools.")] = 3
    num_real: Annotated[int, Ge(0), Doc("0: nobody has a force.")] = 1
    episode_length: Annotated[int, Ge(1), Doc("rounds of an episode.")] = 1


class Workshop(TeamVectorEnv):
    """Agents take one tool each, turn it left or right, and press with some force.

    In every round another tool is away. The last agent cannot turn, and the first has no force.
    They do not see which agent they are: who decides at once cannot know what the others take.
    Paid are: the share of the tools that are not taken twice; of the agents that can turn, those
    who turn the way that they see; and how close the forces of the others are to what they see.
    The best return of a round is 1.
    """

    settings = WorkshopConfig
    simulator = "workshop"

    def __init__(self, num_envs: int, config: WorkshopConfig) -> None:
        self._config = config
        agents = config.num_agents
        self._space = mixed_actions(agents, (agents + 1, 2), config.num_real)
        super().__init__(
            num_envs,
            observation_space(agents, agents + 3, self._space.mask_size),
            self._space,
        )
        self._round = np.zeros(num_envs, np.int64)
        self._away = np.zeros(num_envs, np.int64)
        self._side = np.zeros((num_envs, agents), np.int64)
        self._force = np.zeros((num_envs, agents), np.float32)

    def _reset_envs(self) -> Observation:
        self._round[:] = 0
        return self._draw()

    def _draw(self) -> Observation:
        agents, envs = self.num_agents, self.num_envs
        self._away = self.np_random.integers(agents + 1, size=envs)
        self._side = self.np_random.integers(2, size=(envs, agents))
        self._force = self.np_random.uniform(-0.8, 0.8, (envs, agents)).astype(np.float32)
        return self._observe()

    def _observe(self) -> Observation:
        agents, envs = self.num_agents, self.num_envs
        away = np.eye(agents + 1, dtype=np.float32)[self._away]
        obs = np.concatenate(
            [
                np.repeat(away[:, None], agents, axis=1),
                self._side[..., None],
                self._force[..., None],
            ],
            axis=2,
            dtype=np.float32,
        )
        mask = np.ones((envs, agents, self._space.mask_size), np.bool_)
        mask[..., : agents + 1] = (away == 0.0)[:, None]
        mask[:, -1, agents + 1 : agents + 3] = False
        mask[:, 0, agents + 3 :] = False
        return {"obs": obs, "alive": np.ones((envs, agents), np.bool_), "action_mask": mask}

    def _step_envs(self, actions: NDArray[Any], frozen: NDArray[np.bool_] | None) -> VectorStep:
        ordered = np.sort(actions[..., 0], axis=1)
        paid = [
            (1 + (np.diff(ordered, axis=1) != 0).sum(axis=1)) / self.num_agents,
            (actions[:, :-1, 1] == self._side[:, :-1]).mean(axis=1),
        ]
        if self._config.num_real:
            error = np.abs(actions[:, 1:, 2] - self._force[:, 1:])
            paid.append(1.0 - np.minimum(error, 1.0).mean(axis=1))
        reward = np.mean(paid, axis=0, dtype=np.float32)
        self._round += 1
        terminated = self._round == self._config.episode_length
        self._round[terminated] = 0
        obs = self._draw()
        self._last = obs, {}
        return VectorStep(obs, reward, terminated, np.zeros(self.num_envs, np.bool_))

    def _get_envs_state(self) -> dict[str, Any]:
        names = ("_round", "_away", "_side", "_force")
        return {name: getattr(self, name).copy() for name in names}

    def _set_envs_state(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value.copy())


class Crew(ParallelEnv):
    """Four agents, each with another kind of action.

    Args:
        mask: how the masks stand in the infos, "flat", "as the space" or "" for none; or "nothing",
            which leaves the driver no gear.
        deaths: agent -> the step that terminates it.
    """

    metadata = {"name": "crew"}  # noqa: RUF012
    #: Choices: driver 3; gunner 2, 4; cook 3; scout none. Real numbers: 2, 0, 1, 1.
    SPACES: Mapping[str, spaces.Space[Any]] = {
        "driver": spaces.Dict(
            gear=spaces.Discrete(3, start=-1),
            pedals=spaces.Box(np.float32([0.0, -2.0]), np.float32([5.0, 2.0])),
        ),
        "gunner": spaces.MultiDiscrete([2, 4]),
        "cook": spaces.Tuple((spaces.Box(-1.0, 3.0, (1,), np.float32), spaces.Discrete(3))),
        "scout": spaces.Box(10.0, 20.0, (1,), np.float32),
    }
    #: What is legal: the driver's gears 0 and 1, the gunner's first and last, the cook's first.
    AS_THE_SPACE: Mapping[str, Any] = {
        "driver": {"gear": np.int8([0, 1, 1]), "pedals": None},
        "gunner": (np.int8([1, 0]), np.int8([0, 0, 0, 1])),
        "cook": (None, np.int8([1, 0, 0])),
    }
    FLAT: Mapping[str, list[int]] = {
        "driver": [0, 1, 1],
        "gunner": [1, 0, 0, 0, 0, 1],
        "cook": [1, 0, 0],
    }

    def __init__(self, mask: str = "", deaths: dict[str, int] | None = None) -> None:
        self.possible_agents = list(self.SPACES)
        self.mask, self.deaths = mask, deaths or {}
        self.received: list[dict[str, Any]] = []
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Box(0.0, 1.0, (2,), np.float32)

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self.SPACES[agent]

    def _speak(self) -> tuple[dict[str, Any], dict[str, Any]]:
        masks = {"flat": self.FLAT, "as the space": self.AS_THE_SPACE}.get(self.mask, {})
        if self.mask == "nothing":
            masks = {"driver": [0, 0, 0]}
        if self.mask == "other":
            masks = {"cook": (None, None, None)}
        infos = {a: {"action_mask": masks[a]} if a in masks else {} for a in self.agents}
        return {a: self.rng.random(2, np.float32) for a in self.agents}, infos

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.time = 0
        self.agents = self.possible_agents[:]
        return self._speak()

    def step(self, actions: dict[str, Any]) -> Any:
        assert list(actions) == self.agents
        for agent, action in actions.items():
            assert self.SPACES[agent].contains(action), (agent, action)
        self.received.append(actions)
        self.time += 1
        rewards = dict.fromkeys(self.agents, 1.0)
        terminated = {a: self.deaths.get(a) == self.time for a in self.agents}
        truncated = dict.fromkeys(self.agents, self.time == 5)
        obs, infos = self._speak()
        self.agents = [a for a in self.agents if not (terminated[a] or truncated[a])]
        return obs, rewards, terminated, truncated, infos
