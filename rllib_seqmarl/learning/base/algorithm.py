"""The training iteration that all algorithms of this package share."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs
import ray
import torch
from ray.exceptions import RayActorError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import ALL_MODULES, DEFAULT_MODULE_ID
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    EVALUATION_RESULTS,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)

from rllib_seqmarl import _ray_compat, manifest, registry
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.base.batch import TrainBatch
from rllib_seqmarl.learning.base.learner import TeamLearner
from rllib_seqmarl.learning.base.module import TeamModule
from rllib_seqmarl.rollout.group import RemoteRunners
from rllib_seqmarl.rollout.metrics import (
    CPU_TIME,
    NUM_EPISODES_CUT,
    TIME_SPLIT,
    CpuClock,
    EpisodeStatistics,
    RecentEpisodes,
    cut_line,
    mean_name,
)
from rllib_seqmarl.rollout.rollout_batch import RolloutBatch, shard
from rllib_seqmarl.rollout.runner import TeamEnvRunner, text_of_settings

Metrics = dict[str, Any]

#: CPU seconds of a trial's process, its runners' and its learners', since its beginning (through
#: restores, like Ray Tune's ``time_total_s``) and since the last result.
CPU_TIME_TOTAL, CPU_TIME_THIS_ITER = "cpu_time_total_s", "cpu_time_this_iter_s"

#: Key in a checkpoint's state.
RECENT_EPISODES = "recent_episodes"

#: How long to wait until runners have taken the last weights. RLlib sends none to a runner that
#: has yet to confirm its last ones, which right after a rollout would be left out by chance.
WEIGHTS_TIMEOUT_S = 10.0

#: Iterations on end without any rollout before training gives up.
MAX_ITERATIONS_WITHOUT_ROLLOUT = 5


def _remote(
    group: EnvRunnerGroup | None, name: str, config: AlgorithmConfig
) -> RemoteRunners | None:
    if group is None or group.num_remote_env_runners() == 0:
        return None
    return RemoteRunners(group, name, config)


def _sample_and_report(
    runner: TeamEnvRunner,
) -> tuple[list[RolloutBatch], Metrics, list[EpisodeStatistics]]:
    rollouts, metrics = runner.sample(), runner.get_metrics()
    return rollouts, metrics, runner.pop_reported()[0]


def _evaluated(
    runner: TeamEnvRunner,
) -> tuple[list[EpisodeStatistics], str | None, tuple[int, int]]:
    return *runner.pop_reported(), runner.pop_num_cut()


def _evaluate(
    runner: TeamEnvRunner, *, shares: Mapping[int, int], unit: str, force_reset: bool
) -> tuple[int, int, Metrics]:
    """Plays a runner's share of so many ``unit``; the share, environment steps and metrics."""
    share = shares[runner.worker_index]
    amount: dict[str, Any] = {f"num_{unit}": share}
    rollouts = runner.sample(**amount, force_reset=force_reset)
    return share, sum(rollout.num_env_steps for rollout in rollouts), runner.get_metrics()


