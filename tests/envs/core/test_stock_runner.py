"""Every environment under gymnasium's own checks and RLlib's own SingleAgentEnvRunner."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_reset_return_type, check_reset_seed_determinism
from gymnasium.vector import VectorEnv
from helpers.environments import SMALL
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from test_team_env import NUM_ENVS

from rllib_seqmarl import registry
from rllib_seqmarl.envs import TeamVectorEnv, check_team_env

#: Steps of single envs; fewer where one takes long.
RANDOM_STEPS = {"football": 600, "pettingzoo": 2_000}

#: A football match takes long to begin: here it runs to its own end.
WHOLE_EPISODES = {"football": {"max_episode_steps": 0}}

Installed = Callable[[], AbstractContextManager[None]]


@pytest.mark.parametrize("name", sorted(registry.ENVIRONMENTS))
def test_thousands_of_random_legal_steps(where_installed: Installed, name: str) -> None:
    with where_installed():
        config = SMALL[name] | WHOLE_EPISODES.get(name, {})
        env = registry.make_environment(name, NUM_ENVS, config)
    check_team_env(env, num_steps=RANDOM_STEPS.get(name, 10_000) // NUM_ENVS, seed=1)
    env.close()


@pytest.mark.parametrize("name", sorted(registry.ENVIRONMENTS))
def test_gymnasium_makes_and_checks_it(where_installed: Installed, name: str) -> None:
    create = registry.environment_creator(name)

    def vector_entry_point(num_envs: int) -> VectorEnv:
        return create({**SMALL[name], "num_envs": num_envs})

    gymnasium.register(f"checked-{name}-v0", vector_entry_point=vector_entry_point)
    with where_installed(), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*autoreset")
        env = gymnasium.make_vec(
            f"checked-{name}-v0", NUM_ENVS, vectorization_mode="vector_entry_point"
        )
    assert isinstance(env.unwrapped, TeamVectorEnv)
    check_reset_return_type(env)
    check_reset_seed_determinism(env)
    env.close()


@pytest.mark.parametrize("name", sorted(registry.ENVIRONMENTS))
def test_stock_runner_plays_whole_episodes(
    ray_session: None, where_installed: Installed, name: str
) -> None:
    config = registry.config_class("MAT")()
    config.environment(name, env_config=SMALL[name] | {"autoreset": "next_step"})
    config.env_runners(
        num_envs_per_env_runner=NUM_ENVS, gym_env_vectorize_mode="vector_entry_point"
    )
    config.update_from_dict({"embed_dim": 16, "seed": 3})
    with where_installed():
        config.validate()
    runner = SingleAgentEnvRunner(config=config, worker_index=0)
    try:
        episodes = runner.sample(num_episodes=2 * NUM_ENVS, explore=True)
    finally:
        runner.stop()
    assert len(episodes) >= 2 * NUM_ENVS
    for episode in episodes:
        metrics = episode.get_infos(-1)["final_info"]
        assert episode.is_terminated != episode.is_truncated
        # A step that is lost or counted twice at a reset would show here.
        assert len(episode) == metrics["episode_length"]
        assert episode.get_return() == pytest.approx(metrics["episode_return"], abs=1e-3)
        assert np.isfinite(episode.get_observations(-1)["obs"]).all()
