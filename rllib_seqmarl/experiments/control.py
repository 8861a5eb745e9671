"""Ends trials in good order: on a signal, when the time budget is used up, on a wrong stop key.

Ray Tune's own reaction to Ctrl-C drops what the running iterations have done. Here a trial first
finishes its iteration and writes a checkpoint (Tune calls that pausing), then Tune's loop ends,
and ``--resume`` takes the paused trials up again.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments import metrics
from rllib_seqmarl.experiments.spec import ExperimentSpec
from rllib_seqmarl.experiments.storage import ExperimentFolder


class StoppedAtOnce(BaseException):
    """A signal came while nothing could be saved, or for the second time."""


class Signals:
    """Ctrl-C and SIGTERM: the first asks for an orderly end, the second ends at once.

    Attributes:
        received: number of the first signal, None before it.
        orderly: whether trials run, so that there is something to end in good order.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.orderly = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self._before = {number: signal.getsignal(number) for number in self._numbers()}
        self.install()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @staticmethod
    def _numbers() -> tuple[int, ...]:
        return (signal.SIGINT, signal.SIGTERM)

    def install(self) -> None:
        """Takes the signals (again: ``ray.init`` and Ray Tune set handlers of their own)."""
        for number in self._numbers():
            signal.signal(number, self._handle)

    @property
    def exit_status(self) -> int:
        """128 + the number of the signal."""
        assert self.received is not None
        return 128 + self.received

    @property
    def name(self) -> str:
        """The signal as people call it."""
        return "Ctrl-C" if self.received == signal.SIGINT else "SIGTERM"

    def _handle(self, number: int, frame: FrameType | None) -> None:
        second = self.received is not None
        if not second:
            self.received = number
        if second or not self.orderly:
            raise StoppedAtOnce
        print(
            f"rllib: {self.name}: every trial finishes its iteration and writes a checkpoint. "
            "Once more to stop at once.",
            file=sys.stderr,
            flush=True,
        )


class TrialControl(FIFOScheduler):
    """Decides after every result of a trial whether it goes on.

    Args:
        spec: the experiment.
        signals: where Ctrl-C and SIGTERM arrive.
        resumed: ids of the trials that Ray Tune must take up again; empty for a new run.

    Attributes:
        failures: trial id -> why it was ended although it had not reached its goal.
    """

    def __init__(self, spec: ExperimentSpec, signals: Signals, resumed: Iterable[str]) -> None:
        super().__init__()
        self._spec = spec
        self._signals = signals
        self._resumed = set(resumed)
        self._began = time.monotonic()
        self.failures: dict[str, str] = {}

    @property
    def out_of_time(self) -> bool:
        """Whether ``time_budget_s`` is used up."""
        budget = self._spec.time_budget_s
        return budget is not None and time.monotonic() - self._began > budget

    @property
    def ending(self) -> bool:
        """Whether all trials shall be paused."""
        return self._signals.received is not None or self.out_of_time

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Refuses the fresh start that Ray Tune falls back to when it cannot read its state."""
        if self._resumed and trial.trial_id not in self._resumed:
            raise UserError(
                f"{self._spec.name}: Ray Tune could not read the state of this experiment; start "
                "a new one from a trial's last checkpoint with --restore CHECKPOINT "
                "--experiment-name NAME (--verbose shows Ray's reason)."
            )
        self._resumed.clear()

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> str:
        """Stops a trial whose stop key does not exist, pauses it if all are to end."""
        missing = metrics.never_reported(
            self._spec.stop,
            result,
            iterations=result["iterations_since_restore"],
            evaluation_interval=trial.config.get("evaluation_interval"),
        )
        if missing is not None:
            self.failures[trial.trial_id] = (
                f"the stop key {missing!r} is not among the results of this trial, so that it "
                "would never end; it was stopped with a checkpoint. Reported there: "
                f"{', '.join(_same_group(missing, result))}."
            )
            return TrialScheduler.STOP
        return TrialScheduler.PAUSE if self.ending else TrialScheduler.CONTINUE

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The next trial; none when all are to end, not even a paused one."""
        return None if self.ending else super().choose_trial_to_run(tune_controller)


def _same_group(name: str, result: Mapping[str, Any]) -> list[str]:
    group = name.rpartition("/")[0]
    return sorted(
        key
        for key, value in result.items()
        if key.rpartition("/")[0] == group and isinstance(value, int | float)
    )


class EndOfLoop(Callback):
    """Leaves Ray Tune's loop once every trial that ran has written its checkpoint."""

    def __init__(self, control: TrialControl, signals: Signals, folder: ExperimentFolder) -> None:
        self._control = control
        self._signals = signals
        self._folder = folder
        self._to_save: set[str] | None = None
        self._left = False
        self._leave: Any = None

    def setup(self, *args: Any, **info: Any) -> None:
        """Takes the signals over; Tune's own handler for Ctrl-C is how to leave its loop."""
        self._leave = signal.getsignal(signal.SIGINT)
        self._signals.install()
        self._signals.orderly = True

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
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
