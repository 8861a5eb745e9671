"""Reading results, and what sets runs apart."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from helpers.result_files import METRIC, row, write_run

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.compare.runs import (
    choose_metric,
    differences,
    environment_labels,
    group_labels,
    read,
    read_all,
)


def read_one(folder: Path):
    run = read(folder, pytest.fail)
    assert run is not None
    return run


def test_iterations_that_were_trained_again_count_once(tmp_path: Path) -> None:
    """Five iterations, a kill, the checkpoint after the second, and two more so far."""
    rows = [row(i, float(i)) for i in (1, 2, 3, 4, 5)] + [row(3, 30.0), row(4, 40.0)]
    run = read_one(write_run(tmp_path / "trial", rows))
    assert run.column("training_iteration").tolist() == [1, 2, 3, 4]
    curve = run.curve(METRIC)
    assert curve.values.tolist() == [1, 2, 30, 40]
    assert curve.steps.tolist() == [100, 200, 300, 400]
    assert curve.wall.tolist() == [10, 20, 30, 40]
    assert curve.cpu.tolist() == [20, 40, 60, 80]


def test_what_is_not_a_number_is_no_point_of_the_curve(tmp_path: Path) -> None:
    """Python's json writes NaN and Infinity; other results lack the metric."""
    rows = [row(1, math.nan), row(2, 2.0), row(3, None), row(4, math.inf), row(5, 5.0)]
    trial = write_run(tmp_path / "trial", rows)
    assert "NaN" in (trial / "result.json").read_text()
    curve = read_one(trial).curve(METRIC)
    assert curve.steps.tolist() == [200, 500]
    assert curve.values.tolist() == [2, 5]


def test_an_evaluation_is_one_point_although_results_repeat_it(tmp_path: Path) -> None:
    rows = []
    for i in range(1, 8):
        played = i // 3  # in the iterations 3 and 6
        # As RLlib counts: the steps of the evaluation itself, then those of all so far.
        counts = {"num_env_steps_sampled_lifetime": 50 * (played if i % 3 else 1), "win_rate": 0.5}
        rows.append(row(i, 1.0, **({"evaluation": {"env_runners": counts}} if played else {})))
    trial = write_run(tmp_path / "trial", rows, evaluation_interval=3)
    curve = read_one(trial).curve("evaluation/env_runners/win_rate")
    assert curve.steps.tolist() == [300, 600]


@pytest.mark.parametrize("interval", [None, "x", [3], 0, -1, math.nan])
def test_without_an_interval_every_evaluation_is_a_point(interval: object, tmp_path: Path) -> None:
    evaluation = {"evaluation": {"env_runners": {"win_rate": 0.5}}}
    rows = [row(i, 1.0, **evaluation) for i in (1, 2)]
    trial = write_run(tmp_path / "trial", rows, evaluation_interval=interval)
    assert read_one(trial).curve("evaluation/env_runners/win_rate").steps.tolist() == [100, 200]


def test_a_last_line_that_is_cut_is_not_there_yet(tmp_path: Path) -> None:
    trial = write_run(tmp_path / "trial", [1.0, 2.0])
    with (trial / "result.json").open("a") as stream:
        stream.write(json.dumps(row(3, 3.0))[:40])
    assert read_one(trial).curve(METRIC).values.tolist() == [1, 2]


def test_a_cut_line_in_the_middle_is_said(tmp_path: Path) -> None:
    """A kill cut the line short, and the resumed trial wrote on behind it."""
    trial = write_run(tmp_path / "trial", [1.0, 2.0])
    with (trial / "result.json").open("a") as stream:
        stream.write(json.dumps(row(3, 3.0))[:40] + json.dumps(row(3, 3.0)) + "\n")
        stream.write(json.dumps(row(4, 4.0)) + "\n")
    said: list[str] = []
    run = read(trial, said.append)
    assert run is not None
    assert run.curve(METRIC).values.tolist() == [1, 2, 4]
    assert said == [f"{trial / 'result.json'}: lines that cannot be read and are left out: 1."]


