"""An algorithm with runners and learners in other processes, and what its turns take.

Functions are timed where they run, in the processes of real runners and learners, whose clock is
the same on one machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import ray
from ray.experimental import get_local_object_locations
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS

from rllib_seqmarl import registry
from rllib_seqmarl.rollout.rollout_batch import RolloutBatch

#: Repetitions of a call that is timed alone.
PROBES = 9

Stamps = dict[str, list[tuple[float, float]]]


class Layout(NamedTuple):
    """Which processes an algorithm has; no learners: one in the driver, likewise for runners."""

    runners: int
    learners: int
    async_: bool = False

    @property
    def cores(self) -> int:
        """Processes that compute at the same time."""
        learning = max(1, self.learners)
        return self.runners + learning if self.async_ else max(self.runners, learning)

    @property
    def processes(self) -> int:
        """Beside the driver."""
        return self.runners + self.learners

    def cells(self, cores: int) -> str:
        """Of a table's row; marked where processes share cores."""
        crowded = " *" if self.cores > cores else ""
        return f"{self.runners or 'driver'} | {self.learners or 'driver'}{crowded}"


def stamp(owner: Any, name: str, stamps: Stamps) -> None:
    """From now on, notes when ``owner.name`` begins and ends."""
    function = getattr(owner, name)

    def stamped(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            stamps.setdefault(name, []).append((begin, time.perf_counter()))

    setattr(owner, name, stamped)


def watch_runner(runner: Any) -> None:
    """In the process of a runner."""
    runner.stamps = {}
    for name in ("sample", "set_state"):
        stamp(runner, name, runner.stamps)


def watch_learner(learner: Any) -> None:
    """In the process of a learner."""
    from rllib_seqmarl.learning.base import learner as learning

    learner.stamps = {}
    for name in ("update", "_average_over_learners"):
        stamp(learner, name, learner.stamps)
    if learner.config.num_learners:  # the driver's learners share a module
        stamp(learning, "concatenate", learner.stamps)


def pop_stamps(owner: Any) -> Stamps:
    """In any process: what was noted since the last time."""
    popped = {name: list(times) for name, times in owner.stamps.items()}
    owner.stamps.clear()
    return popped


def spent(stamps: Stamps, name: str) -> float:
    """Seconds inside a function."""
    return sum(end - begin for begin, end in stamps.get(name, []))


class Player:
    """An algorithm in a layout, and what its turns took."""

    def __init__(self, name: str, layout: Layout, settings: dict[str, Any]) -> None:
        config = registry.config_class(name)()
        config.update_from_dict(
            {
                "seed": 1,
                **settings,
                "num_env_runners": layout.runners,
                "num_learners": layout.learners,
                "async_sampling": layout.async_,
                # All of them share this machine, however few its cores.
                "num_cpus_per_env_runner": 0.01,
                "num_cpus_per_learner": 0.01,
            }
        )
        self.layout = layout
        self.algorithm = config.build_algo()
        self.steps = config.rollout_fragment_length * config.num_envs_per_env_runner
        self.steps *= max(1, layout.runners)
        self.group = self.algorithm.env_runner_group
        self.learners = self.algorithm.learner_group
        self.stamps: Stamps = {}
        self.turns: list[dict[str, float]] = []
        self.stages: list[str] = []
        stamp(self.algorithm, "_sample", self.stamps)
        stamp(self.learners, "update", self.stamps)
        stamp(self.group, "sync_weights", self.stamps)
        self.on_runners(watch_runner)
        self.learners.foreach_learner(watch_learner)

    def stop(self) -> None:
        """Ends its processes; what its turns took stays."""
        self.algorithm.stop()
        del self.algorithm, self.group, self.learners

    def on_runners(self, work: Callable[[Any], Any]) -> list[Any]:
        """What ``work`` gives on every runner that samples, when it is idle."""
        return self.group.foreach_env_runner(work, local_env_runner=not self.layout.runners)

    def turn(self, driver: Stamps) -> None:
        """One iteration, until all runners are idle; its stages are kept, in seconds."""
        driver.clear()
        self.stamps.clear()
        begin = time.perf_counter()
        self.algorithm.train()
        trained = time.perf_counter()
        sampled = self.on_runners(pop_stamps)  # answers when rollouts under way have ended
        whole = time.perf_counter() - begin
        learned = [result.get() for result in self.learners.foreach_learner(pop_stamps)]
        found = {"whole": whole}
        if not self.layout.async_:  # there, rollouts and learning are no stages
            found |= self._stages(driver, sampled, learned, trained - begin)
        self.turns.append(found)

    def _stages(
        self, driver: Stamps, sampled: list[Stamps], learned: list[Stamps], whole: float
    ) -> dict[str, float]:
        (asked, got), (update, updated) = self.stamps["_sample"][0], self.stamps["update"][0]
        plays = [span for stamps in sampled for span in stamps["sample"]]
        learns = [stamps["update"][0] for stamps in learned]
        joining = max(spent(stamps, "concatenate") for stamps in learned)
        stages = {
            "ask the runners": min(first for first, _ in plays) - asked,
            "sample": max(last for _, last in plays) - min(first for first, _ in plays),
            "rollouts and metrics to the driver": got - max(last for _, last in plays),
            "shard over learners": spent(driver, "shard"),
            "rollouts to learners": max(first for first, _ in learns) - update,
            "put shares together": joining,
            "learn": max(last for _, last in learns) - max(first for first, _ in learns) - joining,
            "learners' metrics to the driver": updated - max(last for _, last in learns),
            "send weights": spent(self.stamps, "sync_weights"),
        }
        stages["rest"] = whole - sum(stages.values())
        self.stages = list(stages)
        averages = [stamps.get("_average_over_learners", []) for stamps in learned]
        return {
            **stages,
            "sampling": got - asked,
            "learning": updated - update,
            # Of the learner who waits least for the others.
            "averaging": min(spent(stamps, "_average_over_learners") for stamps in learned),
            "gradients": max(len(spans) for spans in averages),
            "take weights": max(spent(stamps, "set_state") for stamps in sampled),
        }

    def median(self, stage: str) -> float:
        """Over all turns but the first, which compiles."""
        return float(np.median([turn[stage] for turn in self.turns[1:]]))

    def seconds_of_reports(self) -> float:
        """The driver's processor time to ask all runners for metrics and to merge them."""

        def ask() -> None:
            reports = self.on_runners(lambda runner: runner.get_metrics())
            self.algorithm.metrics.aggregate(reports, key=("probe", ENV_RUNNER_RESULTS))

        return probe(ask, clock=time.process_time)

    def seconds_of_weights(self) -> float:
        """The driver's processor time to send weights to all runners."""

        def send() -> None:
            self.group.sync_weights(from_worker_or_learner_group=self.learners, inference_only=True)

        return probe(send, lambda: self.on_runners(pop_stamps), clock=time.process_time)

    def rollout(self) -> RolloutBatch:
        """One more rollout of a runner."""
        rollout: RolloutBatch = self.on_runners(lambda runner: runner.sample())[0][0]
        return rollout

    def acting_weights(self) -> Any:
        """What is sent to runners."""
        return self.learners.get_state(components="learner/rl_module", inference_only=True)


def probe(
    call: Callable[[], Any],
    settle: Callable[[], Any] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Median seconds of a call."""
    times = []
    for _ in range(PROBES):
        begin = clock()
        call()
        times.append(clock() - begin)
        settle()
    return float(np.median(times))


def stored_bytes(value: Any) -> int:
    """What Ray writes into the object store."""
    reference = ray.put(value)
    return int(get_local_object_locations([reference])[reference]["object_size"])


def num_bytes(state: Any) -> int:
    """Of all arrays in nested dicts."""
    if isinstance(state, dict):
        return sum(num_bytes(value) for value in state.values())
    return int(getattr(state, "nbytes", 0))
