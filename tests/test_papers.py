"""benchmarks/papers: its files are valid, and what is kept of a run is what is compared."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rllib_seqmarl.experiments.compare.runs import read
from rllib_seqmarl.experiments.spec.check import check
from rllib_seqmarl.experiments.spec.experiment import Overrides, load_file

PAPERS = Path(__file__).parents[1] / "benchmarks" / "papers"
FILES = sorted(PAPERS.glob("*/*.yaml"))


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("papers_run", PAPERS / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_file_is_one_valid_run() -> None:
    assert len(FILES) > 10
    for file in FILES:
        (spec,) = load_file(str(file), Overrides())
        assert len(check(spec)) == 1, file
        # A run that is cut off goes on from a checkpoint; seeds come from the command.
        assert spec.config["evaluation_interval"]
        assert "seed" not in spec.config


def test_what_is_kept_of_a_run_gives_the_same_curves(
    script: Any, small: Any, tmp_path: Path
) -> None:
    config = small("MAPPO", evaluation_interval=2, evaluation_duration=4)
    algorithm = config.build_algo()
    trial = tmp_path / "trial"
    trial.mkdir()
    results = []
    for _ in range(5):
        result = {
            **algorithm.train(),
            "config": {"env": "distinct_actions", "seed": 7, "evaluation_interval": 2},
        }
        results.append(json.dumps(result, default=lambda x: getattr(x, "item", lambda: str(x))()))
    algorithm.stop()
    (trial / "result.json").write_text("\n".join(results) + "\n")
    (trial / "params.json").write_text("{}")
    script.keep(trial, tmp_path / "kept", "rllib train file x.yaml", 7)
    whole, kept = (read(tmp_path / name, print) for name in ("trial", "kept"))
    assert whole is not None
    assert kept is not None
    assert (kept.algorithm, kept.env, kept.config["seed"]) == ("MAPPO", "distinct_actions", 7)
    name = "evaluation/env_runners/episode_return_mean"
    one, other = whole.curve(name), kept.curve(name)
    assert len(one.steps) == 2
    for part in ("steps", "values", "wall", "cpu"):
        np.testing.assert_allclose(getattr(one, part), getattr(other, part), atol=1e-4)
    assert kept.column("num_env_steps_sampled_lifetime")[-1] == 400
    facts = json.loads((tmp_path / "kept" / "run.json").read_text())
    assert facts["num_env_steps_sampled_lifetime"] == 400
    assert facts["cpu_time_total_s"] > 0
    assert len(facts["commit"]) == 40


def test_a_finished_run_is_left_alone(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "results" / "mat_seed1"
    kept.mkdir(parents=True)
    (kept / "run.json").write_text("{}")
    script.train(PAPERS / "smax_3s5z" / "mat.yaml", 1, tmp_path / "out", tmp_path / "results")
    assert capsys.readouterr().out == "mat_seed1: finished before\n"
    assert not (tmp_path / "out").exists()


def test_the_last_checkpoint_plays_where_the_row_asks_for_it(
    script: Any, small: Any, tmp_path: Path
) -> None:
    algorithm = small("MAT").build_algo()
    trial = tmp_path / "experiment" / "trial"
    algorithm.save_to_path(str(trial / "checkpoint_000000"))
    algorithm.stop()
    asked = [{"env_config": {"num_agents": agents}, "episodes": 2} for agents in (3, 4)]
    script.evaluate(trial, tmp_path / "kept", asked)
    found = json.loads((tmp_path / "kept" / "evaluations.json").read_text())
    assert [{key: entry[key] for key in asked[0]} for entry in found] == asked
    assert all(np.isfinite(entry["metrics"]["episode_return"]) for entry in found)
    assert "--episodes 2" in found[1]["command"]