def test_results_of_older_versions(tmp_path: Path) -> None:
    """They do not name the algorithm, and count no CPU seconds."""
    rows = [row(1, 1.0), row(2, 2.0)]
    for name in ("experiment/SrSv_smac_1", "other/MAPPO_smac_2"):
        trial = write_run(tmp_path / name, rows, env="smac")
        file = trial / "result.json"
        old = [json.loads(line) for line in file.read_text().splitlines()]
        for result in old:
            del result["algorithm"], result["cpu_time_total_s"]
        file.write_text("".join(json.dumps(result) + "\n" for result in old))
    (tmp_path / "experiment" / "experiment.json").write_text('{"algorithm": "PMAT"}')
    runs = read_all([str(tmp_path)], pytest.fail)
    assert [run.algorithm for run in runs] == ["PMAT", "MAPPO"]
    assert np.isnan(runs[0].curve(METRIC).cpu).all()


def test_folders_of_trials_experiments_and_above(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a" / "x" / "MAT_1", [1.0])
    second = write_run(tmp_path / "a" / "y" / "MAT_2", [1.0])
    checkpoint = first / "checkpoint_000000"
    checkpoint.mkdir()
    (checkpoint / "rllib_checkpoint.json").write_text("{}")

    def found(*paths: Path) -> list[Path]:
        return [run.path for run in read_all(map(str, paths), pytest.fail)]

    assert found(first) == found(first.parent) == found(checkpoint) == [first]
    assert found(tmp_path) == [first, second]
    assert found(second, tmp_path, second.parent) == [second, first]  # each once


def test_a_trial_without_results_is_left_out_and_said(tmp_path: Path) -> None:
    trial = write_run(tmp_path / "MAT_1", [1.0])
    empty = write_run(tmp_path / "MAT_2", [])
    said: list[str] = []
    assert [run.path for run in read_all([str(tmp_path)], said.append)] == [trial]
    assert said == [f"{empty} has no results yet and is left out."]
    with pytest.raises(UserError, match="no results yet in"):
        read_all([str(empty)], said.append)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "no such folder: "),
        ("empty", r"holds no results: there is no result\.json in it or below it"),
        ("file.txt", r"is a file; give the folder of a trial or of an experiment"),
        ("s3://bucket/results", "is a URI: give a folder"),
    ],
)
def test_folders_without_results(path: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    with pytest.raises(UserError, match=message):
        read_all([path if "://" in path else str(tmp_path / path)], pytest.fail)


# --- metrics ------------------------------------------------------------------------------------


def metrics_of(tmp_path: Path, *names: str) -> list:
    """A run for each name, which has its metric beside the return."""
    for i, name in enumerate(names):
        result = row(1, 1.0)
        group = result
        *outer, last = name.split("/")
        for part in outer:
            group = group.setdefault(part, {})
        group[last] = 0.5
        write_run(tmp_path / f"MAT_{i}", [result])
    return read_all([str(tmp_path)], pytest.fail)


EVALUATION, TRAINING = "evaluation/env_runners/win_rate", "env_runners/win_rate"


@pytest.mark.parametrize(
    ("reported", "chosen"),
    [
        ((EVALUATION, EVALUATION), EVALUATION),
        ((TRAINING, TRAINING), TRAINING),
        ((EVALUATION, TRAINING), METRIC),
        (("env_runners/x", "env_runners/x"), METRIC),
    ],
)
def test_the_default_is_the_first_that_all_runs_have(
    reported: tuple[str, ...], chosen: str, tmp_path: Path
) -> None:
    assert choose_metric(metrics_of(tmp_path, *reported), None) == chosen


@pytest.mark.parametrize(
    "given", ["win_rate", TRAINING, "env_runners/won", "won", "episode_reward_mean"]
)
def test_metrics_by_short_and_old_names(given: str, tmp_path: Path) -> None:
    runs = metrics_of(tmp_path, TRAINING)
    assert choose_metric(runs, given) == (METRIC if "reward" in given else TRAINING)


def test_metrics_that_are_not_there(tmp_path: Path) -> None:
    runs = metrics_of(tmp_path, TRAINING, "env_runners/x")
    with pytest.raises(UserError, match=r"reported 'env_runners/win_rat'\. Did you mean 'env_run"):
        choose_metric(runs, "env_runners/win_rat")
    with pytest.raises(UserError, match=r"1 of 2 runs have not reported 'env_runners/win_rate', e"):
        choose_metric(runs, "win_rate")
    with pytest.raises(UserError, match=f"e.g. {runs[1].path}; compare by --metric {METRIC}, or"):
        choose_metric(runs, "won")


# --- groups -------------------------------------------------------------------------------------


def test_groups_by_settings(tmp_path: Path) -> None:
    write_run(tmp_path / "1", [1.0], lr=0.1, model={"dim": 8})
    write_run(tmp_path / "2", [1.0], algorithm="MAPPO", lr=0.2)
    runs = read_all([str(tmp_path)], pytest.fail)
    assert group_labels(runs, ["algorithm", "env"]) == ["MAT", "MAPPO"]
    assert group_labels(runs, ["algorithm", "config/lr"]) == ["MAT, lr=0.1", "MAPPO, lr=0.2"]
    assert group_labels(runs, ["config/model/dim"]) == ["dim=8", "all runs"]
    with pytest.raises(UserError, match=r"--group: no run has 'lr'\. Did you mean 'config/lr'\?"):
        group_labels(runs, ["lr"])
    with pytest.raises(UserError, match=r"Did you mean 'algorithm'\?"):
        group_labels(runs, ["algoritm"])


def test_environments_are_told_apart_by_map_and_by_what_differs(tmp_path: Path) -> None:
    for i, (map_name, agents) in enumerate((("3s5z", 8), ("8m", 8), ("8m", 9))):
        config = {"map_name": map_name, "agents": agents, "same": 1}
        write_run(tmp_path / str(i), [1.0], env="smac", env_config=config)
    write_run(tmp_path / "x", [1.0], env="mpe", env_config={"agents": 3})
    runs = read_all([str(tmp_path)], pytest.fail)
    assert environment_labels(runs, ["algorithm"]) == [
        "smac 3s5z, agents=8",
        "smac 8m, agents=8",
        "smac 8m, agents=9",
        "mpe",
    ]
    assert environment_labels(runs, ["config/env_config/agents"])[1:3] == ["smac 8m", "smac 8m"]


def test_settings_that_differ_beside_seed_and_place(tmp_path: Path) -> None:
    write_run(tmp_path / "1", [1.0], seed=1, lr=0.1, num_env_runners=0, f="<function at 0x1>")
    write_run(tmp_path / "2", [1.0], seed=2, lr=0.2, num_env_runners=2, f="<function at 0x2>")
    assert differences(read_all([str(tmp_path)], pytest.fail)) == ["lr"]


@pytest.mark.parametrize(
    ("one", "other", "labels"),
    [
        (
            {"allies/marine": 5},
            {"allies/zealot": 3},
            ["smac, allies/marine=5", "smac, allies/zealot=3"],
        ),
        (
            {"map_name": "3m"},
            {"map_name": "3m", "agent_id": "type"},
            ["smac 3m", "smac 3m, agent_id=type"],
        ),
        # The state is read by critics and changes no game.
        ({"map_name": "3m"}, {"map_name": "3m", "state": True}, ["smac 3m", "smac 3m"]),
    ],
)
def test_a_setting_that_only_some_write_makes_another_environment(
    one: dict[str, object], other: dict[str, object], labels: list[str], tmp_path: Path
) -> None:
    for name, config in (("1", one), ("2", other)):
        write_run(tmp_path / name, [1.0], env="smac", env_config=config)
    assert environment_labels(read_all([str(tmp_path)], pytest.fail), ["algorithm"]) == labels


def test_a_users_own_environment_may_mean_something_else_by_its_state(tmp_path: Path) -> None:
    for name, state in (("1", "far"), ("2", "near")):
        write_run(tmp_path / name, [1.0], env="package:Game", env_config={"state": state})
    labels = environment_labels(read_all([str(tmp_path)], pytest.fail), ["algorithm"])
    assert labels == ["package:Game, state=far", "package:Game, state=near"]
