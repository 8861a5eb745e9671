"""An algorithm from outside, by its import path: trained, exported, evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.running import ROOT, rllib

PYTHONPATH = f"{ROOT}:{ROOT / 'tests'}"
FILE = """\
own:
  run: helpers.own_algorithm:Own
  env: distinct_actions
  stop: {training_iteration: 2, distinct_ratio: 2.0}
  config:
    num_envs_per_env_runner: 2
    rollout_fragment_length: 4
    num_epochs: 1
    embed_dim: 16
    bonus: 0.25
"""


def test_the_commands_take_it(tmp_path: Path) -> None:
    file, policy = tmp_path / "own.yaml", tmp_path / "own.safetensors"
    file.write_text(FILE)
    train = ("train", "file", str(file), "--storage-path", str(tmp_path))

    run = rllib(*train, "--stop", '{"training_iteration": 1}', PYTHONPATH=PYTHONPATH)

    assert run.returncode == 0, run.stdout
    assert "own: training Own on distinct_actions" in run.stdout
    (trial,) = (folder for folder in (tmp_path / "own").iterdir() if folder.is_dir())
    assert json.loads((trial / "params.json").read_text())["bonus"] == 0.25

    run = rllib("export", str(trial), str(policy), PYTHONPATH=PYTHONPATH)
    assert run.returncode == 0, run.stdout
    evaluate = ("evaluate", str(policy), "--episodes", "2")
    run = rllib(*evaluate, PYTHONPATH=PYTHONPATH)
    assert run.returncode == 2
    assert "would be imported and run: helpers.own_algorithm:Own" in run.stdout
    run = rllib(*evaluate, "--trust-imports", PYTHONPATH=PYTHONPATH)
    assert run.returncode == 0, run.stdout
    assert "Own on distinct_actions: 2 episodes" in run.stdout


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            "helpers.no_such_module:Own",
            "'helpers.no_such_module:Own' cannot be imported: No module",
        ),
        ("helpers.own_algorithm:Owm", "has no attribute 'Owm'"),
        ("helpers.running:rllib", "is no algorithm of RLlib"),
    ],
)
def test_a_wrong_path_gives_one_line(
    path: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rllib_seqmarl.cli import main

    file = tmp_path / "own.yaml"
    file.write_text(FILE.replace("helpers.own_algorithm:Own", path))

    assert main(["train", "file", str(file), "--storage-path", str(tmp_path / "results")]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"rllib: error: {file}: experiment 'own': ")
    assert expected in line
    assert not (tmp_path / "results").exists()
