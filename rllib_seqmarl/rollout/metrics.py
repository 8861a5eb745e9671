"""What a runner reports, under RLlib's names."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_AGENT_ID, DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import (
    EPISODE_LEN_MAX,
    EPISODE_LEN_MEAN,
    EPISODE_LEN_MIN,
    EPISODE_RETURN_MAX,
    EPISODE_RETURN_MEAN,
    EPISODE_RETURN_MIN,
    NUM_AGENT_STEPS_SAMPLED,
    NUM_AGENT_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    NUM_EPISODES_LIFETIME,
    NUM_MODULE_STEPS_SAMPLED,
    NUM_MODULE_STEPS_SAMPLED_LIFETIME,
)
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rllib_seqmarl.envs.core.contract import METRIC_NAMES

#: Statistics of episodes, by name, an entry per episode.
EpisodeStatistics = dict[str, NDArray[np.float32]]

#: Episodes that an evaluation has ended because they went on for too long.
NUM_EPISODES_CUT = "num_episodes_cut"

#: Where the seconds of an iteration went, of runners, of learners, and of the whole.
TIME_SPLIT = "time_split"

#: CPU seconds of a runner's or learner's own process since its last report.
CPU_TIME = "cpu_time_s"

#: Names of the mean, the least and the most of what every environment reports.
_EPISODE_METRICS = {
    "episode_return": (EPISODE_RETURN_MEAN, EPISODE_RETURN_MIN, EPISODE_RETURN_MAX),
    "episode_length": (EPISODE_LEN_MEAN, EPISODE_LEN_MIN, EPISODE_LEN_MAX),
}


@dataclasses.dataclass(frozen=True)
class TeamEpisode:
    """What a callback is told of a finished episode.

    Attributes:
        env_index: which of the E environments played it.
        statistics: ``episode_return``, ``episode_length`` and the environment's own metrics.
        infos: what the game said in the episode's last step, a dict by agent; empty where the
            environment says nothing (see `TeamVectorEnv.episode_infos`).
    """

    env_index: int
    statistics: dict[str, float]
    infos: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.statistics["episode_length"])

    def get_return(self) -> float:
        """Sum of the team's rewards."""
        return self.statistics["episode_return"]


def cut_line(num_cut: int, max_steps: int) -> str:
    """What a user is told of episodes that an evaluation has ended."""
    return (
        f"{num_cut:,} of the evaluation's episodes did not end within {max_steps:,} steps and "
        "were cut short there, as truncated; evaluation_max_episode_steps is another bound."
    )


def mean_name(statistic: str) -> str:
    """Under which name the mean of an episode's statistic stands in results."""
    return _EPISODE_METRICS.get(statistic, (METRIC_NAMES.get(statistic, statistic),))[0]


def log_steps(logger: MetricsLogger, env_steps: int) -> None:
    """Counts steps of single environments; the team is one agent and one module to RLlib."""
    for path in (
        (NUM_ENV_STEPS_SAMPLED,),
        (NUM_AGENT_STEPS_SAMPLED, DEFAULT_AGENT_ID),
        (NUM_MODULE_STEPS_SAMPLED, DEFAULT_MODULE_ID),
    ):
        logger.log_value(path, env_steps, reduce="sum")
    for path in (
        (NUM_AGENT_STEPS_SAMPLED_LIFETIME, DEFAULT_AGENT_ID),
        (NUM_MODULE_STEPS_SAMPLED_LIFETIME, DEFAULT_MODULE_ID),
    ):
        logger.log_value(path, env_steps, reduce="lifetime_sum")
    logger.log_value(
        NUM_ENV_STEPS_SAMPLED_LIFETIME, env_steps, reduce="lifetime_sum", with_throughput=True
    )


class CpuClock:
    """Counts the CPU seconds of this process: those of all its threads, of no other process."""

    def __init__(self) -> None:
        self._last = time.process_time()

    def lap(self) -> float:
        """Seconds since the last call, at first since the clock was made."""
        last, self._last = self._last, time.process_time()
        return self._last - last


