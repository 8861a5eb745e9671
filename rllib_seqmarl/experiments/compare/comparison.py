"""What is said of the runs of each group in each environment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.compare import statistics
from rllib_seqmarl.experiments.compare.runs import (
    Array,
    Curve,
    Run,
    differences,
    environment_labels,
    group_labels,
)
from rllib_seqmarl.experiments.compare.statistics import Estimate

#: Shares of the threshold whose first reach is reported.
SHARES = (0.25, 0.5, 0.75, 1.0)
#: Points of a drawn curve at most.
_POINTS = 300


@dataclass(frozen=True)
class Reach:
    """When the runs of a group first reached a share of the threshold.

    Attributes:
        level: value of the metric.
        runs: how many reached it; the rest are means over these, None without any.
        steps: environment steps.
        wall: seconds of training.
        cpu: CPU seconds, None as well where results lack them.
    """

    level: float
    runs: int
    steps: float | None
    wall: float | None
    cpu: float | None


@dataclass(frozen=True)
class Group:
    """Runs whose values are averaged: those of one algorithm (or setting) in one environment.

    Attributes:
        label: what they have in common.
        curves: of each run.
        steps: environment steps of the aggregated curve [P].
        middle: its values [P].
        low: lower end of its interval [P], None where there is only one run.
        high: upper end likewise.
        final: of the runs' last values.
        area: of the runs' means over the environment steps that all runs have.
        reached: for each of `SHARES`.
        better_than: label of another group -> probability that a run of this one ends higher.
    """

    label: str
    curves: Sequence[Curve]
    steps: Array
    middle: Array
    low: Array | None
    high: Array | None
    final: Estimate
    area: Estimate
    reached: Sequence[Reach] = ()
    better_than: dict[str, Estimate] = field(default_factory=dict)

    @property
    def last_values(self) -> Array:
        """Of each run [S]."""
        return np.array([curve.values[-1] for curve in self.curves])


@dataclass(frozen=True)
class Environment:
    """The groups of one environment.

    Attributes:
        label: its name.
        groups: in the order of their labels.
        threshold: what 100 % stands for.
        base: what 0 % stands for.
        common_steps: first and last environment step that all runs have.
    """

    label: str
    groups: Sequence[Group]
    threshold: float
    base: float
    common_steps: tuple[float, float]

    def score(self, values: Array) -> Array:
        """Values as shares of the way from the base to the threshold."""
        return (values - self.base) / (self.threshold - self.base)


@dataclass(frozen=True)
class Comparison:
    """All of it.

    Attributes:
        metric: what is compared.
        how: ``mean`` or ``iqm``.
        environments: in the order of their labels.
        notes: what a reader should know, a line each.
    """

    metric: str
    how: str
    environments: Sequence[Environment]
    notes: Sequence[str]

    @property
    def labels(self) -> list[str]:
        """Those of all groups, each once."""
        return sorted({group.label for env in self.environments for group in env.groups})

    def scores(self, label: str) -> list[Array] | None:
        """Last values of a group in every environment as shares of its threshold.

        None where an environment lacks the group, or nobody improved in it.
        """
        found = [
            environment.score(group.last_values)
            for environment in self.environments
            for group in environment.groups
            if group.label == label and environment.threshold > environment.base
        ]
        return found if len(found) == len(self.environments) else None


def compare(
    runs: Sequence[Run],
    metric: str,
    keys: Sequence[str],
    how: str,
    threshold: float | None,
    notes: Sequence[str] = (),
) -> Comparison:
    """Compares runs.

    Args:
        runs: all with the metric.
        metric: its name in results.
        keys: see `group_labels`.
        how: runs are aggregated: ``mean`` or ``iqm``.
        threshold: value that counts as 100 %; None: the best final aggregate of a group.
        notes: what is known already.

    Raises:
        UserError: a key that no run has, runs without common steps, or a threshold below the start.
    """
    labels = list(zip(environment_labels(runs, keys), group_labels(runs, keys), strict=True))
    said = list(notes)
    environments = []
    for env in sorted({env for env, _ in labels}):
        members: dict[str, list[Run]] = {}
        for run, (where, label) in zip(runs, labels, strict=True):
            if where == env:
                members.setdefault(label, []).append(run)
        for label, together in sorted(members.items()):
            said += _about(f"{label} on {env}", together, keys)
        environments.append(_environment(env, members, metric, how, threshold, said))
    if not all(np.isfinite(run.column("cpu_time_total_s")).any() for run in runs):
        said.append(
            "some results are of an older version and have no CPU seconds: those cells are empty."
        )
    return Comparison(metric, how, environments, said)


def _about(who: str, runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """What a reader of a group's mean should know."""
    notes = []
    if len(runs) == 1:
        notes.append(f"{who}: one run, so that there is no interval.")
    differ = differences(runs)
    if differ:
        key = ",".join([*keys, f"config/{differ[0]}"])
        notes.append(
            f"{who}: the {len(runs)} runs differ in {', '.join(differ)}, and not only in the seed; "
            f"--group {key} keeps them apart."
        )
    seeds = [run.config.get("seed") for run in runs]
    twice = sorted({str(seed) for seed in seeds if seed is not None and seeds.count(seed) > 1})
    if twice and not differ:
        notes.append(
            f"{who}: several runs have the seed {', '.join(twice)}; runs that repeat each other "
            "make intervals too narrow."
        )
    return notes


