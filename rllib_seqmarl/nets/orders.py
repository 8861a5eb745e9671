"""Decision orders: who decides when.

An order is int [B, N]; ``order[b, m]`` is the slot of the agent that decides m-th. It is stored
with the step that used it, and training evaluates the actions in that same order. ``None`` stands
for the index order, which needs no gathering.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def index_order(encoded: Tensor, generator: torch.Generator | None) -> Tensor | None:
    """Agents decide by their slot (MAT)."""
    return None


def reverse_order(encoded: Tensor, generator: torch.Generator | None) -> Tensor | None:
    """The last slot decides first."""
    batch, agents, _ = encoded.shape
    return torch.arange(agents - 1, -1, -1, device=encoded.device).expand(batch, agents)


def random_order(encoded: Tensor, generator: torch.Generator | None) -> Tensor | None:
    """A new uniform order at every step (rMAT). Its probability is constant and cancels."""
    source = encoded.device if generator is None else generator.device
    keys = torch.rand(encoded.shape[:2], generator=generator, device=source)
    return keys.argsort(dim=1).to(encoded.device)


#: Name -> function of o_hat [B, N, D] and a generator.
ORDERS: dict[str, Callable[[Tensor, torch.Generator | None], Tensor | None]] = {
    "index": index_order,
    "reverse": reverse_order,
    "random": random_order,
}


def to_order(x: Tensor, order: Tensor | None) -> Tensor:
    """Agent slots -> decision order: [B, N, ...] -> [B, N, ...]."""
    if order is None:
        return x
    return x.gather(1, _expand(order, x))


def to_slots(x: Tensor, order: Tensor | None) -> Tensor:
    """Decision order -> agent slots, the inverse of `to_order`."""
    if order is None:
        return x
    return torch.empty_like(x).scatter(1, _expand(order, x), x)


def _expand(order: Tensor, x: Tensor) -> Tensor:
    index = order.view(*order.shape, *(1 for _ in x.shape[2:]))
    return index.expand(*order.shape, *x.shape[2:])
