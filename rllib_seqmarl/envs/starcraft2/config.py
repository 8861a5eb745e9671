"""``env_config`` of StarCraft II: its keys, and what must be installed before a game can start.

Imports neither PySC2 nor SMAC: they are looked for, not loaded.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from rllib_seqmarl.envs.core.config import TeamEnvConfig
from rllib_seqmarl.envs.starcraft2.maps import MAPS, StarCraftMap
from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.files import user_path
from rllib_seqmarl.settings import Doc, Ge, as_dict, settings

#: Keys that are not arguments of ``StarCraft2Env``.
OWN_KEYS = (
    "map_name", "simulator", "agent_id", "state", "shield_reward_fix", "max_restarts", "autoreset",
)  # fmt: skip

#: The sentence of an argument of ``StarCraft2Env``, with its default there.
_AS_THERE = Doc("As the argument of ``StarCraft2Env`` of the same name.")

_PROTOBUF_SWITCH = "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"

_STEPS = (
    "Three steps install StarCraft II: (1) pip install 'rllib-seqmarl[starcraft2]' and pip install "
    "--no-deps git+https://github.com/oxwhirl/{package}.git; (2) Blizzard's Linux package of the "
    "game (github.com/Blizzard/s2client-proto, version 4.10, after accepting its licence) unpacked "
    "to ~/StarCraftII or $SC2PATH; (3) the folder SMAC_Maps of that repository copied to "
    "Maps/SMAC_Maps in it."
)


@settings
class StarCraft2Config(TeamEnvConfig):
    """``env_config`` of ``simulator: starcraft2`` on SMAC's maps."""

    #: It belongs to the process that plays: PySC2 takes the maps of one package per process.
    starts_program: ClassVar[bool] = True

    map_name: Annotated[
        str,
        Doc(
            "One of ``starcraft2.maps.MAPS``: SMAC's maps, or ``terran_5_vs_5`` and the like of "
            "SMACv2."
        ),
    ] = "3s5z"
    simulator: Annotated[Literal["starcraft2"], Doc("``starcraft2``; see `smac.config`.")] = (
        "starcraft2"
    )
    agent_id: Annotated[
        bool,
        Doc(
            "Appends the one-hot agent slot to the observation of living agents; where a map has "
            "units of several types, observations show an agent's own."
        ),
    ] = True
    state: Annotated[bool, Doc("Adds ``state`` [S], SMAC's global state.")] = False
    shield_reward_fix: Annotated[
        bool,
        Doc(
            "SMAC's maps only. SMAC takes ``abs()`` of the damage in a step, so that an enemy "
            "whose shield regenerates pays the team (on maps with Protoss enemies); published "
            "SMAC results carry that, and False, the default, keeps it. True pays ``max(., 0)`` "
            "instead, which SMACv2's reward always does."
        ),
    ] = False
    max_restarts: Annotated[
        int, Ge(0), Doc("How often in a row an env's game may die before an episode ends.")
    ] = 5
    difficulty: Annotated[
        Literal["1", "2", "3", "4", "5", "6", "7", "8", "9", "A"],
        Doc("Of the built-in opponent, from very easy to the three that cheat."),
    ] = "7"
    step_mul: Annotated[int, Ge(1), _AS_THERE] = 8
    move_amount: Annotated[int, Ge(1), _AS_THERE] = 2
    game_version: Annotated[str, Doc('Such as "4.10.0"; "" for the newest that is installed.')] = ""
    obs_all_health: Annotated[bool, _AS_THERE] = True
    obs_own_health: Annotated[bool, _AS_THERE] = True
    obs_last_action: Annotated[bool, _AS_THERE] = False
    obs_pathing_grid: Annotated[bool, _AS_THERE] = False
    obs_terrain_height: Annotated[bool, _AS_THERE] = False
    obs_timestep_number: Annotated[bool, _AS_THERE] = False
    state_last_action: Annotated[bool, _AS_THERE] = True
    state_timestep_number: Annotated[bool, _AS_THERE] = False
    reward_sparse: Annotated[bool, _AS_THERE] = False
    reward_only_positive: Annotated[bool, _AS_THERE] = True
    reward_death_value: Annotated[float, _AS_THERE] = 10.0
    reward_win: Annotated[float, _AS_THERE] = 200.0
    reward_defeat: Annotated[float, _AS_THERE] = 0.0
    reward_negative_scale: Annotated[float, _AS_THERE] = 0.5
    reward_scale: Annotated[bool, _AS_THERE] = True
    reward_scale_rate: Annotated[float, Ge(1), _AS_THERE] = 20.0

    def check(self) -> None:
        """Checks the map, the reward, and what must be installed.

        Raises:
            UserError: unknown map, a fix of a reward that has not its fault, or a part of the
                installation is missing (see :func:`check_installation`).
        """
        if self.map_name not in MAPS:
            raise UserError(
                f"smac: unknown map_name {self.map_name!r} of StarCraft II in env_config. "
                f"{nearest(self.map_name, MAPS)}"
            )
        if self.shield_reward_fix:
            if is_smacv2_map(self.map_name):
                raise UserError(
                    "smac: env_config 'shield_reward_fix' is for SMAC's maps; SMACv2's reward "
                    "never pays for regenerating shields: leave it out."
                )
            if self.reward_sparse or not self.reward_only_positive:
                raise UserError(
                    "smac: env_config 'shield_reward_fix' corrects the dense reward that is only "
                    "positive: leave it out, or reward_sparse and reward_only_positive."
                )
        check_installation(MAPS[self.map_name])

    def game_options(self) -> dict[str, Any]:
        """The arguments of ``StarCraft2Env`` among the settings."""
        return {name: value for name, value in as_dict(self).items() if name not in OWN_KEYS}


@settings
class SMACv2Config(StarCraft2Config):
    """``env_config`` on SMACv2's maps, with the values of its published configurations."""

    obs_own_pos: Annotated[bool, _AS_THERE] = True
    use_unit_ranges: Annotated[bool, _AS_THERE] = True
    min_attack_range: Annotated[float, _AS_THERE] = 2.0
    conic_fov: Annotated[bool, _AS_THERE] = False
    num_fov_actions: Annotated[int, Ge(1), _AS_THERE] = 12


def is_smacv2_map(name: object) -> bool:
    """Whether SMACv2 plays the map of that name."""
    return isinstance(name, str) and name in MAPS and MAPS[name].package == "smacv2"


def game_folder() -> Path:
    """Where PySC2 looks for the game: ``$SC2PATH``, or ``~/StarCraftII``."""
    return user_path(os.environ.get("SC2PATH") or "~/StarCraftII", "SC2PATH")


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
