"""PMAT's own settings and its loss against a plain computation from the paper's formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.learners import learner_of

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.losses import probability_ratio
from rllib_seqmarl.rollout.rollout_batch import ORDER


def build(small: Any, **settings: Any) -> tuple[Any, Any, Any]:
    """Algorithm, learner, and a minibatch with dead agents; on a game that tells agents apart."""
    game = {"env": "private_cue", "env_config": {"episode_length": 3}}
    algorithm = small("PMAT", **game, **settings).build_algo()
    learner = learner_of(algorithm)
    batch = learner.build_train_batch(algorithm.env_runner.sample()[0])
    batch.alive[::3, 1] = False
    batch = learner.prepare_minibatch(batch)
    return algorithm, learner, batch


def disturb(learner: Any) -> None:
    """Weights away from ratio 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learner.core.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def loss_of(learner: Any, batch: Any) -> tuple[Any, Any]:
    forward = learner.core.forward_train(batch)
    loss = learner.compute_loss_for_module(
        module_id="default_policy", config=learner.config, batch=batch, fwd_out=forward
    )
    return loss, forward


def test_ranking_loss_is_the_formula(small: Any) -> None:
    """Eq. 15-16, and that it is added with c_rank to what MAT would lose."""
    algorithm, learner, batch = build(small)
    disturb(learner)
    losses = {}
    for coefficient in (0.0, 0.7):
        learner.config = learner.config.copy(copy_frozen=False)
        learner.config.ranking_coeff = coefficient
        losses[coefficient], forward = loss_of(learner, batch)
    eps, total = 0.05, torch.zeros(())
    for b in range(len(batch.alive)):
        rho = (forward.order.log_prob[b] - batch.order_log_prob[b]).exp()
        a_seq = batch.advantages[b][batch.alive[b]].mean()
        total = total - torch.min(rho * a_seq, rho.clamp(1 - eps, 1 + eps) * a_seq)
    ranking_loss = total / len(batch.alive)
    assert ranking_loss.abs() > 1e-4
    torch.testing.assert_close(losses[0.7] - losses[0.0], 0.7 * ranking_loss, rtol=1e-3, atol=1e-5)
    algorithm.stop()


def test_published_code_is_off_before_the_first_step(small: Any) -> None:
    for sampled in (True, False):
        algorithm, learner, batch = build(small, lr=1e-2, train_in_sampled_order=sampled)
        algorithm.train()
        batch = learner.build_train_batch(algorithm.env_runner.sample()[0])
        forward = learner.core.forward_train(batch)
        ratio = probability_ratio(forward.log_prob, batch.log_prob, "per_dim")
        assert ((ratio - 1.0).abs().max() < 1e-5) == sampled
        order_ratio = (forward.order.log_prob - batch.order_log_prob).exp()
        assert (order_ratio - 1.0).abs().max() < 1e-5
        algorithm.stop()


def test_orders_are_drawn_in_training_and_sorted_in_evaluation(small: Any) -> None:
    algorithm, learner, batch = build(small)
    terms = algorithm.train()["learners"]["default_policy"]
    assert 0.0 < terms["order_entropy"] <= 3.18  # log 4!
    assert 1.0 < terms["ranking_score"] < 10.0
    assert terms["ranking_score_spread"] >= 0.0
    assert len(batch.order.unique(dim=0)) > 1
    obs = {"obs": {"obs": batch.obs, "action_mask": batch.action_mask}}
    order = learner.core.forward_inference(obs)[ORDER]
    scores = learner.core.policy.order.scores(learner.core.policy.encoder(batch.obs))
    ranked = scores.gather(1, order)
    assert (ranked[:, :-1] >= ranked[:, 1:]).all()
    algorithm.stop()


def test_bonus_raises_the_entropy_of_the_order(small: Any) -> None:
    """A gradient step with that bonus alone: all other terms are 0."""
    game = {"env": "private_cue", "env_config": {"episode_length": 3}}
    only = {
        "ranking_coeff": 0.0,
        "entropy_coeff": 0.0,
        "vf_loss_coeff": 0.0,
        "order_entropy_coeff": 1.0,
    }
    algorithm = small("PMAT", **game, **only, lr=1e-2, num_epochs=1).build_algo()
    learner = learner_of(algorithm)
    scorer = learner.core.policy.order
    torch.nn.init.normal_(scorer.out.weight, std=1.0)  # scores that are far apart
    batch = learner.build_train_batch(algorithm.env_runner.sample()[0])
    batch = learner.prepare_minibatch(batch.replace(advantages=torch.zeros_like(batch.advantages)))

    def entropy() -> float:
        with torch.no_grad():
            return float(learner.core.forward_train(batch).order.entropy.mean())

    before = entropy()
    learner.gradient_step(batch, learner.loss)
    assert entropy() > before + 1e-4
    algorithm.stop()


@pytest.mark.parametrize("value", ["encoder", "decoder", "sequential"])
def test_trains_with_any_value(value: str, small: Any) -> None:
    algorithm = small("PMAT", env_config={"episode_length": 3}, value=value).build_algo()
    assert algorithm.train()["learners"]["default_policy"]["vf_loss"] > 0
    algorithm.stop()


def test_an_order_that_is_given_is_refused(small: Any) -> None:
    with pytest.raises(UserError, match="order"):
        small("PMAT", order="random").validate()
