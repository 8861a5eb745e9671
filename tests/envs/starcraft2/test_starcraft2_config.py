"""StarCraft II's maps, its ``env_config``, and what must be installed; no test starts the game."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rllib_seqmarl import registry
from rllib_seqmarl.cli import main
from rllib_seqmarl.envs.starcraft2 import config as starcraft2_config
from rllib_seqmarl.envs.starcraft2.config import SMACv2Config, StarCraft2Config
from rllib_seqmarl.envs.starcraft2.maps import MAPS, capability_config
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.settings import as_dict

smac = registry.environment("smac")

EXAMPLES = [
    path
    for path in sorted((Path(__file__).parents[3] / "tuned_examples").glob("*.yaml"))
    if "simulator: starcraft2" in path.read_text()
]


# The maps.


def test_maps_have_their_published_sizes() -> None:
    # Map -> agents, actions, as SMAC's get_env_info gives them.
    sizes = {
        "3m": (3, 9), "8m": (8, 14), "2s3z": (5, 11), "3s5z": (8, 14), "5m_vs_6m": (5, 12),
        "8m_vs_9m": (8, 15), "10m_vs_11m": (10, 17), "MMM2": (10, 18), "1c3s5z": (9, 15),
        "6h_vs_8z": (6, 14), "3s5z_vs_3s6z": (8, 15), "3s_vs_4z": (3, 10), "3s_vs_5z": (3, 11),
        "corridor": (6, 30), "2c_vs_64zg": (2, 70), "terran_5_vs_5": (5, 11),
    }  # fmt: skip
    for name, (agents, actions) in sizes.items():
        assert (MAPS[name].num_agents, 6 + MAPS[name].num_enemies) == (agents, actions), name
    assert sum(known.package == "smac" for known in MAPS.values()) == 23
    assert sum(known.package == "smacv2" for known in MAPS.values()) == 15


def test_smacv2_draws_teams_as_published() -> None:
    config = capability_config(MAPS["zerg_10_vs_11"])
    assert (config["n_units"], config["n_enemies"]) == (10, 11)
    team = config["team_gen"]
    weights = dict(zip(team["unit_types"], team["weights"], strict=True))
    assert weights == {"zergling": 0.45, "hydralisk": 0.45, "baneling": 0.1}
    assert team["exception_unit_types"] == ["baneling"]
    assert capability_config(MAPS["protoss_5_vs_5"])["team_gen"]["exception_unit_types"] == []
    for scenario in MAPS.values():
        if scenario.race:
            assert sum(capability_config(scenario)["team_gen"]["weights"]) == pytest.approx(1.0)


# The config, and what must be installed.


def check(**env_config: Any) -> dict[str, Any]:
    return smac.check({"simulator": "starcraft2", **env_config})


def test_a_complete_config_where_everything_is_installed(starcraft2_installed: Path) -> None:
    assert check() == as_dict(StarCraft2Config())
    config = check(map_name="terran_10_vs_11", conic_fov=True, reward_win=100)
    assert config == {
        **as_dict(SMACv2Config()),
        "map_name": "terran_10_vs_11",
        "conic_fov": True,
        "reward_win": 100.0,
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"map_name": "3s5y"}, "unknown map_name '3s5y' of StarCraft II in env_config. Did you"),
        ({"map_name": "smacv2_5_units"}, "unknown map_name 'smacv2_5_units'"),
        ({"map_name": 3}, "'map_name' must be text, got 3"),
        ({"difficulty": 7}, "'difficulty' must be one of 1, 2, 3, 4, 5, 6, 7, 8, 9, A, got 7"),
        ({"difficulty": "11"}, "'difficulty' must be one of 1, 2, "),
        ({"dificulty": "7"}, "unknown env_config key 'dificulty'. Did you mean 'difficulty'"),
        ({"step_mul": 0}, "'step_mul' must be at least 1"),
        ({"max_restarts": -1}, "'max_restarts' must not be negative"),
        ({"walls_cause_death": True}, "'walls_cause_death' belongs to the other simulator"),
        ({"conic_fov": True}, "'conic_fov' is SMACv2's; map '3s5z' has no such key"),
        ({"map_name": "zerg_5_vs_5", "shield_reward_fix": True}, "is for SMAC's maps"),
        ({"shield_reward_fix": True, "reward_sparse": True}, "leave it out, or reward_sparse"),
        ({"shield_reward_fix": True, "reward_only_positive": False}, "leave it out, or"),
        ({"autoreset": "never"}, "'autoreset' must be one of same_step, next_step, got 'never'"),
    ],
)
def test_wrong_configs_are_refused(
    config: dict[str, Any], message: str, starcraft2_installed: Path
) -> None:
    with pytest.raises(UserError) as error:
        check(**config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("packages/smac", "the package 'smac' is not installed"),
        (
            "packages/smac/env",
            "the installed package 'smac' is another one than the StarCraft challenge",
        ),
        ("packages/pysc2", "the package 'pysc2' is not installed"),
        ("packages/s2clientprotocol", "the package 's2clientprotocol' is not installed"),
        ("StarCraftII", "there is no game folder '{game}'"),
        ("StarCraftII/Versions", "'{game}/Versions' holds no folder Base*"),
        (
            "StarCraftII/Versions/Base75689/SC2_x64",
            "there is no program '{game}/Versions/Base75689/SC2_x64'",
        ),
        (
            "StarCraftII/Maps/SMAC_Maps/3s5z.SC2Map",
            "there is no map '{game}/Maps/SMAC_Maps/3s5z.SC2Map'",
        ),
    ],
)
def test_what_is_missing_is_named_with_the_steps_that_install_it(
    missing: str, message: str, starcraft2_installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check()
    path = starcraft2_installed.parent / missing
    (shutil.rmtree if path.is_dir() else os.remove)(path)
    if path.name in ("pysc2", "s2clientprotocol"):  # may be installed for real
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == path.name else find(name)
        )
    importlib.invalidate_caches()
    with pytest.raises(UserError) as error:
        check()
    line = str(error.value)
    assert line.startswith(
        f"smac: simulator 'starcraft2' cannot start: {message.format(game=starcraft2_installed)}. "
    )
    assert "\n" not in line
    for step in ("(1) pip install", "(2) Blizzard's Linux package", "(3) the folder SMAC_Maps"):
        assert step in line


def test_smacv2_needs_its_own_package_and_map(starcraft2_installed: Path) -> None:
    assert check(map_name="zerg_5_vs_5")["map_name"] == "zerg_5_vs_5"
    (starcraft2_installed / "Maps" / "SMAC_Maps" / "32x32_flat.SC2Map").unlink()
    check(map_name="3m")
    with pytest.raises(UserError, match=r"no map .*32x32_flat\.SC2Map.*oxwhirl/smacv2\.git"):
        check(map_name="zerg_5_vs_5")


def test_the_game_is_looked_for_at_home_without_sc2path(
    starcraft2_installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SC2PATH")
    monkeypatch.setenv("HOME", str(starcraft2_installed.parent))
    assert check() == as_dict(StarCraft2Config())


def test_protobuf_that_refuses_the_messages_is_named(
    starcraft2_installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starcraft2_config, "_reads_old_messages", lambda: False)
    with pytest.raises(UserError, match="PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python") as error:
        check()
    assert "\n" not in str(error.value)


def test_a_package_that_cannot_be_imported_is_one_line(starcraft2_installed: Path) -> None:
    with pytest.raises(UserError, match="'smac' cannot be imported: ") as error:
        smac.make(1, simulator="starcraft2")  # its files are empty
    assert "\n" not in str(error.value)
    sys.modules["smacv2.env"] = sys.modules[__name__]
    try:
        with pytest.raises(UserError, match=r"already loaded 'smacv2'.*use one per process"):
            smac.make(1, simulator="starcraft2")
    finally:
        del sys.modules["smacv2.env"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_say_what_is_missing_before_anything_starts(
    example: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    starcraft2_installed: Path,
) -> None:
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))
    storage = tmp_path / "results"
    assert main(["train", "file", str(example), "--storage-path", str(storage)]) == 2
    line = capsys.readouterr().err
    assert "simulator 'starcraft2' cannot start: there is no game folder" in line
    assert line.count("\n") == 1
    assert not storage.exists()


# Against PySC2 and the messages of StarCraft II, in a process of its own.

needs_pysc2 = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("pysc2", "s2clientprotocol")),
    reason="needs pip install 'rllib-seqmarl[starcraft2]'",
)


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.argv = ['rllib']\n" + code  # does not register names with Ray
    paths = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )


@needs_pysc2
@pytest.mark.parametrize("implementation", ["python", "upb"])
def test_messages_can_be_imported_exactly_where_the_check_says_so(implementation: str) -> None:
    code = """
