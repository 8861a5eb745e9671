"""Loss terms. Pure torch; B rows, N agents, K log-prob components.

Every term is a weighted sum: the caller divides by the weight of the whole minibatch, so that a
minibatch may be taken in micro-batches whose gradients add up to the gradient of the whole.
"""

from __future__ import annotations

import torch
from torch import Tensor


def probability_ratio(
    log_prob: Tensor,
    old_log_prob: Tensor,
    aggregation: str,
    action_dim_mask: Tensor | None = None,
) -> Tensor:
    """pi_new / pi_old.

    Args:
        log_prob: [B, N, K] under the policy that learns.
        old_log_prob: [B, N, K] under the policy that acted.
        aggregation: ``per_dim`` keeps K ratios, each of them clipped by itself (MAT, PMAT);
            ``prod`` is the ratio of the joint densities (HARL); ``mean`` the geometric mean of
            the components' ratios (A2PO on MuJoCo).
        action_dim_mask: bool [B, N, K], the components that an agent has, dimensions or parts of an
            action; None where all have all. The log-probs of the others are 0.

    Returns:
        [B, N, K] for ``per_dim``, else [B, N, 1].
    """
    difference = log_prob - old_log_prob
    if aggregation == "prod":
        difference = difference.sum(-1, keepdim=True)
    elif aggregation == "mean":
        components = torch.ones_like(difference) if action_dim_mask is None else action_dim_mask
        count = components.sum(-1, keepdim=True).clamp(min=1)
        difference = difference.sum(-1, keepdim=True) / count
    return difference.exp()


def ratio_deviation(
    ratio: Tensor, clip: float | Tensor, action_dim_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """How far the ratios of an agent are from 1, and which part of them is clipped.

    Args:
        ratio: [B, N, K] or, of whole actions, [B, N, 1].
        clip: eps; of each agent by itself, [N, 1].
        action_dim_mask: bool [B, N, K], the components that an agent has; None: all.

    Returns:
        The means of |r - 1| and of |r - 1| > eps over the components that it has, each [B, N].
    """
    distance = (ratio.detach() - 1.0).abs()
    if action_dim_mask is None or ratio.shape[-1] == 1:
        action_dim_mask = torch.ones_like(ratio, dtype=torch.bool)
    count = action_dim_mask.sum(-1).clamp(min=1)
    of_all = torch.stack((distance, (distance > clip).to(distance.dtype)))
    deviation, clipped = of_all.masked_fill(~action_dim_mask, 0.0).sum(-1) / count
    return deviation, clipped


def approximate_kl(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    """(r - 1) - log r of whole actions, r = pi_new / pi_old: an estimate of KL(pi_old || pi_new).

    Its mean over actions of pi_old is without bias, and it is never negative (Schulman 2020, "k3").

    Args:
        log_prob: [B, N, K] under the policy that learns.
        old_log_prob: [B, N, K] under the policy that acted.

    Returns:
        [B, N], without gradient.
    """
    log_ratio = (log_prob - old_log_prob).detach().sum(-1)
    return torch.expm1(log_ratio) - log_ratio


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip: float | Tensor) -> Tensor:
    """-sum_k min(ratio A, clip(ratio, 1 - eps, 1 + eps) A) (Schulman et al. 2017, eq. 7).

    Args:
        ratio: [B, N, K].
        advantage: [B, N].
        clip: eps; of each agent by itself, [N, 1].

    Returns:
        [B, N], to be minimised.
    """
    advantage = advantage.unsqueeze(-1)
    eps = torch.as_tensor(clip, dtype=ratio.dtype, device=ratio.device)
    clipped = ratio.clamp(1.0 - eps, 1.0 + eps)
    return -torch.minimum(ratio * advantage, clipped * advantage).sum(-1)


def huber(error: Tensor, delta: float) -> Tensor:
    """Two-sided Huber loss, 0.5 e^2 near zero and linear beyond ``delta``; same shape."""
    size = error.abs()
    return torch.where(size <= delta, 0.5 * error.square(), delta * (size - 0.5 * delta))


def clipped_value_loss(
    values: Tensor, old_values: Tensor, targets: Tensor, clip: float, delta: float
) -> Tensor:
    """The larger of the losses of the value and of the value clipped to ``clip`` around the old.

    Args:
        values: [B, N], normalised.
        old_values: [B, N], from before the update.
        targets: [B, N], normalised returns.
        clip: in normalised units.
        delta: of the Huber loss.

    Returns:
        [B, N].
    """
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum(huber(targets - values, delta), huber(targets - clipped, delta))


def weighted_sum(x: Tensor, weight: Tensor) -> Tensor:
    """sum(x * weight) over entries of positive weight: garbage in masked slots has no effect.

    Args:
        x: any shape.
        weight: the same shape; zero where an entry does not count.
    """
    return torch.where(weight > 0, x * weight, 0.0).sum()


def adaptive_entropy(entropy: Tensor, level: Tensor | None = None) -> Tensor:
    """H / stop_gradient(H): an entropy bonus whose gradient does not fade as H falls.

    SeCA, eq. 14, where each sample is divided by its own entropy; LICA's code divides by the mean.

    Args:
        entropy: any shape, in nats.
        level: what to divide by; None for ``entropy`` itself. Below 0.001 it counts as 0.001.

    Returns:
        The same shape.
    """
    level = entropy if level is None else level
    return entropy / level.detach().clamp(min=1e-3)
