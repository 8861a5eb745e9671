"""Advantages, returns and their normalisation. Pure torch; T steps, E environments, N agents.

Termination and truncation are never merged: a terminated step has no future, a truncated one has
a future that was not observed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: What happens at a time limit: bootstrap from the final observation (correct), treat it as the
#: end of the task (MAT's code), or drop the step from learning (HARL's code).
TIME_LIMITS = ("bootstrap", "terminate", "drop")


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    gamma: float,
    lambda_: float,
    time_limit: str = "bootstrap",
    trace: Tensor | None = None,
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016), for each agent separately.

    With ``trace`` c it is A2PO's preceding-agent off-policy correction (Wang et al. 2023), as a
    scan: A_t = delta_t + gamma lambda c_{t+1} A_{t+1}.

    Args:
        rewards: [T, E] of the team or [T, E, N], in the units of ``values``.
        values: V(s_t), [T, E, N].
        next_values: V of the observation that followed step t, [T, E, N]; at a truncated step,
            that of the episode's final observation and not of the next episode's first.
        terminated: bool [T, E].
        truncated: bool [T, E].
        gamma: discount.
        lambda_: trace decay.
        time_limit: one of `TIME_LIMITS`.
        trace: c_t, [T, E, N] or one for all agents, [T, E, 1]; None is 1 everywhere, plain
            estimation.

    Returns:
        Advantages [T, E, N]; adding ``values`` gives the returns.
    """
    rewards = rewards if rewards.ndim == 3 else rewards.unsqueeze(-1)
    end = terminated | truncated if time_limit == "terminate" else terminated
    future = (~end).unsqueeze(-1).to(values.dtype)  # [T, E, 1]
    not_done = (~(terminated | truncated)).unsqueeze(-1).to(values.dtype)
    deltas = rewards + gamma * future * next_values - values
    if time_limit == "drop":
        deltas = deltas.masked_fill((truncated & ~terminated).unsqueeze(-1), 0.0)
    advantages = torch.empty_like(values)
    advantage = torch.zeros_like(values[0])
    decay = gamma * lambda_ * not_done
    for t in range(len(deltas) - 1, -1, -1):
        advantage = advantages[t] = torch.addcmul(deltas[t], decay[t], advantage)
        if trace is not None:
            advantage = advantage * trace[t]
    return advantages


class ValueNorm(nn.Module):
    """Running mean and variance of the returns; the network predicts normalised values.

    Exponential averages of the mean and of the mean square with weight ``beta`` per update,
    debiased, variance at least 0.01: the numerics of MAPPO's and MAT's code. One scalar statistic
    for all agents. The statistics are buffers, so they are part of every checkpoint.
    """

    mean: Tensor
    mean_square: Tensor
    debiasing: Tensor

    def __init__(self, beta: float = 0.99999) -> None:
        super().__init__()
        self.beta = beta
        # float32, because RLlib turns float64 into it on the way to a checkpoint.
        for name in ("mean", "mean_square", "debiasing"):
            self.register_buffer(name, torch.zeros(()))

    def update(self, mean: Tensor, mean_square: Tensor) -> None:
        """Takes in the mean and the mean square (scalars) of a batch of returns."""
        for statistic, value in ((self.mean, mean), (self.mean_square, mean_square)):
            statistic.mul_(self.beta).add_(value.detach().to(statistic), alpha=1.0 - self.beta)
        self.debiasing.mul_(self.beta).add_(1.0 - self.beta)

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Debiased mean and standard deviation, float32 scalars; 0 and 1 before any update."""
        updated = self.debiasing > 0  # no `if`, which would wait for the device
        debiasing = torch.where(updated, self.debiasing, 1.0)
        mean = self.mean / debiasing
        variance = (self.mean_square / debiasing - mean.square()).clamp(min=1e-2)
        return mean, torch.where(updated, variance.sqrt(), 1.0)

    def normalize(self, returns: Tensor) -> Tensor:
        """Returns in reward units -> normalised; same shape."""
        mean, std = self.mean_and_std()
        return (returns - mean) / std

    def denormalize(self, values: Tensor) -> Tensor:
        """The network's values -> reward units; same shape."""
        mean, std = self.mean_and_std()
        return values * std + mean
