"""Live progress: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.util import placement_group_table
from rich import box
from rich.console import Console
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table

from rllib_seqmarl.experiments.spec.experiment import ExperimentSpec
from rllib_seqmarl.experiments.spec.metrics import flatten

STEPS = "num_env_steps_sampled_lifetime"
_RATE_WINDOW = 10  # results
_LINE_EVERY_S = 5.0
_WAITING_WARNING_S = 30.0
_ROWS = 20

#: Titles of the table in their order, and which of them stay where a terminal is narrow.
_TITLES = (
    "iteration",
    "env steps",
    "steps/s",
    "return",
    "win rate",
    "eval return",
    "eval win rate",
    "ETA",
    "lost",
)
_IMPORTANT = (
    "lost",
    "env steps",
    "eval win rate",
    "win rate",
    "ETA",
    "eval return",
    "return",
    "steps/s",
    "iteration",
)
#: Written in two lines.
_TWO_LINES = {"eval win rate": "eval\nwin rate", "eval return": "eval\nreturn"}

_STATUS = {
    Trial.PENDING: "waiting",
    Trial.RUNNING: "running",
    Trial.PAUSED: "stopped",
    Trial.TERMINATED: "finished",
    Trial.ERROR: "failed",
}


#: What grows with every iteration, beside the counters that begin with "num_".
_GROWING = ("training_iteration", "time_total_s", "cpu_time_total_s")


@dataclass
class Row:
    """What is known of one trial.

    Attributes:
        stop: metric -> value at which the trial ends.
        result: its latest result, flat; the last known value of metrics that are not
            reported in every iteration (evaluation) stays.
    """

    stop: Mapping[str, float]
    result: dict[str, Any] = field(default_factory=dict)
    _history: deque[tuple[float, dict[str, float]]] = field(
        default_factory=lambda: deque(maxlen=_RATE_WINDOW + 1)
    )

    def add(self, result: Mapping[str, Any]) -> None:
        """Takes in a result of the trial."""
        self.result.update(flatten(result))
        counters = {
            name: float(self.result[name])
            for name in (STEPS, *self.stop)
            if isinstance(self.result.get(name), int | float)
        }
        self._history.append((float(self.result.get("time_total_s", 0.0)), counters))

    def per_second(self, name: str) -> float | None:
        """Growth of a counter per second of training, over the last results."""
        if not self._history:
            return None
        seconds, counters = self._history[-1]
        before_s, before = self._history[0] if len(self._history) > 1 else (0.0, {})
        if name not in counters or seconds <= before_s:
            return None
        return (counters[name] - before.get(name, 0.0)) / (seconds - before_s)

    def eta(self) -> float | None:
        """Seconds until the first stop criterion that grows steadily is met."""
        times = []
        for name, goal in self.stop.items():
            if "num_" not in name and name not in _GROWING:
                continue
            rate = self.per_second(name)
            if rate:
                times.append(max(0.0, (goal - self.result[name]) / rate))
        return min(times, default=None)

    def cells(self, compact: bool = False) -> dict[str, str]:
        """The metrics as text, by title; those that are not known are left out.

        Args:
            compact: counters in thousands and millions.
        """
        result = self.result
        count = _compact if compact else "{:,.0f}".format
        steps = count(result.get(STEPS, 0))
        if STEPS in self.stop:
            steps += f" / {count(self.stop[STEPS])}"
        cells = {"iteration": f"{result.get('training_iteration', 0)}", "env steps": steps}
        if (rate := self.per_second(STEPS)) is not None:
            cells["steps/s"] = count(rate)
        for title, name, shape in (
            ("return", "env_runners/episode_return_mean", "{:.3g}"),
            ("win rate", "env_runners/win_rate", "{:.1%}"),
            ("eval return", "evaluation/env_runners/episode_return_mean", "{:.3g}"),
            ("eval win rate", "evaluation/env_runners/win_rate", "{:.1%}"),
        ):
            value = result.get(name)
            if isinstance(value, int | float) and not math.isnan(value):
                cells[title] = shape.format(value)
        if (eta := self.eta()) is not None:
            cells["ETA"] = duration(eta)
        return cells

    def lost(self, saved: Mapping[str, Any]) -> str:
        """What a stop at once loses.

        Args:
            saved: the result after which the last checkpoint was written; empty without one.
        """
        done = self.result.get("training_iteration", 0)
        here = self.result.get("iterations_since_restore", done)
        iterations = done - saved.get("training_iteration", done - here)
        if not iterations:
            return "nothing"
        text = f"{iterations} iteration{'s' * (iterations > 1)}"
        if saved or here == done:  # of a trial begun with --restore it is not known
            text += f", {_compact(self.result.get(STEPS, 0) - saved.get(STEPS, 0))} steps"
        return text


def _compact(number: float) -> str:
    """1234567 as 1.23M; a whole number of thousands or millions without decimals."""
    for unit, size in (("", 1), ("k", 1e3), ("M", 1e6), ("G", 1e9)):
        text = f"{number / size:.0f}" if not unit else f"{number / size:.3g}"
        if abs(float(text)) < 1e3:
            break
    return text + unit


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 0:05:12."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def trial_name(trial: Trial) -> str:
    """The name of a trial and of its folder; what was drawn for it is in its ``params.json``."""
    return re.sub(r"[^\w.-]", "_", f"{trial.trainable_name}_{trial.trial_id}")


class Progress(Callback):
    """Shows what the trials of an experiment are doing.

    Args:
        spec: the experiment.
        console: where to; a live table if it is a terminal, else lines.
    """

    def __init__(self, spec: ExperimentSpec, console: Console) -> None:
        self._spec = spec
        self._console = console
        self._rows: dict[str, Row] = {}
        self._trials: list[Trial] = []
        self._printed: dict[str, float] = {}
        self._began = time.monotonic()
        self._told_waiting = False
        self._lost: dict[str, str] = {}
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(
                console=console, get_renderable=self._table, refresh_per_second=2, transient=False
            )

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def stop_at_once(self) -> None:
        """Says what of every running trial comes after its last checkpoint and is lost."""
        for trial in self._trials:
            row = self._rows.get(trial.trial_id)
            if row is not None and trial.status == Trial.RUNNING:
                saved = trial.run_metadata.checkpoint_manager.latest_checkpoint_result
                self._lost[trial.trial_id] = row.lost(saved.metrics if saved else {})
        if self._live:
            self._live.stop()
            return
        for trial in self._trials:
            if trial.trial_id in self._lost:
                self._say(f"{trial}: lost since its last checkpoint: {self._lost[trial.trial_id]}")

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Sees new trials, and whether none can start."""
        self._trials = list(trials)
        if self._told_waiting or any(trial.status != Trial.PENDING for trial in trials):
            self._told_waiting = True
        elif time.monotonic() - self._began > _WAITING_WARNING_S:
            self._began = time.monotonic()
            groups = placement_group_table().values()
            if not any(group["state"] == "PENDING" for group in groups):
                return  # a trial has what it needs; its process is slow to start
            self._told_waiting = True
            needed = trials[0].placement_group_factory.required_resources if trials else {}
            self._say(f"{self._spec.name}: waiting until the cluster has {_amounts(needed)} free.")

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """A trial's process runs; its networks and environments are being built."""
        if not self._live:
            self._say(f"{trial}: started")

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: object,
    ) -> None:
        """An iteration of a trial has ended."""
        row = self._rows.setdefault(trial.trial_id, Row(trial.stopping_criterion))
        row.add(result)
        first = trial.trial_id not in self._printed
        if result.get("notice"):
            self._say(f"{trial}: {result['notice']}")
        now = time.monotonic()
        last = self._printed.get(trial.trial_id, -math.inf)
        if self._live or not (
            now - last > _LINE_EVERY_S or result.get("done") or "evaluation" in result
        ):
            return
        self._printed[trial.trial_id] = now
        cells = row.cells()
        if first and "simulator" in row.result:
            cells["simulator"] = str(row.result["simulator"])
        metrics = " | ".join(f"{title} {text}" for title, text in cells.items())
        self._say(f"{trial}: {metrics}")

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """A trial has failed for good."""
        self._say(f"{trial}: failed")

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """A trial has failed and is started again from its last checkpoint."""
        self._say(f"{trial}: failed, starts again from its last checkpoint")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        """The widest table that the terminal has room for.

        Counters are shortened first, then the trials' names, then the least important columns go.
        """
        titles = list(_TITLES)
        table = self._table_of(titles, compact=False, ids=False)
        for ids in (False, True):
            if not self._fits(table):
                table = self._table_of(titles, compact=True, ids=ids)
        for title in reversed(_IMPORTANT):
            if self._fits(table):
                break
            titles.remove(title)
            table = self._table_of(titles, compact=True, ids=True)
        return table

    def _fits(self, table: Table) -> bool:
        unlimited = self._console.options.update_width(1000)
        return Measurement.get(self._console, unlimited, table).maximum <= self._console.width

    def _table_of(self, titles: Sequence[str], *, compact: bool, ids: bool) -> Table:
        # Running ones first: of a long search, they are what changes.
        shown = sorted(self._trials, key=lambda trial: trial.status != Trial.RUNNING)[:_ROWS]
        rows = [self._cells(trial, compact) for trial in shown]
        hidden = len(self._trials) - len(shown)
        captions = [f"and {hidden} more trials"] if hidden else []
        if self._lost:
            captions.append("lost: what came after the last checkpoint, and what was under way")
        results = [row.result for row in list(self._rows.values())]
        simulators = {str(result["simulator"]) for result in results if "simulator" in result}
        table = Table(
            title=" on ".join(filter(None, (self._spec.name, ", ".join(sorted(simulators))))),
            title_justify="left",
            caption="; ".join(captions) or None,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            collapse_padding=True,
        )
        table.add_column("trial", no_wrap=True)
        table.add_column("status", no_wrap=True)
        known = [title for title in titles if any(title in row for row in rows)]
        for title in known:
            table.add_column(_TWO_LINES.get(title, title), justify="right", no_wrap=True)
        for trial, row in zip(shown, rows, strict=True):
            cells = (row.get(title, "") for title in known)
            table.add_row(trial.trial_id if ids else str(trial), _STATUS[trial.status], *cells)
        return table

    def _cells(self, trial: Trial, compact: bool) -> dict[str, str]:
        row = self._rows.get(trial.trial_id)
        cells = {} if row is None else row.cells(compact)
        if trial.trial_id in self._lost:
            cells["lost"] = self._lost[trial.trial_id]
        return cells


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
