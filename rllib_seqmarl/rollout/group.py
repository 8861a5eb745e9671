"""The runners of other processes: asked for work, named and replaced where they hang or fail.

RLlib brings back a runner whose process is gone, but takes one that does not answer in time for a
healthy one: it would be waited for in every iteration again. And of a runner whose environment
raised an exception it knows only that its process has ended. Here both are said in one line, the
process is ended, and RLlib's own restart does the rest.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ray.rllib.env.env_runner_group import EnvRunnerGroup

from rllib_seqmarl import _ray_compat
from rllib_seqmarl.rollout.runner import TeamEnvRunner

logger = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[TeamEnvRunner], T]

#: Tag of work that was asked for and not waited for.
AHEAD = "ahead"


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What a runner sends back.

    Attributes:
        runner: its index.
        value: what its work gave.
    """

    runner: int
    value: T


@dataclass(frozen=True)
class Failure:
    """The exception that ended the work of a runner, in one line."""

    runner: int
    reason: str


def _do(runner: TeamEnvRunner, work: Work[T]) -> Answer[T] | Failure:
    """Works, in the runner's process; an exception is sent and not raised."""
    try:
        return Answer(runner.worker_index, work(runner))
    except Exception as error:
        logger.exception("runner %s failed", runner.worker_index)
        reason = " ".join(str(error).split())
        return Failure(runner.worker_index, reason or type(error).__name__)


class RemoteRunners:
    """The runners of a group that live in other processes.

    Args:
        group: RLlib's.
        name: what its runners are called in notices.
        config: of the runners.
    """

    def __init__(self, group: EnvRunnerGroup, name: str, config: Any) -> None:
        self._group = group
        self._name = name
        self._config = config
        self._asked_ahead: set[int] = set()
        self.notices: list[str] = []

    def pop_notices(self) -> list[str]:
        """Lines on runners that hang or failed, since the last call."""
        notices, self.notices = self.notices, []
        return notices

    @property
    def healthy(self) -> list[int]:
        """Indices of those who can be asked."""
        return list(self._group.healthy_env_runner_ids())

    def ask(
        self, work: Work[T], timeout: float | None, only: Collection[int] | None = None
    ) -> list[T]:
        """Lets all healthy runners, or some of them, work at the same time.

        Args:
            work: done in the runner's process.
            timeout: seconds after which a runner is taken to hang; None waits for ever.
            only: indices of those who are asked.

        Returns:
            What the work gave, of those who did it.

        Raises:
            RuntimeError: a runner hangs or failed, and the config wants none restarted or left out.
        """
        asked = [runner for runner in self.healthy if only is None or runner in only]
        if not asked:
            return []
        answers = self._group.foreach_env_runner(
            functools.partial(_do, work=work),
            local_env_runner=False,
            remote_worker_ids=asked,
            timeout_seconds=timeout,
        )
        return self._settle(asked, answers, timeout)

    def ask_ahead(self, work: Work[Any]) -> None:
        """Lets those healthy runners begin who are not at work already."""
        idle = sorted(set(self.healthy) - self._asked_ahead)
        if idle:
            self._group.foreach_env_runner_async(
                functools.partial(_do, work=work), tag=AHEAD, remote_worker_ids=idle
            )
            self._asked_ahead.update(idle)

    def forget(self, restarted: Collection[int]) -> None:
        """Runners that have been restarted no longer do what they were asked for ahead."""
        self._asked_ahead.difference_update(restarted)

    def collect(self, timeout: float | None) -> list[Any]:
        """What the work gave that was asked for ahead; the rest as in `ask`."""
        fetched = self._group.fetch_ready_async_reqs(tags=AHEAD, timeout_seconds=timeout)
        asked, self._asked_ahead = self._asked_ahead, set()
        return self._settle(asked, [answer for _, answer in fetched], timeout)

    def _settle(
        self,
        asked: Collection[int],
        answers: Sequence[Answer[T] | Failure],
        timeout: float | None,
    ) -> list[T]:
        answers = sorted(answers, key=lambda answer: answer.runner)  # each world keeps its place
        # Runners whose process is gone are no longer healthy; RLlib has seen to that.
        silent = set(asked) & set(self.healthy) - {answer.runner for answer in answers}
        for runner in sorted(silent):
            limit = "at all" if timeout is None else f"within {timeout:g} s"
            self._end(runner, f"it did not answer {limit}.")
        for answer in answers:
            if isinstance(answer, Failure):
                self._end(answer.runner, answer.reason)
        return [answer.value for answer in answers if isinstance(answer, Answer)]

    def _end(self, runner: int, why: str) -> None:
        """Ends a runner's process and says so; Ray starts it again where the config wants that."""
        restarts = self._config.restart_failed_env_runners
        if not restarts and not self._config.ignore_env_runner_failures:
            raise RuntimeError(
                f"{self._name} {runner} is not restarted, as the config wants: {why}"
            )
        _ray_compat.restart_runner(self._group, runner)
        notice = f"{self._name} {runner} is {'restarted' if restarts else 'left out'}: {why}"
        logger.warning(notice)
        self.notices.append(notice)
