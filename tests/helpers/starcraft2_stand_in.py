"""A stand-in for SMAC's ``StarCraft2Env``: its methods, and its behaviour around a dying game.

Written from what the sources of ``smac`` and ``smacv2`` do; there is no StarCraft II in it.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from rllib_seqmarl.envs.starcraft2.maps import MAPS, NUM_GENERAL_ACTIONS

HEALTH = 40.0
SHIELD = 10.0
DAMAGE = 10.0


class CannotResetException(Exception):
    """What ``smacv2`` raises where units do not appear."""


class Process:
    """A game process; all that run are in ``running``."""

    running: ClassVar[list[Process]] = []
    launched: ClassVar[int] = 0

    def __init__(self) -> None:
        Process.launched += 1
        Process.running.append(self)

    def close(self) -> None:
        if self in Process.running:
            Process.running.remove(self)


class StandIn:
    """A battle in which every enemy hits the first living agent in each step.

    Enemies hit with ``enemy_damage``, and regenerate shields where ``regenerate`` says so.
    ``trouble`` is a list of what goes wrong next, in all battles that share it: ``"launch"``, the
    game does not start; ``"reset"`` and ``"step"``, the connection is lost there; ``"units"``,
    units do not appear.
    """

    unit: Any = SimpleNamespace  # or a message of s2clientprotocol

    def __init__(
        self,
        map_name: str = "3m",
        *,
        trouble: list[str] | None = None,
        enemy_damage: float = 2.0,
        regenerate: float = 0.0,
        seconds: float = 0.0,
        looks: int = 1,
        **arguments: Any,
    ) -> None:
        capability = arguments.get("capability_config")
        scenario = next(
            known
            for known in MAPS.values()
            if known.map_name == map_name
            and (capability is None or known.num_enemies == capability["n_enemies"])
        )
        self.arguments = arguments
        self.trouble = [] if trouble is None else trouble
        self.enemy_damage, self.regenerate = enemy_damage, regenerate
        self.seconds, self.looks = seconds, looks
        self.n_agents, self.n_enemies = scenario.num_agents, scenario.num_enemies
        self.episode_limit = scenario.episode_limit
        self.n_actions = NUM_GENERAL_ACTIONS + self.n_enemies
        self.reward_death_value, self.reward_win = 10.0, 200.0
        self.max_reward = self.n_enemies * self.reward_death_value + self.reward_win
        self.force_restarts = 0
        self.played: list[list[int]] = []
        self.agents: dict[int, Any] = {}
        self.enemies: dict[int, Any] = {}
        self._episode_count = 0
        self._steps = 0
        self._stale = False
        self._sc2_proc: Process | None = None
        self._before: list[float] = []

    def get_env_info(self) -> dict[str, int]:
        return {
            "n_agents": self.n_agents,
            "n_actions": self.n_actions,
            "obs_shape": 4,
            "state_shape": self.n_agents + self.n_enemies,
            "episode_limit": self.episode_limit,
        }

    def _goes_wrong(self, kind: str) -> bool:
        wrong = self.trouble[:1] == [kind]
        del self.trouble[: int(wrong)]
        return wrong

    def _launch(self) -> None:
        if self._goes_wrong("launch"):
            raise RuntimeError("the game did not start")
        self._sc2_proc = Process()

    def full_restart(self) -> None:
        assert self._sc2_proc is not None
        self._sc2_proc.close()
        self._launch()
        self.force_restarts += 1
        self._stale = True

    def reset(self) -> Any:
        # smacv2 would wait here for units of the old game to die, for ever.
        assert not self._stale, "the battle of a game that died is used again"
        self._steps = 0
        if self._episode_count == 0:
            self._launch()
        if self._goes_wrong("reset"):
            self.full_restart()
            return self.get_obs(), self.get_state()
        if self._goes_wrong("units"):
            raise CannotResetException("waited for units to spawn and they didn't")
        self.agents = {i: self._spawn(0.0) for i in range(self.n_agents)}
        self.enemies = {i: self._spawn(SHIELD) for i in range(self.n_enemies)}
        if self._episode_count == 0:
            for _ in range(self.looks):
                self.max_reward += sum(u.health_max + u.shield_max for u in self.enemies.values())
        return self.get_obs(), self.get_state()

    def _spawn(self, shield: float) -> Any:
        return self.unit(health=HEALTH, health_max=HEALTH, shield=shield, shield_max=shield)

    def get_unit_by_id(self, agent: int) -> Any:
        return self.agents[agent]

    def get_avail_actions(self) -> list[list[int]]:
        return [self._available(agent) for agent in range(self.n_agents)]

    def _available(self, agent: int) -> list[int]:
        if self.agents[agent].health == 0:
            return [1] + [0] * (self.n_actions - 1)
        targets = [int(enemy.health > 0) for enemy in self.enemies.values()]
        return [0, 1, 1, 1, 1, 0, *targets]

    def get_obs(self) -> list[Any]:
        # Dead agents see the time, as SMAC's do with obs_timestep_number.
        return [
            np.array([self.agents[i].health, i, len(self.played), self._steps])
            for i in range(self.n_agents)
        ]

    def get_state(self) -> Any:
        units = [*self.agents.values(), *self.enemies.values()]
        return np.array([unit.health for unit in units], np.float32)

    def reward_battle(self) -> float:
        damage = sum(self._before) - self._strength() + self._killed * self.reward_death_value
        return abs(damage) if self.arguments.get("reward_only_positive", True) else damage

    def _strength(self) -> float:
        return sum(enemy.health + enemy.shield for enemy in self.enemies.values())

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        for agent, action in enumerate(actions):
            assert self._available(agent)[action] == 1, f"Agent {agent} cannot perform {action}"
        time.sleep(self.seconds)
        if self._goes_wrong("step"):
            self.full_restart()
            return 0, True, {}
        self.played.append(actions)
        self._steps += 1
        self._before = [enemy.health + enemy.shield for enemy in self.enemies.values()]
        alive_before = sum(enemy.health > 0 for enemy in self.enemies.values())
        for enemy in self.enemies.values():
            if enemy.health > 0:
                enemy.shield = min(enemy.shield + self.regenerate, enemy.shield_max)
        for action in actions:
            if action >= NUM_GENERAL_ACTIONS:
                self._hit(self.enemies[action - NUM_GENERAL_ACTIONS], DAMAGE)
        for enemy in self.enemies.values():
            living = [agent for agent in self.agents.values() if agent.health > 0]
            if enemy.health > 0 and living:
                self._hit(living[0], self.enemy_damage)
        enemies = sum(enemy.health > 0 for enemy in self.enemies.values())
        agents = sum(agent.health > 0 for agent in self.agents.values())
        self._killed = alive_before - enemies
        reward = self.reward_battle() + (self.reward_win if agents and not enemies else 0.0)
        info: dict[str, Any] = {"battle_won": bool(agents and not enemies)}
        done = not agents or not enemies
        if not done and self._steps >= self.episode_limit:
            done = True
            if self.arguments.get("continuing_episode"):
                info["episode_limit"] = True
        self._episode_count += done
        return reward / (self.max_reward / 20.0), done, info

    @staticmethod
    def _hit(unit: Any, damage: float) -> None:
        absorbed = min(unit.shield, damage)
        unit.shield -= absorbed
        unit.health = max(unit.health - (damage - absorbed), 0.0)

    def close(self) -> None:
        if self._sc2_proc is not None:
            self._sc2_proc.close()


class StandInWrapper:
    """Like ``StarCraftCapabilityEnvWrapper``: writes into its config; ``reset`` returns None."""

    def __init__(self, **arguments: Any) -> None:
        for key, value in arguments["capability_config"].items():
            if isinstance(value, dict):
                assert "env_key" not in value, "a config that was used before"
                value["env_key"] = key
        self.env = StandIn(**arguments)

    def reset(self) -> None:
        self.env.reset()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)
