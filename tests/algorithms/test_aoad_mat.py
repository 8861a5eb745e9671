"""AOAD-MAT's loss against a plain computation from the paper's formulas, and its settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.learners import with_moved_weights

from rllib_seqmarl.errors import UserError


def build(small: Any, **settings: Any) -> tuple[Any, Any, Any, Any]:
    """Algorithm, a minibatch with dead agents, and its loss with weights away from ratio 1."""
    algorithm = small("AOAD-MAT", env_config={"episode_length": 3}, **settings).build_algo()
    learner, batch = with_moved_weights(algorithm)
    forward = learner.core.forward_train(batch)
    loss = learner.compute_loss_for_module(
        module_id="default_policy", config=learner.config, batch=batch, fwd_out=forward
    )
    return algorithm, batch, forward, loss


@pytest.mark.parametrize("combination", ["product", "sum"])
@pytest.mark.parametrize("advantage", ["per_agent", "mean"])
def test_loss_is_the_formula(combination: str, advantage: str, small: Any) -> None:
    """Eq. 6 and 7, agent by agent; entropies are bonuses."""
    beta_2, alpha = 0.03, (0.8, 0.3)
    algorithm, batch, forward, loss = build(
        small,
        next_agent_loss=combination,
        next_agent_advantage=advantage,
        alpha1=alpha[0],
        alpha2=alpha[1],
        order_entropy_coeff=beta_2,
        vf_loss_coeff=0.0,
    )
    eps, alive = 0.05, batch.alive

    def clipped(r: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return torch.min(r * a, r.clamp(1 - eps, 1 + eps) * a)

    total = torch.zeros(())
    for b in range(len(alive)):
        team = batch.advantages[b][alive[b]].mean()
        for m in range(alive.shape[1]):
            if not alive[b, m]:
                continue
            a = batch.advantages[b, m] if advantage == "per_agent" else team
            r_a = (forward.log_prob[b, m, 0] - batch.log_prob[b, m, 0]).exp()
            r_i = (forward.order.log_prob[b, m] - batch.order_log_prob[b, m]).exp()
            if combination == "product":
                total = total - clipped(r_a * r_i, a)
            else:
                total = total - alpha[0] * clipped(r_a, a) - alpha[1] * clipped(r_i, a)
            total = total - 0.01 * forward.entropy[b, m]
            total = total - beta_2 * forward.order.entropy[b, m]
    torch.testing.assert_close(loss, total / alive.sum(), rtol=1e-4, atol=1e-6)
    # The last agent of every order chooses nobody.
    last = batch.order[:, -1:]
    assert (batch.order_log_prob.gather(1, last) == 0).all()
    assert (forward.order.log_prob.gather(1, last) == 0).all()
    assert (forward.order.entropy.gather(1, last) == 0).all()
    algorithm.stop()


def test_first_agent(small: Any) -> None:
    algorithm, batch, _, _ = build(small, first_agent=2)
    assert (batch.order[:, 0] == 2).all()
    assert len(batch.order.unique(dim=0)) > 1
    terms = algorithm.train()["learners"]["default_policy"]
    assert 0.0 < terms["order_entropy"] <= 1.1  # at most log 3
    algorithm.stop()
    with pytest.raises(UserError, match="first_agent is 4, and the 4 agents count from 0"):
        build(small, first_agent=4)


def test_agents_must_see_actions(small: Any) -> None:
    with pytest.raises(UserError, match="needs autoregressive: true"):
        small("AOAD-MAT", autoregressive=False).validate()
