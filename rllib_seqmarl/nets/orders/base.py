"""What a decision order is: who decides when.

An order is int [B, N]; ``order[b, m]`` is the slot of the agent that decides m-th. It is stored
with the env step that used it, and training evaluates the actions in that same order. ``None``
stands for the index order, which needs no gathering.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from rllib_seqmarl.nets.transformer.sparse_attention import OrderedNeighbours


class OrderInputs(NamedTuple):
    """What the order of one env step may depend on."""

    obs: Tensor  # of all agents, in slots, as real numbers, [B, N, size of an observation]
    encoded: Tensor  # o_hat in slots, [B, N, D]
    deterministic: bool = False  # whether to choose the most likely order
    generator: torch.Generator | None = None  # of the noise; None: torch's global one
    #: The orders of the step before, int [B, N], and -1 in the rows of teams that are at their
    #: first; None where all are.
    previous: Tensor | None = None


class Ordering(NamedTuple):
    """An order, and how likely it was where it is learned."""

    order: Tensor | None  # int [B, N]; None is the index order
    log_prob: Tensor | None = None  # [B], of the whole order


class OrderEvaluation(NamedTuple):
    """What the learner needs of an order that was used."""

    log_prob: Tensor  # [B], of the whole order, or [B, N], of each agent's choice, in slots
    entropy: Tensor  # likewise
    scores: Tensor | None = None  # [B, N], what the order was drawn from, where there is such


class DecisionOrder(nn.Module):
    """Who decides when.

    Args:
        width: D, of o_hat and of the decoder.
        num_agents: N; None where any number may come.
    """

    #: The algorithm whose loss trains the order; None where there is nothing to learn.
    learned_by: ClassVar[str | None] = None
    #: Settings of the algorithm that the class takes: their name there -> that of the argument.
    settings: ClassVar[Mapping[str, str]] = {}
    #: Whether the order of an env step is that of the step before, until the episode ends.
    kept_for_episode = False

    def __init__(self, width: int, num_agents: int | None = None) -> None:
        super().__init__()

    def evaluate(self, encoded: Tensor, decoded: Tensor, order: Tensor) -> OrderEvaluation | None:
        """How likely an order is now; None where orders are not learned.

        Args:
            encoded: o_hat in slots, [B, N, D].
            decoded: the decoder's output in decision order, [B, N, D].
            order: that was used, int [B, N].
        """
        return None


class ChosenOrder(DecisionOrder, ABC):
    """An order that is known before anybody decides."""

    @abstractmethod
    def choose(self, inputs: OrderInputs) -> Ordering:
        """The order of one env step."""


class IndexOrder(ChosenOrder):
    """Agents decide by their slot (MAT)."""

    def choose(self, inputs: OrderInputs) -> Ordering:
        """See `ChosenOrder`."""
        return Ordering(None)


def ranks(order: Tensor) -> Tensor:
    """When each agent decides, int [B, N]: the inverse permutation."""
    positions = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, positions)


def to_order(x: Tensor, order: Tensor | None) -> Tensor:
    """Agent slots -> decision order: [B, N, ...] -> [B, L, ...], for an order int [B, L]."""
    if order is None:
        return x
    batch, agents = x.shape[:2]
    first_row = torch.arange(0, batch * agents, agents, device=x.device).unsqueeze(1)
    rows = (order + first_row).view(-1)  # whole rows are copied faster than element by element
    return x.flatten(0, 1).index_select(0, rows).view(*order.shape, *x.shape[2:])


def to_slots(x: Tensor, order: Tensor | None) -> Tensor:
    """Decision order -> agent slots, the inverse of `to_order`."""
    if order is None:
        return x
    index = order.view(*order.shape, *(1 for _ in x.shape[2:]))
    return torch.empty_like(x).scatter(1, index.expand(*order.shape, *x.shape[2:]), x)


def neighbours_in_order(
    neighbours: Tensor | None, order: Tensor | None
) -> OrderedNeighbours | None:
    """Neighbours by when they decide, from int [B, N, K] by slots, -1 where there are fewer."""
    if neighbours is None:
        return None
    neighbours = neighbours.long()
    if order is None:
        return OrderedNeighbours(neighbours)
    batch, agents, count = neighbours.shape
    absent = neighbours < 0
    when = ranks(order).gather(1, neighbours.masked_fill(absent, 0).flatten(1))
    when = when.view(batch, agents, count).masked_fill(absent, -1)
    return OrderedNeighbours(to_order(when, order))
