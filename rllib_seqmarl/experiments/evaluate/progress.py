"""How far an evaluation is: in one line of a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console

from rllib_seqmarl.experiments.train.progress import duration

_REFRESH_S = 0.5
_LINE_EVERY_S = 10.0


class PlayProgress:
    """Shows episodes, steps per second, and the time to go.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("building the environment") if console.is_terminal else None
        self._every = _REFRESH_S if console.is_terminal else _LINE_EVERY_S

    def __enter__(self) -> PlayProgress:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def begin(self, who: str, episodes: int) -> None:
        """Somebody begins to play so many episodes."""
        self._who, self._episodes = who, episodes
        self._began: float | None = None

    def step(self, env_steps: int, finished: Callable[[], int]) -> None:
        """So many environments were stepped; ``finished`` counts the episodes played until now."""
        now = time.monotonic()
        if self._began is None:  # some simulators compile with the first step
            self._began = self._shown = now
            self._env_steps = 0
            return
        self._env_steps += env_steps
        if now - self._shown < self._every:
            return
        self._shown = now
        seconds, done = now - self._began, finished()
        line = (
            f"{self._who}: {done} / {self._episodes} episodes, "
            f"{self._env_steps / seconds:,.0f} steps/s"
        )
        if done:
            line += f", ETA {duration(seconds * (self._episodes - done) / done)}"
        if self._status is not None:
            self._status.update(line)
        else:
            self._console.print(line, markup=False, soft_wrap=True)
