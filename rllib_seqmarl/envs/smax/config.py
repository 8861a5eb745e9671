"""``env_config`` of SMAX (JaxMARL), a StarCraft-free engine; imports no simulator."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Annotated, Literal

from rllib_seqmarl.envs.core.config import TeamEnvConfig
from rllib_seqmarl.envs.smax.scenarios import SCENARIOS, Scenario, check_map, name_of_units, units
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.settings import Doc, Expects, Ge, Gt, settings

#: Metrics of an episode.
METRICS = ("won", "dead_ratio")

MAP_AND_UNITS = "smac: env_config has map_name {!r} and units of its own: leave out one of them."
_UNITS = Expects("be unit types and how many there are, as in {marine: 5}")


@settings
class SMAXConfig(TeamEnvConfig):
    """``env_config`` of ``simulator: smax``."""

    map_name: Annotated[str, Doc("One of ``smax.scenarios.SCENARIOS``.")] = "3s5z"
    allies: Annotated[
        Mapping[str, int] | None,
        _UNITS,
        Doc(
            "In place of a map: how many units of each type the team has, as in ``{marine: 5}``, "
            "with ``enemies``. Slots are in the order of ``smax.scenarios.UNIT_TYPES``."
        ),
    ] = None
    enemies: Annotated[
        Mapping[str, int] | None, _UNITS, Doc("Likewise, of the other side; with ``allies``.")
    ] = None
    simulator: Annotated[Literal["smax"], Doc("``smax`` or ``starcraft2``.")] = "smax"
    agent_id: Annotated[
        bool | Literal["type"],
        Doc(
            "Appends the one-hot agent slot to the observation of living agents; ``type``: that of "
            "the unit's type, 6 numbers."
        ),
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
        """Checks map or units, after which a battle of given units is named, and the installation.

        Raises:
            UserError: an unknown map, one whose units SMAX lacks, a unit that it lacks, one side
                without the other, both a map and units, or SMAX is missing.
        """
        self.map_name = self._name()
        if any(importlib.util.find_spec(module) is None for module in ("jax", "jaxmarl")):
            raise UserError(
                "smac: the SMAX simulator is not installed; run: pip install 'rllib-seqmarl[smax]'"
            )

    @property
    def scenario(self) -> Scenario:
        """Who fights whom."""
        if self.allies is None or self.enemies is None:
            return SCENARIOS[self.map_name]
        return Scenario(units(self.allies, "allies"), units(self.enemies, "enemies"))

    def _name(self) -> str:
        """The map's name, or that of a battle of given units."""
        if self.allies is None and self.enemies is None:
            check_map(self.map_name)
            return self.map_name
        if self.allies is None or self.enemies is None:
            missing = "allies" if self.allies is None else "enemies"
            raise UserError(
                f"smac: env_config {missing!r} is missing: allies and enemies go together."
            )
        self.scenario  # noqa: B018  refuses units that there are not
        name = f"{name_of_units(self.allies)}_vs_{name_of_units(self.enemies)}"
        if self.map_name not in (name, SMAXConfig.map_name):
            raise UserError(MAP_AND_UNITS.format(self.map_name))
        return name
