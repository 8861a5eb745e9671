"""LICA's adaptive entropy, for all algorithms whose set-up is LICA's: setting and learner."""

from __future__ import annotations

import torch
from torch import Tensor

from rllib_seqmarl.learning.central_q.learner import BatchT, CentralQLearner, ModuleT
from rllib_seqmarl.losses import adaptive_entropy, weighted_sum


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
