"""JAX's cache of compiled functions, and JaxMARL's SMAX without the rest of JaxMARL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jaxmarl")

SMALL_BATTLE = """
import sys
from rllib_seqmarl import registry
env = registry.make_environment("smac", 1, {"map_name": "3m"})
env.reset(seed=1)
"""


def run(code: str, **variables: str) -> str:
    """Runs code in a new process, which must print nothing on standard error."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def compiled(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.rglob("jit*-cache")}


def test_what_one_process_compiled_the_next_one_loads(tmp_path: Path) -> None:
    count = """
import jax
missed = []
jax.monitoring.register_event_listener(
    lambda event, **_: missed.append(event) if event.endswith("cache_misses") else None
)
"""
    code = count + SMALL_BATTLE + "print(len(missed))"
    first = int(run(code, XDG_CACHE_HOME=str(tmp_path)))
    written = compiled(tmp_path)
    assert any(name.startswith("jit__reset_all") for name in written)
    assert first >= len(written)
    assert int(run(code, XDG_CACHE_HOME=str(tmp_path))) == 0
    assert compiled(tmp_path) == written


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_home_that_cannot_be_written_to_is_silent(variable: str, tmp_path: Path) -> None:
    """A folder of /proc: root, too, can write nothing there."""
    others = {"XDG_CACHE_HOME": ""} if variable == "HOME" else {}
    run(SMALL_BATTLE, **{**others, variable: "/proc/self"})


def test_jax_own_variables_switch_it_off_and_choose_the_folder(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    off = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    run(SMALL_BATTLE, XDG_CACHE_HOME=str(here), **off)
    assert not here.exists()
    chosen = {"JAX_COMPILATION_CACHE_DIR": str(there)}
    run(SMALL_BATTLE, XDG_CACHE_HOME=str(here), **chosen)
    assert there.exists()
    assert not here.exists()


def test_jaxmarl_is_imported_as_far_as_needed_and_whole_later() -> None:
    code = (
        SMALL_BATTLE
        + """
from rllib_seqmarl.envs.smax.env import SMAXTeamEnv
assert type(env) is SMAXTeamEnv
imported = {name.split(".")[2] for name in sys.modules if name.startswith("jaxmarl.env")}
assert imported == {"multi_agent_env", "smax", "spaces"}, imported
import jaxmarl
from jaxmarl.environments import HeuristicEnemySMAX
assert isinstance(env.jaxmarl_env, HeuristicEnemySMAX)
assert jaxmarl.make("HeuristicEnemySMAX").num_agents > 0
"""
    )
    run(code)
