"""A policy that nobody has trained, where a saved one is asked for."""

from __future__ import annotations

import torch
from ray.rllib.core.rl_module.rl_module import RLModule

from rllib_seqmarl.learning.base.config import TeamConfig


class FreshPolicy:
    """Equal weights in every module that is built from the config.

    Args:
        config: of the algorithm.
        has_critic: as of `SavedPolicy`.
    """

    path = "fresh"

    def __init__(self, config: TeamConfig, has_critic: bool = True) -> None:
        self._config, self.has_critic = config, has_critic

    def config(self) -> TeamConfig:
        """See `SavedPolicy`."""
        return self._config.copy(copy_frozen=False)

    def restore(self, module: RLModule) -> None:
        """Weights that depend on the name and the shape alone; no biases."""
        for name, value in sorted(module.state_dict().items()):
            if "weight" in name and value.ndim > 1:
                generator = torch.Generator().manual_seed(len(name) + value.numel())
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))
            elif "bias" in name:
                value.zero_()
