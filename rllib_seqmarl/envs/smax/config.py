"""``env_config`` of SMAX (JaxMARL), a StarCraft-free engine; imports no simulator."""

from __future__ import annotations

import importlib.util
from typing import Annotated, Literal

from rllib_seqmarl.envs.core.config import TeamEnvConfig
from rllib_seqmarl.envs.smax.scenarios import check_map
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.settings import Doc, Ge, Gt, settings

#: Metrics of an episode.
METRICS = ("won", "dead_ratio")


@settings
class SMAXConfig(TeamEnvConfig):
    """``env_config`` of ``simulator: smax``."""

    map_name: Annotated[str, Doc("One of ``smax.scenarios.SCENARIOS``.")] = "3s5z"
    simulator: Annotated[Literal["smax"], Doc("``smax`` or ``starcraft2``.")] = "smax"
    agent_id: Annotated[
        bool, Doc("Appends the one-hot agent slot to the observation of living agents.")
    ] = True
    state: Annotated[bool, Doc("Adds ``state`` [S], the normalised features of all units.")] = False
    max_steps: Annotated[
        int,
        Ge(1),
        Doc("SMAX counts from zero: an episode lasts at most ``max_steps + 1`` steps."),
    ] = 100
    see_enemy_actions: Annotated[bool, Doc("Observations show what visible enemies last did.")] = (
        True
    )
    walls_cause_death: Annotated[bool, Doc("A unit that touches the map's border dies.")] = True
    won_battle_bonus: Annotated[
        float, Doc("Added to the team's reward on a win; the damage part sums to 1.")
    ] = 1.0
    enemy_shoots: Annotated[bool, Doc("False for enemies that only walk.")] = True
    attack_mode: Annotated[
        Literal["closest", "random"], Doc("Whom enemies shoot, ``closest`` or ``random``.")
    ] = "closest"
    map_width: Annotated[int, Ge(1), Doc("In SMAX's length units.")] = 32
    map_height: Annotated[int, Ge(1), Doc("In SMAX's length units.")] = 32
    world_steps_per_env_step: Annotated[int, Ge(1), Doc("Simulation steps per action.")] = 8
    time_per_step: Annotated[float, Gt(0), Doc("Seconds of a simulation step.")] = 1.0 / 16

    def check(self) -> None:
        """Checks the map, and that SMAX is installed.

        Raises:
            UserError: an unknown map, one whose units SMAX lacks, or SMAX is missing.
        """
        check_map(self.map_name)
        if any(importlib.util.find_spec(module) is None for module in ("jax", "jaxmarl")):
            raise UserError(
                "smac: the SMAX simulator is not installed; run: pip install 'rllib-seqmarl[smax]'"
            )
