"""Checkpoints of version 0.1, one per family of learners, written after one iteration each.

They load, play, and train on as if nothing had been renamed since: the second iteration gives the
metrics that it gave then. (On the machine that wrote them to the last digit; the tolerance is for
other processors, see `test_seeded_figures`.)
"""

from __future__ import annotations

import json
import math
import tarfile
from pathlib import Path
from typing import Any

import pytest
import seeded_figures
from ray.rllib.algorithms.algorithm import Algorithm

from rllib_seqmarl.experiments.evaluate.evaluation import evaluate_checkpoint

DATA = Path(__file__).parent / "data"
FIGURES: dict[str, dict[str, float]] = json.loads((DATA / "seeded_figures.json").read_text())


@pytest.fixture(params=seeded_figures.CHECKPOINTS)
def run(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def checkpoint(run: str, tmp_path: Path) -> str:
    name = run.replace(" ", "_")
    with tarfile.open(DATA / "checkpoints_0.1" / f"{name}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return str(tmp_path / name)


def test_an_old_checkpoint_trains_on(ray_session: None, run: str, checkpoint: str) -> None:
    algorithm: Any = Algorithm.from_checkpoint(checkpoint)
    assert algorithm.training_iteration == 1
    found = seeded_figures.train_once(algorithm, 2) | seeded_figures.digest_of_weights(algorithm)
    algorithm.stop()
    # Means over the last episodes are of this iteration's alone: version 0.1 kept no others.
    expected = {
        k: v
        for k, v in FIGURES[run].items()
        if k.startswith(("2/", "weights/")) and not k.startswith("2/env_runners/")
    }
    assert len(expected) > 12
    assert {name: found.get(name) for name in expected} == pytest.approx(
        expected, rel=1e-4, abs=1e-6, nan_ok=True
    )


def test_an_old_checkpoint_plays(ray_session: None, checkpoint: str) -> None:
    result = evaluate_checkpoint(checkpoint, episodes=8, seed=0, scripted_policies=[])
    assert result["episodes"] == 8
    assert math.isfinite(result["metrics"]["episode_return"])
