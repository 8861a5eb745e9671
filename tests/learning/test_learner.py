"""The learner: schedules, counters, checks and what it keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.rollout.block import REWARD, TERMINATED, TRUNCATED, FinalObservations

GAME = {"episode_length": 3}


def build(small: Any, name: str = "MAT", **settings: Any) -> tuple[Any, Any]:
    algorithm = small(name, env_config=GAME, **settings).build_algo()
    found: list[Any] = []
    algorithm.learner_group.foreach_learner(lambda learner: found.append(learner))
    return algorithm, found[0]


def test_learning_rate_and_entropy_follow_their_schedules(small: Any) -> None:
    algorithm, learner = build(
        small, lr=[[0, 1e-3], [160, 0.0]], entropy_coeff=[[0, 0.1], [160, 0.0]]
    )
    rates = []
    for _ in range(3):
        result = algorithm.train()["learners"]["default_policy"]
        rates.append(result["default_optimizer_learning_rate"])
    assert rates == pytest.approx([5e-4, 0.0, 0.0])
    assert float(learner.entropy_coeff.get_current_value()) == pytest.approx(0.0)
    algorithm.stop()


def test_weights_stay_when_the_learning_rate_is_zero(small: Any) -> None:
    algorithm, learner = build(small, lr=0.0)
    before = {k: v.clone() for k, v in learner.module["default_policy"].named_parameters()}
    algorithm.train()
    for name, value in learner.module["default_policy"].named_parameters():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0)
    algorithm.stop()


def test_counters_and_time_split(small: Any) -> None:
    algorithm, _ = build(small, num_epochs=3, minibatch_size=20)
    result = algorithm.train()
    assert result["learners"]["__all_modules__"]["num_env_steps_trained"] == 3 * 80
    split = result["time_split"]
    assert set(split) == {
        "environment",
        "decode",
        "sampling_other",
        "forward_backward",
        "learning_other",
        "weight_sync",
    }
    assert all(seconds > 0 for seconds in split.values())
    assert sum(split.values()) < result["time_this_iter_s"] * 1.05
    algorithm.stop()


def test_minibatches_deal_out_every_row_once(small: Any) -> None:
    algorithm, learner = build(small)
    pieces = learner._minibatches(83, 4)
    assert sorted(torch.cat(pieces).tolist()) == list(range(83))
    assert {len(p) for p in pieces} == {20, 21}
    algorithm.stop()


def test_loss_that_is_not_finite_names_the_term_and_spares_the_weights(small: Any) -> None:
    algorithm, learner = build(small)
    (block,) = algorithm.env_runner.sample()
    block.columns[REWARD][2, 3] = 3e38  # finite, but its return is not
    block.columns[REWARD][3, 3] = 3e38
    before = {k: v.clone() for k, v in learner.module["default_policy"].named_parameters()}
    with pytest.raises(UserError, match="is not finite; training stops"):
        algorithm.learner_group.update(batches=[block])
    for name, value in learner.module["default_policy"].named_parameters():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0)
    algorithm.stop()


def test_gradient_is_clipped_by_its_global_norm(small: Any) -> None:
    algorithm, learner = build(small, grad_clip=1e-3)
    algorithm.train()
    parameters = learner.module["default_policy"].parameters()
    norm = torch.stack([p.grad.square().sum() for p in parameters]).sum().sqrt()
    assert norm.item() == pytest.approx(1e-3, rel=1e-2)
    algorithm.stop()


@pytest.mark.parametrize("name", ["MAT", "SrSv"])
def test_truncation_bootstraps_from_the_final_observation(name: str, small: Any) -> None:
    """Not from the first one of the next episode, which stands in the next row."""
    algorithm, learner = build(small, name)
    for _ in range(3):
        algorithm.train()  # values away from zero
    (block,) = algorithm.env_runner.sample()
    block.columns[TERMINATED][:] = False
    block.columns[TRUNCATED][:] = False
    block.columns[TRUNCATED][4, 2] = True
    observed = ("obs", "action_mask", "alive")
    generator = np.random.default_rng(0)
    returns = []
    for scale in (0.0, 1.0):
        final = {k: block.columns[k][5, 2:3].copy() for k in observed}
        final["obs"] += scale * generator.standard_normal(final["obs"].shape).astype(np.float32)
        block.final = FinalObservations(np.array([4]), np.array([2]), final)
        returns.append(learner.rows(block)["returns"].unflatten(0, (10, 8)))
    changed = (returns[0] - returns[1]).abs().amax(-1) > 1e-6  # [T, E]
    assert changed[4, 2]
    assert not changed[5:, 2].any()
    if name == "MAT":  # SrSv samples the actions of its bootstrap rows anew
        assert not changed[:, [0, 1, 3, 4, 5, 6, 7]].any()
    algorithm.stop()


def test_advantages_have_mean_zero_and_unit_variance_over_the_living(small: Any) -> None:
    algorithm, learner = build(small)
    (block,) = algorithm.env_runner.sample()
    alive = np.random.default_rng(0).random(block.columns["alive"].shape) > 0.3
    block.columns["alive"] = alive
    rows = learner.rows(block)
    living = rows["advantages"][rows["alive"]]
    assert living.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert living.std(correction=0).item() == pytest.approx(1.0, abs=1e-3)
    algorithm.stop()
