"""StarCraft micromanagement maps: SMAX's map table, and the switch between simulators.

``simulator: smax`` (the default) is SMAX (JaxMARL), a StarCraft-free engine with the unit types
marine, marauder, stalker, zealot, zergling and hydralisk. It has no medivacs, colossi, banelings
or spine crawlers, no shields, no healing and no splash damage. A map of the same name is
therefore another task than in StarCraft II: win rates are not comparable with published SMAC
figures. ``simulator: starcraft2`` is StarCraft II itself, which its user has to install (see
:mod:`rllib_seqmarl.envs.starcraft2.config`). The attribute ``simulator`` says what ran.

Map names: SMAC's for SMAC's maps (``z`` is a zealot, ``zg`` a zergling), ``smacv2_*_units`` for
teams of SMAX drawn anew in every episode, and SMACv2's (``terran_5_vs_5``) on StarCraft II.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any, NamedTuple

from rllib_seqmarl.envs.core.contract import AUTORESET_MODES, TeamVectorEnv, check_env_config
from rllib_seqmarl.envs.starcraft2 import config as starcraft2_config
from rllib_seqmarl.envs.starcraft2 import env as starcraft2
from rllib_seqmarl.errors import UserError, nearest

UNIT_TYPES = ("marine", "marauder", "stalker", "zealot", "zergling", "hydralisk")
SIMULATORS = ("smax", "starcraft2")
ATTACK_MODES = ("closest", "random")


class Scenario(NamedTuple):
    """Who fights whom.

    Attributes:
        allies: unit type of each ally, index into ``UNIT_TYPES``, in slot order.
        enemies: the same for the enemies.
        random: unit types and start positions are drawn anew in every episode; then only the
            team sizes of ``allies`` and ``enemies`` count.
    """

    allies: tuple[int, ...]
    enemies: tuple[int, ...]
    random: bool = False


def _team(composition: str) -> tuple[int, ...]:
    """``"3 stalker 5 zealot"`` as unit types, one per unit."""
    words = composition.split()
    return tuple(
        UNIT_TYPES.index(unit)
        for count, unit in zip(words[::2], words[1::2], strict=True)
        for _ in range(int(count))
    )


def _battle(allies: str, enemies: str | None = None) -> Scenario:
    return Scenario(_team(allies), _team(allies if enemies is None else enemies))


def _drawn(num_units: int) -> Scenario:
    return Scenario((0,) * num_units, (0,) * num_units, random=True)


#: Every map that can be played, by name.
SCENARIOS: dict[str, Scenario] = {
    "3m": _battle("3 marine"),
    "8m": _battle("8 marine"),
    "25m": _battle("25 marine"),
    "5m_vs_6m": _battle("5 marine", "6 marine"),
    "8m_vs_9m": _battle("8 marine", "9 marine"),
    "10m_vs_11m": _battle("10 marine", "11 marine"),
    "27m_vs_30m": _battle("27 marine", "30 marine"),
    "2s3z": _battle("2 stalker 3 zealot"),
    "3s5z": _battle("3 stalker 5 zealot"),
    "3s5z_vs_3s6z": _battle("3 stalker 5 zealot", "3 stalker 6 zealot"),
    "3s_vs_3z": _battle("3 stalker", "3 zealot"),
    "3s_vs_4z": _battle("3 stalker", "4 zealot"),
    "3s_vs_5z": _battle("3 stalker", "5 zealot"),
    "6h_vs_8z": _battle("6 hydralisk", "8 zealot"),
    "2m_vs_1z": _battle("2 marine", "1 zealot"),
    "corridor": _battle("6 zealot", "24 zergling"),
    # Stand-ins for maps whose units SMAX lacks, under names of their own.
    "7m2M": _battle("7 marine 2 marauder"),
    "7m2M_vs_8m3M": _battle("7 marine 2 marauder", "8 marine 3 marauder"),
    "4s5z": _battle("4 stalker 5 zealot"),
    "2s_vs_64zg": _battle("2 stalker", "64 zergling"),
    "24zg": _battle("24 zergling"),
    "smacv2_5_units": _drawn(5),
    "smacv2_10_units": _drawn(10),
    "smacv2_20_units": _drawn(20),
}

#: SMAC and SMACv2 maps that cannot be played -> (missing unit type, stand-in of ``SCENARIOS``).
UNAVAILABLE: dict[str, tuple[str, str]] = (
    {
        "MMM": ("medivac", "7m2M"),
        "MMM2": ("medivac", "7m2M_vs_8m3M"),
        "1c3s5z": ("colossus", "4s5z"),
        "2c_vs_64zg": ("colossus", "2s_vs_64zg"),
        "so_many_baneling": ("baneling", "corridor"),
        "bane_vs_bane": ("baneling", "24zg"),
        "2s_vs_1sc": ("spine crawler", "2m_vs_1z"),
    }
    | {
        f"{race}_{allies}_vs_{enemies}": (unit, f"smacv2_{allies}_units")
        for race, unit in (("terran", "medivac"), ("protoss", "colossus"), ("zerg", "baneling"))
        for allies, enemies in ((5, 5), (10, 10), (10, 11), (20, 20), (20, 23))
    }
    | {
        "10gen_terran": ("medivac", "smacv2_10_units"),
        "10gen_protoss": ("colossus", "smacv2_10_units"),
        "10gen_zerg": ("baneling", "smacv2_10_units"),
    }
)

DEFAULTS: dict[str, Any] = {
    "map_name": "3s5z",
    "simulator": "smax",
    "agent_id": True,
    "state": False,
    "max_steps": 100,
    "see_enemy_actions": True,
    "walls_cause_death": True,
    "won_battle_bonus": 1.0,
    "enemy_shoots": True,
    "attack_mode": "closest",
    "map_width": 32,
    "map_height": 32,
    "world_steps_per_env_step": 8,
    "time_per_step": 1.0 / 16,
    "autoreset": "same_step",
}


def check(env_config: Mapping[str, Any]) -> dict[str, Any]:
    """The complete ``env_config``; imports no simulator.

    Keys of ``simulator: smax``; those of ``starcraft2``: :func:`starcraft2_config.check`.
        map_name: one of ``SCENARIOS``.
        simulator: ``smax`` or ``starcraft2``.
        agent_id: appends the one-hot agent slot to the observation of living agents.
        state: adds ``state`` [S], the normalised features of all units.
        max_steps: SMAX counts from zero: an episode lasts at most ``max_steps + 1`` steps.
        see_enemy_actions: observations show what visible enemies last did.
        walls_cause_death: a unit that touches the map's border dies.
        won_battle_bonus: added to the team's reward on a win; the damage part sums to 1.
        enemy_shoots: False for enemies that only walk.
        attack_mode: whom enemies shoot, ``closest`` or ``random``.
        map_width, map_height: in SMAX's length units.
        world_steps_per_env_step, time_per_step: simulation steps per action, seconds each.
        autoreset: ``same_step`` or ``next_step``.

    Raises:
        UserError: unknown key, wrong type, impossible value, unknown map, a map whose units
            SMAX lacks, a key of the other simulator, or the simulator is not installed.
    """
    simulator = env_config.get("simulator", DEFAULTS["simulator"])
    if simulator not in SIMULATORS:
        hint = nearest(str(simulator), SIMULATORS)
        raise UserError(f"smac: unknown simulator {simulator!r} in env_config. {hint}")
    starcraft2_keys = starcraft2_config.DEFAULTS | starcraft2_config.SMACV2_DEFAULTS
    own, other = DEFAULTS, starcraft2_keys
    if simulator == "starcraft2":
        own, other = other, own
    for key in env_config:
        if key in other and key not in own:
            raise UserError(
                f"smac: env_config {key!r} belongs to the other simulator; {simulator!r} has no "
                "such key."
            )
    if simulator == "starcraft2":
        return starcraft2_config.check(env_config)
    config = check_env_config(env_config, DEFAULTS, "smac")
    _check_map(config["map_name"])
    for key, known in (
        ("attack_mode", ATTACK_MODES),
        ("autoreset", tuple(AUTORESET_MODES)),
    ):
        if config[key] not in known:
            raise UserError(
                f"smac: unknown {key} {config[key]!r} in env_config. {nearest(config[key], known)}"
            )
    for key in ("max_steps", "map_width", "map_height", "world_steps_per_env_step"):
        if config[key] < 1:
            raise UserError(f"smac: env_config {key!r} must be at least 1, got {config[key]!r}.")
    if config["time_per_step"] <= 0.0:
        raise UserError(
            f"smac: env_config 'time_per_step' must be positive, got {config['time_per_step']!r}."
        )
    if any(importlib.util.find_spec(module) is None for module in ("jax", "jaxmarl")):
        raise UserError(
            "smac: the SMAX simulator is not installed; run: pip install 'rllib-seqmarl[smax]'"
        )
    return config


def _check_map(name: str) -> None:
    if name in SCENARIOS:
        return
    if name in UNAVAILABLE:
        unit, stand_in = UNAVAILABLE[name]
        raise UserError(
            f"smac: map {name!r} needs the unit {unit!r}, which SMAX does not have; the nearest "
            f"map that it has is {stand_in!r} (another task: report it under its own name). "
            "StarCraft II itself is 'simulator: starcraft2'."
        )
    raise UserError(f"smac: unknown map {name!r}. {nearest(name, SCENARIOS)}")


def make(num_envs: int, **env_config: Any) -> TeamVectorEnv:
    """``num_envs`` envs with the given ``env_config`` (see :func:`check`).

    Imports JAX, or, for ``simulator: starcraft2``, PySC2.
    """
    config = check(env_config)
    if config["simulator"] == "starcraft2":
        return starcraft2.make(num_envs, config)
    from rllib_seqmarl.envs.smax.env import SMAXTeamEnv

    del config["simulator"]
    return SMAXTeamEnv(num_envs, scenario=SCENARIOS[config.pop("map_name")], **config)
