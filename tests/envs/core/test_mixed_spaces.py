"""Actions of several parts in an environment of one's own."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from gymnasium import spaces
from helpers.mixed_games import Workshop, WorkshopConfig

from rllib_seqmarl.envs import check_team_env
from rllib_seqmarl.envs.core.contract import (
    Observation,
    mixed_actions,
    random_actions,
)
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.base.module import action_spec


def workshop(num_envs: int = 3) -> Workshop:
    return Workshop(num_envs, WorkshopConfig(episode_length=4))


def test_the_space() -> None:
    space = mixed_actions(2, (4, 2), num_real=1)
    assert space.low.tolist() == [[0.0, 0.0, -1.0]] * 2
    assert space.high.tolist() == [[3.0, 1.0, 1.0]] * 2
    for _ in range(20):
        drawn = space.sample()
        assert space.contains(drawn)
        assert not (drawn[:, :2] % 1).any()
    for same in (copy.deepcopy(space), pickle.loads(pickle.dumps(space))):
        spec = action_spec(same)
        assert (spec.size, spec.discrete, spec.parts, spec.num_real) == (7, False, (4, 2), 1)


@pytest.mark.parametrize(("sizes", "num_real"), [((), 2), ((3, 0), 0), ((3,), -1)])
def test_sizes_that_are_none(sizes: tuple[int, ...], num_real: int) -> None:
    with pytest.raises(UserError, match="mixed_actions: sizes must be one or more"):
        mixed_actions(2, sizes, num_real)


def test_random_actions_take_what_is_available() -> None:
    env, rng = workshop(500), np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    actions = random_actions(env, obs, rng)
    assert actions.dtype == np.float32
    tools = actions[..., 0].astype(int)
    assert np.take_along_axis(obs["action_mask"][..., :4], tools[..., None], -1).all()
    assert set(tools.ravel()) == {0, 1, 2, 3}
    assert set(actions[:, 0, 1]) == {0.0, 1.0}
    assert not actions[:, -1, 1].any()  # the last agent has no side
    assert not actions[:, 0, 2].any()  # and the first one no force
    assert np.abs(actions[:, 1, 2]).max() > 0.9
    check_team_env(workshop(), num_steps=10)


@pytest.mark.parametrize(
    ("part", "value"), [(0, 4.0), (0, -1.0), (0, 1.5), (1, np.nan), (2, np.inf)]
)
def test_wrong_actions_are_refused(part: int, value: float) -> None:
    env = workshop()
    env.reset(seed=0)
    actions = np.zeros(env.action_space.shape, np.float32)
    actions[2, 1, part] = value
    message = r"agent 1 of env 2 is .* whole numbers up to \[3, 1\], then 1 finite numbers"
    with pytest.raises(UserError, match=message):
        env.step(actions)


class Broken(Workshop):
    """Breaks one promise about its mask."""

    fault = ""

    def _observe(self) -> Observation:
        obs = super()._observe()
        if self.fault == "width":
            obs["action_mask"] = obs["action_mask"][..., :6]
        if self.fault == "nothing":
            obs["action_mask"][1, 2] = False
        if self.fault == "dead":
            obs["alive"][0, 0] = False
            obs["obs"][0, 0] = 0.0
            obs["action_mask"][0, 0, :3] = False
        return obs


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("width", "'action_mask' has 6 entries per agent where its actions need 7: give"),
        ("nothing", "agent 2 of env 1 has no legal action"),
        ("dead", "a dead agent may do more than its no-op"),  # its side
    ],
)
def test_faults_of_masks_are_named(fault: str, message: str) -> None:
    env = Broken(3, WorkshopConfig())
    env.fault = fault
    if fault == "width":
        env.single_observation_space.spaces["action_mask"] = spaces.Box(0, 1, (3, 6), np.bool_)
    with pytest.raises(UserError, match=message):
        check_team_env(env)
