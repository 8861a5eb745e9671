"""Live progress: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from rich.console import Console
from rich.live import Live
from rich.table import Table

from rllib_seqmarl.experiments.spec.experiment import ExperimentSpec
from rllib_seqmarl.experiments.spec.metrics import flatten

STEPS = "num_env_steps_sampled_lifetime"
_RATE_WINDOW = 10  # results
_LINE_EVERY_S = 5.0
_WAITING_WARNING_S = 30.0
_ROWS = 20

_STATUS = {
    Trial.PENDING: "waiting",
    Trial.RUNNING: "running",
    Trial.PAUSED: "stopped",
    Trial.TERMINATED: "finished",
    Trial.ERROR: "failed",
}


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
            if "num_" not in name and name not in ("training_iteration", "time_total_s"):
                continue
            rate = self.per_second(name)
            if rate:
                times.append(max(0.0, (goal - self.result[name]) / rate))
        return min(times, default=None)

    def cells(self) -> dict[str, str]:
        """The metrics as text, by title; those that are not known are left out."""
        result = self.result
        steps = f"{result.get(STEPS, 0):,.0f}"
        if STEPS in self.stop:
            steps += f" / {self.stop[STEPS]:,.0f}"
        cells = {"iteration": f"{result.get('training_iteration', 0)}", "env steps": steps}
        if (rate := self.per_second(STEPS)) is not None:
            cells["steps/s"] = f"{rate:,.0f}"
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
            cells["ETA"] = str(timedelta(seconds=round(eta)))
        if "simulator" in result:
            cells["simulator"] = str(result["simulator"])
        return cells


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

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Sees new trials, and whether none can start."""
        self._trials = list(trials)
        if self._told_waiting or any(trial.status != Trial.PENDING for trial in trials):
            self._told_waiting = True
        elif time.monotonic() - self._began > _WAITING_WARNING_S:
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
        if result.get("notice"):
            self._say(f"{trial}: {result['notice']}")
        now = time.monotonic()
        last = self._printed.get(trial.trial_id, -math.inf)
        if self._live or not (
            now - last > _LINE_EVERY_S or result.get("done") or "evaluation" in result
        ):
            return
        self._printed[trial.trial_id] = now
        metrics = " | ".join(f"{title} {text}" for title, text in row.cells().items())
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
        cells = {
            trial.trial_id: self._rows[trial.trial_id].cells()
            if trial.trial_id in self._rows
            else {}
            for trial in self._trials
        }
        titles = list(dict.fromkeys(title for row in cells.values() for title in row))
        # Running ones first: of a long search, they are what changes.
        shown = sorted(self._trials, key=lambda trial: trial.status != Trial.RUNNING)[:_ROWS]
        hidden = len(self._trials) - len(shown)
        table = Table(
            title=self._spec.name,
            title_justify="left",
            caption=f"and {hidden} more trials" if hidden else None,
        )
        table.add_column("trial", no_wrap=True)
        table.add_column("status")
        for title in titles:
            table.add_column(title, justify="right")
        for trial in shown:
            row = cells[trial.trial_id]
            table.add_row(
                str(trial), _STATUS[trial.status], *(row.get(title, "") for title in titles)
            )
        return table


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
