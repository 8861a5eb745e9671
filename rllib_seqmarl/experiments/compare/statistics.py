"""Means, intervals and probabilities over the runs of a group, as rliable defines them.

Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice" (2021): runs
are resampled with replacement, those of every environment among themselves, and the middle 95 % of
what the resamples give is the interval. The resampling stands here: rliable's own takes one
resample at a time, and numbers of NumPy's global generator, so that no two calls agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from rliable import metrics as rliable

Array = NDArray[np.float64]

RESAMPLES = 2000
_TAILS = (2.5, 97.5)

#: What a group's runs are summed up by.
AGGREGATES = ("mean", "iqm")


class Estimate(NamedTuple):
    """A value with the ends of its 95 % interval, None where there is only one run."""

    value: float
    low: float | None
    high: float | None


def resample(num_runs: int, stream: int = 0) -> NDArray[np.intp]:
    """Runs of every resample [RESAMPLES, runs]; the same at every call with one ``stream``."""
    return np.random.default_rng(stream).integers(num_runs, size=(RESAMPLES, num_runs))


def estimate(values: Array, how: str) -> Estimate:
    """The aggregate of a value per run [S]."""
    middle, low, high = band(values[:, None], how)
    if low is None or high is None:
        return Estimate(float(middle[0]), None, None)
    return Estimate(float(middle[0]), float(low[0]), float(high[0]))


def band(values: Array, how: str) -> tuple[Array, Array | None, Array | None]:
    """The aggregate of curves [S, P] of S runs at each point, and the ends of its interval [P]."""
    whole = rliable.aggregate_iqm if how == "iqm" else rliable.aggregate_mean
    middle = np.array([whole(point[:, None]) for point in values.T], float)
    if len(values) == 1:
        return middle, None, None
    chosen = resample(len(values))
    ends = np.empty((2, values.shape[1]))
    for p, point in enumerate(values.T):
        resampled = point[chosen]  # [R, S]
        if how == "iqm":
            aggregated = scipy.stats.trim_mean(resampled, 0.25, axis=1)
        else:
            aggregated = resampled.mean(axis=1)
        ends[:, p] = np.percentile(aggregated, _TAILS)
    return middle, ends[0], ends[1]


def improvement(values: Array, others: Array) -> Estimate:
    """The probability that a run of one group [S] is better than one of another [S']."""
    value = float(rliable.probability_of_improvement(values[:, None], others[:, None]))
    if len(values) == 1 or len(others) == 1:
        return Estimate(value, None, None)
    # [S, S']: of two equal runs each is the better one half of the time.
    better = (values[:, None] > others) + 0.5 * (values[:, None] == others)
    mine, theirs = resample(len(values)), resample(len(others), stream=1)
    resampled = better[mine[:, :, None], theirs[:, None, :]].mean(axis=(1, 2))
    low, high = np.percentile(resampled, _TAILS)
    return Estimate(value, float(low), float(high))


def profile(scores: Sequence[Array], levels: Array) -> tuple[Array, Array | None, Array | None]:
    """The share of runs whose score is above each level [L], and the ends of its interval.

    Args:
        scores: of the runs in each environment, [S] each; every environment counts the same.
        levels: [L].
    """

    def above(values: Array) -> Array:
        return (values[..., None] > levels).mean(axis=-2)

    share = np.mean([above(values) for values in scores], axis=0)
    if min(map(len, scores)) == 1:
        return share, None, None
    resampled = np.mean(
        [above(values[resample(len(values), stream)]) for stream, values in enumerate(scores)],
        axis=0,
    )
    low, high = np.percentile(resampled, _TAILS, axis=0)
    return share, low, high