def _environment(
    env: str,
    members: dict[str, list[Run]],
    metric: str,
    how: str,
    threshold: float | None,
    said: list[str],
) -> Environment:
    curves = {label: [run.curve(metric) for run in members[label]] for label in sorted(members)}
    every = [curve for group in curves.values() for curve in group]
    first = max(float(curve.steps[0]) for curve in every)
    last = min(float(curve.steps[-1]) for curve in every)
    if first > last:
        raise UserError(
            f"the runs on {env} have no environment steps in common: one begins at {first:g}, and "
            f"one ends at {last:g}. Compare them apart."
        )
    longest = max(float(curve.steps[-1]) for curve in every)
    if last < 0.98 * longest:
        said.append(
            f"{env}: the runs end after {last:,.0f} to {longest:,.0f} environment steps; the final "
            "value of a run is that of its own end."
        )
    groups = [_group(label, group, how, (first, last)) for label, group in curves.items()]
    # Shares of what is negative mean nothing: there, progress counts from where the runs begin.
    negative = min(curve.values.min() for curve in every) < 0
    base = float(np.mean([curve.values[0] for curve in every])) if negative else 0.0
    top = max(group.final.value for group in groups) if threshold is None else threshold
    if top <= base:
        if threshold is not None:
            raise UserError(
                f"--threshold {threshold:g} is not above {base:g}, where the runs on {env} begin."
            )
        said.append(f"{env}: no group ends above {base:g}, so that there is no threshold to reach.")
    levels = [base + share * (top - base) for share in SHARES] if top > base else []
    return Environment(
        env,
        [
            replace(
                group,
                reached=[_reach(group.curves, level) for level in levels],
                better_than={
                    other.label: statistics.improvement(group.last_values, other.last_values)
                    for other in groups
                    if other is not group
                },
            )
            for group in groups
        ],
        top,
        base,
        (first, last),
    )


def _group(
    label: str, curves: Sequence[Curve], how: str, common_steps: tuple[float, float]
) -> Group:
    """A group without what needs the threshold."""
    first = max(curve.steps[0] for curve in curves)
    last = min(curve.steps[-1] for curve in curves)
    steps = np.unique(np.concatenate([curve.steps for curve in curves]))
    steps = steps[(steps >= first) & (steps <= last)]
    if len(steps) > _POINTS:
        steps = np.linspace(first, last, _POINTS)
    values = np.array([np.interp(steps, curve.steps, curve.values) for curve in curves])
    areas = np.array([_mean_over(curve, *common_steps) for curve in curves])
    finals = np.array([curve.values[-1] for curve in curves])
    middle, low, high = statistics.band(values, how)
    return Group(
        *(label, curves, steps, middle, low, high),
        final=statistics.estimate(finals, how),
        area=statistics.estimate(areas, how),
    )


def _mean_over(curve: Curve, first: float, last: float) -> float:
    """The area under a curve between two environment steps, by their distance."""
    inside = curve.steps[(curve.steps > first) & (curve.steps < last)]
    steps = np.array([first, *inside, last])
    values = np.interp(steps, curve.steps, curve.values)
    if first == last:
        return float(values[0])
    return float(np.sum((values[1:] + values[:-1]) / 2 * np.diff(steps)) / (last - first))


def _reach(curves: Sequence[Curve], level: float) -> Reach:
    """Means over the runs that reach a level, each at the first result at which it does."""
    there = [(curve, int(np.argmax(curve.values >= level))) for curve in curves]
    there = [(curve, p) for curve, p in there if curve.values[p] >= level]
    if not there:
        return Reach(level, 0, None, None, None)
    steps, wall, cpu = (
        float(np.mean([getattr(curve, name)[p] for curve, p in there]))
        for name in ("steps", "wall", "cpu")
    )
    return Reach(level, len(there), steps, wall, None if math.isnan(cpu) else cpu)
