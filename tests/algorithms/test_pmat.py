"""PMAT's own settings and its loss against a plain computation from the paper's formulas."""

from __future__ import annotations

from typing import Any

import torch
from helpers.learners import learner_of

from rllib_seqmarl.losses import probability_ratio
from rllib_seqmarl.rollout.rollout_batch import LOG_PROB, ORDER, ORDER_LOG_PROB


def build(small: Any, **settings: Any) -> tuple[Any, Any, Any]:
    """Algorithm, learner, and rows with dead agents; on a game that tells agents apart."""
    game = {"env": "private_cue", "env_config": {"episode_length": 3}}
    algorithm = small("PMAT", **game, **settings).build_algo()
    learner = learner_of(algorithm)
    rows = learner.build_train_batch(algorithm.env_runner.sample()[0])
    rows.alive[::3, 1] = False
    rows = learner.prepare_minibatch(rows)
    return algorithm, learner, rows


def disturb(learner: Any) -> None:
    """Weights away from ratio 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learner.core.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def loss_of(learner: Any, rows: Any) -> tuple[Any, Any]:
    forward = learner.core.forward_train(rows)
    loss = learner.compute_loss_for_module(
        module_id="default_policy", config=learner.config, batch=rows, fwd_out=forward
    )
    return loss, forward


def test_ranking_loss_is_the_formula(small: Any) -> None:
    """Eq. 15-16, and that it is added with c_rank to what MAT would lose."""
    algorithm, learner, rows = build(small)
    disturb(learner)
    losses = {}
    for coefficient in (0.0, 0.7):
        learner.config = learner.config.copy(copy_frozen=False)
        learner.config.ranking_coeff = coefficient
        losses[coefficient], forward = loss_of(learner, rows)
    eps, total = 0.05, torch.zeros(())
    for b in range(len(rows.alive)):
        rho = (forward[ORDER_LOG_PROB][b] - rows.order_log_prob[b]).exp()
        a_seq = rows.advantages[b][rows.alive[b]].mean()
        total = total - torch.min(rho * a_seq, rho.clamp(1 - eps, 1 + eps) * a_seq)
    ranking_loss = total / len(rows.alive)
    assert ranking_loss.abs() > 1e-4
    torch.testing.assert_close(losses[0.7] - losses[0.0], 0.7 * ranking_loss, rtol=1e-3, atol=1e-5)
    algorithm.stop()


def test_published_code_is_off_before_the_first_step(small: Any) -> None:
    for sampled in (True, False):
        algorithm, learner, rows = build(small, lr=1e-2, train_in_sampled_order=sampled)
        algorithm.train()
        rows = learner.build_train_batch(algorithm.env_runner.sample()[0])
        forward = learner.core.forward_train(rows)
        ratio = probability_ratio(forward[LOG_PROB], rows.log_prob, "per_dim")
        assert ((ratio - 1.0).abs().max() < 1e-5) == sampled
        order_ratio = (forward[ORDER_LOG_PROB] - rows.order_log_prob).exp()
        assert (order_ratio - 1.0).abs().max() < 1e-5
        algorithm.stop()


def test_orders_are_drawn_in_training_and_sorted_in_evaluation(small: Any) -> None:
    algorithm, learner, rows = build(small)
    terms = algorithm.train()["learners"]["default_policy"]
    assert 0.0 < terms["order_entropy"] <= 3.18  # log 4!
    assert 1.0 < terms["ranking_score"] < 10.0
    assert terms["ranking_score_spread"] >= 0.0
    assert len(rows.order.unique(dim=0)) > 1
    obs = {"obs": {"obs": rows.obs, "action_mask": rows.action_mask}}
    order = learner.core.forward_inference(obs)[ORDER]
    scores = learner.core.policy.order.scores(learner.core.policy.encoder(rows.obs))
    ranked = scores.gather(1, order)
    assert (ranked[:, :-1] >= ranked[:, 1:]).all()
    algorithm.stop()
