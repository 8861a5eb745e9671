"""The training iteration."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
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
