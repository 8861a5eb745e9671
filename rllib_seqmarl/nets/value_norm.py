"""Running normalisation of value targets."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
        if self.debiasing == 0:
            return self.mean, torch.ones_like(self.mean)
        mean = self.mean / self.debiasing
        variance = (self.mean_square / self.debiasing - mean.square()).clamp(min=1e-2)
        return mean, variance.sqrt()

    def normalize(self, returns: Tensor) -> Tensor:
        """Returns in reward units -> normalised; same shape."""
        mean, std = self.mean_and_std()
        return (returns - mean) / std

    def denormalize(self, values: Tensor) -> Tensor:
        """The network's values -> reward units; same shape."""
        mean, std = self.mean_and_std()
        return values * std + mean
