"""SMAX (JaxMARL) as a team environment: one compiled function steps all E envs.

Source: JaxMARL's ``HeuristicEnemySMAX`` (Rutherford et al., 2023, arXiv:2311.10090).

Importing this module imports JAX; `envs.smac.env` does so when a battle is made.
Axes: E envs, N allies (the team), M enemies, U = N + M units, A = 5 + M actions
(0 to 3 move north, east, south, west; 4 stop; 5 + i shoot enemy i).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.contract import (
    Observation,
    TeamVectorEnv,
    VectorStep,
    discrete_actions,
    observation_space,
)
from rllib_seqmarl.envs.smax.battle import NUM_MOVES, Array, Battle, Rules, Units
from rllib_seqmarl.envs.smax.config import METRICS, SMAXConfig
from rllib_seqmarl.envs.smax.observation import observe
from rllib_seqmarl.envs.smax.rendering import Scene, draw
from rllib_seqmarl.envs.smax.scenarios import UNIT_TYPES
from rllib_seqmarl.envs.smax.simulator import HeuristicEnemySMAX, Scenario, jax, jnp
from rllib_seqmarl.envs.smax.step import start, step

#: Settings that are passed on to JaxMARL's ``HeuristicEnemySMAX``.
SMAX_OPTIONS = (
    "max_steps", "see_enemy_actions", "walls_cause_death", "won_battle_bonus", "enemy_shoots",
    "attack_mode", "map_width", "map_height", "world_steps_per_env_step", "time_per_step",
)  # fmt: skip


class BattleState(NamedTuple):
    """What the next step depends on.

    Attributes:
        battle: E battles, the last axis is E.
        key: uint32 [2, E]: the env's seed, and the count of keys it has used. Counting
            makes an env's episodes independent of when other envs end theirs.
    """

    battle: Battle
    key: Array


class StepOutput(NamedTuple):
    """What leaves the compiled step.

    Attributes:
        obs: the observation after finished envs started their next episode.
        last_obs: the observation before that; zero unless an env finished.
        reward: float32 [E].
        flags: bool [3, E]: terminated, truncated, won.
        last_battle: the battles before finished envs started their next episode.
    """

    obs: dict[str, Array]
    last_obs: dict[str, Array]
    reward: Array
    flags: Array
    last_battle: Battle


class SMAXTeamEnv(TeamVectorEnv):
    """E envs of one SMAX scenario.

    An episode terminates when one side is dead and is truncated when, after ``max_steps + 1``
    steps, both sides have survivors. It is won when all enemies are dead and an ally lives;
    should the last units of both sides die in the same step, nobody wins. The reward is the
    part of the enemies' health lost in the step (sums to 1) plus ``won_battle_bonus``.
    """

    metric_names = METRICS
    simulator = "smax"

    def __init__(self, num_envs: int, config: SMAXConfig) -> None:
        """Takes E and the settings; compiling waits for the first ``reset``."""
        scenario = config.scenario
        agent_id, state = config.agent_id, config.state
        num_agents, num_enemies = len(scenario.allies), len(scenario.enemies)
        smax = HeuristicEnemySMAX(
            scenario=Scenario(
                jnp.array(scenario.allies + scenario.enemies, jnp.uint8),
                num_agents,
                num_enemies,
                scenario.random,
                scenario.random,
            ),
            **{name: getattr(config, name) for name in SMAX_OPTIONS},
        )
        obs_size = smax.obs_size
        if agent_id:
            obs_size += len(UNIT_TYPES) if agent_id == "type" else num_agents
        super().__init__(
            num_envs,
            observation_space(
                num_agents,
                obs_size,
                smax.num_ally_actions,
                (smax.state_size,) if state else None,
            ),
            discrete_actions(num_agents, smax.num_ally_actions),
            config.autoreset,
        )
        self.jaxmarl_env = smax
        # A step is half a second in the game; a video is four times as fast.
        self.metadata["render_fps"] = 4.0 / (smax.time_per_step * smax.world_steps_per_env_step)
        self._rules = Rules(smax)
        self._observe = partial(observe, self._rules, agent_id=agent_id, with_state=state)
        self._compiled_reset = jax.jit(self._reset_all)
        self._compiled_step = jax.jit(self._step_all, donate_argnums=0)
        self._state: BattleState
        self._output: StepOutput

    def _reset_envs(self) -> Observation:
        key = np.zeros((2, self.num_envs), np.uint32)
        key[0] = self.np_random.integers(2**32, size=self.num_envs, dtype=np.uint32)
        self._state, obs = self._compiled_reset(key)
        return _owned(obs)

    def reset_on_device(
        self, *, seed: int | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """`reset`, with JAX's arrays for `step_on_device`."""
        obs, infos = self.reset(seed=seed)
        return jax.device_put(obs), infos

    def step_on_device(self, actions: Array) -> tuple[dict[str, Array], Array, Array, Array]:
        """Steps every env; nothing is copied to the host.

        For loops that stay on one device: JAX's arrays are handed to others by DLPack
        (``torch.from_dlpack``), which copies nothing where both compute on the same device. What
        the host keeps of episodes in `step`, their returns and lengths, is not kept, actions are
        not checked, and an env starts its next episode in the step that ends one.

        Args:
            actions: int32 [E, N] of JAX, or of anything that speaks DLPack.

        Returns:
            Observation (arrays [E, ...]), reward float32 [E], terminated bool [E], truncated
            bool [E].
        """
        self._state, self._output = self._compiled_step(self._state, jnp.from_dlpack(actions), None)
        terminated, truncated, _ = self._output.flags
        return self._output.obs, self._output.reward, terminated, truncated

    def _step_envs(self, actions: NDArray[Any], frozen: NDArray[np.bool_] | None) -> VectorStep:
        if frozen is None and not self._same_step:
            frozen = np.zeros(self.num_envs, np.bool_)  # one signature, one compilation
        self._state, self._output = self._compiled_step(
            self._state, actions.astype(np.int32), frozen
        )
        terminated, truncated, _ = np.asarray(self._output.flags)
        return VectorStep(
            _owned(self._output.obs),
            np.array(self._output.reward),
            terminated.copy(),
            truncated.copy(),
        )

    def _final_obs_and_metrics(self) -> tuple[Observation, dict[str, NDArray[np.float32]]]:
        last_obs = _owned(self._output.last_obs)
        return last_obs, {
            "won": np.asarray(self._output.flags)[2].astype(np.float32),
            "dead_ratio": 1.0 - last_obs["alive"].mean(axis=1, dtype=np.float32),
        }

    def render_frame(self, e: int = 0) -> NDArray[np.uint8]:
        """See `TeamVectorEnv.render_frame`."""
        return draw(self._scene(self._state.battle, e, over=False))

    def render_final_frame(self, e: int = 0) -> NDArray[np.uint8]:
        """See `TeamVectorEnv.render_final_frame`."""
        return draw(self._scene(self._output.last_battle, e, over=True))

    def _scene(self, battles: Battle, e: int, over: bool) -> Scene:
        """What is to be seen in one of E battles."""
        rules, smax = self._rules, self.jaxmarl_env
        battle = Battle(*(np.asarray(array)[..., e] for array in battles))
        constants = Units(*(table[battle.unit_type] for table in rules.tables))
        aims = battle.attack - NUM_MOVES
        targets = np.where(
            np.arange(len(aims)) < rules.allies, rules.allies + aims, rules.allies - 1 - aims
        )
        # A weapon that went off in the last step has cooled down for less than that step since.
        seconds = smax.time_per_step * smax.world_steps_per_env_step
        fired = battle.cooldown > constants.max_cooldown - seconds - 1e-4
        return Scene(
            size=rules.size,
            num_allies=rules.allies,
            positions=np.stack([battle.x, battle.y], axis=-1),
            unit_types=battle.unit_type,
            health=battle.health / constants.max_health,
            targets=np.where(aims >= 0, targets, -1),
            fired=fired & (aims >= 0),
            step=int(battle.time),
            max_steps=smax.max_steps + 1,
            over=over,
        )

    def _get_envs_state(self) -> dict[str, Any]:
        return {
            "key": np.array(self._state.key),
            "battle": {
                name: np.array(value) for name, value in self._state.battle._asdict().items()
            },
        }

    def _set_envs_state(self, state: Mapping[str, Any]) -> None:
        battle = Battle(**{name: jnp.array(value) for name, value in state["battle"].items()})
        self._state = BattleState(battle, jnp.array(state["key"]))

    # Compiled, once each.

    def _reset_all(self, key: Array) -> tuple[BattleState, dict[str, Array]]:
        battle = start(self._rules, key)
        return BattleState(battle, key.at[1].add(1)), self._observe(battle)

    def _step_all(
        self, state: BattleState, actions: Array, frozen: Array | None
    ) -> tuple[BattleState, StepOutput]:
        battle, outcome = step(self._rules, state.battle, actions.T, state.key)
        reward, ended, used_key = outcome.reward, outcome.done, jnp.ones_like(state.key[1])
        if frozen is not None:
            battle = jax.tree.map(partial(jnp.where, frozen), state.battle, battle)
            reward = jnp.where(frozen, 0.0, reward)
            ended &= ~frozen
            used_key = jnp.where(frozen, 0, used_key)
        key = state.key.at[1].add(used_key)
        both_left = outcome.allies_left & outcome.enemies_left
        any_ended = ended.any()

        def start_next() -> Battle:
            fresh = start(self._rules, key)
            return jax.tree.map(partial(jnp.where, ended), fresh, battle)

        after_reset = jax.lax.cond(any_ended, start_next, lambda: battle)
        obs = self._observe(after_reset)
        output = StepOutput(
            obs=obs,
            last_obs=jax.lax.cond(
                any_ended,
                lambda: self._observe(battle),
                lambda: jax.tree.map(jnp.zeros_like, obs),
            ),
            reward=reward,
            flags=jnp.stack(
                [ended & ~both_left, ended & both_left, outcome.allies_left & ~both_left]
            ),
            last_battle=battle,
        )
        return BattleState(after_reset, key.at[1].add(ended.astype(jnp.uint32))), output


def _owned(arrays: Mapping[str, Array]) -> Observation:
    """Copies into NumPy: what JAX hands out is read-only."""
    return {name: np.array(value) for name, value in arrays.items()}
