"""Runners in other processes: requests to them; those that hang or fail are named and replaced.

RLlib brings back a runner whose process is gone, without a word of why, but takes one that does not
answer in time for a healthy one: it would be waited for in every iteration again. And of a runner
whose environment raised an exception it knows only that its process has ended. Here each is said in
one line, a process that hangs or failed is ended, and RLlib's own restart does the rest.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from rllib_seqmarl import _ray_compat
from rllib_seqmarl.rollout.runner import TeamEnvRunner

logger = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[TeamEnvRunner], T]

#: Tag of requests whose results are fetched later.
ASYNC = "async"


@dataclass(frozen=True)
class Success(Generic[T]):
    """What the work of a runner gave.

    Attributes:
        runner: its index.
        value: the result.
    """

    runner: int
    value: T


@dataclass(frozen=True)
class Failure:
    """The exception that ended the work of a runner, in one line."""

    runner: int
    reason: str


def _run(runner: TeamEnvRunner, work: Work[T]) -> Success[T] | Failure:
    """Works, in the runner's process; an exception is sent and not raised."""
    try:
        return Success(runner.worker_index, work(runner))
    except Exception as error:
        logger.exception("runner %s failed", runner.worker_index)
        reason = " ".join(str(error).split())
        return Failure(runner.worker_index, reason or type(error).__name__)


class RemoteRunners:
    """The runners of a group that live in other processes.

    Args:
        group: RLlib's.
        name: what its runners are called in warnings.
        config: of the runners.
    """

    def __init__(self, group: EnvRunnerGroup, name: str, config: AlgorithmConfig) -> None:
        self._group = group
        self._name = name
        self._config = config
        self._pending: set[int] = set()  # runners with an asynchronous request
        self.warnings: list[str] = []

    def pop_warnings(self) -> list[str]:
        """Lines on runners that hang or failed, since the last call."""
        warnings, self.warnings = self.warnings, []
        return warnings

    @property
    def healthy(self) -> list[int]:
        """Indices of those to whom requests can be sent."""
        return list(self._group.healthy_env_runner_ids())

    def request(
        self, work: Work[T], timeout: float | None, only: Collection[int] | None = None
    ) -> list[T]:
        """Lets all healthy runners, or some of them, work at the same time.

        Args:
            work: done in the runner's process.
            timeout: seconds after which a runner is taken to hang; None waits for ever.
            only: indices of those that work.

        Returns:
            The results, of runners that finished.

        Raises:
            RuntimeError: a runner hangs or failed, and the config wants none restarted or left out.
        """
        runners = [runner for runner in self.healthy if only is None or runner in only]
        if not runners:
            return []
        results = self._group.foreach_env_runner(
            functools.partial(_run, work=work),
            local_env_runner=False,
            remote_worker_ids=runners,
            timeout_seconds=timeout,
        )
        return self._settle(runners, results, timeout)

    def request_async(self, work: Work[Any]) -> None:
        """Lets those healthy runners begin that have no asynchronous request already."""
        idle = sorted(set(self.healthy) - self._pending)
        if idle:
            self._group.foreach_env_runner_async(
                functools.partial(_run, work=work), tag=ASYNC, remote_worker_ids=idle
            )
            self._pending.update(idle)

    def fetch_async(self, timeout: float | None) -> list[Any]:
        """The results of asynchronous requests; the rest as in `request`."""
        fetched = self._group.fetch_ready_async_reqs(tags=ASYNC, timeout_seconds=timeout)
        runners, self._pending = self._pending, set()
        return self._settle(runners, [result for _, result in fetched], timeout)

    def forget(self, restarted: Collection[int]) -> None:
        """Runners that have been restarted have lost their asynchronous requests."""
        self._pending.difference_update(restarted)

    def _settle(
        self,
        runners: Collection[int],
        results: Sequence[Success[T] | Failure],
        timeout: float | None,
    ) -> list[T]:
        results = sorted(results, key=lambda result: result.runner)  # each env keeps its place
        healthy = self.healthy
        for runner in sorted(set(runners) - {result.runner for result in results}):
            if runner in healthy:
                limit = "at all" if timeout is None else f"within {timeout:g} s"
                self._restart(runner, f"it did not answer {limit}.")
            else:  # RLlib has seen that and restarts it
                self._warn(runner, "its process is gone (killed, out of memory, or its node lost).")
        for result in results:
            if isinstance(result, Failure):
                self._restart(result.runner, result.reason)
        return [result.value for result in results if isinstance(result, Success)]

    def _restart(self, runner: int, why: str) -> None:
        """Ends a runner's process and says so; Ray starts it again where the config wants that."""
        restarts = self._config.restart_failed_env_runners
        if not restarts and not self._config.ignore_env_runner_failures:
            raise RuntimeError(
                f"{self._name} {runner} is not restarted, as the config wants: {why}"
            )
        _ray_compat.restart_runner(self._group, runner)
        self._warn(runner, why)

    def _warn(self, runner: int, why: str) -> None:
        restarts = self._config.restart_failed_env_runners
        warning = f"{self._name} {runner} is {'restarted' if restarts else 'left out'}: {why}"
        logger.warning(warning)
        self.warnings.append(warning)
