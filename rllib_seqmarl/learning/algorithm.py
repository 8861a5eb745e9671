"""The training iteration that all algorithms of this package share."""

from __future__ import annotations

import time
from typing import Any

import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import ALL_MODULES, DEFAULT_MODULE_ID
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
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

from rllib_seqmarl.rollout.block import split
from rllib_seqmarl.rollout.metrics import TIME_SPLIT


class TeamAlgorithm(Algorithm):
    """Sample blocks of columns, learn from them, send the weights to the runners."""

    def setup(self, config: Any) -> None:
        """Builds runners and learners; see RLlib's ``Algorithm.setup``."""
        threads = getattr(config, "num_threads_per_learner", None)
        if threads is not None:
            # Before any weight is drawn: the initialisation depends on the number of threads.
            torch.set_num_threads(threads)
        super().setup(config)

    def __repr__(self) -> str:
        # RLlib's own needs a config, and hides the mistake in it by failing in turn.
        return type(self).__name__

    def training_step(self) -> None:
        """One iteration; everything it reports goes through ``self.metrics``."""
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            sampled, runner_results = synchronous_parallel_sample(
                worker_set=self.env_runner_group,
                concat=False,
                sample_timeout_s=self.config.sample_timeout_s,
                _uses_new_env_runners=True,
                _return_metrics=True,
            )
            blocks = [block for one_runner in sampled for block in one_runner]
            if not blocks:
                return  # every runner failed; RLlib restores them before the next iteration
            self.metrics.aggregate(runner_results, key=ENV_RUNNER_RESULTS)

        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            learner_results = self.learner_group.update(
                batches=split(blocks, max(1, self.config.num_learners)),
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
                from_worker_or_learner_group=self.learner_group, inference_only=True
            )
        self._log_time_split(time.perf_counter() - begin)

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
        """One iteration and, when due, an evaluation; the result names the simulator."""
        return {**super().step(), "simulator": self.config.simulator}

    def get_metadata(self) -> dict[str, Any]:
        """What a checkpoint says of itself: RLlib's metadata and what it was trained on."""
        return {
            **super().get_metadata(),
            "algorithm": type(self).__name__,
            "env": str(self.config.env),
            "simulator": self.config.simulator,
        }
