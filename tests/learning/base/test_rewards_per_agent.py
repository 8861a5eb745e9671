"""Who learns from a reward of every agent, and what from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.learners import build

from rllib_seqmarl import registry
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.rollout.rollout_batch import REWARD, TERMINATED

CUES = "helpers.own_cues:OwnCues"
#: Settings with a value of every agent, where the default has one for the team.
SETTINGS: dict[str, dict[str, Any]] = {
    "MAT": {},
    "SrSv": {},
    "PMAT": {},
    "AOAD-MAT": {},
    "MAPPO": {"state": "observation"},
    "HAPPO": {"state": "observation"},
    "A2PO": {"state": "observations"},
}
OF_THE_TEAM = [name for name in registry.ALGORITHMS if name not in SETTINGS]


@pytest.mark.parametrize("name", SETTINGS)
def test_each_agent_learns_from_its_own_stream(name: str, small: Any) -> None:
    """A batch holds what N batches hold in each of which the team is paid like one agent."""
    env_config = {"reward": "per_agent", "num_agents": 3, "episode_length": 4}
    algorithm, learner = build(small, name, env=CUES, env_config=env_config, **SETTINGS[name])
    rollout = algorithm.env_runner.sample()[0]
    assert rollout.columns[TERMINATED].any()
    agents = 3
    assert rollout.columns[REWARD].shape == (10, 8, agents)
    rewards = np.random.default_rng(0).normal(size=(10, 8, agents)).astype(np.float32)
    generator = learner.generator.get_state()

    def batch(reward: np.ndarray) -> Any:
        learner.generator.set_state(generator)  # some values are of actions that are drawn
        rollout.columns[REWARD] = reward
        return learner.build_train_batch(rollout)

    found = batch(rewards)
    for m in range(agents):
        own = batch(rewards[..., m])
        torch.testing.assert_close(found.returns[:, m], own.returns[:, m])
        assert not torch.allclose(found.returns[:, m - 1], own.returns[:, m - 1])
    # Standardised, and nothing else, are returns minus values.
    advantages = found.returns - learner.core.value_norm.denormalize(found.old_values)
    torch.testing.assert_close(
        found.advantages, (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-5)
    )
    results = algorithm.train()
    assert 0.0 < results["env_runners"]["episode_return_mean"] < 12.0  # of three agents, 4 steps
    algorithm.stop()


@pytest.mark.parametrize("name", OF_THE_TEAM)
def test_credit_of_a_teams_reward_is_refused_any_other(name: str, small: Any) -> None:
    with pytest.raises(UserError, match=f"^{name} learns from one reward for the team") as caught:
        small(name, CUES, {"reward": "per_agent"}).validate()
    assert "\n" not in str(caught.value)
    small(name, CUES, {"reward": "mean"}).validate()


@pytest.mark.parametrize("name", ["MAPPO", "HAPPO"])
def test_one_value_for_the_team_is_refused(name: str, small: Any) -> None:
    with pytest.raises(UserError, match="set share_critic: false, or state: env") as caught:
        small(name, CUES, {"reward": "per_agent"}).validate()
    assert "\n" not in str(caught.value)
    for settings in ({"share_critic": False}, {"state": "environment_and_observation"}):
        small(name, CUES, {"reward": "per_agent"}, **settings).validate()


def test_an_environment_that_only_its_object_tells_of_is_refused_too(small: Any) -> None:
    config = small("COMA", CUES, {"reward": "team"})
    algorithm = config.build_algo()
    algorithm.env_runner.env.reward_per_agent = True
    with pytest.raises(UserError, match="COMA learns from one reward for the team"):
        algorithm.train()
    algorithm.stop()


def test_a_reward_that_is_not_finite_is_told_with_its_agent(small: Any) -> None:
    algorithm = small("MAT", CUES, {"reward": "per_agent"}).build_algo()
    (rollout,) = algorithm.env_runner.sample()
    rollout.columns[REWARD][3, 2, 1] = np.nan
    with pytest.raises(UserError, match="gave nan in 'reward' at step 3, env 2, agent 1 of"):
        rollout.check("own_cues")
    algorithm.stop()


def test_sixteen_agents_learn_sooner_from_their_own(small: Any) -> None:
    """In the sum, what an agent did itself is one part of sixteen."""
    reached = {}
    for reward in ("per_agent", "team"):
        config = small(
            "MAPPO",
            CUES,
            {"reward": reward, "num_agents": 16, "num_actions": 5},
            state="observation",
            num_envs_per_env_runner=16,
            rollout_fragment_length=4,
            num_epochs=5,
            lr=1e-3,
            clip_param=0.2,
            seed=0,
        )
        algorithm = config.build_algo()
        for _ in range(20):
            results = algorithm.train()
        algorithm.stop()
        reached[reward] = results["env_runners"]["episode_return_mean"] / 16
    assert reached["per_agent"] > reached["team"] + 0.1, reached
    assert reached["per_agent"] > 0.6  # by chance 0.2
