"""Ends trials in an orderly way: on a signal, when the time budget is used up, on a wrong stop key.

Ray Tune's own reaction to Ctrl-C drops what the running iterations have done. Here a trial first
finishes its iteration and writes a checkpoint (Tune calls that pausing), then Tune's loop ends,
and ``--resume`` takes the paused trials up again.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Any

from ray.tune import Callback
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from rich.console import Console

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.checkpoints.storage import ExperimentFolder
from rllib_seqmarl.experiments.spec import metrics
from rllib_seqmarl.experiments.spec.experiment import ExperimentSpec


class Signals:
    """Ctrl-C and SIGTERM: the first asks for an orderly end, the second ends at once.

    Args:
        resume: the command line that goes on, for the last line.

    Attributes:
        received: number of the first signal, None before it.
        orderly: whether trials may run, so that there is something to end in good order.
        before_stop: called before a stop at once.
    """

    _NUMBERS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, resume: str) -> None:
        self.received: int | None = None
        self.orderly = False
        self.before_stop: Callable[[], None] = lambda: None
        self._resume = resume
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self._before = {number: signal.getsignal(number) for number in self._NUMBERS}
        self.install()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Takes the signals (again: ``ray.init`` and Ray Tune set handlers of their own)."""
        for number in self._NUMBERS:
            signal.signal(number, self._handle)

    @property
    def name(self) -> str:
        """The first signal as people call it."""
        return _signal_name(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None and self.orderly:
            self.received = number
            print(
                f"rllib: {self.name}: every trial finishes its iteration and writes a checkpoint. "
                "Once more to stop at once.",
                file=sys.stderr,
                flush=True,
            )
            return
        # An exception would have to find its way through Ray's compiled code. The processes of
        # a local Ray die with this one; a cluster ends those of its job.
        try:
            self.before_stop()
        finally:
            Console(stderr=True).show_cursor(True)
            print(
                f"rllib: {_signal_name(number)}: stopped at once. To go on from the last "
                f"checkpoint, if there is one: {self._resume}",
                file=sys.stderr,
                flush=True,
            )
            sys.stdout.flush()
            os._exit(128 + number)


def _signal_name(number: int | None) -> str:
    return "Ctrl-C" if number == signal.SIGINT else "SIGTERM"


def missing_metric(spec: ExperimentSpec, trial: Trial, result: Mapping[str, Any]) -> str | None:
    """A metric that a trial stops at or is compared by, and should have reported by now."""
    compared = [spec.search.metric] if spec.search.scheduler is not None else []
    return metrics.never_reported(
        [*trial.stopping_criterion, *compared],
        result,
        iterations=result.get("iterations_since_restore", 0),
        evaluation_interval=trial.config.get("evaluation_interval"),
    )


class TrialControl(TrialScheduler):
    """Decides after every result of a trial whether it goes on: first we, then the scheduler.

    Args:
        spec: the experiment.
        signals: where Ctrl-C and SIGTERM arrive.
        resumed: ids of the trials that Ray Tune must take up again; empty for a new run.
        prepare: called with every trial that is not finished, before it starts or goes on.
    """

    def __init__(
        self,
        spec: ExperimentSpec,
        signals: Signals,
        resumed: Iterable[str],
        prepare: Callable[[Trial], None] = lambda trial: None,
    ) -> None:
        super().__init__()
        self._spec = spec
        self._signals = signals
        self._resumed = set(resumed)
        self._prepare = prepare
        self._began: float | None = None
        self._scheduler = spec.search.make_scheduler() or FIFOScheduler()
        self._compared: dict[str, float] = {}  # the latest known metric, by trial id
        self._latest: dict[str, int] = {}  # number of the latest result, by trial id

    @property
    def out_of_time(self) -> bool:
        """Whether ``time_budget_s`` is used up."""
        budget = self._spec.time_budget_s
        return (
            budget is not None
            and self._began is not None
            and time.monotonic() - self._began > budget
        )

    def begin(self) -> None:
        """Starts the clock of the time budget, once: when the first trial can work."""
        self._began = self._began or time.monotonic()

    @property
    def ending(self) -> bool:
        """Whether all trials shall be paused."""
        return self._signals.received is not None or self.out_of_time

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Refuses the fresh start that Ray Tune falls back to when it cannot read its state."""
        if self._resumed and trial.trial_id not in self._resumed:
            raise UserError(
                f"{self._spec.name}: Ray Tune could not read the state of this experiment; start "
                "a new one from a trial's last checkpoint with --restore CHECKPOINT "
                "--experiment-name NAME (--verbose shows Ray's reason)."
            )
        self._resumed.clear()
        if not trial.is_finished():
            self._prepare(trial)
        # Ray Tune does not keep a scheduler's state: after a resume it sees who still runs.
        if not trial.is_finished():
            self._scheduler.on_trial_add(tune_controller, trial)

    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: Mapping[str, Any]
    ) -> str:
        """Stops a trial that lacks a metric, pauses it if all end, else asks the scheduler."""
        if missing_metric(self._spec, trial, result) is not None:
            return TrialScheduler.STOP
        if self.ending:
            return TrialScheduler.PAUSE
        self._latest[trial.trial_id] = 1 + max(self._latest.values(), default=0)
        complete = self._with_metric(trial, result)
        if complete is None:
            return TrialScheduler.CONTINUE
        decision: str = self._scheduler.on_trial_result(tune_controller, trial, complete)
        return decision

    def _with_metric(self, trial: Trial, result: Mapping[str, Any]) -> dict[str, Any] | None:
        """The result with the metric that trials are compared by; None before it is known.

        Means over episodes are not new in every iteration, those of an evaluation in few. The
        schedulers differ in what they do without, and some fail: the last one holds until then.
        """
        metric = self._spec.search.metric
        value = result.get(metric)
        if isinstance(value, int | float) and not math.isnan(value):
            self._compared[trial.trial_id] = value
        if self._spec.search.scheduler is not None and trial.trial_id not in self._compared:
            return None
        return {**result, metric: self._compared.get(trial.trial_id, math.nan)}

    def on_trial_complete(
        self, tune_controller: TuneController, trial: Trial, result: Mapping[str, Any]
    ) -> None:
        """A trial has ended."""
        complete = self._with_metric(trial, result)
        if complete is not None:
            self._scheduler.on_trial_complete(tune_controller, trial, complete)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """A trial has failed."""
        self._scheduler.on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        """A trial that waits or is paused has been ended."""
        self._scheduler.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """The next trial; none when all are to end, not even a paused one."""
        if self.ending:
            return None
        if not self._spec.search.takes_turns:
            return self._scheduler.choose_trial_to_run(tune_controller)
        # Ray Tune's PBT prefers the trial with the least training, which is again and again one
        # that has just been set back to a copy of another: that other would never go on.
        waiting = (Trial.PENDING, Trial.PAUSED)
        trials = [trial for trial in tune_controller.get_trials() if trial.status in waiting]
        return min(trials, key=lambda trial: self._latest.get(trial.trial_id, 0), default=None)

    def debug_string(self) -> str:
        """What the scheduler says of itself."""
        text: str = self._scheduler.debug_string()
        return text

    @property
    def supports_buffered_results(self) -> bool:
        """Whether several results may arrive at once."""
        return bool(self._scheduler.supports_buffered_results)


class EndOfLoop(Callback):
    """Leaves Ray Tune's loop once every trial that ran has written its checkpoint."""

    def __init__(self, control: TrialControl, signals: Signals, folder: ExperimentFolder) -> None:
        self._control = control
        self._signals = signals
        self._folder = folder
        self._to_save: set[str] | None = None
        self._left = False
        self._leave: Any = None

    def setup(self, *args: object, **info: object) -> None:
        """Takes the signals over; Tune's own handler for Ctrl-C is how to leave its loop."""
        self._leave = signal.getsignal(signal.SIGINT)
        self._signals.install()
        self._signals.orderly = True

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """A trial's process is up."""
        self._control.begin()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """After every event of Tune's loop."""
        self._folder.keep_copy_of_state()
        if not self._control.ending or self._left:
            return
        running = {trial.trial_id for trial in trials if trial.status == Trial.RUNNING}
        if self._to_save is None:
            self._to_save = running
        self._to_save &= running
        if not self._to_save:
            self._left = True
            self._leave(signal.SIGINT, None)
            self._signals.install()
