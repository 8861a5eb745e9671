"""The policy's objective, by how the order of decisions came about.

r_a is the ratio of an agent's action, A its advantage, eps the clip range, and

    C(r, A) = min(r A, clip(r, 1 - eps, 1 + eps) A).

Where the order is given, the loss is -mean C(r_a, A). Orders that are learned are actions too:

- drawn as a whole (PMAT, eq. 15-16): minus c_rank mean_t C(rho, A_seq) besides, with rho the
  ratio of the whole order and A_seq the mean of the agents' advantages;
- found agent by agent (AOAD-MAT): with r_i the ratio of an agent's choice of its successor,
  -mean C(r_a r_i, A) (eq. 6) or -mean [alpha_1 C(r_a, A) + alpha_2 C(r_i, A)] (eq. 7).

The entropy of the order is a bonus with its own coefficient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rllib_seqmarl.learning.sequential.module import (
    ORDER_ENTROPY,
    ORDER_SCORES,
    SequentialBatch,
)
from rllib_seqmarl.losses import clipped_surrogate, weighted_sum
from rllib_seqmarl.rollout.rollout_batch import ORDER_LOG_PROB

#: How AOAD-MAT puts the ratios of action and successor together.
NEXT_AGENT_LOSSES = ("product", "sum")

#: Whose advantage AOAD-MAT's ratios are multiplied with.
NEXT_AGENT_ADVANTAGES = ("per_agent", "mean")


#: What ``forward_train`` returned.
Output = dict[str, Tensor]


class Objective(NamedTuple):
    """What to minimise, and figures to report."""

    loss: Tensor
    terms: dict[str, Tensor]


def given_order(
    config: Any, eps: float, ratio: Tensor, batch: SequentialBatch, out: Output
) -> Objective:
    """MAT, SrSv: the actions alone.

    Args:
        config: the algorithm's.
        eps: clip range.
        ratio: r_a, [B, N, K].
        batch: rows of the minibatch.
        out: what the module says of them now.
    """
    surrogate = clipped_surrogate(ratio, batch.advantages, eps)
    return Objective(weighted_sum(surrogate, batch.policy_weight), {})


def ranked_order(
    config: Any, eps: float, ratio: Tensor, batch: SequentialBatch, out: Output
) -> Objective:
    """PMAT: the actions, and the whole order as one more action of the team."""
    weight = batch.row_weight
    policy_loss, _ = given_order(config, eps, ratio, batch, out)
    rho = (out[ORDER_LOG_PROB] - batch.order_log_prob).exp()  # [B]
    ranking = clipped_surrogate(rho.unsqueeze(-1), team_advantage(batch), eps)
    ranking_loss = weighted_sum(ranking, weight)
    entropy = weighted_sum(out[ORDER_ENTROPY], weight)
    loss = policy_loss + config.ranking_coeff * ranking_loss - config.order_entropy_coeff * entropy
    scores = out[ORDER_SCORES]
    terms = {
        "ranking_loss": ranking_loss,
        "order_entropy": entropy,
        "ranking_score": weighted_sum(scores.mean(1), weight),
        "ranking_score_spread": weighted_sum(scores.amax(1) - scores.amin(1), weight),
    }
    return Objective(loss, terms)


def predicted_order(
    config: Any, eps: float, ratio: Tensor, batch: SequentialBatch, out: Output
) -> Objective:
    """AOAD-MAT: the actions, and every agent's choice of who decides next."""
    weight = batch.policy_weight
    counts = weight > 0
    # Nothing is raised to a power where it does not count: it may be rubbish.
    change = torch.where(counts, out[ORDER_LOG_PROB] - batch.order_log_prob, 0.0)
    choice_ratio = change.exp().unsqueeze(-1)  # r_i, [B, N, 1]
    advantage = batch.advantages
    if config.next_agent_advantage == "mean":
        advantage = team_advantage(batch).unsqueeze(1).expand_as(advantage)
    if config.next_agent_loss == "product":
        surrogate = clipped_surrogate(ratio * choice_ratio, advantage, eps)
    else:
        surrogate = config.alpha1 * clipped_surrogate(ratio, advantage, eps)
        surrogate = surrogate + config.alpha2 * clipped_surrogate(choice_ratio, advantage, eps)
    entropy = weighted_sum(out[ORDER_ENTROPY], weight)
    loss = weighted_sum(surrogate, weight) - config.order_entropy_coeff * entropy
    deviation = weighted_sum((choice_ratio.squeeze(-1) - 1.0).abs(), weight)
    return Objective(loss, {"order_entropy": entropy, "order_ratio_deviation": deviation})


def team_advantage(batch: SequentialBatch) -> Tensor:
    """A_seq: the mean advantage of the agents that count, [B]; 0 where none does."""
    counts = batch.policy_weight > 0
    total = torch.where(counts, batch.advantages, 0.0).sum(1)
    return total / counts.sum(1).clamp(min=1)


#: Name of an order -> its objective.
OBJECTIVES: dict[str, Callable[[Any, float, Tensor, SequentialBatch, Output], Objective]] = {
    "index": given_order,
    "reverse": given_order,
    "random": given_order,
    "plackett_luce": ranked_order,
    "next_agent": predicted_order,
}
