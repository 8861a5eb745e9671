"""The training iteration that all algorithms of this package share."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import ALL_MODULES, DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)

from rllib_seqmarl import registry
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.rollout.block import RolloutBlock, deal
from rllib_seqmarl.rollout.metrics import TIME_SPLIT, mean_name
from rllib_seqmarl.rollout.runner import TeamEnvRunner

#: Tag of rollouts that were asked for and not waited for.
AHEAD = "sample_ahead"

#: How long to wait until runners have taken the last weights. RLlib sends none to a runner that
#: has yet to confirm its last ones, which right after a rollout would be left out by chance.
WEIGHTS_TIMEOUT_S = 10.0

#: Iterations on end without any rollout before training gives up.
MAX_ITERATIONS_WITHOUT_ANSWER = 5


def _sample_and_report(runner: TeamEnvRunner) -> tuple[list[RolloutBlock], Any]:
    return runner.sample(), runner.get_metrics()


def _pop_evaluated(runner: TeamEnvRunner) -> tuple[list[dict[str, Any]], str | None]:
    return runner.pop_evaluated()


class TeamAlgorithm(Algorithm):
    """Sample blocks of columns, learn from them, send the weights to the runners."""

    def setup(self, config: Any) -> None:
        """Builds runners and learners; see RLlib's ``Algorithm.setup``."""
        threads = getattr(config, "num_threads_per_learner", None)
        if threads is not None:
            # Before any weight is drawn: the initialisation depends on the number of threads.
            torch.set_num_threads(threads)
        self._iterations_without_answer = 0
        self._asked_ahead = False
        super().setup(config)

    def __repr__(self) -> str:
        # RLlib's own needs a config, and hides the mistake in it by failing in turn.
        class_name = type(self).__name__
        return registry.name_of_class(class_name) or class_name

    def training_step(self) -> None:
        """One iteration; everything it reports goes through ``self.metrics``."""
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            blocks, runner_results = self._sample()
            if not blocks:
                return
            self.metrics.aggregate(runner_results, key=ENV_RUNNER_RESULTS)

        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            learner_results = self.learner_group.update(
                batches=deal(blocks, max(1, self.config.num_learners)),
                timesteps={
                    NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek(
                        (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME)
                    ),
                    NUM_MODULE_STEPS_TRAINED_LIFETIME: self.metrics.peek(
                        (LEARNER_RESULTS, ALL_MODULES, NUM_MODULE_STEPS_TRAINED_LIFETIME),
                        default=0,
                    ),
                },
            )
            self.metrics.aggregate(learner_results, key=LEARNER_RESULTS)

        begin = time.perf_counter()
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self.env_runner_group.sync_weights(
                from_worker_or_learner_group=self.learner_group,
                inference_only=True,
                timeout_seconds=WEIGHTS_TIMEOUT_S if self.config.sample_ahead else 0.0,
            )
        self._log_time_split(time.perf_counter() - begin)

    def _sample(self) -> tuple[list[RolloutBlock], list[Any]]:
        """A block and metrics of every runner that answers.

        Raises:
            UserError: the environment is at fault, in whatever process.
            RuntimeError: no runner answered in several iterations on end.
        """
        group = self.env_runner_group
        if group.num_remote_env_runners() == 0:
            answers = [_sample_and_report(group.local_env_runner)]
        elif self.config.sample_ahead:
            if not self._asked_ahead:
                group.foreach_env_runner_async(_sample_and_report, tag=AHEAD)
            fetched = group.fetch_ready_async_reqs(
                tags=AHEAD, timeout_seconds=self.config.sample_timeout_s
            )
            answers = [answer for _, answer in fetched]
            # Their next weights reach the runners after these rollouts, which are under way.
            group.foreach_env_runner_async(_sample_and_report, tag=AHEAD)
            self._asked_ahead = True
        else:
            answers = group.foreach_env_runner(
                _sample_and_report,
                local_env_runner=False,
                timeout_seconds=self.config.sample_timeout_s,
            )
        blocks = [block for sampled, _ in answers for block in sampled]
        for block in blocks:
            if block.error is not None:
                raise UserError(block.error)
        # RLlib restarts runners that are gone before the next iteration.
        self._iterations_without_answer = 0 if blocks else self._iterations_without_answer + 1
        if self._iterations_without_answer > MAX_ITERATIONS_WITHOUT_ANSWER:
            raise RuntimeError(
                f"no runner answered in {self._iterations_without_answer} iterations on end: see "
                "the logs of the runners, or raise sample_timeout_s."
            )
        return blocks, [metrics for _, metrics in answers]

    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """RLlib's evaluation, with means over all episodes and not over the runners' means.

        Raises:
            UserError: the environment is at fault, in whatever process.
        """
        results: dict[str, Any] = super().evaluate(parallel_train_future)
        group = self.eval_env_runner_group or self.env_runner_group
        answers = group.foreach_env_runner(_pop_evaluated)
        for _, error in answers:
            if error is not None:
                raise UserError(error)
        played = [episodes for evaluated, _ in answers for episodes in evaluated]
        reported = results.get(ENV_RUNNER_RESULTS, {})
        for name in played[0] if played else ():
            values = np.concatenate([episodes[name] for episodes in played])
            reported[mean_name(name)] = float(values.mean(dtype=np.float64))
        return results

    def _log_time_split(self, weight_sync: float) -> None:
        """Where the iteration's seconds went; means over runners and over learners."""
        parts = {"weight_sync": weight_sync}
        for path in (
            (ENV_RUNNER_RESULTS, TIME_SPLIT),
            (LEARNER_RESULTS, DEFAULT_MODULE_ID, TIME_SPLIT),
        ):
            parts |= self.metrics.peek(path, default={})
        for name, seconds in parts.items():
            self.metrics.log_value((TIME_SPLIT, name), seconds, reduce="mean", window=1)

    def step(self) -> dict[str, Any]:
        """One iteration and, when due, an evaluation; the result names the simulator.

        ``notice`` is a line for the user, empty but for the first result after a restore that
        could not bring everything back.
        """
        notice = self.env_runner.pop_notice()
        return {**super().step(), "simulator": self.config.simulator, "notice": notice}

    def get_metadata(self) -> dict[str, Any]:
        """What a checkpoint says of itself: RLlib's metadata and what it was trained on."""
        return {
            **super().get_metadata(),
            "algorithm": repr(self),
            "env": str(self.config.env),
            "simulator": self.config.simulator,
        }