class TeamAlgorithm(Algorithm):
    """Samples rollouts, learns from them, and sends the weights to the runners."""

    def setup(self, config: AlgorithmConfig) -> None:
        """Builds runners and learners; see RLlib's ``Algorithm.setup``."""
        threads = getattr(config, "num_threads_per_learner", None)
        if threads is not None:
            # Before any weight is drawn: the initialisation depends on the number of threads.
            torch.set_num_threads(threads)
        self._iterations_without_rollout = 0
        self._not_restored = ""
        self._recent_episodes = RecentEpisodes(
            config.metrics_num_episodes_for_smoothing,
            text_of_settings((config.env, config.env_config)),
        )
        super().setup(config)
        self._runners = _remote(self.env_runner_group, "runner", self.config)
        self._evaluation_runners = _remote(
            self.eval_env_runner_group, "evaluation runner", self.evaluation_config
        )
        self._cpu_clock = CpuClock()
        self._evaluation_cpu_time = 0.0  # of evaluation runners since the last result

    def __repr__(self) -> str:
        # RLlib's own needs a config, and hides the mistake in it by failing in turn.
        class_name = type(self).__name__
        return registry.name_of_class(class_name) or class_name

    def training_step(self) -> None:
        """One iteration; everything it reports goes through ``self.metrics``."""
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            rollouts, runner_results = self._sample()
            if not rollouts:
                return
            self.metrics.aggregate(runner_results, key=ENV_RUNNER_RESULTS)

        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            try:
                learner_results = self.learner_group.update(
                    batches=shard(rollouts, max(1, self.config.num_learners)),
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
            except RayActorError as error:
                raise RuntimeError(
                    "the process of a learner is gone (killed, out of memory, or its node lost); "
                    "what it had learned since the last checkpoint is lost."
                ) from error
            self.metrics.aggregate(learner_results, key=LEARNER_RESULTS)

        begin = time.perf_counter()
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self.env_runner_group.sync_weights(
                from_worker_or_learner_group=self.learner_group,
                inference_only=True,
                timeout_seconds=WEIGHTS_TIMEOUT_S if self.config.async_sampling else 0.0,
            )
        self._log_time_split(time.perf_counter() - begin)

    def _sample(self) -> tuple[list[RolloutBatch], list[Metrics]]:
        """A rollout and metrics of every runner that answers.

        Raises:
            UserError: the environment is at fault, in whatever process.
            RuntimeError: no runner answered in several iterations on end.
        """
        timeout, runners = self.config.sample_timeout_s, self._runners
        if runners is None:
            results = [_sample_and_report(self.env_runner)]
        elif self.config.async_sampling:
            # At first all; later those who have been restarted.
            runners.request_async(_sample_and_report)
            results = runners.fetch_async(timeout)
            # Their next weights reach the runners after these rollouts, which are under way.
            runners.request_async(_sample_and_report)
        else:
            results = runners.request(_sample_and_report, timeout)
        rollouts = [rollout for sampled, *_ in results for rollout in sampled]
        for rollout in rollouts:
            if rollout.error is not None:
                raise UserError(rollout.error)
        # RLlib restarts runners that are gone before the next iteration.
        self._iterations_without_rollout = 0 if rollouts else self._iterations_without_rollout + 1
        if self._iterations_without_rollout > MAX_ITERATIONS_WITHOUT_ROLLOUT:
            warnings = runners.warnings if runners is not None else []
            raise RuntimeError(
                f"no runner answered in {self._iterations_without_rollout} iterations on end: "
                f"{warnings[-1] if warnings else 'see their logs.'}"
            )
        for *_, episodes in results:
            self._recent_episodes.add(episodes)
        return rollouts, [metrics for _, metrics, _ in results]

    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        """RLlib's; where all runners are gone, it waits until one is back.

        Without that, iterations without a step would follow each other in no time.
        """
        restored: list[int] = super().restore_env_runners(env_runner_group)
        runners = env_runner_group.num_remote_env_runners()
        deadline = time.monotonic() + self.config.env_runner_health_probe_timeout_s
        while runners and not env_runner_group.num_healthy_remote_env_runners():
            if not self.config.restart_failed_env_runners or time.monotonic() > deadline:
                break
            time.sleep(0.2)
            restored += super().restore_env_runners(env_runner_group)
        if env_runner_group is self.env_runner_group and self._runners is not None:
            self._runners.forget(restored)
        return restored

    def evaluate(self, parallel_train_future: object = None) -> Metrics:
        """RLlib's evaluation, with means over all episodes and not over the runners' means.

        ``num_episodes_cut`` counts those that were ended after ``evaluation_max_episode_steps``.

        Raises:
            UserError: the environment is at fault, in whatever process.
        """
        results: Metrics = super().evaluate(parallel_train_future)
        if self._evaluation_runners is not None:
            timeout = self.config.evaluation_sample_timeout_s
            popped = self._evaluation_runners.request(_evaluated, timeout)
        else:
            popped = [_evaluated(self.eval_env_runner or self.env_runner)]
        for _, error, _ in popped:
            if error is not None:
                raise UserError(error)
        played = [episodes for evaluated, *_ in popped for episodes in evaluated]
        if not played:  # nobody answered: RLlib would repeat the metrics of the last evaluation
            results.pop(ENV_RUNNER_RESULTS, None)
        reported = results.get(ENV_RUNNER_RESULTS, {})
        self._evaluation_cpu_time += reported.get(CPU_TIME, 0.0)
        for name in played[0] if played else ():
            values = np.concatenate([episodes[name] for episodes in played])
            reported[mean_name(name)] = float(values.mean(dtype=np.float64))
        num_cut = sum(count for *_, (count, _) in popped)
        if played:
            reported[NUM_EPISODES_CUT] = num_cut
        if num_cut:
            self._evaluation_notice = cut_line(num_cut, popped[0][-1][1])
        return results

    def _evaluate_with_fixed_duration(self) -> tuple[None, int, int, list[Any]]:
        """Shares an evaluation among healthy runners until all of it has been played.

        RLlib's own version asks runners that hang again and again, and where a runner is gone it
        may give the rest of the work to that one for ever.
        """
        runners, unit = self._evaluation_runners, self.config.evaluation_duration_unit
        assert runners is not None
        left, env_steps, metrics = self.config.evaluation_duration, 0, []
        force_reset = self.config.evaluation_force_reset_envs_before_iteration
        while left > 0 and (healthy := runners.healthy):
            shares = {
                runner: left // len(healthy) + (i < left % len(healthy))
                for i, runner in enumerate(healthy)
            }
            results = runners.request(
                partial(_evaluate, shares=shares, unit=unit, force_reset=force_reset),
                self.config.evaluation_sample_timeout_s,
                only=[runner for runner, share in shares.items() if share],
            )
            for share, steps, reported in results:
                left -= share
                env_steps += steps
                metrics.append(reported)
            force_reset = False
        self.metrics.aggregate(metrics, key=(EVALUATION_RESULTS, ENV_RUNNER_RESULTS))
        return None, env_steps, env_steps, []

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

    def restore_from_path(self, path: str | Path, *args: object, **kwargs: object) -> None:
        """RLlib's; also of a team of another size, or with another ``env_config``.

        What has another shape now keeps its initial values, and the next result's ``notice`` names
        it.

        Raises:
            UserError: the checkpoint is of another network.
        """
        # Runners take no weights of the number that they have. Those of a checkpoint may have the
        # same number and be others.
        for group in (self.env_runner_group, self.eval_env_runner_group):
            if group is not None:
                group.foreach_env_runner(TeamEnvRunner.forget_weights, local_env_runner=True)
        self._accept_other_sizes(True)
        try:
            super().restore_from_path(path, *args, **kwargs)
            results = self.learner_group.foreach_learner(lambda learner: learner.core.not_restored)
        finally:
            self._accept_other_sizes(False)
        names = next(iter(results)).get()
        if names:
            self._not_restored = (
                f"the checkpoint is of a team of other sizes: {len(names)} tensors of its network "
                f"were left out ({', '.join(names)}) and begin anew, all others go on."
            )

    def _accept_other_sizes(self, accept: bool) -> None:
        def set_on_learner(learner: TeamLearner[TrainBatch, TeamModule]) -> None:
            learner.core.accepts_other_sizes = accept

        self.learner_group.foreach_learner(set_on_learner)

    def step(self) -> Metrics:
        """One iteration and, when due, an evaluation; the result names algorithm and simulator.

        ``notice`` holds warnings for the user: what a restore could not bring back, which runners
        hang or failed, how many episodes of an evaluation did not end. Empty if there are none.
        """
        self._evaluation_notice = ""
        warnings, self._not_restored = [self._not_restored, self.env_runner.pop_warning()], ""
        result = super().step()
        warnings.append(self._evaluation_notice)
        self._recent_episodes.put_into(result.setdefault(ENV_RUNNER_RESULTS, {}))
        for runners in self._runners, self._evaluation_runners:
            warnings += runners.pop_warnings() if runners is not None else []
        notice = " ".join(filter(None, warnings))
        return {
            **result,
            **self._log_cpu_time(result),
            "algorithm": repr(self),
            "simulator": self.config.simulator,
            "notice": notice,
        }

    def _log_cpu_time(self, result: Metrics) -> Metrics:
        """CPU seconds of this process and of those that worked for it, in all and of a result."""
        parts = [
            self._cpu_clock.lap(),
            result.get(ENV_RUNNER_RESULTS, {}).get(CPU_TIME, 0.0),
            result.get(LEARNER_RESULTS, {}).get(DEFAULT_MODULE_ID, {}).get(CPU_TIME, 0.0),
            self._evaluation_cpu_time,  # results repeat the last evaluation until the next one
        ]
        # RLlib gives NaN for what has reported nothing since the last result.
        seconds = sum(part for part in parts if not math.isnan(part))
        self._evaluation_cpu_time = 0.0
        # A lifetime sum is part of checkpoints.
        self.metrics.log_value(CPU_TIME_TOTAL, seconds, reduce="lifetime_sum")
        return {CPU_TIME_TOTAL: self.metrics.peek(CPU_TIME_TOTAL), CPU_TIME_THIS_ITER: seconds}

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: object,
    ) -> dict[str, Any]:
        """RLlib's state, and the episodes over which metrics are smoothed."""
        state: dict[str, Any] = super().get_state(
            components, not_components=not_components, **kwargs
        )
        return {**state, RECENT_EPISODES: self._recent_episodes.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes over what `get_state` gave."""
        super().set_state(state)
        if RECENT_EPISODES in state:  # version 0.2 does not write them
            self._recent_episodes.set_state(state[RECENT_EPISODES])

    def get_metadata(self) -> dict[str, Any]:
        """What a checkpoint says of itself: RLlib's metadata and what it was trained on."""
        return {
            **super().get_metadata(),
            "algorithm": repr(self),
            "env": str(self.config.env),
            "simulator": self.config.simulator,
            "training_iteration": self.training_iteration,
            "manifest": manifest.MANIFEST,
        }

    def save_to_path(
        self,
        path: str | Path | None = None,
        *,
        state: dict[str, Any] | None = None,
        filesystem: pyarrow.fs.FileSystem | None = None,
        use_msgpack: bool = False,
    ) -> str:
        """RLlib's checkpoint and, written last, the list of its files; see `manifest`."""
        folder: str = super().save_to_path(
            path, state=state, filesystem=filesystem, use_msgpack=use_msgpack
        )
        if filesystem is None:
            filesystem, _ = pyarrow.fs.FileSystem.from_uri(str(path or folder))
        manifest.write(folder, filesystem)
        return folder

    def save(self, checkpoint_dir: str | None = None) -> object:
        """A checkpoint in the storage of the trial; see Ray Tune's ``Trainable.save``.

        Raises:
            UserError: it cannot be written. Nothing of it is left behind, and the ones before stay.
        """
        storage = _ray_compat.storage_of_trial(self)
        if checkpoint_dir is not None or storage is None:
            return super().save(checkpoint_dir)
        written = storage.current_checkpoint_index
        try:
            with tempfile.TemporaryDirectory() as folder:
                return super().save(folder)
        except ray.exceptions.RayError:
            raise  # some are OSErrors, of processes and not of files
        except OSError as error:
            target = storage.checkpoint_fs_path
            if storage.current_checkpoint_index > written:
                with contextlib.suppress(OSError):
                    storage.storage_filesystem.delete_dir(target)
            else:
                target = tempfile.gettempdir()
            reason = " ".join(str(error).split())
            raise UserError(
                f"the checkpoint after iteration {self.training_iteration} could not be written to "
                f"{target}: {reason}. Those before are good: free space and go on with --resume."
            ) from None
