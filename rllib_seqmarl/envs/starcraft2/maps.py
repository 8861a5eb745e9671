"""The maps of SMAC and SMACv2 on StarCraft II: sizes, time limits, and which package plays them.

SMAC (Samvelyan et al., 2019, arXiv:1902.04043) and SMACv2 (Ellis et al., 2023, arXiv:2212.07489)
are two packages. The authors of ``smacv2`` say that SMAC's maps do not work in it, so SMAC's maps
are played by ``smac``, and SMACv2's, which draw units and start positions again in every episode,
by ``smacv2``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

#: What an agent can always do: no-op (only when dead), stop, north, south, east, west.
NUM_GENERAL_ACTIONS = 6


class StarCraftMap(NamedTuple):
    """One scenario.

    Attributes:
        num_agents: N.
        num_enemies: M.
        episode_limit: in steps of the environment.
        package: ``smac`` or ``smacv2``.
        map_name: its name in that package.
        file_name: of the map, without folder and ending.
        race: whose units SMACv2 draws; "" for SMAC's maps, which have fixed units.
    """

    num_agents: int
    num_enemies: int
    episode_limit: int
    package: str
    map_name: str
    file_name: str
    race: str = ""


#: SMAC's map -> (agents, enemies, episode limit).
_SMAC = {
    "3m": (3, 3, 60), "8m": (8, 8, 120), "25m": (25, 25, 150), "2s3z": (5, 5, 120),
    "3s5z": (8, 8, 150), "1c3s5z": (9, 9, 180), "MMM": (10, 10, 150), "MMM2": (10, 12, 180),
    "5m_vs_6m": (5, 6, 70), "8m_vs_9m": (8, 9, 120), "10m_vs_11m": (10, 11, 150),
    "27m_vs_30m": (27, 30, 180), "3s5z_vs_3s6z": (8, 9, 170), "3s_vs_3z": (3, 3, 150),
    "3s_vs_4z": (3, 4, 200), "3s_vs_5z": (3, 5, 250), "6h_vs_8z": (6, 8, 150),
    "2m_vs_1z": (2, 1, 150), "2s_vs_1sc": (2, 1, 300), "corridor": (6, 24, 400),
    "so_many_baneling": (7, 32, 100), "bane_vs_bane": (24, 24, 200), "2c_vs_64zg": (2, 64, 400),
}  # fmt: skip

#: Race -> (unit type, how often it is drawn, whether a whole team may consist of it).
_RACES = {
    "terran": (("marine", 0.45, True), ("marauder", 0.45, True), ("medivac", 0.1, False)),
    "protoss": (("stalker", 0.45, True), ("zealot", 0.45, True), ("colossus", 0.1, True)),
    "zerg": (("zergling", 0.45, True), ("hydralisk", 0.45, True), ("baneling", 0.1, False)),
}

#: Every map that can be played, by name.
MAPS: dict[str, StarCraftMap] = {
    name: StarCraftMap(*sizes, "smac", name, name) for name, sizes in _SMAC.items()
} | {
    f"{race}_{allies}_vs_{enemies}": StarCraftMap(
        allies, enemies, 200, "smacv2", f"10gen_{race}", "32x32_flat", race
    )
    for race in _RACES
    for allies, enemies in ((5, 5), (10, 10), (10, 11), (20, 20), (20, 23))
}


def capability_config(scenario: StarCraftMap) -> dict[str, Any]:
    """What SMACv2 draws in every episode; a new dict, because ``smacv2`` writes into it."""
    units = _RACES[scenario.race]
    return {
        "n_units": scenario.num_agents,
        "n_enemies": scenario.num_enemies,
        "team_gen": {
            "dist_type": "weighted_teams",
            "unit_types": [unit for unit, _, _ in units],
            "weights": [weight for _, weight, _ in units],
            "exception_unit_types": [unit for unit, _, whole_team in units if not whole_team],
            "observe": True,
        },
        "start_positions": {
            "dist_type": "surrounded_and_reflect",
            "p": 0.5,
            "map_x": 32,
            "map_y": 32,
        },
    }
