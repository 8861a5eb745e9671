"""A game in which every agent is paid for what it does alone, from outside of the package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs import PaidAgentsConfig
from rllib_seqmarl.envs.core.contract import (
    TeamVectorEnv,
    VectorStep,
    discrete_actions,
    observation_space,
)
from rllib_seqmarl.settings import Doc, Ge, settings


@settings
class OwnCuesConfig(PaidAgentsConfig):
    num_agents: Annotated[int, Ge(1), Doc("Number of agents N.")] = 2
    num_actions: Annotated[int, Ge(2), Doc("Number of actions and of cues A.")] = 4
    episode_length: Annotated[int, Ge(1), Doc("Steps of an episode.")] = 1


class OwnCues(TeamVectorEnv):
    """Every agent sees a cue of its own and is paid 1 for the action of that number.

    In the sum over agents nobody can tell whose action was right.
    """

    simulator = "own_cues"
    settings = OwnCuesConfig

    def __init__(self, num_envs: int, config: OwnCuesConfig) -> None:
        agents, actions = config.num_agents, config.num_actions
        super().__init__(
            num_envs,
            observation_space(agents, actions + agents, actions, state_shape=(agents * actions,)),
            discrete_actions(agents, actions),
            config.autoreset,
            config.reward_per_agent,
        )
        self._config = config
        self._cues = np.zeros((num_envs, agents), np.int64)
        self._time = np.zeros(num_envs, np.int64)

    def _reset_envs(self) -> dict[str, NDArray[Any]]:
        self._time[:] = 0
        return self._observe()

    def _observe(self) -> dict[str, NDArray[Any]]:
        """What is seen of new cues."""
        envs, agents, actions = self.num_envs, self.num_agents, self._config.num_actions
        self._cues = self.np_random.integers(actions, size=(envs, agents))
        cues = np.eye(actions, dtype=np.float32)[self._cues]
        slots = np.broadcast_to(np.eye(agents, dtype=np.float32), (envs, agents, agents))
        return {
            "obs": np.concatenate((cues, slots), axis=2),
            "alive": np.ones((envs, agents), np.bool_),
            "action_mask": np.ones((envs, agents, actions), np.bool_),
            "state": cues.reshape(envs, -1),
        }

    def _step_envs(self, actions: NDArray[Any], frozen: NDArray[np.bool_] | None) -> VectorStep:
        active = self._active(frozen)
        rewards = (actions == self._cues) & active[:, None]
        self._time += active
        terminated = self._time == self._config.episode_length
        self._time[terminated] = 0
        obs = self._observe()
        self._last = ({name: value.copy() for name, value in obs.items()}, {})
        paid = self._config.paid(rewards.astype(np.float32))
        return VectorStep(obs, paid, terminated, np.zeros_like(terminated))

    def _get_envs_state(self) -> dict[str, Any]:
        return {"cues": self._cues.copy(), "time": self._time.copy()}

    def _set_envs_state(self, state: Mapping[str, Any]) -> None:
        self._cues, self._time = state["cues"].copy(), state["time"].copy()
