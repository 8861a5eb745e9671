"""SMAC and SMACv2 on StarCraft II as a team environment: one game process per env.

Sources: SMAC (Samvelyan et al., 2019, arXiv:1902.04043), package ``smac``; SMACv2 (Ellis et al.,
2023, arXiv:2212.07489), package ``smacv2``.

What has not been run: no StarCraft II game has been started with this module. It is tested
against stand-ins for the game that answer as the packages' sources say, not against the game.

Axes: E envs, N allies (the team), M enemies, A = 6 + M actions: 0 no-op (legal only, and the
only legal one, when dead), 1 stop, 2 to 5 move north, south, east, west, then one per enemy to
shoot (for medivacs: per ally to heal); with SMACv2's ``conic_fov`` its directions before those.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.contract import (
    Observation,
    TeamVectorEnv,
    VectorStep,
    discrete_actions,
    observation_space,
)
from rllib_seqmarl.envs.starcraft2.config import SMACv2Config, StarCraft2Config
from rllib_seqmarl.envs.starcraft2.game import BattleView, Game, GameFactory, Outcome
from rllib_seqmarl.envs.starcraft2.maps import (
    MAPS,
    NUM_GENERAL_ACTIONS,
    StarCraftMap,
    capability_config,
)
from rllib_seqmarl.errors import UserError


def _factory(config: StarCraft2Config) -> GameFactory:
    """Imports the package that plays a map; what is returned builds one battle from a seed."""
    scenario = MAPS[config.map_name]
    package = scenario.package
    other = {"smac": "smacv2", "smacv2": "smac"}[package]
    if f"{other}.env" in sys.modules:
        raise UserError(
            f"smac: this process has already loaded {other!r}, and PySC2 refuses the maps of "
            f"{package!r} beside it, because both have the same names: use one per process."
        )
    try:
        module = importlib.import_module(f"{package}.env.starcraft2.starcraft2")
        builder = module.StarCraft2Env
        if package == "smacv2":
            wrapper = importlib.import_module("smacv2.env.starcraft2.wrapper")
            builder = wrapper.StarCraftCapabilityEnvWrapper
        from absl import flags
    except Exception as error:  # protobuf raises TypeError where it refuses old messages
        raise UserError(f"smac: {package!r} cannot be imported: {error}") from error
    if not flags.FLAGS.is_parsed():  # PySC2 reads flags, which belong to another program
        flags.FLAGS([package])
    arguments = {
        **config.game_options(),
        "map_name": scenario.map_name,
        "game_version": config.game_version or None,
        "continuing_episode": True,
    }
    return partial(build_battle, builder, scenario, arguments, config.shield_reward_fix)


def build_battle(
    builder: Callable[..., Any],
    scenario: StarCraftMap,
    arguments: Mapping[str, Any],
    shield_reward_fix: bool,
    seed: int,
) -> object:
    """One ``StarCraft2Env`` or ``StarCraftCapabilityEnvWrapper``; starts no game.

    Args:
        builder: the class.
        scenario: the map.
        arguments: of the class.
        shield_reward_fix: see `StarCraft2Config`.
        seed: the game's random seed.
    """
    arguments = {**arguments, "seed": seed}
    if scenario.race:
        arguments["capability_config"] = capability_config(scenario)
    if not shield_reward_fix:
        return builder(**arguments)
    # Without weight for own losses, the signed reward is the damage before SMAC's abs().
    battle = builder(**{**arguments, "reward_only_positive": False, "reward_negative_scale": 0.0})
    damage = battle.reward_battle
    battle.reward_battle = lambda: max(damage(), 0)
    return battle


class StarCraft2TeamEnv(TeamVectorEnv):
    """E battles in E games; they are stepped in threads, because each waits for its game.

    An episode terminates when one side is beaten. It is truncated at the map's time limit, and
    where a game dies: then the last observation before counts as the final one, ``won`` is 0,
    and the env goes on with a new game.

    A seed is passed to the games that start after it. It does not make runs repeatable: SMACv2
    draws teams from generators of its own that take no seed, and a running game goes on.
    """

    repeats_with_seed = False

    metric_names = ("won", "dead_ratio", "dead_enemy_ratio", "game_restarts")
    simulator = "starcraft2"

    def __init__(
        self,
        num_envs: int,
        config: StarCraft2Config | SMACv2Config,
        env_factory: GameFactory | None = None,
    ) -> None:
        """Builds the spaces; games start at the first ``reset``.

        Args:
            num_envs: E, the number of game processes.
            config: the settings.
            env_factory: builds a ``StarCraft2Env`` from a seed; by default from the package that
                plays the map.

        Raises:
            UserError: the package cannot be imported, or is another version than expected.
        """
        # Both first: a construction that fails is closed, too.
        self._threads = ThreadPoolExecutor(max(num_envs, 1), thread_name_prefix="starcraft2")
        self._games: list[Game] = []
        scenario = MAPS[config.map_name]
        num_actions = NUM_GENERAL_ACTIONS + scenario.num_enemies
        if isinstance(config, SMACv2Config) and config.conic_fov:
            num_actions += config.num_fov_actions
        env_factory = env_factory or _factory(config)
        self._games = [Game(e, env_factory, config.max_restarts) for e in range(num_envs)]
        sizes = env_factory(0).get_env_info()  # known without a game
        num_agents = sizes["n_agents"]
        found = (num_agents, sizes["n_actions"], sizes["episode_limit"])
        expected = (scenario.num_agents, num_actions, scenario.episode_limit)
        if found != expected:
            raise UserError(
                f"smac: the installed {scenario.package!r} gives map {scenario.map_name!r} "
                "{} agents, {} actions and {} steps, ".format(*found)
                + "its authors' version {}, {} and {}: install that one.".format(*expected)
            )
        super().__init__(
            num_envs,
            observation_space(
                num_agents,
                sizes["obs_shape"] + num_agents * config.agent_id,
                num_actions,
                (sizes["state_shape"],) if config.state else None,
            ),
            discrete_actions(num_agents, num_actions),
            config.autoreset,
        )
        self._agent_id = config.agent_id
        self._with_state = config.state
        self._views: list[BattleView] = []
        self._outcomes: list[Outcome] = []
        self._restarts_before = np.zeros(num_envs)  # when the episode began
        self._restarts_in_episode = np.zeros(num_envs)

    def cannot_save_reason(self) -> str | None:
        """A game of StarCraft II has no state that could be read and set."""
        return "StarCraft II cannot save a battle"

    def close_extras(self, **kwargs: object) -> None:
        """Ends the game processes."""
        self._threads.shutdown()
        for game in self._games:
            game.close()

    def _reset_envs(self) -> Observation:
        seeds = self.np_random.integers(2**31, size=self.num_envs)
        for game, seed in zip(self._games, seeds, strict=True):
            game.seed(int(seed))
        self._views = list(self._threads.map(Game.reset, self._games))
        self._restarts_before = self._count_restarts()
        return self._gather(self._views)

    def _step_envs(self, actions: NDArray[Any], frozen: NDArray[np.bool_] | None) -> VectorStep:
        active = self._active(frozen)
        self._refuse_illegal(actions, active)
        envs = range(self.num_envs)
        self._outcomes = list(self._threads.map(self._step_env, envs, actions, active.tolist()))
        terminated = np.array([outcome.terminated for outcome in self._outcomes])
        truncated = np.array([outcome.truncated for outcome in self._outcomes])
        done = terminated | truncated
        if done.any():
            restarts = self._count_restarts()
            self._restarts_in_episode = restarts - self._restarts_before
            self._restarts_before[done] = restarts[done]
        return VectorStep(
            self._gather(self._views),
            np.array([outcome.reward for outcome in self._outcomes], np.float32),
            terminated,
            truncated,
        )

    def _step_env(self, e: int, actions: NDArray[Any], active: bool) -> Outcome:
        """One env in a thread of its own, including the start of its next episode."""
        if not active:
            return Outcome(self._views[e], 0.0, terminated=False, truncated=False, won=False)
        game = self._games[e]
        outcome = game.step(actions)
        ended = outcome.terminated or outcome.truncated
        self._views[e] = game.reset() if ended else outcome.view
        return outcome

    def _refuse_illegal(self, actions: NDArray[Any], active: NDArray[np.bool_]) -> None:
        """SMAC itself fails an assertion, or takes the action where Python skips assertions."""
        legal = np.stack([view.action_mask for view in self._views])
        allowed = np.take_along_axis(legal, actions[..., None], axis=-1)[..., 0]
        wrong = np.argwhere(~allowed & active[:, None])
        if len(wrong):
            e, agent = wrong[0]
            raise UserError(
                f"step: agent {agent} of env {e} may not take action "
                f"{actions[e, agent]} now; its action_mask allows "
                f"{np.flatnonzero(legal[e, agent]).tolist()}."
            )

    def _final_obs_and_metrics(self) -> tuple[Observation, dict[str, NDArray[np.float32]]]:
        views = [outcome.view for outcome in self._outcomes]
        return self._gather(views), {
            "won": np.array([outcome.won for outcome in self._outcomes], np.float32),
            "dead_ratio": np.array([1.0 - view.alive.mean() for view in views], np.float32),
            "dead_enemy_ratio": np.array([view.dead_enemies for view in views], np.float32),
            "game_restarts": self._restarts_in_episode.astype(np.float32),
        }

    def _get_envs_state(self) -> dict[str, Any]:
        raise UserError(f"smac: {self.cannot_save_reason()}.")

    def _set_envs_state(self, state: Mapping[str, Any]) -> None:
        raise UserError(f"smac: {self.cannot_save_reason()}, so none can be continued.")

    def _count_restarts(self) -> NDArray[np.float64]:
        return np.array([game.restarts for game in self._games], np.float64)

    def _gather(self, views: Sequence[BattleView]) -> Observation:
        """What the E envs look like, as new arrays [E, ...]."""
        alive = np.stack([view.alive for view in views])
        obs = np.stack([view.obs for view in views])
        if self._agent_id:
            slots = np.eye(self.num_agents, dtype=np.float32) * alive[..., None]
            obs = np.concatenate([obs, slots], axis=-1)
        gathered: Observation = {
            "obs": obs,
            "alive": alive,
            "action_mask": np.stack([view.action_mask for view in views]),
        }
        if self._with_state:
            gathered["state"] = np.stack([view.state for view in views])
        return gathered
