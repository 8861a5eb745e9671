"""StarCraft micromanagement maps: SMAX's map table, and the switch between simulators.

``simulator: smax`` (the default) is SMAX (JaxMARL), a StarCraft-free engine with the unit types
marine, marauder, stalker, zealot, zergling and hydralisk. It has no medivacs, colossi, banelings
or spine crawlers, no shields, no healing and no splash damage. A map of the same name is
therefore another task than in StarCraft II: win rates are not comparable with published SMAC
results. ``simulator: starcraft2`` is StarCraft II itself, which its user has to install (see
:mod:`rllib_seqmarl.envs.starcraft2.config`). The attribute ``simulator`` says what ran.

Map names: SMAC's for SMAC's maps (``z`` is a zealot, ``zg`` a zergling), ``smacv2_*_units`` for
teams of SMAX drawn again in every episode, and SMACv2's (``terran_5_vs_5``) on StarCraft II.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rllib_seqmarl.envs.smax.config import MAP_AND_UNITS, SMAXConfig
from rllib_seqmarl.envs.starcraft2.config import SMACv2Config, StarCraft2Config, is_smacv2_map
from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.settings import settings, settings_of

SIMULATORS = ("smax", "starcraft2")


@settings
class SMACConfig(SMAXConfig):
    """``env_config`` of StarCraft battles: that of SMAX, unless another simulator is named."""

    @classmethod
    def variant(cls, env_config: Mapping[str, Any]) -> type[SMAXConfig | StarCraft2Config]:
        """The class of settings that reads an ``env_config``, by simulator and map.

        Raises:
            UserError: an unknown simulator, a key that only the other one has, or a map beside
                units of one's own.
        """
        simulator, name = (
            env_config.get("simulator", "smax"),
            env_config.get("map_name", StarCraft2Config.map_name),
        )
        if simulator not in SIMULATORS:
            hint = nearest(str(simulator), SIMULATORS)
            raise UserError(f"smac: unknown simulator {simulator!r} in env_config. {hint}")
        is_smax = simulator == "smax"
        own, other = (SMAXConfig, SMACv2Config) if is_smax else (SMACv2Config, SMAXConfig)
        for key in env_config:
            if key in settings_of(other) and key not in settings_of(own):
                raise UserError(
                    f"smac: env_config {key!r} belongs to the other simulator; {simulator!r} has "
                    "no such key."
                )
        if is_smax:
            # The config alone cannot tell a map that is named from the default.
            named = "map_name" in env_config and name == SMAXConfig.map_name
            if named and (env_config.get("allies") or env_config.get("enemies")):
                raise UserError(MAP_AND_UNITS.format(name))
            return SMAXConfig
        if is_smacv2_map(name):
            return SMACv2Config
        for key in settings_of(SMACv2Config).keys() - settings_of(StarCraft2Config).keys():
            if key in env_config:
                raise UserError(
                    f"smac: env_config {key!r} is SMACv2's; map {name!r} has no such key."
                )
        return StarCraft2Config
