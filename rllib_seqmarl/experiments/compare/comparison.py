"""What is said of the runs of each group in each environment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
#: Names of settings in a note at most.
_NAMED = 5


@dataclass(frozen=True)
class Effort:
    """What it took to get somewhere, the mean over runs.

    Attributes:
        steps: environment steps.
        wall: seconds of training.
        cpu: CPU seconds, None where results lack them.
    """

    steps: float
    wall: float
    cpu: float | None


@dataclass(frozen=True)
class Reach:
    """When the runs of a group first reached a share of the threshold.

    Attributes:
        level: value of the metric.
        runs: how many reached it.
        effort: of those that did, None where there are none.
    """

    level: float
    runs: int
    effort: Effort | None


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
        total: of whole runs.
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
    total: Effort
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

    def scores(self) -> dict[str, list[Array]]:
        """Last values in each environment, as shares of its threshold, of each group.

        Without the groups that an environment lacks; empty where nobody improved in one.
        """
        if any(env.threshold <= env.base for env in self.environments):
            return {}
        found: dict[str, list[Array]] = {label: [] for label in self.labels}
        for env in self.environments:
            for group in env.groups:
                found[group.label].append(env.score(group.last_values))
        return {label: x for label, x in found.items() if len(x) == len(self.environments)}


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
        members = dict(sorted(members.items()))
        said += _about(env, members, keys)
        environments.append(_environment(env, members, metric, how, threshold, said))
    if not all(np.isfinite(run.column("cpu_time_total_s")).any() for run in runs):
        said.append(
            "some results are of an older version and have no CPU seconds: those cells are empty."
        )
    return Comparison(metric, how, environments, said)


def _about(env: str, members: Mapping[str, Sequence[Run]], keys: Sequence[str]) -> list[str]:
    """What a reader of the groups' means should know."""
    notes = []
    alone = [label for label, runs in members.items() if len(runs) == 1]
    if alone:
        notes.append(f"{env}: one run only, and so no interval: {', '.join(alone)}.")
    for label, runs in members.items():
        differ = differences(runs)
        seeds = [run.config.get("seed") for run in runs]
        twice = sorted({str(seed) for seed in seeds if seed is not None and seeds.count(seed) > 1})
        if differ:
            names = ", ".join(differ[:_NAMED]) + (", ..." if len(differ) > _NAMED else "")
            key = ",".join([*keys, f"config/{differ[0]}"])
            notes.append(
                f"{label} on {env}: the {len(runs)} runs differ not only in the seed, but in "
                f"{names}; --group {key} keeps them apart."
            )
        elif twice:
            notes.append(
                f"{label} on {env}: several runs have the seed {', '.join(twice)}; runs that "
                "repeat each other make intervals too narrow."
            )
    return notes


def _environment(
    env: str,
    members: Mapping[str, Sequence[Run]],
    metric: str,
    how: str,
    threshold: float | None,
    said: list[str],
) -> Environment:
    curves = {label: [run.curve(metric) for run in runs] for label, runs in members.items()}
    every = [curve for group in curves.values() for curve in group]
    first = max(float(curve.steps[0]) for curve in every)
    last = min(float(curve.steps[-1]) for curve in every)
    if first > last:
        paths = [run.path for runs in members.values() for run in runs]
        late = paths[int(np.argmax([curve.steps[0] for curve in every]))]
        raise UserError(
            f"the runs on {env} have no environment steps in common: {late} begins at {first:,.0f} "
            f"and another one ends at {last:,.0f}. Leave it out, or compare them apart."
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
        total=_effort([(curve, -1) for curve in curves]),
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
    """Of each run counts the first result at which it reaches the level."""
    first = [(curve, int(np.argmax(curve.values >= level))) for curve in curves]
    there = [(curve, p) for curve, p in first if curve.values[p] >= level]
    return Reach(level, len(there), _effort(there) if there else None)


def _effort(points: Sequence[tuple[Curve, int]]) -> Effort:
    """Until the given point of each curve."""
    cpu = float(np.mean([curve.cpu[p] for curve, p in points]))
    return Effort(
        steps=float(np.mean([curve.steps[p] for curve, p in points])),
        wall=float(np.mean([curve.wall[p] for curve, p in points])),
        cpu=None if math.isnan(cpu) else cpu,
    )
