"""SMAX (JaxMARL) as a team environment: one compiled function steps all E worlds.

Source: JaxMARL's ``HeuristicEnemySMAX`` (Rutherford et al., 2023, arXiv:2311.10090).

Importing this module imports JAX; :mod:`rllib_seqmarl.envs.smac` does so in ``make`` only.
Axes: E worlds, N allies (the team), M enemies, U = N + M units, A = 5 + M actions
(0 to 3 move north, east, south, west; 4 stop; 5 + i shoot enemy i).
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.smac import Scenario
from rllib_seqmarl.envs.team_env import (
    Observation,
    TeamVectorEnv,
    WorldStep,
    discrete_actions,
    observation_space,
)

# Read by JAX on its first import. An actor has one core: a second XLA thread on a core that
# something else uses costs far more than it brings.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
with contextlib.redirect_stdout(io.StringIO()):  # JaxMARL prints on import
    import jax
    import jax.numpy as jnp
    from jaxmarl.environments.smax import HeuristicEnemySMAX
    from jaxmarl.environments.smax import Scenario as SMAXScenario

# Worlds reset together inside a step; few end at a time, so small groups waste least.
RESET_GROUP = 4


class Worlds(NamedTuple):
    """What the next step depends on.

    Attributes:
        state: JaxMARL's state, every leaf with leading axis E.
        key: uint32 [E, 2]: the world's seed, and the count of keys it has used. Counting
            makes a world's episodes independent of when other worlds end theirs.
    """

    state: Any
    key: Any


class StepOutput(NamedTuple):
    """Arrays of one step of all worlds; ``last`` is the observation before any reset."""

    obs: dict[str, Any]
    last: dict[str, Any]
    reward: Any
    terminated: Any
    truncated: Any
    won: Any


class SMAXTeamEnv(TeamVectorEnv):
    """E worlds of one SMAX scenario.

    An episode terminates when one side is dead and is truncated when, after ``max_steps + 1``
    steps, both sides have survivors. It is won when all enemies are dead and an ally lives;
    should the last units of both sides die in the same step, nobody wins. The reward is the
    part of the enemies' health lost in the step (sums to 1) plus ``won_battle_bonus``.
    """

    metric_names = ("won", "dead_ratio")
    simulator = "smax"

    def __init__(
        self,
        num_envs: int,
        *,
        scenario: Scenario,
        agent_id: bool,
        state: bool,
        autoreset: str,
        **smax_options: Any,
    ) -> None:
        """Builds the spaces; compiling waits for the first ``reset``.

        Args:
            num_envs: E.
            scenario: the units of both sides.
            agent_id: append the one-hot slot to the observation of living agents.
            state: add the normalised world state [S], S = 12 U.
            autoreset: see :class:`TeamVectorEnv`.
            smax_options: passed on to JaxMARL's ``HeuristicEnemySMAX``.
        """
        num_agents, num_enemies = len(scenario.allies), len(scenario.enemies)
        self._smax = HeuristicEnemySMAX(
            scenario=SMAXScenario(
                jnp.array(scenario.allies + scenario.enemies, jnp.uint8),
                num_agents,
                num_enemies,
                scenario.random,
                scenario.random,
            ),
            **smax_options,
        )
        obs_size = self._smax.obs_size + num_agents * agent_id
        super().__init__(
            num_envs,
            observation_space(
                num_agents,
                obs_size,
                self._smax.num_ally_actions,
                (self._smax.state_size,) if state else None,
            ),
            discrete_actions(num_agents, self._smax.num_ally_actions),
            autoreset,
        )
        self._agent_id = agent_id
        self._with_state = state
        self._compiled_reset = jax.jit(self._reset_all)
        self._compiled_step = jax.jit(self._step_all, donate_argnums=0)
        self._worlds: Worlds | None = None
        self._output: StepOutput | None = None

    # Host side.

    def _reset_worlds(self) -> Observation:
        seeds = self.np_random.integers(2**32, size=self.num_envs, dtype=np.uint32)
        key = np.stack([seeds, np.zeros_like(seeds)], axis=1)
        self._worlds, obs = self._compiled_reset(key)
        return _owned(obs)

    def _step_worlds(
        self, actions: NDArray[Any], frozen: NDArray[np.bool_] | None
    ) -> WorldStep:
        if frozen is None and not self._same_step:
            frozen = np.zeros(self.num_envs, np.bool_)  # one signature, one compilation
        self._worlds, output = self._compiled_step(
            self._worlds, actions.astype(np.int32), frozen
        )
        self._output = output
        return WorldStep(
            _owned(output.obs),
            np.array(output.reward),
            np.array(output.terminated),
            np.array(output.truncated),
        )

    def _finished(self) -> tuple[Observation, dict[str, NDArray[np.float32]]]:
        assert self._output is not None
        last = _owned(self._output.last)
        return last, {
            "won": np.array(self._output.won, np.float32),
            "dead_ratio": 1.0 - last["alive"].mean(axis=1, dtype=np.float32),
        }

    def _get_worlds(self) -> dict[str, Any]:
        leaves = jax.tree.leaves(self._worlds)
        return {"leaves": [np.array(leaf) for leaf in leaves]}

    def _set_worlds(self, worlds: Mapping[str, Any]) -> None:
        key = np.zeros((self.num_envs, 2), np.uint32)
        structure = jax.tree.structure(jax.eval_shape(self._reset_all, key)[0])
        leaves = [jnp.asarray(leaf) for leaf in worlds["leaves"]]
        self._worlds = jax.tree.unflatten(structure, leaves)

    # Compiled: everything below works on JAX arrays.

    def _reset_all(self, key: Any) -> tuple[Worlds, dict[str, Any]]:
        obs, state = jax.vmap(self._smax.reset)(key)
        # JaxMARL's reset gives a weakly typed leaf, its step a strongly typed one: left alone,
        # the step would be compiled twice.
        state = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), state)
        return Worlds(state, key.at[:, 1].add(1)), self._observe(obs, state)

    def _step_all(
        self, worlds: Worlds, actions: Any, frozen: Any | None
    ) -> tuple[Worlds, StepOutput]:
        named = {agent: actions[:, slot] for slot, agent in enumerate(self._smax.agents)}
        obs, state, reward, done, _ = jax.vmap(self._smax.step_env)(
            worlds.key, worlds.state, named
        )
        key = worlds.key.at[:, 1].add(1)
        num = self.num_agents
        alive = state.state.unit_alive
        ally_alive, enemy_alive = alive[:, :num].any(1), alive[:, num:].any(1)
        ended = done["__all__"]
        team_reward = reward[self._smax.agents[0]]
        last = self._observe(obs, state)
        if frozen is not None:
            keep = lambda new, old: jnp.where(_like(frozen, new), old, new)  # noqa: E731
            state = jax.tree.map(keep, state, worlds.state)
            key = keep(key, worlds.key)
            ended = ended & ~frozen
            team_reward = jnp.where(frozen, 0.0, team_reward)
            obs = jax.vmap(self._full_obs)(state)
            last = self._observe(obs, state)
        fresh, first = self._reset_all(key)
        pick = lambda new, old: jnp.where(_like(ended, new), new, old)  # noqa: E731
        worlds = jax.tree.map(pick, fresh, Worlds(state, key))
        output = StepOutput(
            obs=jax.tree.map(pick, first, last),
            last=last,
            reward=team_reward,
            terminated=ended & ~(ally_alive & enemy_alive),
            truncated=ended & ally_alive & enemy_alive,
            won=ally_alive & ~enemy_alive,
        )
        return worlds, output

    def _full_obs(self, state: Any) -> dict[str, Any]:
        return self._smax.get_obs(state) | {"world_state": self._smax.get_world_state(state)}

    def _observe(self, obs: dict[str, Any], state: Any) -> dict[str, Any]:
        num = self.num_agents
        alive = state.state.unit_alive[:, :num]
        mask = jax.vmap(self._smax.get_avail_actions)(state)
        own = jnp.stack([obs[agent] for agent in self._smax.agents], axis=1)
        if self._agent_id:
            slot = jnp.eye(num) * alive[:, :, None]
            own = jnp.concatenate([own, slot], axis=-1)
        team = {
            "obs": own,
            "alive": alive,
            "action_mask": jnp.stack([mask[a] for a in self._smax.agents], axis=1) != 0,
        }
        if self._with_state:
            team["state"] = self._normalised_state(obs["world_state"])
        return team

    def _normalised_state(self, world_state: Any) -> Any:
        smax = self._smax
        units = smax.num_allies + smax.num_enemies
        features = world_state[:, : units * 10].reshape(-1, units, 10)
        scale = jnp.array([1.0, 1 / smax.map_width, 1 / smax.map_height, 1.0] + [1.0] * 6)
        features = features * scale
        rest = world_state[:, units * 10 :]
        return jnp.concatenate([features.reshape(-1, units * 10), rest], axis=-1)


def _like(flags: Any, array: Any) -> Any:
    """Flags [E] shaped to broadcast against an array [E, ...]."""
    return flags.reshape(flags.shape + (1,) * (array.ndim - 1))


def _owned(arrays: Mapping[str, Any]) -> Observation:
    """Copies into NumPy: what JAX hands out is read-only."""
    return {name: np.array(value) for name, value in arrays.items()}
