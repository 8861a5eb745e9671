"""Modules that nobody installed: in the folder of the command, and beside the experiment's file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: The command itself: with `python -c` or `-m` Python would add the folder of the command.
COMMAND = str(Path(sys.executable).parent / "rllib")
TEAM = """
from rllib_seqmarl.envs.toy.distinct_actions import DistinctActions
from rllib_seqmarl import registry

class Line(DistinctActions):
    \"\"\"Stands in no package.\"\"\"

    def __init__(self, num_envs, num_agents=3):
        settings = registry.environment("distinct_actions").read({"num_agents": num_agents})
        super().__init__(num_envs, settings)
"""
EXPERIMENT = """
beside:
  run: MAT
  env: "team_beside:Line"
  stop: {training_iteration: 1}
  config:
    num_env_runners: 1
    num_envs_per_env_runner: 2
    rollout_fragment_length: 4
    num_epochs: 1
"""


def run(folder: Path, *arguments: str) -> str:
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RAY_ADDRESS")}
    result = subprocess.run(
        [COMMAND, *arguments],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return result.stdout


def test_a_module_in_the_folder_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "team_here.py").write_text(TEAM)
    assert "It declares no settings" in run(tmp_path, "env", "show", "team_here:Line")


def test_what_is_nowhere_is_told_with_the_remedy(tmp_path: Path) -> None:
    said = run(tmp_path, "train", "--algo", "MAT", "--env", "team_nowhere:Line")
    assert "environment 'team_nowhere:Line' cannot be imported: No module named" in said
    assert "Put team_nowhere.py into the folder of the command or beside the experiment's" in said
    assert "ray job submit --working-dir ." in said
    assert len(said.splitlines()) == 1


def test_a_step_that_exits_is_no_success(tmp_path: Path) -> None:
    """``sys.exit(0)`` of a game ended the command as if the training was complete."""
    step = "    def _step_envs(self, actions, frozen):\n        raise SystemExit(0)\n"
    (tmp_path / "team_beside.py").write_text(TEAM + "\n" + step)
    (tmp_path / "train.yaml").write_text(EXPERIMENT.replace("runners: 1", "runners: 0"))
    options = ("--storage-path", "results", "--ray-num-cpus", "1")
    said = run(tmp_path, "train", "file", "train.yaml", *options)
    assert "failed in a step: RuntimeError: sys.exit(0) was called. Fix it" in said
    assert "1 of 1 trials failed" in said


def test_a_module_beside_the_file_is_found_by_runners_too(tmp_path: Path) -> None:
    beside, elsewhere = tmp_path / "my expériment", tmp_path / "elsewhere"
    beside.mkdir()
    elsewhere.mkdir()
    (beside / "team_beside.py").write_text(TEAM)
    (beside / "train.yaml").write_text(EXPERIMENT)
    options = ("--storage-path", "res ults", "--ray-num-cpus", "2")
    said = run(elsewhere, "train", "file", str(beside / "train.yaml"), *options)
    (checkpoint,) = elsewhere.glob("res ults/beside/*/checkpoint_0*")
    assert "error" not in said.lower(), said
    # Its folder is not known there; where the module is, the checkpoint plays.
    said = run(elsewhere, "evaluate", str(checkpoint), "--episodes", "2")
    assert "'team_beside:Line' cannot be imported" in said
    assert "Put team_beside.py into the folder of the command" in said
    played = run(beside, "evaluate", os.path.relpath(checkpoint, beside), "--episodes", "2")
    assert "2 episodes, greedy actions" in played