from rllib_seqmarl.envs.starcraft2.config import _reads_old_messages
before = _reads_old_messages()
import google.protobuf.internal.api_implementation
assert _reads_old_messages() == before
try:
    from s2clientprotocol import sc2api_pb2
    imported = True
except TypeError:
    imported = False
print(before, imported)
"""
    done = run(code, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=implementation)
    assert done.stdout.split() in (["True", "True"], ["False", "False"]), done.stderr
    if implementation == "python":
        assert done.stdout.split() == ["True", "True"]


@needs_pysc2
def test_pysc2_finds_the_game_where_the_check_views(tmp_path: Path) -> None:
    """PySC2's own search takes the folder that the check takes, with the program it checks."""
    for build in ("Base69232", "Base75689"):
        (tmp_path / "Versions" / build).mkdir(parents=True)
        (tmp_path / "Versions" / build / "SC2_x64").touch(mode=0o755)
    (tmp_path / "Maps" / "SMAC_Maps").mkdir(parents=True)
    (tmp_path / "Maps" / "SMAC_Maps" / "3s5z.SC2Map").write_text("map")
    code = """
from absl import flags
from pysc2 import run_configs
from pysc2.lib import sc_process
from rllib_seqmarl.envs.starcraft2.config import game_folder
flags.FLAGS(["smac"])
class Found(Exception): pass
def launch(self, run_config, exec_path, version, **kwargs):
    raise Found(exec_path)
sc_process.StarcraftProcess.__init__ = launch
sc_process.StarcraftProcess.__del__ = lambda self: None
config = run_configs.get()
assert config.data_dir == str(game_folder()), config.data_dir
assert config.map_data("SMAC_Maps/3s5z.SC2Map") == b"map"
try:
    config.start(want_rgb=False)
except Found as found:
    print(found)
"""
    done = run(code, SC2PATH=str(tmp_path), PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION="python")
    assert done.stdout.split() == [str(tmp_path / "Versions/Base75689/SC2_x64")], done.stderr


@needs_pysc2
def test_units_are_read_from_the_games_own_messages() -> None:
    code = """
from s2clientprotocol import raw_pb2
from helpers.starcraft2_stand_in import StandIn
from rllib_seqmarl.envs import check_team_env
from rllib_seqmarl.envs.starcraft2.config import StarCraft2Config
from rllib_seqmarl.envs.starcraft2.env import StarCraft2TeamEnv
StandIn.unit = raw_pb2.Unit
config = StarCraft2Config(map_name="3m", state=True)
env = StarCraft2TeamEnv(2, config, lambda seed: StandIn("3m", continuing_episode=True))
check_team_env(env)
assert isinstance(env._games[0]._battle.agents[0], raw_pb2.Unit)
"""
    done = run(code, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION="python")
    assert done.returncode == 0, done.stderr
