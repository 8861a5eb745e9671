"""A comparison as a page in Markdown, and as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

import numpy as np

from rllib_seqmarl.experiments.compare import statistics
from rllib_seqmarl.experiments.compare.comparison import (
    SHARES,
    Comparison,
    Effort,
    Environment,
    Group,
    Reach,
)
from rllib_seqmarl.experiments.compare.statistics import RESAMPLES, Estimate

_PERCENT = [f"{share:.0%}" for share in SHARES]


def markdown(comparison: Comparison) -> str:
    """The page: what was compared, what the columns mean, a section per environment."""
    runs = sum(len(group.curves) for env in comparison.environments for group in env.groups)
    what = {"mean": "mean", "iqm": "interquartile mean"}[comparison.how]
    parts = [
        "# Comparison",
        f"`{comparison.metric}` of {runs} runs: the {what} over the runs of a group and, in "
        f"brackets, its 95 % interval ({RESAMPLES} bootstrap resamples of the runs). Higher is "
        "taken to be better.",
        "\n".join(f"- {note}" for note in comparison.notes),
        *(section for env in comparison.environments for section in sections(env)),
        *_profile(comparison),
        "## Columns",
        "- **final**: the value at a run's last result.\n"
        "- **area**: the area under the curve over the environment steps that all runs have, "
        "divided by their number: the mean value on the way.\n"
        "- **25%** to **100%**: environment steps, wall time and CPU time until a run first "
        "reaches this share of the threshold; the mean over the runs that do. `2/4:` only two "
        "of four do; `-`: none does. CPU time is that of the trial's process, its runners and its "
        "learners, which other work on the machine prolongs much less than wall time.\n"
        "- **whole run**: the same until a run's last value.\n"
        "- **Probability of improvement**: that a run of the row ends higher than a run of the "
        "column (0.5 where both are the same).\n"
        "- **Performance profile**: the share of runs that end above a share of the threshold.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def sections(env: Environment) -> list[str]:
    """What the page says of one environment: heading, sentence, table; who is better, if any."""
    first, last = env.common_steps
    text = f"Area: environment steps {steps(first)} to {steps(last)}."
    if env.groups[0].reached:
        origin = "" if env.base == 0 else f", 0 % is {number(env.base)}, where the runs begin"
        text = f"100 % is {number(env.threshold)}{origin}. {text}"
    reached = _PERCENT if env.groups[0].reached else []
    header = ["", "runs", "final", "area", *reached, "whole run"]
    rows = [
        [
            group.label,
            str(len(group.curves)),
            interval(group.final),
            interval(group.area),
            *(_reach(reach, len(group.curves)) for reach in group.reached),
            _effort(group.total),
        ]
        for group in env.groups
    ]
    found = [f"## {env.label}", text, _table(header, rows)]
    if len(env.groups) > 1:
        labels = [group.label for group in env.groups]
        better = [
            [group.label]
            + [interval(group.better_than[x]) if x in group.better_than else "" for x in labels]
            for group in env.groups
        ]
        found += ["Probability of improvement:", _table(["", *labels], better)]
    return found


def _profile(comparison: Comparison) -> list[str]:
    levels = np.array(SHARES)
    # The value of the threshold itself counts as above it, as in the tables.
    rows = [
        [label, *_estimates(*statistics.profile(scores, levels - 1e-9))]
        for label, scores in comparison.scores().items()
    ]
    if not rows:
        return []
    where = " (all environments, each counts the same)" if len(comparison.environments) > 1 else ""
    header = ["", *_PERCENT]
    return ["## Performance profile", f"Share of runs that end above{where}:", _table(header, rows)]


def _estimates(
    middle: statistics.Array, low: statistics.Array | None, high: statistics.Array | None
) -> list[str]:
    if low is None or high is None:
        return [interval(Estimate(float(x), None, None)) for x in middle]
    ends = zip(middle, low, high, strict=True)
    return [interval(Estimate(*map(float, values))) for values in ends]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _reach(reach: Reach, runs: int) -> str:
    if reach.effort is None:
        return "-"
    some = "" if reach.runs == runs else f"{reach.runs}/{runs}: "
    return f"{some}{_effort(reach.effort)}"


def _effort(effort: Effort) -> str:
    cpu = "" if effort.cpu is None else f", CPU {seconds(effort.cpu)}"
    return f"{steps(effort.steps)} ({seconds(effort.wall)}{cpu})"


def interval(value: Estimate) -> str:
    """``0.94 [0.91, 0.96]``; without an interval only the value."""
    if value.low is None or value.high is None:
        return number(value.value)
    return f"{number(value.value)} [{number(value.low)}, {number(value.high)}]"


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def steps(value: float) -> str:
    """``1.12M``, ``480k``, ``96``."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if float(rounded := f"{value / unit:.3g}") >= 1:
            return f"{float(rounded):g}{name}"
    return f"{value:.0f}"


def seconds(value: float) -> str:
    """``1h 28m``, ``28m``, ``3m 20s``, ``12.3s``."""
    if float(f"{value:.3g}") < 60:
        return f"{value:.3g}s"
    if (whole := round(value)) < 600:
        return f"{whole // 60}m {whole % 60:02d}s"
    minutes = round(value / 60)
    return f"{minutes // 60}h {minutes % 60:02d}m" if minutes >= 60 else f"{minutes}m"


# --- the table ----------------------------------------------------------------------------------


def table(comparison: Comparison) -> str:
    """A line per environment and group, as CSV with all digits; times in seconds."""
    rows = [
        _line(comparison, env, group) for env in comparison.environments for group in env.groups
    ]
    columns = dict.fromkeys(name for row in rows for name in row)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _line(comparison: Comparison, env: Environment, group: Group) -> dict[str, object]:
    line: dict[str, object] = {
        "environment": env.label,
        "group": group.label,
        "metric": comparison.metric,
        "aggregate": comparison.how,
        "runs": len(group.curves),
        "threshold": env.threshold,
        "base": env.base,
        **_columns("final", group.final),
        **_columns("area", group.area),
    }
    for share, reach in zip(_PERCENT, group.reached, strict=False):
        line[f"runs_to_{share}"] = reach.runs
        line |= _costs(f"to_{share}", reach.effort)
    line |= _costs("in_all", group.total)
    for other, probability in group.better_than.items():
        line |= _columns(f"better_than_{other}", probability)
    return line


def _columns(name: str, value: Estimate) -> dict[str, object]:
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}


def _costs(name: str, effort: Effort | None) -> dict[str, object]:
    return {
        f"env_steps_{name}": effort and effort.steps,
        f"wall_s_{name}": effort and effort.wall,
        f"cpu_s_{name}": effort and effort.cpu,
    }
