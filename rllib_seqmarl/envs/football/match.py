"""One match of Google Research Football: its engine, features and rewards.

Source: Kurach et al. 2020, "Google Research Football: A Novel Reinforcement Learning
Environment". The engine is driven below gfootball's gym wrappers, which gym 0.26 breaks. Features
(gfootball's ``simple115v2``) and checkpoint reward are computed here, over all players at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.contract import Observation
from rllib_seqmarl.envs.core.sync_vector import SingleEnv
from rllib_seqmarl.envs.football.config import FootballConfig
from rllib_seqmarl.envs.football.engine import import_engine
from rllib_seqmarl.envs.football.rendering import Scene, draw

NUM_FEATURES = 115
NUM_ACTIONS = 19
#: gfootball draws the seeds of its episodes from [0, MAX_SEED].
MAX_SEED = 2_000_000_000

_TEAM_FEATURES = 22  # two coordinates of up to 11 players
_BALL_OWNER_AT, _ACTIVE_AT, _GAME_MODE_AT = 94, 97, 108
_CHECKPOINT_REWARD = 0.1
#: A checkpoint is reached at this distance from the centre of the opponents' goal, whose x is 1.
_CHECKPOINTS = np.linspace(0.99, 0.19, 10)

Raw = Mapping[str, Any]


def simple115(raw: Raw) -> NDArray[np.float32]:
    """gfootball's features ``simple115v2``, one row per controlled player.

    22 each: positions of the own team, its directions, those of the opponents (missing players
    -1); ball position 3, ball direction 3, one-hot of who has the ball 3 (nobody, own team,
    opponents), one-hot of the controlled player 11 (what alone differs between rows), one-hot of
    the game mode 7.

    Args:
        raw: the engine's observation.

    Returns:
        float32 [N, 115].
    """
    active = raw["left_agent_controlled_player"]
    rows = np.zeros((len(active), NUM_FEATURES), np.float32)
    rows[:, : 4 * _TEAM_FEATURES] = -1.0
    teams = ("left_team", "left_team_direction", "right_team", "right_team_direction")
    for i, name in enumerate(teams):
        values = raw[name].ravel()
        rows[:, i * _TEAM_FEATURES : i * _TEAM_FEATURES + len(values)] = values
    rows[:, 88:91] = raw["ball"]
    rows[:, 91:94] = raw["ball_direction"]
    rows[:, _BALL_OWNER_AT + 1 + raw["ball_owned_team"]] = 1.0
    rows[:, _GAME_MODE_AT + raw["game_mode"]] = 1.0
    for agent, player in enumerate(active):
        if player >= 0:
            rows[agent, _ACTIVE_AT + player] = 1.0
    return rows


def collected_checkpoints(
    raw: Raw, scored: bool, collected: NDArray[np.int64]
) -> NDArray[np.int64]:
    """How many of the ten checkpoints each agent has passed after a step.

    A controlled player passes them while it has the ball near the opponents' goal, each once per
    episode; a goal of the own team gives every agent the rest (Kurach et al. 2020, section 3.3).

    Args:
        raw: the engine's observation after the step.
        scored: the own team scored in the step.
        collected: int [N], the numbers before the step.

    Returns:
        int [N].
    """
    if scored:
        return np.full_like(collected, len(_CHECKPOINTS))
    if raw["ball_owned_team"] != 0:
        return collected
    distance = np.hypot(raw["ball"][0] - 1.0, raw["ball"][1])
    # The active index is that of the engine: an agent may be switched to another player.
    has_ball = np.asarray(raw["left_agent_controlled_player"]) == raw["ball_owned_player"]
    reached = int((distance <= _CHECKPOINTS).sum())
    return np.where(has_ball, np.maximum(collected, reached), collected)


def scene(raw: Raw, step: int) -> Scene:
    """What is to be seen of a match, from the engine's observation after ``step`` steps."""
    owner = None
    if raw["ball_owned_team"] >= 0:
        owner = (int(raw["ball_owned_team"]), int(raw["ball_owned_player"]))
    own, opponents = raw["score"]
    return Scene(
        team=np.asarray(raw["left_team"]),
        team_direction=np.asarray(raw["left_team_direction"]),
        opponents=np.asarray(raw["right_team"]),
        opponents_direction=np.asarray(raw["right_team_direction"]),
        team_active=np.asarray(raw["left_team_active"], np.bool_),
        opponents_active=np.asarray(raw["right_team_active"], np.bool_),
        controlled=np.asarray(raw["left_agent_controlled_player"]),
        ball=np.asarray(raw["ball"]),
        owner=owner,
        score=(int(own), int(opponents)),
        mode=int(raw["game_mode"]),
        step=step,
        steps_left=int(raw["steps_left"]),
    )


