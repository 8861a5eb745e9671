"""The training iteration."""

from __future__ import annotations

import copy
import os
import signal
from typing import Any

import numpy as np
import psutil
import pytest

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.rollout.rollout_batch import shard


@pytest.mark.parametrize("async_sampling", [False, True])
def test_rollouts_that_are_sampled_ahead_are_of_the_policy_before(
    async_sampling: bool, small: Any
) -> None:
    """The age of the weights that acted is the lag; no step is lost or learned from twice."""
    algorithm = small(
        "MAT", num_env_runners=1, async_sampling=async_sampling, lr=1e-2, clip_param=10.0
    ).build_algo()
    acted, moved = [], []
    for iteration in range(1, 5):
        result = algorithm.train()
        assert result["env_runners"]["num_env_steps_sampled_lifetime"] == 80 * iteration
        acted.append(result["env_runners"]["weights_seq_no"])
        moved.append(result["learners"]["default_policy"]["ratio_deviation"])
    assert acted == ([0, 0, 1, 2] if async_sampling else [0, 1, 2, 3])
    algorithm.stop()


def test_sampling_ahead_needs_other_processes(small: Any) -> None:
    with pytest.raises(UserError, match="set num_env_runners to 1 or more"):
        small("MAT", async_sampling=True).validate()


def test_learners_that_share_rollouts_step_as_one_with_all_of_them(small: Any) -> None:
    """Of three rollouts two learners get one each, and half of the second."""

    def gradients(learner: Any) -> dict[str, np.ndarray]:
        named = learner.module["default_policy"].unwrapped().named_parameters()
        return {name: p.grad.numpy().copy() for name, p in named if p.grad is not None}

    found, rollouts = [], []
    for num_learners in (0, 2):
        algorithm = small("MAT", num_learners=num_learners, num_epochs=1).build_algo()
        if not rollouts:
            rollouts = [copy.deepcopy(algorithm.env_runner.sample()[0]) for _ in range(3)]
        shares = shard(rollouts, max(1, num_learners))
        algorithm.learner_group.update(batches=shares, timesteps={})
        found += [one.get() for one in algorithm.learner_group.foreach_learner(gradients)]
        algorithm.stop()
    assert [len(share) for share in shares] == [2, 2]
    one, first, second = found
    for name, gradient in one.items():
        np.testing.assert_array_equal(first[name], second[name])
        atol = 1e-4 * np.abs(gradient).max() + 1e-8
        np.testing.assert_allclose(first[name], gradient, atol=atol)


def _cpu_seconds(pids: list[int]) -> float:
    """What the system has counted for processes."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(time.user + time.system for time in times)


@pytest.mark.parametrize(("num_env_runners", "num_learners"), [(0, 0), (2, 1)])
def test_cpu_seconds_are_those_of_all_processes(
    num_env_runners: int, num_learners: int, small: Any
) -> None:
    config = small(
        "MAPPO",
        num_env_runners=num_env_runners,
        num_learners=num_learners,
        rollout_fragment_length=100,
        evaluation_interval=2,
        evaluation_duration=200,
        evaluation_num_env_runners=num_learners,
    )
    algorithm = config.build_algo()
    pids = [os.getpid()]
    if num_env_runners:
        for group in (algorithm.env_runner_group, algorithm.eval_env_runner_group):
            pids += group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
        pids += [
            one.get() for one in algorithm.learner_group.foreach_learner(lambda _: os.getpid())
        ]
    assert len(set(pids)) == 1 + num_env_runners + 2 * num_learners
    results, counted = [algorithm.train()], [_cpu_seconds(pids)]
    for _ in range(5):
        results.append(algorithm.train())
    counted.append(_cpu_seconds(pids))
    reported = [result["cpu_time_this_iter_s"] for result in results]
    totals = [result["cpu_time_total_s"] for result in results]
    # The system counts in hundredths; a runner's last milliseconds come with its next report.
    assert totals[-1] - totals[0] == pytest.approx(counted[1] - counted[0], rel=0.1, abs=0.1)
    assert totals == pytest.approx(np.cumsum(reported))
    if num_learners:  # as it has one: what is said when it is killed
        os.kill(pids[-1], signal.SIGKILL)
        with pytest.raises(RuntimeError, match="the process of a learner is gone"):
            algorithm.train()
    algorithm.stop()
