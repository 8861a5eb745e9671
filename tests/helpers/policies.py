"""A small policy and what it sees, for tests of the policy's verbs."""

from __future__ import annotations

import torch
from torch import Tensor

from rllib_seqmarl.nets.sequential_policy import SequentialPolicy
from rllib_seqmarl.nets.transformer.model import ActionSpec

B, OBS, A = 6, 7, 5


def make_policy(discrete: bool = True, **settings: object) -> SequentialPolicy:
    """A small policy in float64 with weights far from their gentle initialisation."""
    torch.manual_seed(0)
    policy = SequentialPolicy(
        obs_dim=OBS,
        action=ActionSpec(A, discrete),
        embed_dim=16,
        **{"num_agents": 4, **settings},  # type: ignore[arg-type]
    ).double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return policy


def observe(agents: int, discrete: bool) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    obs = torch.randn(B, agents, OBS, generator=generator, dtype=torch.float64)
    if not discrete:
        return obs, None
    mask = torch.rand(B, agents, A, generator=generator) > 0.4
    mask[..., 0] = True
    return obs, mask
