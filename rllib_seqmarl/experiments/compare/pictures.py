"""Learning curves and performance profiles as pictures; the only place that uses matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")  # draws to files: no window, no display
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FuncFormatter

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.compare import statistics
from rllib_seqmarl.experiments.compare.comparison import Comparison
from rllib_seqmarl.experiments.compare.runs import ENV_STEPS, Run
from rllib_seqmarl.experiments.compare.summary import steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Readable on white and apart for colour-blind eyes (Okabe & Ito 2008); then with other dashes.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DASHES = ("-", "--", ":", "-.")
_PANEL = (4.2, 3.1)  # inches
_STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "savefig.dpi": 160,
}
_THRESHOLD = "threshold"
_AGGREGATES = {"mean": "mean", "iqm": "interquartile mean", "share": "share"}
#: What is drawn of a learner, where it reports it.
_LEARNER = "learners/default_policy/"
_OF_LEARNER = (
    "entropy",
    "approx_kl",
    "explained_variance",
    "gradients_default_optimizer_global_norm",
)


def draw_curves(comparison: Comparison) -> bytes:
    """A PNG with a panel per environment: aggregates of the groups with their 95 % intervals."""
    looks = _looks(comparison.labels)
    environments = comparison.environments
    with plt.style.context(_STYLE):
        figure, panels = _panels(len(environments))
        for place, (panel, env) in enumerate(zip(panels, environments, strict=True)):
            for group in env.groups:
                colour, dashes = looks[group.label]
                panel.plot(group.steps, group.middle, dashes, color=colour, label=group.label)
                if group.low is not None and group.high is not None:
                    panel.fill_between(
                        group.steps, group.low, group.high, color=colour, alpha=0.18, linewidth=0
                    )
            if env.threshold > env.base:
                panel.axhline(
                    env.threshold, color="#888888", linewidth=0.9, dashes=(2, 2), label=_THRESHOLD
                )
            panel.set_title(env.label)
            leftmost = place % _columns(len(environments)) == 0
            _axes(panel, metric_label(comparison.metric) if leftmost else "")
        _legend(figure, panels, comparison.how)
        return _encoded(figure)


def draw_profile(comparison: Comparison) -> bytes:
    """A PNG: the share of runs of a group that end above a share of the threshold; needs scores."""
    looks = _looks(comparison.labels)
    scores = comparison.scores()
    highest = max(values.max() for found in scores.values() for values in found)
    levels = np.linspace(0.0, max(1.0, 1.02 * highest), 201)
    with plt.style.context(_STYLE):
        figure, (panel,) = _panels(1)
        for label, found in scores.items():
            colour, dashes = looks[label]
            share, low, high = statistics.profile(found, levels)
            panel.plot(levels, share, dashes, color=colour, label=label)
            if low is not None and high is not None:
                panel.fill_between(levels, low, high, color=colour, alpha=0.18, linewidth=0)
        panel.set(ylim=(-0.02, 1.02), ylabel="share of runs that end above")
        panel.set_xlabel(f"final {metric_label(comparison.metric)} / threshold")
        _legend(figure, [panel], "share")
        return _encoded(figure)


def draw_run(run: Run, suffix: str) -> bytes:
    """One run: its win rate and return, where its seconds went, and what its learner reports.

    Raises:
        UserError: it reports nothing of that.
    """
    draws: list[Callable[[Axes], None]] = []
    for name in ("win_rate", "episode_return_mean"):
        metrics = (f"env_runners/{name}", f"evaluation/env_runners/{name}")
        if not run.metrics.isdisjoint(metrics):
            draws.append(partial(_draw_metric, run, *metrics))
    for name in sorted(run.metrics):
        last = name.removeprefix(_LEARNER)
        if name != last and (last.endswith("loss") or last in _OF_LEARNER):
            draws.append(partial(_draw_learner, run, name))
    parts = sorted(name for name in run.metrics if name.startswith("time_split/"))
    if parts:  # at the right edge, where there is room for its legend
        draws.insert(2, partial(_draw_time_split, run, parts))
    if not draws:
        raise UserError(f"the results in {run.path} have neither returns, times nor losses.")
    with plt.style.context(_STYLE):
        figure, panels = _panels(len(draws))
        for panel, draw in zip(panels, draws, strict=True):
            draw(panel)
        figure.suptitle(f"{run.algorithm} on {run.env}", fontsize=12)
        return _encoded(figure, suffix)


def _draw_metric(run: Run, training: str, evaluation: str, panel: Axes) -> None:
    looks = ((training, "training", COLOURS[0]), (evaluation, "evaluation", COLOURS[1]))
    for metric, label, colour in looks:
        if metric in run.metrics:
            curve = run.curve(metric)
            panel.plot(curve.steps, curve.values, color=colour, label=label)
    _axes(panel, metric_label(training))
    panel.legend(loc="best", fontsize=8)


def _draw_time_split(run: Run, parts: Sequence[str], panel: Axes) -> None:
    """Seconds of every iteration by what they were spent on, and CPU seconds beside them."""
    x = run.column(ENV_STEPS)
    seconds = [np.nan_to_num(run.column(name)) for name in parts]
    labels = [_words(name.removeprefix("time_split/")) for name in parts]
    panel.stackplot(x, *seconds, labels=labels, colors=COLOURS, alpha=0.75, linewidth=0)
    panel.plot(x, run.column("time_this_iter_s"), color="#000000", linewidth=1.0, label="all")
    cpu = run.column("cpu_time_this_iter_s")
    if np.isfinite(cpu).any():
        panel.plot(x, cpu, ":", color="#000000", linewidth=1.2, label="CPU seconds")
    _axes(panel, "seconds per iteration")
    lines, names = panel.get_legend_handles_labels()
    # From top to bottom, as they are stacked.
    panel.legend(lines[::-1], names[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)


def _draw_learner(run: Run, metric: str, panel: Axes) -> None:
    curve = run.curve(metric)
    panel.plot(curve.steps, curve.values, color=COLOURS[0], linewidth=1.2)
    _axes(panel, _words(metric.removeprefix(_LEARNER)))


def metric_label(metric: str) -> str:
    """``evaluation/env_runners/win_rate`` -> ``win rate (evaluation)``."""
    name = _words(metric.rpartition("/")[2].removesuffix("_mean"))
    return f"{name} (evaluation)" if metric.startswith("evaluation/") else name


def _words(name: str) -> str:
    return name.replace("gradients_default_optimizer_global_norm", "gradient_norm").replace(
        "_", " "
    )


def _looks(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and dashes of each group, the same in all panels."""
    looks = [(colour, dashes) for dashes in _DASHES for colour in COLOURS]
    return dict(zip(labels, cycle(looks), strict=False))


