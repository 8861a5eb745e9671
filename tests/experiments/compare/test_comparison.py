"""What is computed from curves that are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.result_files import METRIC, write_run

from rllib_seqmarl.errors import UserError

pytest.importorskip("rliable.metrics", reason="the plot extra is not installed")

from rllib_seqmarl.experiments.compare import summary
from rllib_seqmarl.experiments.compare.comparison import Comparison, compare
from rllib_seqmarl.experiments.compare.runs import read_all


def compared(
    tmp_path: Path, runs: Mapping[str, Sequence[Sequence[Any]]], **options: Any
) -> Comparison:
    """Of runs by algorithm, each with its values at 100, 200, ... environment steps."""
    for algorithm, curves in runs.items():
        for seed, values in enumerate(curves):
            folder = tmp_path / f"{algorithm}_{seed}"
            write_run(folder, values, algorithm=algorithm, seed=seed)
    given = {"keys": ["algorithm", "env"], "how": "mean", "threshold": None, **options}
    return compare(read_all([str(tmp_path)], pytest.fail), METRIC, **given)


RUNS = {
    "MAT": ([0.0, 0.5, 0.9, 1.0], [0.0, 0.2, 0.6, 0.8]),
    "MAPPO": ([0.0, 0.1, 0.3, 0.4], [0.0, 0.1, 0.1, 0.2]),
}


def test_final_values_areas_and_first_reach(tmp_path: Path) -> None:
    comparison = compared(tmp_path, RUNS)
    (env,) = comparison.environments
    mappo, mat = env.groups
    assert (mappo.label, mat.label) == ("MAPPO", "MAT")
    assert mat.final.value == pytest.approx(0.9)
    assert (env.threshold, env.base) == (mat.final.value, 0.0)  # the best of the two groups
    # Trapezes of width 100 under (0, 0.35, 0.75, 0.9), by 300 steps.
    assert mat.area.value == pytest.approx((0.175 + 0.55 + 0.825) / 3)
    np.testing.assert_allclose(mat.middle, [0, 0.35, 0.75, 0.9])
    np.testing.assert_allclose(mat.steps, [100, 200, 300, 400])

    assert [reach.level for reach in mat.reached] == pytest.approx([0.225, 0.45, 0.675, 0.9])
    # 25 %: 0.5 at 200 and 0.6 at 300; 75 %: 0.9 at 300 and 0.8 at 400; 100 %: 0.9 at 300 alone.
    efforts = [(reach.runs, reach.effort.steps) for reach in mat.reached if reach.effort]
    assert efforts == [(2, 250), (2, 250), (2, 350), (1, 300)]
    assert mat.reached[0].effort is not None
    assert (mat.reached[0].effort.wall, mat.reached[0].effort.cpu) == (25, 50)
    assert [reach.runs for reach in mappo.reached] == [1, 0, 0, 0]
    assert mappo.reached[1].effort is None
    assert (mat.total.steps, mat.total.wall, mat.total.cpu) == (400, 40, 80)

    assert mat.better_than["MAPPO"].value == 1
    assert mappo.better_than["MAT"].value == 0
    text = summary.markdown(comparison)
    assert "| MAT | 2 | 0.9 [0.8, 1] | 0.517 [" in text
    assert (
        "] | 250 (25s, CPU 50s) | 250 (25s, CPU 50s) | 350 (35s, CPU 1m 10s) | "
        "1/2: 300 (30s, CPU 1m 00s) | 400 (40s, CPU 1m 20s) |" in text
    )
    assert "100 % is 0.9." in text
    assert "| MAPPO | 0.5 [0, 1] | 0 [0, 0] | 0 [0, 0] | 0 [0, 0] |" in text  # the profile


def test_a_given_threshold(tmp_path: Path) -> None:
    (env,) = compared(tmp_path, RUNS, threshold=0.4).environments
    assert [reach.level for reach in env.groups[0].reached] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert [reach.runs for reach in env.groups[0].reached] == [2, 2, 1, 1]


def test_shares_of_negative_returns_count_from_where_the_runs_begin(tmp_path: Path) -> None:
    runs = {"MAT": ([-50.0, -30.0, -10.0], [-30.0, -30.0, -20.0])}
    comparison = compared(tmp_path, runs)
    (env,) = comparison.environments
    assert (env.base, env.threshold) == (-40, -15)
    assert [r.level for r in env.groups[0].reached] == pytest.approx([-33.75, -27.5, -21.25, -15])
    assert "100 % is -15, 0 % is -40, where the runs begin." in summary.markdown(comparison)
    with pytest.raises(UserError, match="--threshold -45 is not above -40, where the runs on mpe"):
        compare(read_all([str(tmp_path)], pytest.fail), METRIC, ["env"], "mean", -45.0)


def test_nothing_learned_has_no_threshold(tmp_path: Path) -> None:
    comparison = compared(tmp_path, {"MAT": ([0.0, 0.0], [0.0, 0.0])})
    (env,) = comparison.environments
    assert list(env.groups[0].reached) == []
    assert comparison.scores() == {}
    assert comparison.notes == [
        "mpe: no group ends above 0, so that there is no threshold to reach."
    ]
    assert "25%" not in summary.markdown(comparison).split("## Columns")[0]


def test_runs_of_other_lengths_and_points(tmp_path: Path) -> None:
    """The curve ends with the shortest run; between a run's points it is a line."""
    comparison = compared(tmp_path, {"MAT": ([0.0, 1.0, 2.0, 3.0], [0.0, None, 4.0])}, how="iqm")
    (env,) = comparison.environments
    assert env.common_steps == (100, 300)
    np.testing.assert_allclose(env.groups[0].middle, [0, 1.5, 3])
    assert env.groups[0].final.value == 3.5
    assert "the runs end after 300 to 400 environment steps" in comparison.notes[0]


def test_what_a_reader_should_know(tmp_path: Path) -> None:
    write_run(tmp_path / "1", [1.0, 2.0], lr=0.1, seed=1)
    write_run(tmp_path / "2", [1.0, 2.0], lr=0.2, seed=1)
    write_run(tmp_path / "3", [1.0, 2.0], algorithm="SrSv")
    runs = read_all([str(tmp_path)], pytest.fail)
    comparison = compare(runs, METRIC, ["algorithm"], "mean", None)
    assert comparison.notes == [
        "mpe: one run only, and so no interval: SrSv.",
        "MAT on mpe: the 2 runs differ not only in the seed, but in lr; --group "
        "algorithm,config/lr keeps them apart.",
    ]
    (env,) = comparison.environments
    assert env.groups[1].low is None
    assert env.groups[1].final == (2.0, None, None)
    write_run(tmp_path / "4", [1.0, 2.0], lr=0.2, seed=1)
    runs = read_all([str(tmp_path)], pytest.fail)
    notes = compare(runs, METRIC, ["algorithm", "config/lr"], "mean", None).notes
    assert "MAT, lr=0.2 on mpe: several runs have the seed 1;" in notes[1]


def test_runs_without_common_steps(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"MAT_1 begins at 300 and another one ends at 200"):
        compared(tmp_path, {"MAT": ([1.0, 2.0], [None, None, 3.0])})
