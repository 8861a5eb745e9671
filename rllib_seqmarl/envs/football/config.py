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
from pathlib import Path
from typing import Annotated, Literal

from rllib_seqmarl.envs.core.config import PaidAgentsConfig, Reward
from rllib_seqmarl.envs.football.engine import num_players
from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.settings import Doc, Ge, OldName, settings

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


@settings
class FootballConfig(PaidAgentsConfig):
    """``env_config`` of Google Research Football."""

    scenario: Annotated[str, Doc("A level of gfootball by its name.")] = (
        "academy_3_vs_1_with_keeper"
    )
    num_agents: Annotated[
        int,
        Ge(0),
        Doc(
            "Controlled players N. 0: as many as the papers control (``PAPERS_NUM_AGENTS``), and "
            "all of the team in the other scenarios."
        ),
    ] = 0
    rewards: Annotated[
        Literal["scoring", "scoring,checkpoints"],
        Doc(
            "``scoring`` (1 for a goal of the team, -1 for one of the opponents) or "
            "``scoring,checkpoints`` (also up to 1 per episode and agent for bringing the ball "
            "near the opponents' goal), as in gfootball."
        ),
    ] = "scoring,checkpoints"
    reward: Annotated[Reward, OldName("team_reward")] = "mean"
    max_episode_steps: Annotated[
        int, Ge(0), Doc("Cuts episodes short; 0: the scenario's own duration alone.")
    ] = 0

    def check(self) -> None:
        """Fills in the number of agents; imports gfootball's engine, but starts none.

        Raises:
            UserError: unknown scenario, more agents than players, or gfootball missing.
        """
        scenario, known_scenarios = self.scenario, _scenarios()
        if scenario not in known_scenarios:
            raise UserError(
                f"football: unknown scenario {scenario!r}. {nearest(scenario, known_scenarios)}"
            )
        try:
            players = num_players(scenario)
        except ImportError as error:
            raise UserError(f"football: gfootball cannot be loaded ({error}). {_HOW_TO}") from error
        if self.num_agents > players:
            raise UserError(
                f"football: num_agents is {self.num_agents}, but {scenario!r} has "
                f"{players} players that can be controlled."
            )
        self.num_agents = self.num_agents or PAPERS_NUM_AGENTS.get(scenario, players)


def _scenarios() -> list[str]:
    """The names of gfootball's levels, without importing it."""
    spec = importlib.util.find_spec("gfootball")
    if spec is None or spec.origin is None:
        raise UserError(f"football: gfootball is not installed. {_HOW_TO}")
    folder = Path(spec.origin).parent / "scenarios"
    return [module.name for module in pkgutil.iter_modules([str(folder)]) if not module.ispkg]
