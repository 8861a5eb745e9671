"""Trainings with a seed give the numbers that version 0.1 gave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from seeded_figures import RUNS, figures

from rllib_seqmarl import registry

KNOWN = json.loads((Path(__file__).parent / "data" / "seeded_figures.json").read_text())


def test_there_are_figures_of_every_algorithm() -> None:
    assert set(RUNS) >= set(registry.ALGORITHMS)
    assert set(KNOWN) == set(RUNS)


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(name, marks=pytest.mark.fast if name in ("SrSv", "A2PO", "SeCA") else ())
        for name in registry.ALGORITHMS
    ],
)
def test_two_iterations_give_the_figures_of_before(run: str) -> None:
    """On the machine that wrote them, to the last digit.

    Other processors and versions of torch add in another order, which moves the last digits of a
    float: with instructions of another processor (SSE4 in place of AVX-512) two iterations differ
    by 1e-5 at most, or by 1e-7 in what is near 0. The command ``benchmarks/seeded_figures.py
    --compare`` compares exactly, and 26 runs with other settings.
    """
    torch.set_num_threads(1)
    found = figures(run)
    missing = set(KNOWN[run]) - set(found)
    assert missing == set()
    assert {name: found[name] for name in KNOWN[run]} == pytest.approx(
        KNOWN[run], rel=1e-4, abs=1e-6, nan_ok=True
    )
