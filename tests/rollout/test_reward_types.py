"""Rewards of an environment of one's own, in whatever type of real numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rllib_seqmarl.envs.core.contract import VectorStep
from rllib_seqmarl.envs.toy.distinct_actions import DistinctActions


@pytest.mark.parametrize("name", ["MAT", "COMA"])
def test_rewards_of_double_precision(
    name: str, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    step_envs = DistinctActions._step_envs

    def in_double(self: DistinctActions, *arguments: Any) -> VectorStep:
        step = step_envs(self, *arguments)
        return step._replace(reward=step.reward.astype(np.float64))  # type: ignore[arg-type]

    monkeypatch.setattr(DistinctActions, "_step_envs", in_double)
    algorithm = small(name).build_algo()
    rollout = algorithm.env_runner.sample()[0]
    assert rollout.columns["reward"].dtype == np.float32
    losses = algorithm.train()["learners"]["default_policy"]
    algorithm.stop()
    assert math.isfinite(losses["policy_loss"])
