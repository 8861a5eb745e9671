"""progress.csv has every column; W&B and MLflow are asked for by an option."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rllib_seqmarl.cli import main
from rllib_seqmarl.experiments.train.loggers import ProgressTable, _finite

SMALL = """\
small:
  run: MAT
  env: distinct_actions
  stop: {training_iteration: 2}
  config:
    num_env_runners: 0
    num_envs_per_env_runner: 2
    rollout_fragment_length: 8
    num_epochs: 1
    embed_dim: 8
    evaluation_interval: 2
    evaluation_duration: 2
"""


@pytest.fixture
def trial(tmp_path):
    return SimpleNamespace(
        trial_id="a",
        local_path=str(tmp_path),
        init_local_path=lambda: None,
        checkpoint=None,
        storage=SimpleNamespace(trial_fs_path=str(tmp_path / "none"), storage_filesystem=None),
    )


@pytest.fixture
def table(monkeypatch):
    """Makes tables whose file lies where it is written."""
    monkeypatch.setattr(ProgressTable, "_restore_from_remote", lambda *arguments: None)
    return ProgressTable


def rows(trial):
    with Path(trial.local_path, "progress.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_columns_that_come_later_are_there(table, trial):
    log = table()
    log.log_trial_result(1, trial, {"training_iteration": 1, "config": {"lr": 1}})
    late = {"training_iteration": 2, "evaluation": {"env_runners": {"win_rate": 0.5}}}
    log.log_trial_result(2, trial, late)
    log.log_trial_result(3, trial, {"training_iteration": 3})

    assert rows(trial) == [
        {"training_iteration": "1", "evaluation/env_runners/win_rate": ""},
        {"training_iteration": "2", "evaluation/env_runners/win_rate": "0.5"},
        {"training_iteration": "3", "evaluation/env_runners/win_rate": ""},
    ]


def test_a_resumed_trial_goes_on_in_the_columns_of_its_file(table, trial):
    table().log_trial_result(1, trial, {"b": 1, "a": "x, y\nz"})
    with Path(trial.local_path, "progress.csv").open("a") as stream:
        stream.write("2,hal")  # killed while writing

    resumed = table()
    resumed.log_trial_result(2, trial, {"a": 3, "c": 5, "b": 4})
    resumed.log_trial_result(3, trial, {"b": 6})

    assert rows(trial) == [
        {"b": "1", "a": "x, y\nz", "c": ""},
        {"b": "4", "a": "3", "c": "5"},
        {"b": "6", "a": "", "c": ""},
    ]


def train(tmp_path, *arguments):
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    storage = str(tmp_path / "results")
    return main(["train", "file", str(file), "--storage-path", storage, *arguments])


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_missing_package_is_named_before_anything_runs(package, tmp_path, capsys, monkeypatch):
    # As if it were not there, where it is.
    monkeypatch.setitem(sys.modules, package, None)

    assert train(tmp_path, f"--{package}", "mine") == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"rllib: error: --{package}: the package {package} is not installed: "
        f"python -m pip install {package}"
    )
    assert not (tmp_path / "results").exists()


def test_numbers_that_are_not_finite_are_null_wherever_they_stand():
    result = {
        "number": math.nan,
        "inside": {"a": np.float32(math.inf), "b": (1.0, -math.inf)},
        "array": np.array([1.0, math.nan]),
        "count": 2,
    }
    assert _finite(result) == {
        "number": None,
        "inside": {"a": None, "b": [1.0, None]},
        "array": [1.0, None],
        "count": 2,
    }


def test_results_in_tables_and_tensorboard(tmp_path, no_ray):
    from tensorboardX.proto.event_pb2 import Event

    name = "evaluation/env_runners/episode_return_mean"
    # Not known after the first iteration, so that the score of a checkpoint would be NaN then.
    score = ("--checkpoint-score-attr", name)
    assert train(tmp_path, "--ray-num-cpus", "1", *score) == 0

    (folder,) = (tmp_path / "results" / "small").glob("MAT_*")
    lines = (folder / "result.json").read_text().splitlines()
    results = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert results[0]["checkpoint_score"] is None
    with (folder / "progress.csv").open(newline="") as stream:
        first, second = csv.DictReader(stream)
    assert first[name] == ""
    assert 0 <= float(second[name]) <= 1
    assert first["training_iteration"] == "1"
    (events,) = folder.glob("events.out.tfevents.*")
    content, tags, at = events.read_bytes(), set(), 0
    while at < len(content):  # length, its checksum, the event, its checksum
        length = int.from_bytes(content[at : at + 8], "little")
        event = Event.FromString(content[at + 12 : at + 12 + length])
        tags |= {value.tag for value in event.summary.value}
        at += 16 + length
    assert {f"ray/tune/{name}", "ray/tune/env_runners/episode_return_mean"} <= tags


def test_mlflow(tmp_path, no_ray, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")

    assert train(tmp_path, "--ray-num-cpus", "1", "--mlflow", "mine") == 0

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("mine")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["experiment"] == "small"
    assert run.data.params["num_epochs"] == "1"
    assert run.data.metrics["training_iteration"] == 2
    assert "evaluation/env_runners/episode_return_mean" in run.data.metrics


def test_wandb_offline(tmp_path, no_ray, monkeypatch, capsys):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # without a login
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert train(tmp_path, "--wandb", "mine") == 2
    *_, line = capsys.readouterr().err.splitlines()  # after words of wandb's own
    assert line.startswith("rllib: error: --wandb: ")
    assert "WANDB_MODE=offline" in line

    monkeypatch.setenv("WANDB_MODE", "offline")
    assert train(tmp_path, "--ray-num-cpus", "1", "--wandb", "mine") == 0

    (written,) = (tmp_path / "results" / "small" / "wandb").glob("offline-run-*/*.wandb")
    assert b"episode_return_mean" in written.read_bytes()
    assert os.environ.get("WANDB_API_KEY") is None
