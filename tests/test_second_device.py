"""Learner and runner work on a device that is not the CPU; `helpers.second_device` says how.

This finds tensors and generators that stay on the CPU, and where the CPU waits for the device
without need. That the kernels of a GPU compute the same is for ``pytest -m gpu``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from seeded_figures import config_of

from rllib_seqmarl import registry

TESTS = Path(__file__).parent
KNOWN = json.loads((TESTS / "data" / "seeded_figures.json").read_text())

#: One of every algorithm, and what takes another way through the code.
RUNS = (
    *sorted(registry.ALGORITHMS),
    "AOAD-MAT sum",
    "MAPPO recurrent",
    "MAT gru",
    "MAT on cars",
    "MAT random order",
    "SrSv on cars",
    "SrSv per minibatch",
)


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    """What every run reports; all in one process beside this one."""
    pytest.importorskip("torch", minversion="2.10")  # devices in Python
    output = subprocess.run(
        [sys.executable, str(TESTS / "helpers" / "second_device.py"), *RUNS],
        env={**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS.parent / 'benchmarks'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ).stdout
    lines = [line for line in output.splitlines() if line.startswith("result ")]
    results = [json.loads(line.removeprefix("result ")) for line in lines]
    return {result["run"]: result for result in results} | {"output": {"text": output[-3000:]}}


@pytest.mark.parametrize("run", RUNS)
def test_a_training_is_the_same_on_another_device(
    run: str, results: dict[str, dict[str, Any]]
) -> None:
    assert run in results, results["output"]["text"]
    found = results[run]["figures"]
    assert {name: found[name] for name in KNOWN[run]} == pytest.approx(
        KNOWN[run], rel=1e-4, abs=1e-6, nan_ok=True
    )


@pytest.mark.parametrize("run", ["MAT", "SrSv", "MAPPO"])
def test_the_learner_seldom_waits_for_the_device(
    run: str, results: dict[str, dict[str, Any]]
) -> None:
    """Per gradient step: one look for what is not finite, and one at the returns."""
    assert run in results, results["output"]["text"]
    waits = Counter(results[run]["synchronisations"])
    learner = {where: count for where, count in waits.items() if "learner.py" in where}
    config = config_of(run)
    rows = config.num_envs_per_env_runner * config.rollout_fragment_length
    steps = 2 * config.num_epochs * -(-rows // config.minibatch_size)
    # What an iteration waits for once: its metrics, and whether returns vary.
    once = 2 * 20
    assert sum(learner.values()) <= 2 * steps + once, learner
    assert not any("returns.py" in where for where in waits)
