"""What holds for every algorithm with an adaptive entropy: SeCA, LICA, RIIT."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.learners import build

from rllib_seqmarl import registry
from rllib_seqmarl.learning.central_q.config import AdaptiveEntropySettings
from rllib_seqmarl.rollout.rollout_batch import ALIVE

ALGORITHMS = [
    name
    for name in sorted(registry.ALGORITHMS)
    if issubclass(registry.config_class(name), AdaptiveEntropySettings)
]


@pytest.mark.parametrize("ratio", ["batch", "sample"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_bonus_has_the_same_gradient_in_whatever_unit_entropy_is_measured(
    name: str, ratio: str, small: Any
) -> None:
    """xi dH / H: a tenth of the entropy, with a tenth of the slope, pushes as hard."""
    algorithm, learner = build(small, name, entropy_ratio=ratio, entropy_coeff=0.2)
    rows = learner.build_train_batch(algorithm.env_runner.sample()[0])
    batch = learner.prepare_minibatch(rows)
    with torch.no_grad():
        forward = learner.core.forward_train(batch)
    found = []
    for unit in (1.0, 0.1):
        entropy = torch.linspace(0.5, 1.0, rows.actions.numel()).view(rows.actions.shape)
        entropy.requires_grad_()
        if ratio == "batch":
            batch.mean_entropy = (unit * entropy).mean().detach()
        loss = learner.compute_loss_for_module(
            module_id="default_policy",
            config=learner.config,
            batch=batch,
            fwd_out=forward._replace(entropy=unit * entropy),
        )
        (gradient,) = torch.autograd.grad(loss, entropy)
        found.append(-gradient)
    torch.testing.assert_close(*found)
    level = entropy.detach() if ratio == "sample" else entropy.detach().mean()
    expected = (0.2 / level / entropy.numel()).expand_as(entropy)
    torch.testing.assert_close(found[0], expected)
    algorithm.stop()


def test_mean_entropy_of_a_minibatch_is_that_over_living_agents(small: Any) -> None:
    algorithm, learner = build(small, "LICA", micro_batch_size=30)
    rollout = algorithm.env_runner.sample()[0]
    rollout.columns[ALIVE] = np.random.default_rng(0).random(rollout.columns[ALIVE].shape) > 0.3
    rows = learner.build_train_batch(rollout)
    with torch.no_grad():
        entropy = learner.core.forward_train(rows).entropy
    found = learner.prepare_minibatch(rows).mean_entropy
    torch.testing.assert_close(found, entropy[rows.alive].mean())
    algorithm.stop()
