"""Critics and joint actions of which expectations can be enumerated."""

from __future__ import annotations

import itertools
from functools import partial

import torch
from torch import Tensor

from rllib_seqmarl.nets.critics.joint import HypernetworkCritic

#: States, agents, actions, width of a state.
B, N, A, S = 6, 3, 3, 4


def table(seed: int = 0) -> Tensor:
    """Q of all A^N joint actions."""
    return torch.randn(*(A,) * N, generator=torch.Generator().manual_seed(seed)).double()


def multilinear(q: Tensor, vectors: Tensor) -> Tensor:
    """E[Q] under independent policies: [B, K, N, A] -> [B, K]."""
    return torch.einsum("abc,zka,zkb,zkc->zk", q, *vectors.unbind(2))


def policies(seed: int = 1) -> Tensor:
    logits = torch.randn(1, N, A, generator=torch.Generator().manual_seed(seed)).double()
    return (2.0 * logits).softmax(-1)


def everything() -> tuple[Tensor, Tensor, Tensor]:
    """All joint actions [A^N, N], the policy beside each, and their probabilities [A^N]."""
    actions = torch.tensor(list(itertools.product(range(A), repeat=N)))
    policy = policies()
    chosen = policy.expand(len(actions), N, A).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    return actions, policy.expand(len(actions), N, A), chosen.prod(-1)


def random_case() -> tuple[Tensor, Tensor, Tensor, partial[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    actions = torch.randint(A, (B, N), generator=generator)
    policy = torch.randn(B, N, A, generator=generator).softmax(-1)
    order = torch.stack([torch.randperm(N, generator=generator) for _ in range(B)])
    torch.manual_seed(0)
    critic = HypernetworkCritic(S, N, A, 16, 16)
    return actions, policy, order, partial(critic, torch.randn(B, S, generator=generator))
