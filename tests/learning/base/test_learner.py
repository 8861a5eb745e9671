"""The learner: schedules, counters, checks and what it keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.learners import learner_of

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.base.batch import TrainBatch
from rllib_seqmarl.returns import TIME_LIMITS
from rllib_seqmarl.rollout.rollout_batch import REWARD, TERMINATED, TRUNCATED, FinalObservations

GAME = {"episode_length": 3}


def build(small: Any, name: str = "MAT", **settings: Any) -> tuple[Any, Any]:
    algorithm = small(name, env_config=GAME, **settings).build_algo()
    return algorithm, learner_of(algorithm)


def test_learning_rate_and_entropy_follow_their_schedules(small: Any) -> None:
    algorithm, learner = build(
        small, lr=[[0, 1e-3], [160, 0.0]], entropy_coeff=[[0, 0.1], [160, 0.0]]
    )
    rates = []
    for _ in range(3):
        result = algorithm.train()["learners"]["default_policy"]
        rates.append(result["default_optimizer_learning_rate"])
    assert rates == pytest.approx([5e-4, 0.0, 0.0])
    assert learner.scheduled("entropy_coeff") == pytest.approx(0.0)
    algorithm.stop()


def test_schedules_go_on_after_a_resume(small: Any, tmp_path: Any) -> None:
    schedule = [[0, 0.1], [800, 0.0]]
    algorithm, learner = build(small, entropy_coeff=schedule, lr=[[0, 1e-3], [800, 0.0]])
    for _ in range(3):
        algorithm.train()
    path = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    algorithm.train()
    resumed = type(algorithm).from_checkpoint(path)
    resumed.train()
    again = learner_of(resumed)
    assert again.scheduled("entropy_coeff") == pytest.approx(learner.scheduled("entropy_coeff"))
    for name, value in learner.core.state_dict().items():
        torch.testing.assert_close(again.core.state_dict()[name], value, atol=0, rtol=0)
    for one in (algorithm, resumed):
        one.stop()


def test_another_learning_rate_than_that_of_the_checkpoint_holds_at_once(
    small: Any, tmp_path: Any
) -> None:
    """The checkpoint's comes with its optimiser; a copy of another trial must not learn with it."""
    first, _ = build(small, lr=1e-2)
    first.train()
    path = first.save_to_path(str(tmp_path / "checkpoint"))
    second, learner = build(small, lr=[[0, 0.0], [160, 0.0], [161, 1.0]])
    second.restore_from_path(path)
    before = {k: v.clone() for k, v in learner.core.state_dict().items()}
    second.train()
    for name, _ in learner.core.named_parameters():
        torch.testing.assert_close(learner.core.state_dict()[name], before[name], atol=0, rtol=0)
    for one in (first, second):
        one.stop()


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
    algorithm, learner = build(small, num_epochs=1, minibatch_size=25)
    numbered = torch.arange(83)
    batch = TrainBatch(
        obs=numbered,
        actions=numbered,
        log_prob=numbered,
        alive=numbered,
        targets=torch.tensor(5),
    )
    minibatches = list(learner.minibatches(batch))
    numbers = [minibatch.obs for minibatch in minibatches]
    assert sorted(torch.cat(numbers).tolist()) == list(range(83))
    assert {len(n) for n in numbers} == {20, 21}
    assert all(minibatch.targets == 5 for minibatch in minibatches)
    algorithm.stop()


def test_loss_that_is_not_finite_names_the_term_and_spares_the_weights(small: Any) -> None:
    algorithm, learner = build(small)
    (rollout,) = algorithm.env_runner.sample()
    rollout.columns[REWARD][2, 3] = 3e38  # finite, but its return is not
    rollout.columns[REWARD][3, 3] = 3e38
    before = {k: v.clone() for k, v in learner.module["default_policy"].named_parameters()}
    with pytest.raises(UserError, match="is not finite; training stops"):
        algorithm.learner_group.update(batches=[rollout])
    assert torch.isfinite(learner.core.value_norm.mean_square)
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
    (rollout,) = algorithm.env_runner.sample()
    rollout.columns[TERMINATED][:] = False
    rollout.columns[TRUNCATED][:] = False
    rollout.columns[TRUNCATED][4, 2] = True
    observed = ("obs", "action_mask", "alive")
    generator = np.random.default_rng(0)
    returns = []
    for scale in (0.0, 1.0):
        final = {k: rollout.columns[k][5, 2:3].copy() for k in observed}
        final["obs"] += scale * generator.standard_normal(final["obs"].shape).astype(np.float32)
        rollout.final = FinalObservations(np.array([4]), np.array([2]), final)
        returns.append(learner.build_train_batch(rollout).returns.unflatten(0, (10, 8)))
    changed = (returns[0] - returns[1]).abs().amax(-1) > 1e-6  # [T, E]
    assert changed[4, 2]
    assert not changed[5:, 2].any()
    if name == "MAT":  # SrSv samples the actions of its bootstrap rows again
        assert not changed[:, [0, 1, 3, 4, 5, 6, 7]].any()
    algorithm.stop()


def test_advantages_have_mean_zero_and_unit_variance_over_the_living(small: Any) -> None:
    algorithm, learner = build(small)
    (rollout,) = algorithm.env_runner.sample()
    alive = np.random.default_rng(0).random(rollout.columns["alive"].shape) > 0.3
    rollout.columns["alive"] = alive
    rows = learner.build_train_batch(rollout)
    living = rows.advantages[rows.alive]
    assert living.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert living.std(correction=0).item() == pytest.approx(1.0, abs=1e-3)
    algorithm.stop()


