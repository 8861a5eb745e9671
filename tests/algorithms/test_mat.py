"""MAT's loss against a plain computation from the paper's formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import parts
from helpers.learners import learner_of, with_moved_weights

from rllib_seqmarl.errors import UserError


def test_loss_is_the_formula(small: Any) -> None:
    algorithm = small("MAT", env_config={"episode_length": 3}, num_epochs=1).build_algo()
    learner, batch = with_moved_weights(algorithm)
    forward = learner.core.forward_train(batch)
    loss = learner.compute_loss_for_module(
        module_id="default_policy", config=learner.config, batch=batch, fwd_out=forward
    )

    eps, alive = 0.05, batch.alive
    policy_sum, value_sum = torch.zeros(()), torch.zeros(())
    norm = learner.core.value_norm
    for b in range(len(alive)):
        for m in range(alive.shape[1]):
            if alive[b, m]:
                r = (forward.log_prob[b, m, 0] - batch.log_prob[b, m, 0]).exp()
                advantage = batch.advantages[b, m]
                policy = -torch.min(r * advantage, r.clamp(1 - eps, 1 + eps) * advantage)
                policy_sum = policy_sum + policy - 0.01 * forward.entropy[b, m]
            old, value = batch.old_values[b, m], forward.values[b, m]
            target = norm.normalize(batch.returns[b, m])
            clipped = old + (value - old).clamp(-eps, eps)
            errors = torch.stack((target - value, target - clipped))
            value_sum = (
                value_sum
                + torch.nn.functional.huber_loss(
                    errors, torch.zeros(2), delta=10.0, reduction="none"
                ).max()
            )
    # What the dead may do is not learned, what their team will earn is.
    expected = policy_sum / alive.sum() + value_sum / alive.numel()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)


def test_logged_divergence_is_that_of_the_joint_ratio(small: Any) -> None:
    """(r - 1) - log r, mean over living agents; 0 before the first step."""
    algorithm = small("MAT", env_config={"episode_length": 3}, num_epochs=1).build_algo()
    assert algorithm.train()["learners"]["default_policy"]["approx_kl"] == pytest.approx(
        0, abs=1e-6
    )
    second = algorithm.train()["learners"]["default_policy"]
    assert second["explained_variance"] <= 1.0
    algorithm.stop()


@pytest.mark.parametrize("order", ["plackett_luce", "next_agent"])
@pytest.mark.parametrize("name", ["MAT", "SrSv"])
def test_orders_that_other_algorithms_learn_are_refused(name: str, order: str, small: Any) -> None:
    learns = {"plackett_luce": "PMAT", "next_agent": "AOAD-MAT"}[order]
    with pytest.raises(UserError, match=f"run: {learns}") as refused:
        small(name, order=order).validate()
    assert ("value: sequential" in str(refused.value)) == (name == "SrSv")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("network", "value"),
    [
        ("encoder", "encoder"),
        ("decoder", "decoder"),
        ("gru", "encoder"),
        ("mat_dec", "encoder"),
    ],
)
@pytest.mark.parametrize("continuous", [False, True])
def test_trains_with_the_other_networks_of_the_official_code(
    network: str, value: str, continuous: bool, small: Any
) -> None:
    env_config = {"episode_length": 3, "continuous": continuous}
    algorithm = small("MAT", env_config=env_config, network=network, value=value).build_algo()
    terms = algorithm.train()["learners"]["default_policy"]
    assert terms["vf_loss"] > 0
    assert terms["ratio_deviation"] < 0.5
    acting = [name for name, _ in algorithm.get_module().named_parameters()]
    # MAT-Dec's encoder is the critic's.
    assert any(".encoder." in name for name in acting) == (network != "mat_dec")
    algorithm.stop()


def test_random_order_of_an_episode(small: Any, tmp_path: Path) -> None:
    """rMAT as in the authors' environments: over blocks, and over a checkpoint, until it ends."""
    settings = {"order": "random", "order_granularity": "episode", "rollout_fragment_length": 4}
    algorithm = small("MAT", env_config={"episode_length": 6}, **settings).build_algo()
    blocks = [algorithm.env_runner.sample()[0].columns]
    algorithm.save_to_path(str(tmp_path))
    resumed = type(algorithm).from_checkpoint(str(tmp_path))
    blocks += [resumed.env_runner.sample()[0].columns for _ in range(2)]
    order, first = (np.concatenate([block[k] for block in blocks]) for k in ("order", "is_first"))
    same = (order[1:] == order[:-1]).all(-1)
    assert same[~first[1:]].all()
    assert not same[first[1:]].all()
    for one in (algorithm, resumed):
        one.stop()


def test_clip_range_may_be_a_schedule(small: Any) -> None:
    """The other reading of MAT-adjust: from 0.05 to 0.01."""
    settings = {"clip_param": [[0, 0.05], [160, 0.01]]}
    algorithm = small("MAT", env_config={"episode_length": 3}, **settings).build_algo()
    learner = learner_of(algorithm)
    used = []
    for _ in range(3):  # of 80 environment steps each
        algorithm.train()
        used.append(learner.scheduled("clip_param"))
    assert used == pytest.approx([0.03, 0.01, 0.01])
    algorithm.stop()


@pytest.mark.parametrize("per_minibatch", [False, True])
def test_order_and_value_from_outside(
    per_minibatch: bool, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By import path; they see observations, the decoder's pass and what they prepare."""
    monkeypatch.setattr(parts.LastActionValue, "prepares_per_minibatch", per_minibatch)
    path, game = "helpers.parts", {"env": "private_cue", "env_config": {"episode_length": 3}}
    config = small("MAT", **game, order=f"{path}:ByFirstFeature", value=f"{path}:LastActionValue")
    algorithm = config.build_algo()
    learner = learner_of(algorithm)
    batch = learner.build_train_batch(algorithm.env_runner.sample()[0])
    first = batch.obs[..., 0].gather(1, batch.order)
    assert (first[:, :-1] >= first[:, 1:]).all()
    ready = learner.with_value_inputs(batch)
    last = batch.actions.gather(1, batch.order[:, -1:]).float()
    torch.testing.assert_close(ready.value_inputs, last)
    assert (batch.value_inputs is None) == per_minibatch
    assert algorithm.train()["learners"]["default_policy"]["vf_loss"] > 0
    algorithm.stop()
