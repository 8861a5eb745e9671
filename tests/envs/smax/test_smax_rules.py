"""Our compiled step against JaxMARL's own, from the same state, actions and key."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rllib_seqmarl import registry
from rllib_seqmarl.envs.core.contract import random_actions
from rllib_seqmarl.envs.smax.battle import threefry, uniform
from rllib_seqmarl.envs.smax.env import SMAXTeamEnv

smac = registry.environment("smac")

CASES: dict[str, dict[str, Any]] = {
    "fixed units": {"map_name": "3s_vs_5z"},
    "random units, other options": {
        "map_name": "smacv2_5_units",
        "attack_mode": "random",
        "walls_cause_death": False,
        "see_enemy_actions": False,
        "map_width": 24,
        "max_steps": 25,
    },
}


def jaxmarl_state(env: SMAXTeamEnv) -> Any:
    """The envs of ``env`` as JaxMARL's state with leading axis E."""
    from jaxmarl.environments.smax import smax_env
    from jaxmarl.environments.smax.heuristic_enemy import HeuristicPolicyState
    from jaxmarl.environments.smax.heuristic_enemy_smax_env import State

    battle = {name: value.T for name, value in env.get_state()["envs"]["battle"].items()}
    # JaxMARL sets the goal in the first step of an episode, we set it in the reset.
    goal = np.stack([battle["goal_x"], battle["goal_y"]], axis=-1)
    goal[battle["time"] == 0] = 0.0
    units = battle["x"].shape[1]
    state = smax_env.State(
        done=np.zeros(env.num_envs, bool),
        step=battle["time"],
        unit_positions=np.stack([battle["x"], battle["y"]], axis=-1),
        unit_alive=battle["health"] > 0,
        unit_teams=np.tile(np.arange(units) >= env.num_agents, (env.num_envs, 1)).astype("f4"),
        unit_health=battle["health"],
        unit_types=battle["unit_type"].astype(np.uint8),
        unit_weapon_cooldowns=battle["cooldown"],
        prev_movement_actions=np.stack([battle["move_x"], battle["move_y"]], axis=-1),
        prev_attack_actions=battle["attack"],
    )
    return State(state=state, enemy_policy_state=HeuristicPolicyState(goal, battle["target"]))


@pytest.mark.parametrize("case", CASES)
def test_step_equals_jaxmarl(case: str) -> None:
    env = smac.make(16, agent_id=False, state=True, **CASES[case])
    smax = env.jaxmarl_env

    @jax.jit
    @jax.vmap
    def theirs(key: Any, state: Any, named: Any) -> Any:
        obs, after, reward, done, _ = smax.step_env(key, state, named)
        return obs, after, reward, done, smax.get_avail_actions(after)

    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    ended = 0
    for step in range(120):
        actions = random_actions(env, obs, rng)
        # Make the last ally walk north for ever, so that walls matter.
        actions[:, -1] = np.where(obs["action_mask"][:, -1, 0], 0, 4)
        state, key = jaxmarl_state(env), env.get_state()["envs"]["key"].T.copy()
        named = {agent: jnp.array(actions[:, i]) for i, agent in enumerate(smax.agents)}
        want, after, reward, done, mask = theirs(key, state, named)
        world_state = np.array(want["world_state"])

        obs, our_reward, terminated, truncated, infos = env.step(actions)
        ours = {name: value.copy() for name, value in obs.items()}
        finished = terminated | truncated
        for name, value in infos.get("final_obs", {}).items():
            ours[name][finished] = value[finished]
        np.testing.assert_array_equal(finished, done["__all__"], err_msg=f"step {step}")
        np.testing.assert_allclose(our_reward, reward[smax.agents[0]], atol=2e-6)
        want_obs = np.stack([want[agent] for agent in smax.agents], axis=1)
        np.testing.assert_allclose(ours["obs"], want_obs, atol=2e-5, err_msg=f"step {step}")
        want_mask = np.stack([mask[agent] for agent in smax.agents], axis=1)
        np.testing.assert_array_equal(ours["action_mask"], want_mask)
        alive = np.stack([~np.array(done[agent]) for agent in smax.agents], axis=1)
        np.testing.assert_array_equal(ours["alive"], alive)
        check_state(ours["state"], world_state, after.state, smax)
        ended += finished.sum()
    assert ended > 16


def check_state(ours: np.ndarray, theirs: np.ndarray, after: Any, smax: Any) -> None:
    units = smax.num_allies + smax.num_enemies
    want = theirs[:, : 10 * units].reshape(-1, units, 10).copy()
    want[..., 1] /= smax.map_width
    want[..., 2] /= smax.map_height
    slowest = np.asarray(smax.unit_type_weapon_cooldowns)[np.asarray(after.unit_types)]
    want[..., 3] = np.clip(want[..., 3] / slowest, 0.0, 1.0)
    np.testing.assert_allclose(ours[:, : 10 * units], want.reshape(len(ours), -1), atol=2e-5)
    np.testing.assert_array_equal(ours[:, 10 * units : 11 * units], theirs[:, 10 * units : -units])
    np.testing.assert_allclose(ours[:, 11 * units :], theirs[:, 11 * units :] / 5, atol=1e-6)


def test_reset_equals_jaxmarl() -> None:
    env = smac.make(6, map_name="3s5z_vs_3s6z", agent_id=False)
    smax = env.jaxmarl_env
    obs, _ = env.reset(seed=3)
    key = env.get_state()["envs"]["key"].T.copy()
    assert (key[:, 1] == 1).all()
    key[:, 1] = 0
    want, state = jax.vmap(smax.reset)(key)
    stacked = np.stack([want[agent] for agent in smax.agents], axis=1)
    np.testing.assert_allclose(obs["obs"], stacked, atol=1e-6)
    mask = jax.vmap(smax.get_avail_actions)(state)
    stacked = np.stack([mask[agent] for agent in smax.agents], axis=1)
    np.testing.assert_array_equal(obs["action_mask"], stacked)


def test_random_numbers_equal_those_of_jax() -> None:
    key = np.random.default_rng(0).integers(2**32, size=(2, 50), dtype=np.uint32)
    split = np.stack([np.stack(threefry((key[0], key[1]), i), -1) for i in range(3)], axis=1)
    np.testing.assert_array_equal(split, jax.vmap(lambda k: jax.random.split(k, 3))(key.T))
    np.testing.assert_array_equal(
        uniform((key[0], key[1])), jax.vmap(lambda k: jax.random.uniform(k))(key.T)
    )
