"""``env_config`` of StarCraft II: its keys, and what must be installed before a game can start.

Imports neither PySC2 nor SMAC: they are looked for, not loaded.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from rllib_seqmarl.envs.core.contract import AUTORESET_MODES, check_env_config
from rllib_seqmarl.envs.starcraft2.maps import MAPS, StarCraftMap
from rllib_seqmarl.errors import UserError, nearest

#: ``env_config`` for every map. What is not explained in :func:`check` is an argument of
#: ``StarCraft2Env`` of the same name and meaning, with its default there.
DEFAULTS: dict[str, Any] = {
    "map_name": "3s5z",
    "simulator": "starcraft2",
    "agent_id": True,
    "state": False,
    "shield_reward_fix": False,
    "max_restarts": 5,
    "difficulty": "7",
    "step_mul": 8,
    "move_amount": 2,
    "game_version": "",
    "obs_all_health": True,
    "obs_own_health": True,
    "obs_last_action": False,
    "obs_pathing_grid": False,
    "obs_terrain_height": False,
    "obs_timestep_number": False,
    "state_last_action": True,
    "state_timestep_number": False,
    "reward_sparse": False,
    "reward_only_positive": True,
    "reward_death_value": 10.0,
    "reward_win": 200.0,
    "reward_defeat": 0.0,
    "reward_negative_scale": 0.5,
    "reward_scale": True,
    "reward_scale_rate": 20.0,
    "autoreset": "same_step",
}

#: Further keys for SMACv2's maps, with the values of its published configurations.
SMACV2_DEFAULTS: dict[str, Any] = {
    "obs_own_pos": True,
    "use_unit_ranges": True,
    "min_attack_range": 2.0,
    "conic_fov": False,
    "num_fov_actions": 12,
}

#: Keys that are not arguments of ``StarCraft2Env``.
OWN_KEYS = (
    "map_name", "simulator", "agent_id", "state", "shield_reward_fix", "max_restarts", "autoreset",
)  # fmt: skip

#: Built-in opponents, from very easy to the three that cheat.
DIFFICULTIES = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "A")

_PROTOBUF_SWITCH = "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"

_STEPS = (
    "Three steps install StarCraft II: (1) pip install 'rllib-seqmarl[starcraft2]' and pip install "
    "--no-deps git+https://github.com/oxwhirl/{package}.git; (2) Blizzard's Linux package of the "
    "game (github.com/Blizzard/s2client-proto, version 4.10, after accepting its licence) unpacked "
    "to ~/StarCraftII or $SC2PATH; (3) the folder SMAC_Maps of that repository copied to "
    "Maps/SMAC_Maps in it."
)


def check(env_config: Mapping[str, Any]) -> dict[str, Any]:
    """The complete ``env_config`` of a StarCraft II battle.

    Keys:
        map_name: one of ``MAPS``: SMAC's maps, or ``terran_5_vs_5`` and the like of SMACv2.
        agent_id: appends the one-hot agent slot to the observation of living agents.
        state: adds ``state`` [S], SMAC's global state.
        shield_reward_fix: SMAC's maps only. SMAC takes ``abs()`` of the damage in a step, so
            that an enemy whose shield regenerates pays the team (on maps with Protoss enemies);
            published SMAC results carry that, and False, the default, keeps it. True pays
            ``max(., 0)`` instead, which SMACv2's reward always does.
        max_restarts: how often in a row an env's game may die before an episode ends.
        difficulty: of the built-in opponent, ``DIFFICULTIES``.
        game_version: such as "4.10.0"; "" for the newest that is installed.
        autoreset: ``same_step`` or ``next_step``.
        The others: see ``DEFAULTS`` and, for SMACv2's maps, ``SMACV2_DEFAULTS``.

    Raises:
        UserError: unknown key, wrong type, impossible value, unknown map, a key of the other
            package, or a part of the installation is missing (see :func:`check_installation`).
    """
    name = env_config.get("map_name", DEFAULTS["map_name"])
    is_smacv2 = isinstance(name, str) and name in MAPS and MAPS[name].package == "smacv2"
    for key in () if is_smacv2 else SMACV2_DEFAULTS:
        if key in env_config:
            raise UserError(f"smac: env_config {key!r} is SMACv2's; map {name!r} has no such key.")
    defaults = DEFAULTS | SMACV2_DEFAULTS if is_smacv2 else DEFAULTS
    config = check_env_config(env_config, defaults, "smac")
    for key, known in (
        ("map_name", tuple(MAPS)),
        ("difficulty", DIFFICULTIES),
        ("autoreset", tuple(AUTORESET_MODES)),
    ):
        if config[key] not in known:
            raise UserError(
                f"smac: unknown {key} {config[key]!r} of StarCraft II in env_config. "
                f"{nearest(config[key], known)}"
            )
    for key in ("step_mul", "move_amount", "num_fov_actions", "reward_scale_rate"):
        if key in config and config[key] < 1:
            raise UserError(f"smac: env_config {key!r} must be at least 1, got {config[key]!r}.")
    if config["max_restarts"] < 0:
        raise UserError(
            f"smac: env_config 'max_restarts' must not be negative, got {config['max_restarts']!r}."
        )
    if config["shield_reward_fix"]:
        if is_smacv2:
            raise UserError(
                "smac: env_config 'shield_reward_fix' is for SMAC's maps; SMACv2's reward never "
                "pays for regenerating shields: leave it out."
            )
        if config["reward_sparse"] or not config["reward_only_positive"]:
            raise UserError(
                "smac: env_config 'shield_reward_fix' mends the dense reward that is only "
                "positive: leave it out, or reward_sparse and reward_only_positive."
            )
    check_installation(MAPS[config["map_name"]])
    return config


def game_folder() -> Path:
    """Where PySC2 looks for the game: ``$SC2PATH``, or ``~/StarCraftII``."""
    return Path(os.environ.get("SC2PATH", "~/StarCraftII")).expanduser()


def check_installation(scenario: StarCraftMap) -> None:
    """Looks for all that a battle needs, in the order in which it is installed.

    Raises:
        UserError: names what is missing, and the three steps that install it.
    """
    missing = _missing(scenario)
    if missing:
        steps = _STEPS.format(package=scenario.package)
        raise UserError(f"smac: simulator 'starcraft2' cannot start: {missing}. {steps}")
    if not _reads_old_messages():
        raise UserError(
            f"smac: protobuf {metadata.version('protobuf')} refuses the messages of StarCraft II "
            f"unless it runs in pure Python: set {_PROTOBUF_SWITCH}=python in the environment of "
            "the command (and of every Ray node), or pip install 'protobuf==3.20.3'."
        )


def _missing(scenario: StarCraftMap) -> str | None:
    package = scenario.package
    spec = importlib.util.find_spec(package)
    if spec is None:
        return f"the package {package!r} is not installed"
    # The package of this name on PyPI is an optimiser that has nothing to do with StarCraft.
    folders = spec.submodule_search_locations or ()
    if not any(Path(folder, "env", "starcraft2", "starcraft2.py").is_file() for folder in folders):
        return f"the installed package {package!r} is another one than the StarCraft challenge"
    for module in ("pysc2", "s2clientprotocol"):
        if importlib.util.find_spec(module) is None:
            return f"the package {module!r} is not installed"
    game = game_folder()
    if not game.is_dir():
        return f"there is no game folder {str(game)!r}"
    builds = {
        int(folder.name.removeprefix("Base")): folder
        for folder in game.glob("Versions/Base*")
        if folder.name.removeprefix("Base").isdigit()
    }
    if not builds:
        return f"{str(game / 'Versions')!r} holds no folder Base*"
    # PySC2 starts the newest build unless game_version names another.
    program = builds[max(builds)] / "SC2_x64"
    if not os.access(program, os.X_OK):
        return f"there is no program {str(program)!r}"
    map_file = game / "Maps" / "SMAC_Maps" / f"{scenario.file_name}.SC2Map"
    if not map_file.is_file():
        return f"there is no map {str(map_file)!r}"
    return None


def _reads_old_messages() -> bool:
    """Whether protobuf takes ``s2clientprotocol``, whose code its version 3 has generated."""
    if int(metadata.version("protobuf").partition(".")[0]) < 4:
        return True
    loaded = sys.modules.get("google.protobuf.internal.api_implementation")
    if loaded is not None:  # too late for the environment variable
        return bool(loaded.Type() == "python")
    return os.environ.get(_PROTOBUF_SWITCH) == "python"