def _columns(count: int) -> int:
    """Of so many panels."""
    return 2 if count == 4 else min(count, 3)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, in rows of three at most."""
    columns = _columns(count)
    rows = math.ceil(count / columns)
    size = (_PANEL[0] * columns, _PANEL[1] * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    panels = list(axes.flat)
    for panel in panels[count:]:
        panel.set_axis_off()
    return figure, panels[:count]


def _axes(panel: Axes, label: str) -> None:
    panel.set(xlabel="environment steps", ylabel=label)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: steps(x)))
    panel.margins(x=0.01)
    low, high = panel.get_xlim()
    if low < 0.3 * high:  # and not a run that began with another one's state
        panel.set_xlim(left=0)


def _legend(figure: Figure, panels: Sequence[Axes], what: str) -> None:
    """Beside the panels, each group once, and last what a dashed line is."""
    lines = {}
    for panel in panels:
        for line, label in zip(*panel.get_legend_handles_labels(), strict=True):
            lines[label] = line
    labels = sorted(lines, key=lambda label: (label == _THRESHOLD, label))
    figure.legend(
        [lines[label] for label in labels],
        labels,
        loc="outside right center",
        title=f"{_AGGREGATES[what]},\n95 % interval",
        title_fontsize=9,
        alignment="left",
    )


def _encoded(figure: Figure, suffix: str = ".png") -> bytes:
    """The content of a file with such an ending."""
    stream = io.BytesIO()
    figure.savefig(stream, format=suffix.lower().removeprefix("."))
    plt.close(figure)
    return stream.getvalue()
