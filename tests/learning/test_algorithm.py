"""The training iteration."""

from __future__ import annotations

from typing import Any

import pytest

from rllib_seqmarl.errors import UserError


@pytest.mark.parametrize("sample_ahead", [False, True])
def test_rollouts_that_are_sampled_ahead_are_of_the_policy_before(
    sample_ahead: bool, small: Any
) -> None:
    """The age of the weights that acted is the lag; no step is lost or learned from twice."""
    algorithm = small(
        "MAT", num_env_runners=1, sample_ahead=sample_ahead, lr=1e-2, clip_param=10.0
    ).build_algo()
    acted, moved = [], []
    for iteration in range(1, 5):
        result = algorithm.train()
        assert result["env_runners"]["num_env_steps_sampled_lifetime"] == 80 * iteration
        acted.append(result["env_runners"]["weights_seq_no"])
        moved.append(result["learners"]["default_policy"]["ratio_deviation"])
    assert acted == ([0, 0, 1, 2] if sample_ahead else [0, 1, 2, 3])
    algorithm.stop()


def test_sampling_ahead_needs_other_processes(small: Any) -> None:
    with pytest.raises(UserError, match="set num_env_runners to 1 or more"):
        small("MAT", sample_ahead=True).validate()