def test_explained_variance_is_the_formula(small: Any) -> None:
    algorithm, learner = build(small)
    logged: dict[str, float] = {}
    learner.log_once = lambda **metrics: logged.update(metrics)
    generator = torch.Generator().manual_seed(0)
    targets = 5.0 + torch.randn(50, 3, generator=generator)
    values = targets + 0.5 * torch.randn(50, 3, generator=generator)
    counted = torch.rand(50, 3, generator=generator) > 0.3
    learner.log_explained_variance(values.masked_fill(~counted, torch.nan), targets, counted)
    y, error = targets[counted], (targets - values)[counted]
    expected = 1.0 - (error.var(correction=0) / y.var(correction=0)).item()
    assert logged["explained_variance"] == pytest.approx(expected, abs=1e-5)
    learner.log_explained_variance(targets, targets, counted)
    assert logged["explained_variance"] == pytest.approx(1.0)
    learner.log_explained_variance(values, torch.ones(50, 3), counted)
    assert logged["explained_variance"] == 0.0
    algorithm.stop()


@pytest.mark.parametrize("time_limit", TIME_LIMITS)
@pytest.mark.parametrize("name", ["MAT", "SrSv"])
def test_train_batch_is_that_of_a_plain_computation(name: str, time_limit: str, small: Any) -> None:
    """Advantages and returns, agent by agent, with every kind of end and of bootstrap."""
    gamma, lambda_ = 0.9, 0.7
    algorithm, learner = build(small, name, gamma=gamma, lambda_=lambda_, time_limit=time_limit)
    for _ in range(3):
        algorithm.train()  # values and their normalisation away from the start
    (rollout,) = algorithm.env_runner.sample()
    c = rollout.columns
    generator = np.random.default_rng(0)
    c[REWARD][:] = generator.normal(size=c[REWARD].shape)
    c[TERMINATED][:] = generator.random(c[REWARD].shape) < 0.15
    c[TRUNCATED][:] = (generator.random(c[REWARD].shape) < 0.15) & ~c[TERMINATED]
    step, env = np.nonzero(c[TRUNCATED])
    final = {k: c[k][step + 1, env].copy() for k in ("obs", "action_mask", "alive")}
    final["obs"] += generator.normal(size=final["obs"].shape).astype(np.float32)
    rollout.final = FinalObservations(step, env, final)

    tails: list[torch.Tensor] = []
    values_of = learner.values

    def record(*args: Any) -> Any:
        values, inputs = values_of(*args)
        tails.append(learner.core.value_norm.denormalize(values))
        return values, inputs

    learner.values = record
    rows = learner.build_train_batch(rollout)
    steps, envs = c[REWARD].shape
    v = tails[0].view(steps, envs, -1).numpy()
    tail = tails[1].numpy()
    returns = rows.returns.view(steps, envs, -1).numpy()
    at_truncation = {key: tail[envs + i] for i, key in enumerate(zip(step, env, strict=True))}
    for e in range(envs):
        advantage = np.zeros(v.shape[-1])
        for t in reversed(range(steps)):
            next_value = v[t + 1, e] if t + 1 < steps else tail[e]
            ends = bool(c[TERMINATED][t, e])
            if c[TRUNCATED][t, e]:
                next_value = at_truncation[(t, e)]
                ends = time_limit == "terminate"
            delta = c[REWARD][t, e] + gamma * (0.0 if ends else next_value) - v[t, e]
            if c[TRUNCATED][t, e] and time_limit == "drop":
                delta = np.zeros_like(delta)
            over = c[TERMINATED][t, e] or c[TRUNCATED][t, e]
            advantage = delta + (0.0 if over else gamma * lambda_ * advantage)
            np.testing.assert_allclose(returns[t, e], advantage + v[t, e], atol=1e-4)
    assert np.abs(v).max() > 1e-2
    algorithm.stop()


@pytest.mark.parametrize("name", ["MAT", "PMAT", "SrSv"])
def test_attention_may_be_restricted_to_neighbours(name: str, small: Any) -> None:
    """Before the first step, the policy that learns is the one that acted."""
    game = {
        "num_agents": 6,
        "neighbours": True,
        "num_neighbours": 3,
        "area": 3.0,
        "episode_length": 7,
    }
    settings = {"attention": "neighbours", "num_epochs": 1, "clip_param": 0.2}
    algorithm = small(name, "dubins_car", game, **settings).build_algo()
    terms = algorithm.train()["learners"]["default_policy"]
    assert terms["ratio_deviation"] < 1e-4
    assert terms["vf_loss"] > 0
    assert np.isfinite(algorithm.train()["learners"]["default_policy"]["total_loss"])
    algorithm.stop()


def test_attention_to_neighbours_needs_an_environment_that_names_them(small: Any) -> None:
    with pytest.raises(UserError, match="needs an environment that names them"):
        small("MAT", attention="neighbours").build_algo()
    with pytest.raises(UserError, match="order 'next_agent' is found while agents decide"):
        small("AOAD-MAT", attention="neighbours").build_algo()


@pytest.mark.parametrize("name", ["MAT", "MAPPO"])
def test_a_minibatch_without_anybody_leaves_the_running_statistics(name: str, small: Any) -> None:
    algorithm, learner = build(small, name)
    value_norm = learner.core.value_norm
    before = {key: value.clone() for key, value in value_norm.state_dict().items()}
    learner.update_value_norm(value_norm, torch.zeros(0))
    for key, value in value_norm.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(torch.isfinite(value).all() for value in before.values())
    algorithm.stop()
