"""LICA's adaptive entropy, for all algorithms whose set-up is LICA's: setting and learner."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from rllib_seqmarl.learning.central_q.learner import BatchT, CentralQLearner, CriticConfig, ModuleT
from rllib_seqmarl.losses import adaptive_entropy, weighted_sum


class AdaptiveEntropyConfig(CriticConfig):
    """Settings of agents whose entropy's gradient is divided by its size.

    Attributes:
        entropy_coeff: xi.
        entropy_ratio: the entropy is divided by the mean of the ``batch`` (LICA's code), or each
            ``sample`` by its own (SeCA, eq. 14).
    """

    _CHOICES: ClassVar[dict[str, tuple[str, ...]]] = CriticConfig._CHOICES | {
        "entropy_ratio": ("batch", "sample"),
    }

    def __init__(self, algo_class: type[Any] | None = None) -> None:
        super().__init__(algo_class)
        self.entropy_ratio = "batch"


class AdaptiveEntropyLearner(CentralQLearner[BatchT, ModuleT]):
    """Gives the agents' loss its entropy bonus."""

    def prepare_minibatch(self, minibatch: BatchT) -> BatchT:
        """Weights, and with ``entropy_ratio: batch`` the mean entropy of the minibatch."""
        minibatch = super().prepare_minibatch(minibatch)
        if self.config.entropy_ratio == "batch":
            with torch.no_grad(), self.network_time():
                parts = [
                    weighted_sum(self.core.forward_train(some).entropy, some.policy_weight)
                    for some in self.micro_batches(minibatch)
                ]
            level = self.sum_over_learners(torch.stack(parts).sum()) / self.num_shares
            minibatch = minibatch.replace(entropy_level=level)
        return minibatch

    def entropy_bonus(self, batch: BatchT, entropy: Tensor) -> Tensor:
        """xi H / stop_gradient(H), mean over agents and steps; see `CentralQLearner`."""
        return super().entropy_bonus(batch, adaptive_entropy(entropy, batch.entropy_level))
