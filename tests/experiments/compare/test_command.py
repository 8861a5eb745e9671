"""``rllib compare`` and ``rllib plot`` on results of real trainings."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.result_files import extract, write_run
from PIL import Image

from rllib_seqmarl.cli import main

needs_plot = pytest.mark.skipif(
    importlib.util.find_spec("rliable") is None, reason="the plot extra is not installed"
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extract(tmp_path_factory.mktemp("recorded"))


def colours(file: Path) -> set[tuple[int, int, int]]:
    with Image.open(file) as picture:
        return {colour for _, colour in picture.convert("RGB").getcolors(2**24)}


#: Of the first two groups.
BLUE, ORANGE = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


@needs_plot
def test_compares_real_runs(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    assert main(["compare", str(results), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "note:" not in printed
    assert f"Written to {out}: curves.png, profile.png, summary.md, summary.csv" in printed

    last = {"MAT": [], "MAPPO": []}
    for file in results.glob("*/*/result.json"):
        final = json.loads(file.read_text().splitlines()[-1])
        last[final["algorithm"]].append(final["env_runners"]["episode_return_mean"])
    with (out / "summary.csv").open(newline="") as stream:
        table = {line["group"]: line for line in csv.DictReader(stream)}
    assert set(table) == set(last)
    best = max(np.mean(values) for values in last.values())
    for name, line in table.items():
        assert int(line["runs"]) == len(last[name]) == 3
        assert float(line["final"]) == pytest.approx(np.mean(last[name]))
        assert float(line["final_low"]) <= float(line["final"]) <= float(line["final_high"])
        assert float(line["threshold"]) == pytest.approx(best)
        # CPU seconds of one process: about as many as seconds where it had a core to itself.
        assert float(line["cpu_s_in_all"]) > 0
        steps = [line[f"env_steps_to_{share}%"] for share in (25, 50, 75, 100)]
        reached = [float(step) for step in steps if step]
        assert reached == sorted(reached)
    page = (out / "summary.md").read_text()
    assert "`env_runners/episode_return_mean` of 6 runs: the mean over" in page
    for file in (out / "curves.png", out / "profile.png"):
        assert {BLUE, ORANGE} <= colours(file)


@needs_plot
def test_groups_metric_threshold_and_interquartile_mean(results: Path, tmp_path: Path) -> None:
    arguments = ["compare", *map(str, sorted(results.iterdir())), "--out", str(tmp_path)]
    arguments += ["--metric", "distinct_ratio", "--aggregate", "iqm", "--threshold", "0.8"]
    assert main([*arguments, "--group", "algorithm,config/seed"]) == 0
    page = (tmp_path / "summary.md").read_text()
    assert "`env_runners/distinct_ratio` of 6 runs: the interquartile mean" in page
    assert "| MAPPO, seed=1 | 1 | " in page
    assert "no interval: MAPPO, seed=1, MAPPO, seed=2, MAPPO, seed=3, MAT, seed=1" in page
    assert "100 % is 0.8." in page


@needs_plot
def test_no_profile_where_no_group_is_in_every_environment(tmp_path: Path) -> None:
    write_run(tmp_path / "in" / "1", [0.0, 1.0], algorithm="MAT", env="mpe")
    write_run(tmp_path / "in" / "2", [0.0, 1.0], algorithm="SrSv", env="smac")
    out = tmp_path / "out"
    out.mkdir()
    (out / "profile.png").touch()  # of an earlier comparison
    assert main(["compare", str(tmp_path / "in"), "--out", str(out)]) == 0
    assert {file.name for file in out.iterdir()} == {"curves.png", "summary.md", "summary.csv"}


@needs_plot
def test_plots_one_run(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = min(results.glob("mat*/*/"))
    checkpoint = trial / "checkpoint_000000"
    checkpoint.mkdir()
    (checkpoint / "rllib_checkpoint.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert main(["plot", str(checkpoint)]) == 0
    assert {BLUE, ORANGE} <= colours(tmp_path / f"{trial.name}.png")
    assert main(["plot", str(trial), "--out", "run.svg"]) == 0
    text = (tmp_path / "run.svg").read_text()
    for name in ("policy loss", "vf loss", "entropy", "seconds per iteration", "CPU seconds"):
        assert f"<!-- {name} -->" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "{empty}", "--out", "{new}"], "{empty} holds no results: there is no"),
        (["compare", "{runs}", "--out", "{file}"], "--out: {file} is a file; give a folder."),
        (["compare", "{runs}", "--out", "{file}/x"], "--out: cannot write {file}/x: Not a dir"),
        (
            ["compare", "{runs}", "--out", "{new}", "--metric", "episode_return_meen"],
            "--metric: no run has reported 'episode_return_meen'. Did you mean 'env_runners/epi",
        ),
        (
            ["compare", "{runs}", "--out", "{new}", "--group", "algorithm,seed"],
            "--group: no run has 'seed'. Did you mean 'config/seed'?",
        ),
        (
            ["compare", "{runs}", "--out", "{new}", "--threshold", "nan"],
            "--threshold must be a finite number, got nan.",
        ),
        (["plot", "{runs}"], "{runs} holds 2 trials; name one of them, e.g. {runs}/2, or see"),
        (["plot", "{runs}/1", "--out", "x.jpg"], "--out: x.jpg must end with .png, .pdf or .svg."),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
@needs_plot
def test_mistakes_are_told_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {name: str(tmp_path / name) for name in ("empty", "runs", "file", "new")}
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for seed in (1, 2):
        write_run(tmp_path / "runs" / str(seed), [1.0, 2.0], seed=seed)
    assert main([argument.format(**paths) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rllib: error: " + message.format(**paths))
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", [["compare", "x", "--out", "y"], ["plot", "x"]])
def test_a_missing_extra_is_told_with_the_remedy(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "rliable" else there(name)
    )
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error == (
        f"rllib: error: rllib {command[0]}: the package rliable is not installed: python -m pip "
        "install 'rllib-seqmarl[plot]'\n"
    )
