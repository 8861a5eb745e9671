"""Small games of PettingZoo's and RLlib's interfaces, one convention each, for the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv
from ray.rllib.env.multi_agent_env import MultiAgentEnv


class Herd(ParallelEnv):
    """Agents a, b, c, ... see the time, their number and noise; agent m is paid m + 1 per step.

    Args:
        sizes: of the observations.
        actions: numbers of discrete actions, or sizes of continuous ones.
        continuous: Box actions, agent m's within [-m - 1, 3].
        mask: where the action mask stands, "infos", "obs" or "" for none; legal are the last
            action and, at even times, the first.
        deaths: agent -> the step that terminates it.
        limit: the step that truncates everybody.
        end: the step that terminates everybody.
        shared: noise comes from NumPy's global generator, which games must not share.
    """

    metadata = {"name": "herd"}  # noqa: RUF012

    def __init__(
        self,
        sizes: tuple[int, ...] = (3, 4, 4),
        actions: tuple[int, ...] = (2, 4, 4),
        continuous: bool = False,
        mask: str = "",
        deaths: dict[str, int] | None = None,
        limit: int = 0,
        end: int = 0,
        shared: bool = False,
    ) -> None:
        self.possible_agents = list("abcdefgh"[: len(sizes)])
        self.sizes, self.mask, self.shared = sizes, mask, shared
        self.deaths, self.limit, self.end = deaths or {}, limit, end
        self.time = 0
        self.received: list[dict[str, Any]] = []
        self.seeds: list[int | None] = []
        self.agents: list[str] = []
        self._actions = [
            spaces.Box(-1.0 - m, 3.0, (n,), np.float32) if continuous else spaces.Discrete(n)
            for m, n in enumerate(actions)
        ]

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        size = self.sizes[self.possible_agents.index(agent)]
        obs = spaces.Box(-np.inf, np.inf, (size,), np.float64)
        if self.mask != "obs":
            return obs
        legal = spaces.MultiBinary(len(self._legal(agent)))
        return spaces.Dict({"observation": obs, "action_mask": legal})

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self._actions[self.possible_agents.index(agent)]

    def _legal(self, agent: str) -> np.ndarray:
        legal = np.zeros(self.action_space(agent).n, np.int8)  # type: ignore[attr-defined]
        legal[-1] = 1
        legal[0] |= self.time % 2 == 0
        return legal

    def _speak(self) -> tuple[dict[str, Any], dict[str, Any]]:
        obs: dict[str, Any] = {}
        infos: dict[str, Any] = {agent: {} for agent in self.agents}
        for agent in reversed(self.agents):  # no order of a dict can be relied on
            m = self.possible_agents.index(agent)
            noise = np.random.random() if self.shared else self.rng.random()  # noqa: NPY002
            obs[agent] = np.array([self.time + 1, m + 1, noise, 9.0][: self.sizes[m]])
            if self.mask == "infos":
                infos[agent]["action_mask"] = self._legal(agent)
            if self.mask == "obs":
                obs[agent] = {"observation": obs[agent], "action_mask": self._legal(agent)}
        return obs, infos

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.seeds.append(seed)
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.time = 0
        self.agents = self.possible_agents[:]
        return self._speak()

    def step(self, actions: dict[str, Any]) -> Any:
        assert list(actions) == self.agents
        assert all(self.action_space(a).contains(action) for a, action in actions.items())
        self.received.append(actions)
        self.time += 1
        rewards = {a: self.possible_agents.index(a) + 1.0 for a in self.agents}
        terminated = {a: self.time in (self.end, self.deaths.get(a)) for a in self.agents}
        truncated = dict.fromkeys(self.agents, self.time == self.limit)
        obs, infos = self._speak()
        self.agents = [a for a in self.agents if not (terminated[a] or truncated[a])]
        return obs, rewards, terminated, truncated, infos


class SharedStarts(Herd):
    """Draws the noise in first observations alone from NumPy's global generator."""

    def _speak(self) -> tuple[dict[str, Any], dict[str, Any]]:
        self.shared = self.time == 0
        return super()._speak()


class Faulty(Herd):
    """A herd with one property that is no team's, or one that it does not keep to."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.possible_agents = [] if fault == "nobody" else self.possible_agents

    def action_space(self, agent: str) -> spaces.Space[Any]:
        if agent == "b" and self.fault in ("unbounded", "table"):
            shape = (2, 2) if self.fault == "table" else (2,)
            return spaces.Box(-1, np.inf if self.fault == "unbounded" else 1, shape)
        return super().action_space(agent)

    def _speak(self) -> tuple[dict[str, Any], dict[str, Any]]:
        obs, infos = super()._speak()
        if self.fault == "stranger":
            obs["z"] = obs["a"]
        if self.fault == "size":
            obs["b"] = obs["b"][:1]
        if self.fault == "mask size":
            infos["c"]["action_mask"] = np.ones(1, np.int8)
        return obs, infos


class OneByOne(AECEnv):
    """The other interface of PettingZoo."""

    metadata = {"name": "one_by_one"}  # noqa: RUF012


class Turns(MultiAgentEnv):
    """Two agents act in turn, `first` first, and see noise; RLlib's interface.

    An episode is terminated after ``end`` steps and truncated after ``limit``.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.possible_agents = self.agents = ["second", "first"]
        self.observation_spaces = dict.fromkeys(self.agents, spaces.Box(-1, 1, (2,), np.float32))
        self.action_spaces = dict.fromkeys(self.agents, spaces.Discrete(3, start=5))
        self.end, self.limit = config.get("end", 9), config.get("limit", 12)
        self.all = config.get("all", "__all__")
        self.received: list[dict[str, Any]] = []

    def _speak(self) -> dict[str, Any]:
        agent = ("first", "second")[self.time % 2]
        return {agent: self.np_random.uniform(-1, 1, 2).astype(np.float32)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self._speak(), {}

    def step(self, action_dict: dict[str, Any]) -> Any:
        self.received.append(action_dict)
        self.time += 1
        rewards = dict.fromkeys(self.agents, 0.5)
        terminated, truncated = ({self.all: self.time == at} for at in (self.end, self.limit))
        return self._speak(), rewards, terminated, truncated, {}
