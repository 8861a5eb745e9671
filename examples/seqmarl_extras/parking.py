"""An environment: cars come to a row of bays, and two in the same bay leave it to nobody."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.contract import (
    Observation,
    TeamVectorEnv,
    VectorStep,
    discrete_actions,
    observation_space,
)
from rllib_seqmarl.settings import Doc, Ge, settings


@settings
class ParkingConfig:
    """What ``env_config`` may hold."""

    num_cars: Annotated[int, Ge(2), Doc("agents N; there are as many bays.")] = 3
    episode_length: Annotated[int, Ge(1), Doc("rounds of an episode.")] = 1


class Parking(TeamVectorEnv):
    """E rows of N bays. Observation: the distance of a car, and its slot as a one-hot vector.

    In every round each car chooses a bay; the team is paid for the share of bays in which one car
    stands. Cars that see the choices of those before them can always earn 1.
    """

    settings = ParkingConfig
    simulator = "parking"

    def __init__(self, num_envs: int, config: ParkingConfig) -> None:
        cars = config.num_cars
        super().__init__(
            num_envs, observation_space(cars, 1 + cars, cars), discrete_actions(cars, cars)
        )
        self._rounds = config.episode_length
        self._round = np.zeros(num_envs, np.int64)
        self._distance = np.zeros((num_envs, cars), np.float32)
        self._last: Observation = {}

    def _reset_envs(self) -> Observation:
        self._round[:] = 0
        return self._arrive()

    def _arrive(self) -> Observation:
        """Other cars, and what they see."""
        envs, cars = self._distance.shape
        self._distance = self.np_random.random((envs, cars), dtype=np.float32)
        slots = np.broadcast_to(np.eye(cars, dtype=np.float32), (envs, cars, cars))
        return {
            "obs": np.concatenate([self._distance[..., None], slots], axis=2),
            "alive": np.ones((envs, cars), np.bool_),
            "action_mask": np.ones((envs, cars, cars), np.bool_),
        }

    def _step_envs(self, actions: NDArray[Any], frozen: NDArray[np.bool_] | None) -> VectorStep:
        bays = np.arange(self.num_agents)
        in_bay = (actions[:, :, None] == bays).sum(axis=1)  # [E, bays]
        reward = (in_bay == 1).mean(axis=1, dtype=np.float32)
        self._round += 1
        terminated = self._round == self._rounds
        self._round[terminated] = 0
        self._last = self._arrive()
        return VectorStep(self._last, reward, terminated, np.zeros(self.num_envs, np.bool_))

    def _final_obs_and_metrics(self) -> tuple[Observation, dict[str, NDArray[np.float32]]]:
        return self._last, {}

    def _get_envs_state(self) -> dict[str, Any]:
        return {"round": self._round.copy(), "distance": self._distance.copy()}

    def _set_envs_state(self, state: Mapping[str, Any]) -> None:
        self._round, self._distance = state["round"].copy(), state["distance"].copy()
