"""Random actions beside an agent's own choice, for exploration."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rllib_seqmarl.nets.distributions import Categorical, masked_logits


class EpsilonCategorical(Categorical):
    """An own choice with probability 1 - epsilon, else any of the available actions.

    The own choice is drawn from softmax(logits), or is the best action (epsilon-greedy). Without
    noise it is the best action whatever epsilon is.

    Args:
        size: A.
        greedy: the own choice is the best action.
        epsilon: to begin with; part of the state dict, so that it travels with the weights.
    """

    epsilon: Tensor

    def __init__(self, size: int, greedy: bool, epsilon: float) -> None:
        super().__init__(size)
        self.greedy = greedy
        self.register_buffer("epsilon", torch.tensor(float(epsilon)))

    def probabilities(self, parameters: Tensor, mask: Tensor | None) -> Tensor:
        """[..., A] -> [..., A], 0 for actions that are not available."""
        logits = masked_logits(parameters, mask)
        if self.greedy:
            own = F.one_hot(logits.argmax(-1), self.size).to(logits.dtype)
        else:
            own = logits.softmax(-1)
        available = torch.ones_like(own) if mask is None else mask.to(own.dtype)
        return torch.lerp(own, available / available.sum(-1, keepdim=True), self.epsilon)

    def choose(self, parameters: Tensor, mask: Tensor | None, noise: Tensor | None) -> Tensor:
        """A sample for this noise, the best action without: [..., A] -> int [...]."""
        if noise is not None:
            parameters = self._log_probabilities(parameters, mask)
        return super().choose(parameters, mask, noise)

    def log_prob(self, parameters: Tensor, mask: Tensor | None, actions: Tensor) -> Tensor:
        """Of the mixture: [..., A], int [...] -> [..., 1]."""
        return super().log_prob(self._log_probabilities(parameters, mask), mask, actions)

    def entropy(self, parameters: Tensor, mask: Tensor | None) -> Tensor:
        """Of the mixture: [..., A] -> [...]."""
        return super().entropy(self._log_probabilities(parameters, mask), mask)

    def _log_probabilities(self, parameters: Tensor, mask: Tensor | None) -> Tensor:
        # Finite: the logarithm of what is never chosen, below any Gumbel noise all the same.
        probabilities = self.probabilities(parameters, mask)
        return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
