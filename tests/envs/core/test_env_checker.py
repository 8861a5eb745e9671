"""What the validator of environments finds beyond the form of what is returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from rllib_seqmarl import registry
from rllib_seqmarl.envs import check_team_env
from rllib_seqmarl.envs.core.contract import VectorStep
from rllib_seqmarl.envs.toy.distinct_actions import DistinctActions
from rllib_seqmarl.errors import UserError


def build(cls: type[DistinctActions], **settings: Any) -> DistinctActions:
    config = registry.environment("distinct_actions").read({"episode_length": 3, **settings})
    return cls(2, config)


class Unseeded(DistinctActions):
    """Draws from a generator of its own."""

    _noise = np.random.default_rng(0)

    def _observe(self) -> Any:
        obs = super()._observe()
        obs["obs"] += self._noise.random()
        return obs


class Forgets(DistinctActions):
    """Saves everything but one thing."""

    forgotten = ""

    def _set_envs_state(self, state: Mapping[str, Any]) -> None:
        kept = self._get_envs_state()
        super()._set_envs_state({**state, self.forgotten: kept[self.forgotten]})


class Unpicklable(DistinctActions):
    def _get_envs_state(self) -> Any:
        return {**super()._get_envs_state(), "callback": lambda: None}


class Overwrites(DistinctActions):
    """Hands out one and the same array."""

    def _observe(self) -> Any:
        obs = super()._observe()
        kept = self.__dict__.setdefault("kept", obs["obs"])
        kept[...] = obs["obs"]
        return {**obs, "obs": kept}


class Moves(DistinctActions):
    """Pays, or moves, where nothing must happen."""

    fault = ""

    def _step_envs(self, actions: Any, frozen: Any) -> VectorStep:
        step = super()._step_envs(actions, None if self.fault == "time" else frozen)
        if self.fault == "reward" and frozen is not None:
            step.reward[frozen] = 1.0
        if self.fault == "random" and frozen is not None:
            self._rngs[0].random()
        return step


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
def test_a_sound_environment_passes(mode: str) -> None:
    check_team_env(build(DistinctActions, autoreset=mode))


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (build(Unseeded), "two runs with the same seed differ: 'obs' at step 1: all"),
        (build(Unpicklable), "what get_state returns cannot be pickled"),
        (build(Overwrites), "step writes into the 'obs' that was returned before: return a copy"),
    ],
)
def test_what_training_relies_on(env: DistinctActions, message: str) -> None:
    with pytest.raises(UserError, match=f"check_team_env: {message}") as error:
        check_team_env(env)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("forgotten", ["time", "context", "random", "distinct_sum"])
def test_a_state_that_is_not_complete(forgotten: str) -> None:
    env = build(Forgets, episode_length=4)
    env.forgotten = forgotten  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"do not go on as they did: .* _get_envs_state must"):
        check_team_env(env, num_steps=50)  # ends in the middle of an episode


@pytest.mark.parametrize("fault", ["time", "reward", "random"])
def test_envs_that_are_frozen_stay_as_they_are(fault: str) -> None:
    env = build(Moves, autoreset="next_step")
    env.fault = fault  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="autoreset 'next_step'"):
        check_team_env(env, num_steps=5)
    env = build(Moves)  # of 'same_step' nothing is ever frozen
    env.fault = fault  # type: ignore[attr-defined]
    check_team_env(env, num_steps=5)


def test_a_game_that_is_no_team_is_sent_to_its_adapter() -> None:
    with pytest.raises(
        UserError, match="a dict is no TeamVectorEnv; a game of PettingZoo or RLlib"
    ):
        check_team_env({})  # type: ignore[arg-type]
