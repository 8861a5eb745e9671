"""SMAX's maps: who fights whom.

Names are SMAC's for SMAC's maps (``z`` is a zealot, ``zg`` a zergling), and ``smacv2_*_units`` for
teams that are drawn again in every episode.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rllib_seqmarl.errors import UserError, nearest

UNIT_TYPES = ("marine", "marauder", "stalker", "zealot", "zergling", "hydralisk")


class Scenario(NamedTuple):
    """Who fights whom.

    Attributes:
        allies: unit type of each ally, index into ``UNIT_TYPES``, in slot order.
        enemies: the same for the enemies.
        random: unit types and start positions are drawn again in every episode; then only the
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


def units(counts: Mapping[str, int], side: str) -> tuple[int, ...]:
    """Unit types of ``{"marine": 5, ...}``, one per unit, in the order of ``UNIT_TYPES``.

    Args:
        counts: how many there are of each type.
        side: begins the line of an error.

    Raises:
        UserError: a unit that SMAX lacks, a count below 1, or nobody.
    """
    for unit, count in counts.items():
        if unit not in UNIT_TYPES:
            hint = nearest(str(unit), UNIT_TYPES)
            raise UserError(f"smac: env_config {side!r}: SMAX has no unit {unit!r}. {hint}")
        if count < 1:
            raise UserError(
                f"smac: env_config {side!r}: {unit!r} must be 1 or more, got {count}: leave out "
                "who does not fight."
            )
    if not counts:
        raise UserError(f"smac: env_config {side!r} is empty: name a unit, as in {{marine: 5}}.")
    return tuple(i for i, unit in enumerate(UNIT_TYPES) for _ in range(counts.get(unit, 0)))


def name_of_units(counts: Mapping[str, int]) -> str:
    """``3stalker5zealot``, of any order of the same counts."""
    return "".join(f"{counts[unit]}{unit}" for unit in UNIT_TYPES if unit in counts)


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


def check_map(name: str) -> None:
    """Refuses what is no map of ``SCENARIOS``.

    Raises:
        UserError: names the nearest map, or the unit that SMAX lacks and a stand-in.
    """
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