class Match(SingleEnv):
    """The matches of one env, each started with a seed of its own.

    Every action of gfootball's default set is legal at any time, and no agent ever dies.
    """

    def __init__(self, config: FootballConfig) -> None:
        """Starts an engine (about 60 MB), but no episode."""
        engine = import_engine()
        # "left" is the own team.
        self._config = engine.config.Config(
            {
                "level": config.scenario,
                "players": [f"agent:left_players={config.num_agents},right_players=0"],
                "game_engine_random_seed": 0,
                "reverse_team_processing": False,
            }
        )
        self._ends_on_score: bool = self._config.ScenarioConfig().end_episode_on_score
        self._core = engine.football_env_core.FootballEnvCore(self._config)
        self._raw: Raw = self._core.observation()
        self._checkpoints = config.rewards == "scoring,checkpoints"
        self._paid = config.paid
        self._max_episode_steps = config.max_episode_steps
        self._steps = 0
        self._at_end = self._raw, self._steps
        self._collected = np.zeros(config.num_agents, np.int64)
        self._rng = np.random.default_rng()

    def reset(self, seed: int | None) -> None:
        """Starts an episode that is a function of two draws of this env's generator."""
        self._at_end = self._raw, self._steps
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        engine_seed, number = self._rng.integers(MAX_SEED, size=2).tolist()
        self._config["game_engine_random_seed"] = engine_seed
        self._config["reverse_team_processing"] = bool(engine_seed % 2)
        # Full matches decide by it which side kicks off.
        self._config["episode_number"] = number
        self._core.reset()
        self._raw = self._core.observation()
        self._steps = 0
        self._collected = np.zeros_like(self._collected)

    def step(self, actions: NDArray[Any]) -> tuple[NDArray[np.float64], bool, bool]:
        """Plays 0.1 seconds; ``actions`` int [N] of gfootball's default set."""
        self._raw, goal, done, _ = self._core.step(actions.tolist())
        rewards = np.full(len(actions), float(goal))
        if self._checkpoints:
            collected = collected_checkpoints(self._raw, goal == 1, self._collected)
            rewards += _CHECKPOINT_REWARD * (collected - self._collected)
            self._collected = collected
        self._steps += 1
        decided = goal != 0 and self._ends_on_score
        time_is_up = self._raw["steps_left"] == 0 and not decided
        truncated = time_is_up or (not done and self._steps == self._max_episode_steps)
        return self._paid(rewards), done and not time_is_up, truncated

    def observe(self, row: Observation) -> None:
        """Writes features, and that everyone is alive and may do anything."""
        row["obs"][...] = simple115(self._raw)
        row["alive"][...] = True
        row["action_mask"][...] = True

    def render_frame(self) -> NDArray[np.uint8]:
        """See `SingleEnv.render_frame`."""
        return draw(scene(self._raw, self._steps))

    def render_final_frame(self) -> NDArray[np.uint8]:
        """See `SingleEnv.render_final_frame`."""
        return draw(scene(*self._at_end))

    def episode_metrics(self) -> dict[str, float]:
        """``score``, the goal difference, and ``won``, whether it is positive."""
        own, opponents = self._raw["score"]
        return {"won": float(own > opponents), "score": float(own - opponents)}

    def get_state(self) -> dict[str, Any]:
        """The engine's memory (50 to 100 kB), and what is counted here."""
        return {
            "engine": self._core.get_state({}),
            "steps": self._steps,
            "collected": self._collected.copy(),
            "random": self._rng.bit_generator.state,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what ``get_state`` of a match in the same scenario returned."""
        self._core.set_state(state["engine"])
        self._raw = self._core.observation()
        self._steps = state["steps"]
        self._collected = state["collected"].copy()
        self._rng.bit_generator.state = state["random"]

    def close(self) -> None:
        """Leaves the engine to later matches of this process: gfootball never frees one."""
        self._core.close()
