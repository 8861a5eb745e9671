"""One StarCraft II battle after another in one game process, which is started again when it dies.

``smac`` and ``smacv2`` share the class ``StarCraft2Env``, whose behaviour around a dying game
needs guarding:

- ``reset`` launches a game as long as no episode has *finished*: a second ``reset`` before that
  leaves two games running, and adds up the largest possible reward twice, which shrinks rewards.
- After a lost connection ``step`` returns ``(0, True, {})``, which is no defeat. The game that
  it has started by then still has the units of the old one on its list: ``smacv2`` would wait for
  ever for them to die, and observations may be of units that do not exist. So a battle whose
  connection was lost is given up as a whole.
- ``StarCraftCapabilityEnvWrapper.reset`` may return None.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.errors import UserError

logger = logging.getLogger(__name__)

#: Builds a ``StarCraft2Env``, or ``smacv2``'s wrapper of one, that starts its game with a seed.
GameFactory = Callable[[int], Any]

# Games look for a free port and take it a moment later: two at once might be given the same.
_launching = threading.Lock()


class BattleView(NamedTuple):
    """A battle as it is between two steps.

    Attributes:
        obs: float32 [N, D], zero for the dead.
        state: float32 [S].
        action_mask: bool [N, A].
        alive: bool [N].
        dead_enemies: the part of the enemies that is dead.
    """

    obs: NDArray[np.float32]
    state: NDArray[np.float32]
    action_mask: NDArray[np.bool_]
    alive: NDArray[np.bool_]
    dead_enemies: float


class Outcome(NamedTuple):
    """What a step came to.

    Attributes:
        view: after the step; where the game died, the last one before.
        reward: 0 where the game died.
        terminated: one side is beaten, or both.
        truncated: the time limit was reached, or the game died.
        won: the battle is won.
    """

    view: BattleView
    reward: float
    terminated: bool
    truncated: bool
    won: bool


class Game:
    """The game process of one env.

    Attributes:
        restarts: how often the game died, since this object exists.
    """

    def __init__(self, index: int, factory: GameFactory, max_restarts: int) -> None:
        """Starts nothing.

        Args:
            index: the env's number, for messages.
            factory: builds the ``StarCraft2Env`` from a seed.
            max_restarts: how often in a row the game may die before an episode ends.
        """
        self.restarts = 0
        self._index = index
        self._factory = factory
        self._max_restarts = max_restarts
        self._failures = 0  # since an episode came to its end
        self._rng = np.random.default_rng(0)
        self._env: Any = None
        self._view: BattleView

    def seed(self, seed: int) -> None:
        """Seeds the games that are started from now on; one that runs goes on as it is."""
        self._rng = np.random.default_rng(seed)

    def reset(self) -> BattleView:
        """Begins the next battle, starting the game where none runs.

        Raises:
            UserError: the game died more than ``max_restarts`` times in a row.
        """
        while True:
            try:
                return self._begin()
            except Exception as error:
                self._died(f"{type(error).__name__}: {error}", error)

    def step(self, actions: NDArray[Any]) -> Outcome:
        """Takes one legal action per agent, int [N].

        Raises:
            UserError: the game died more than ``max_restarts`` times in a row.
        """
        try:
            reward, done, info = self._env.step(actions.tolist())
            if done and "battle_won" not in info:
                raise ConnectionError("the connection to the game was lost")
            view = self._observe()
        except Exception as error:
            self._died(f"{type(error).__name__}: {error}", error)
            return Outcome(self._view, 0.0, terminated=False, truncated=True, won=False)
        # Told apart by continuing_episode=True, which changes nothing else.
        truncated = bool(done and info.get("episode_limit", False))
        if done:
            self._failures = 0
        return Outcome(
            view,
            float(reward),
            terminated=bool(done) and not truncated,
            truncated=truncated,
            won=bool(info.get("battle_won", False)),
        )

    def close(self) -> None:
        """Ends the game process."""
        env, self._env = self._env, None
        if env is not None:
            env.close()

    @property
    def _battle(self) -> Any:
        """The ``StarCraft2Env`` itself: what is set on ``smacv2``'s wrapper does not reach it."""
        return getattr(self._env, "env", self._env)

    def _begin(self) -> BattleView:
        starts = self._env is None
        if starts:
            self._env = self._factory(int(self._rng.integers(2**31)))
        battle = self._battle
        restarts = battle.force_restarts
        with _launching if starts else contextlib.nullcontext():
            self._env.reset()
        if battle.force_restarts != restarts:
            raise ConnectionError("the connection to the game was lost while a battle was set up")
        if starts:
            # One look at the enemies; reset has added those up that it saw while waiting for all.
            battle.max_reward = (
                battle.n_enemies * battle.reward_death_value
                + battle.reward_win
                + sum(unit.health_max + unit.shield_max for unit in battle.enemies.values())
            )
        # From now on reset begins a battle in the game that runs, and launches no other.
        battle._episode_count = max(battle._episode_count, 1)
        return self._observe()

    def _observe(self) -> BattleView:
        battle = self._battle
        # SMAC itself asks for the health; its death trackers stand still with sparse rewards.
        agents = [battle.get_unit_by_id(agent) for agent in range(battle.n_agents)]
        alive = np.array([unit.health > 0 for unit in agents])
        dead_enemies = [unit.health == 0 for unit in battle.enemies.values()]
        self._view = BattleView(
            np.array(battle.get_obs(), np.float32) * alive[:, None],
            np.array(battle.get_state(), np.float32),
            np.array(battle.get_avail_actions(), np.bool_),
            alive,
            float(np.mean(dead_enemies)),
        )
        return self._view

    def _died(self, reason: str, error: Exception) -> None:
        """Gives the broken game up; the next ``reset`` builds another one."""
        self.restarts += 1
        self._failures += 1
        try:
            self.close()
        except Exception as closing:
            logger.warning("smac: env %d: closing the game failed: %s", self._index, closing)
        if self._failures > self._max_restarts:
            raise UserError(
                f"smac: the StarCraft II game of env {self._index} died {self._failures} times "
                f"in a row (env_config max_restarts is {self._max_restarts}); at last: {reason}"
            ) from error
        logger.warning(
            "smac: the StarCraft II game of env %d died (%s) and is started again.",
            self._index,
            reason,
        )
