"""LICA's adaptive entropy, for all algorithms whose set-up is LICA's: setting and learner."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from rllib_seqmarl.learning.base.advantages import POLICY_WEIGHT
from rllib_seqmarl.learning.base.learner import Rows
from rllib_seqmarl.learning.central_q.learner import CriticConfig, CriticLearner
from rllib_seqmarl.learning.sequential.module import ENTROPY
from rllib_seqmarl.losses import adaptive_entropy, weighted_sum

#: What the entropy is divided by, where it is one number for the whole minibatch.
ENTROPY_LEVEL = "entropy_level"


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


class AdaptiveEntropyLearner(CriticLearner):
    """Gives the agents' loss its entropy bonus."""

    def prepare_minibatch(self, rows: Rows) -> Rows:
        """Weights, and with ``entropy_ratio: batch`` the mean entropy of the minibatch."""
        extra = super().prepare_minibatch(rows)
        if self.config.entropy_ratio == "batch":
            with torch.no_grad(), self.network_time():
                parts = [
                    weighted_sum(self.core.forward_train(piece)[ENTROPY], piece[POLICY_WEIGHT])
                    for piece in self.pieces(rows | extra)
                ]
            level = self.sum_over_learners(torch.stack(parts).sum()) / self.num_shares
            extra[ENTROPY_LEVEL] = level
        return extra

    def entropy_bonus(self, batch: Rows, entropy: Tensor) -> Tensor:
        """xi H / stop_gradient(H), mean over agents and steps; see `CriticLearner`."""
        return super().entropy_bonus(batch, adaptive_entropy(entropy, batch.get(ENTROPY_LEVEL)))
