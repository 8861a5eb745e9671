"""Google Research Football (Kurach et al. 2020): a team scores against the game's own players.

Every scenario of gfootball 2.10.2 can be played by its name there; the academy ones are those of
MAT (Wen et al. 2022) and PMAT. The agents control ``num_agents`` players of the team that plays
from left to right, the engine's own AI the others. Which players these are is the engine's choice,
is shown by a one-hot of every observation, and changes in the middle of an episode where fewer
than all are controlled: an agent is then no fixed player. All episodes of a scenario start alike;
the seed decides how they go on.

The engine computes with one thread and holds Python's interpreter lock: envs of one process
take turns, so that more cores need more processes (``num_env_runners``).
"""

from __future__ import annotations

import importlib.util
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rllib_seqmarl.envs.core.contract import (
    AUTORESET_MODES,
    check_env_config,
    discrete_actions,
    observation_space,
)
from rllib_seqmarl.envs.core.sync_vector import SyncVectorEnv
from rllib_seqmarl.envs.football.env import NUM_ACTIONS, NUM_FEATURES, Match, num_players
from rllib_seqmarl.errors import UserError, nearest

#: The commands that install gfootball, on Debian 12 with Python 3.11, in this order.
INSTALL = (
    "apt-get install -y --no-install-recommends build-essential cmake python3-dev libgl1-mesa-dev "
    "libegl1-mesa-dev libsdl2-dev libsdl2-image-dev libsdl2-ttf-dev libsdl2-gfx-dev "
    "libboost-python-dev libboost-filesystem-dev libboost-thread-dev libboost-system-dev",
    "python -m pip install 'rllib-seqmarl[football]'",
    "python -m pip install --no-build-isolation --no-deps gfootball==2.10.2",
)

_HOW_TO = "Install it (Debian 12, Python 3.11): " + " && ".join(INSTALL)

#: How many players the papers control where they do not control all.
PAPERS_NUM_AGENTS = {
    "academy_pass_and_shoot_with_keeper": 2,
    "academy_run_pass_and_shoot_with_keeper": 2,
    "academy_3_vs_1_with_keeper": 3,
    "academy_counterattack_easy": 4,
    "academy_counterattack_hard": 4,
}
REWARDS = ("scoring", "scoring,checkpoints")
TEAM_REWARDS: dict[str, Callable[..., Any]] = {"mean": np.mean, "sum": np.sum}

DEFAULTS: dict[str, Any] = {
    "scenario": "academy_3_vs_1_with_keeper",
    "num_agents": 0,
    "rewards": "scoring,checkpoints",
    "team_reward": "mean",
    "max_episode_steps": 0,
    "autoreset": "same_step",
}


def check(env_config: Mapping[str, Any]) -> dict[str, Any]:
    """The complete ``env_config``; imports gfootball's engine, but starts none.

    Keys:
        scenario: a level of gfootball by its name.
        num_agents: N, controlled players. 0: as many as the papers control
            (``PAPERS_NUM_AGENTS``), and all of the team in the other scenarios.
        rewards: ``scoring`` (1 for a goal of the team, -1 for one of the opponents) or
            ``scoring,checkpoints`` (also up to 1 per episode and agent for bringing the ball
            near the opponents' goal), as in gfootball.
        team_reward: ``mean`` or ``sum`` of the agents' rewards.
        max_episode_steps: cuts episodes short. 0: the scenario's own duration alone.
        autoreset: ``same_step`` or ``next_step``.

    Raises:
        UserError: unknown key, wrong type, impossible value, unknown scenario, more agents than
            players, or gfootball missing.
    """
    config = check_env_config(env_config, DEFAULTS, "football")
    for key, known in (
        ("rewards", REWARDS),
        ("team_reward", tuple(TEAM_REWARDS)),
        ("autoreset", tuple(AUTORESET_MODES)),
    ):
        if config[key] not in known:
            raise UserError(
                f"football: unknown {key} {config[key]!r} in env_config. "
                f"{nearest(config[key], known)}"
            )
    for key in ("num_agents", "max_episode_steps"):
        if config[key] < 0:
            raise UserError(f"football: env_config {key!r} must be at least 0, got {config[key]}.")
    scenario = config["scenario"]
    known_scenarios = _scenarios()
    if scenario not in known_scenarios:
        raise UserError(
            f"football: unknown scenario {scenario!r}. {nearest(scenario, known_scenarios)}"
        )
    try:
        players = num_players(scenario)
    except ImportError as error:
        raise UserError(f"football: gfootball cannot be loaded ({error}). {_HOW_TO}") from error
    if config["num_agents"] > players:
        raise UserError(
            f"football: num_agents is {config['num_agents']}, but {scenario!r} has "
            f"{players} players that can be controlled."
        )
    config["num_agents"] = config["num_agents"] or PAPERS_NUM_AGENTS.get(scenario, players)
    return config


def _scenarios() -> list[str]:
    """The names of gfootball's levels, without importing it."""
    spec = importlib.util.find_spec("gfootball")
    if spec is None or spec.origin is None:
        raise UserError(f"football: gfootball is not installed. {_HOW_TO}")
    folder = Path(spec.origin).parent / "scenarios"
    return [module.name for module in pkgutil.iter_modules([str(folder)]) if not module.ispkg]


def make(num_envs: int, **env_config: Any) -> FootballTeamEnv:
    """``num_envs`` envs with the given ``env_config`` (see :func:`check`)."""
    return FootballTeamEnv(num_envs, **check(env_config))


class FootballTeamEnv(SyncVectorEnv):
    """E envs of matches, one after another in this process.

    Observation: gfootball's ``simple115v2``. The metric ``score`` of an episode is its goal
    difference, ``won`` whether that is positive.
    """

    metric_names = ("won", "score")
    simulator = "football"

    def __init__(
        self,
        num_envs: int,
        *,
        scenario: str,
        num_agents: int,
        rewards: str,
        team_reward: str,
        max_episode_steps: int,
        autoreset: str,
    ) -> None:
        """Takes the complete ``env_config`` that :func:`check` returns."""
        checkpoints = rewards == "scoring,checkpoints"
        super().__init__(
            [
                Match(
                    scenario, num_agents, checkpoints, TEAM_REWARDS[team_reward], max_episode_steps
                )
                for _ in range(num_envs)
            ],
            observation_space(num_agents, NUM_FEATURES, NUM_ACTIONS),
            discrete_actions(num_agents, NUM_ACTIONS),
            autoreset,
        )