class RunnerMetrics:
    """What a runner notes between two reports: episodes that ended, and where its seconds went.

    Attributes:
        finished: statistics of the episodes that ended since the last report, by step.
        seconds: by part of the time.
    """

    def __init__(self) -> None:
        self.finished: list[EpisodeStatistics] = []
        self.seconds = {"environment": 0.0, "decode": 0.0, "sampling_other": 0.0}
        self._reported: list[EpisodeStatistics] = []

    @contextlib.contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Counts the seconds inside as ``part``, but for those of other parts within them."""
        begin, others = time.perf_counter(), sum(self.seconds.values())
        yield
        others = sum(self.seconds.values()) - others
        self.seconds[part] += time.perf_counter() - begin - others

    def pop_episodes(self) -> EpisodeStatistics:
        """Statistics of the episodes that ended since the last call."""
        finished, self.finished = self.finished, []
        names = finished[0] if finished else ()
        return {name: np.concatenate([one[name] for one in finished]) for name in names}

    def pop_reported(self) -> list[EpisodeStatistics]:
        """Statistics of the episodes that were logged since the last call."""
        reported, self._reported = self._reported, []
        return reported

    def log(self, logger: MetricsLogger, window: int | None) -> None:
        """Logs episodes and seconds, and begins again.

        Args:
            logger: of the runner.
            window: the mean is of at most so many episodes; None: of all, as in an evaluation.
        """
        finished = self.pop_episodes()
        if finished:
            self._reported.append(finished)
        episodes = len(next(iter(finished.values()))) if finished else 0
        logger.log_value(NUM_EPISODES, episodes, reduce="sum")
        logger.log_value(NUM_EPISODES_LIFETIME, episodes, reduce="lifetime_sum")
        window = episodes if window is None else window
        for name, values in finished.items():
            mean, extremes = mean_name(name), _EPISODE_METRICS.get(name, ("",))[1:]
            for value in values[-window:].tolist():
                logger.log_value(mean, value, reduce="mean", window=window)
                for key, reduce in zip(extremes, ("min", "max"), strict=False):
                    logger.log_value(key, value, reduce=reduce, window=window)
        for part, seconds in self.seconds.items():
            logger.log_value((TIME_SPLIT, part), seconds, reduce="mean", window=1)
            self.seconds[part] = 0.0


class RecentEpisodes:
    """The last episodes of all runners, over which a training's metrics are smoothed.

    Args:
        size: how many.
        game: what is played; episodes of another game are not taken over from a checkpoint.
    """

    def __init__(self, size: int, game: str) -> None:
        self._size = size
        self._game = game
        self._statistics: EpisodeStatistics = {}

    def add(self, finished: Iterable[EpisodeStatistics]) -> None:
        """Takes in episodes, those that ended first first."""
        for episodes in finished:
            known = self._statistics
            self._statistics = {
                name: np.concatenate([known[name], values] if name in known else [values])[
                    -self._size :
                ]
                for name, values in episodes.items()
            }

    def put_into(self, reported: dict[str, Any]) -> None:
        """Puts mean, least and most into results in the place of those of an iteration alone.

        Where no episode ended in an iteration, those say NaN; before the first one nothing is said.
        """
        for name in [key for key, value in reported.items() if _is_nan(value)]:
            del reported[name]
        for name, values in self._statistics.items():
            reported[mean_name(name)] = float(values.astype(np.float64).mean())
            for key, extreme in zip(
                _EPISODE_METRICS.get(name, ("",))[1:], (values.min(), values.max()), strict=False
            ):
                reported[key] = float(extreme)

    def get_state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"game": self._game, "statistics": self._statistics}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_state` gave, if it is of this game."""
        if state["game"] == self._game:
            self._statistics = {k: v[-self._size :] for k, v in state["statistics"].items()}


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
