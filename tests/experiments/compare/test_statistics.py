"""Intervals and probabilities against rliable, and against all resamples there are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

rliable = pytest.importorskip("rliable.metrics", reason="the plot extra is not installed")

from rllib_seqmarl.experiments.compare import statistics  # noqa: E402

VALUES = np.array([0.1, 0.35, 0.4, 0.55, 0.6, 0.62, 0.8, 0.95])


def test_aggregates_are_those_of_rliable() -> None:
    table = VALUES[:, None]
    assert statistics.estimate(VALUES, "mean").value == pytest.approx(VALUES.mean())
    assert statistics.estimate(VALUES, "iqm").value == rliable.aggregate_iqm(table)
    assert statistics.estimate(VALUES, "iqm").value == pytest.approx(VALUES[2:-2].mean())


@pytest.mark.parametrize("how", statistics.AGGREGATES)
def test_intervals_are_those_of_all_resamples(how: str) -> None:
    """Of four runs there are 4^4 resamples, whose percentiles can be computed."""
    values = VALUES[[0, 2, 3, 7]]
    whole = rliable.aggregate_iqm if how == "iqm" else rliable.aggregate_mean
    exact = [whole(np.array(x)[:, None]) for x in itertools.product(values, repeat=4)]
    low, high = np.percentile(exact, (2.5, 97.5))
    found = statistics.estimate(values, how)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)
    assert found == statistics.estimate(values, how)  # the same at every call


def test_runs_are_resampled_whole() -> None:
    """Curves that are one above the other stay so: a point's interval knows nothing of others."""
    curves = np.array([[0.0, 1.0, 5.0], [1.0, 2.0, 6.0], [3.0, 4.0, 8.0]])
    middle, low, high = statistics.band(curves, "mean")
    assert low is not None
    assert high is not None
    np.testing.assert_allclose(middle, curves.mean(axis=0))
    np.testing.assert_allclose(low - middle, (low - middle)[0])
    np.testing.assert_allclose(high - middle, (high - middle)[0])
    assert (low < middle).all()
    assert (middle < high).all()


def test_one_run_has_no_interval() -> None:
    assert statistics.estimate(np.array([3.0]), "iqm") == (3.0, None, None)
    assert statistics.improvement(np.array([3.0]), VALUES) == (1.0, None, None)
    assert statistics.profile([np.array([3.0])], np.array([1.0]))[1:] == (None, None)


def test_the_probability_of_improvement_counts_ties_half() -> None:
    ours, theirs = np.array([1.0, 2.0, 5.0]), np.array([2.0, 3.0])
    found = statistics.improvement(ours, theirs)
    # Of six pairs (5, 2) and (5, 3) are won, and (2, 2) is a tie.
    assert found.value == pytest.approx(2.5 / 6)
    exact = [
        np.mean([(a > b) + 0.5 * (a == b) for a in mine for b in yours])
        for mine in itertools.product(ours, repeat=3)
        for yours in itertools.product(theirs, repeat=2)
    ]
    ends = np.percentile(exact, (2.5, 97.5))
    assert (found.low, found.high) == pytest.approx(tuple(ends), abs=0.03)
    assert statistics.improvement(theirs, ours).value == pytest.approx(1 - 2.5 / 6)


def test_a_profile_is_the_share_of_runs_above_each_level() -> None:
    """Every environment counts the same, however many runs it has."""
    scores = [np.array([0.2, 0.6]), np.array([0.1, 0.3, 0.7, 0.9])]
    share, low, high = statistics.profile(scores, np.array([0.0, 0.25, 0.65, 1.0]))
    assert low is not None
    assert high is not None
    np.testing.assert_allclose(share, [1, (1 / 2 + 3 / 4) / 2, (0 + 1 / 2) / 2, 0])
    assert low[0] == high[0] == 1
    assert low[1] < share[1] < high[1]
