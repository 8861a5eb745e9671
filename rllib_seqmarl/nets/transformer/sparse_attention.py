"""Attention to neighbours only.

Softmax over 1,024 agents dilutes what was learned among 8, and costs N^2. Where the environment
names the neighbours of each agent, attention may be over these alone:

- in the encoder, agent i attends to itself and its neighbours;
- in the decoder's first block, where position m holds the action of agent m - 1: the action of an
  agent attends to those of its neighbours that decided before it, and o_hat of an agent likewise;
- in the decoder's other blocks, where position m holds the state of agent m: an agent attends to
  itself and its neighbours that decided before it.

With all others as neighbours, this is attention over all. Lists have the same length K for all
agents, so the cost is linear in N.

Shapes: B batch rows, N agents, K neighbours, H heads, L query positions, S key positions.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class AttendedPositions(NamedTuple):
    """The positions that each of L positions attends to: some, and at least one."""

    positions: Tensor  # int64 [B, L, K]; 0 where not valid
    valid: Tensor  # bool [B, L, K]

    @classmethod
    def of(cls, positions: Tensor, valid: Tensor) -> AttendedPositions:
        """Positions that may be anything where they are not valid; unused columns are cut off."""
        if not torch.compiler.is_compiling():  # a program has one size whatever it reads
            used = valid.flatten(0, 1).any(0).nonzero()
            longest = int(used[-1]) + 1 if len(used) else 1
            positions, valid = positions[..., :longest], valid[..., :longest]
        return cls(positions.masked_fill(~valid, 0), valid)

    def batch_rows(self, rows: Tensor | slice) -> AttendedPositions:
        """Those of some rows of the batch, int [B'] or a slice."""
        return AttendedPositions(self.positions[rows], self.valid[rows])

    def window(self, start: int, stop: int) -> AttendedPositions:
        """Those of the positions from ``start`` to before ``stop``."""
        return AttendedPositions(self.positions[:, start:stop], self.valid[:, start:stop])

    def gather(self, x: Tensor) -> Tensor:
        """What each position attends to: [B, S, D] -> [B, L, K, D]."""
        # The backward pass of an embedding is faster than a gather's.
        return F.embedding(self._rows(x.shape[1]), x.flatten(0, 1))

    def weighted_sum(self, weights: Tensor, x: Tensor) -> Tensor:
        """What each position takes in.

        Args:
            weights: [B, L, K, H].
            x: [B, S, D], of which head h weights the h-th D / H columns.

        Returns:
            [B, L, D].
        """
        batch, length, _, heads = weights.shape
        rows = self._rows(x.shape[1]).unsqueeze(2) * heads  # [B, L, 1, K]
        rows = rows + torch.arange(heads, device=x.device).unsqueeze(1)  # [B, L, H, K]
        of_heads = x.reshape(-1, x.shape[-1] // heads)  # [B S H, D / H]
        mixed = F.embedding_bag(
            rows.flatten(0, 2),
            of_heads,
            mode="sum",
            per_sample_weights=weights.transpose(2, 3).flatten(0, 2),
        )
        return mixed.view(batch, length, x.shape[-1])

    def _rows(self, size: int) -> Tensor:
        """Positions in the flattened rows of a batch of ``size`` positions each, [B, L, K]."""
        first_row = torch.arange(len(self.positions), device=self.positions.device) * size
        return self.positions + first_row.view(-1, 1, 1)


def packed(positions: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """The valid ones first, in their order, and no more columns than the longest list has.

    Args:
        positions: int [..., K], anything where not valid.
        valid: bool [..., K].

    Returns:
        Likewise [..., K'], positions 0 where not valid.
    """
    longest = int(valid.sum(-1).max()) if valid.numel() else 0
    order = valid.int().argsort(dim=-1, descending=True, stable=True)[..., :longest]
    valid = valid.gather(-1, order)
    return positions.gather(-1, order).masked_fill_(~valid, 0), valid


def sparse_attention_weights(query: Tensor, keys: Tensor, valid: Tensor, heads: int) -> Tensor:
    """Weights of scaled dot-product attention over K positions each.

    Args:
        query: [B, L, D].
        keys: [B, L, K, D].
        valid: bool [B, L, K].
        heads: H.

    Returns:
        [B, L, K, H].
    """
    key = keys.unflatten(-1, (heads, -1))  # [B, L, K, H, D / H]
    query = query.unflatten(-1, (heads, -1)).unsqueeze(2)  # [B, L, 1, H, D / H]
    scores = torch.linalg.vecdot(query, key) / math.sqrt(key.shape[-1])
    return scores.masked_fill(~valid.unsqueeze(-1), float("-inf")).softmax(2)


def attended_by_agents(neighbours: Tensor) -> AttendedPositions:
    """Whom each agent attends to in the encoder: itself and its neighbours.

    Args:
        neighbours: their slots, int [B, N, K], -1 where there are fewer.
    """
    batch, agents, _ = neighbours.shape
    own = torch.arange(agents, device=neighbours.device).expand(batch, agents).unsqueeze(2)
    positions = torch.cat((own, neighbours.long()), dim=2)
    return AttendedPositions.of(positions, positions >= 0)


class BlockNeighbours(NamedTuple):
    """What the positions of one block of the decoder attend to."""

    self_attention: AttendedPositions
    cross_attention: AttendedPositions


class OrderedNeighbours:
    """Neighbours in decision order.

    Args:
        neighbours: int64 [B, N, K], when those of the m-th agent decide; -1 where there are fewer.
    """

    def __init__(self, neighbours: Tensor) -> None:
        self.neighbours = neighbours

    def batch_rows(self, rows: slice) -> OrderedNeighbours:
        """Those of some rows of the batch."""
        return OrderedNeighbours(self.neighbours[rows])

    def of_block(self, index: int) -> BlockNeighbours:
        """What positions attend to in a block of the decoder, counted from 0."""
        return self._first_block if index == 0 else self._other_blocks

    @cached_property
    def _first_block(self) -> BlockNeighbours:
        position, before, always = self._positions
        # The action of agent n stands at position n + 1, the start symbol at 0.
        actions = AttendedPositions.of(
            torch.cat((torch.zeros_like(position), self.neighbours + 1), dim=2),
            torch.cat((always, before), dim=2),
        )
        # The token at position m + 1 is the action of agent m: it attends to what o_hat of agent m
        # attends to, and to itself.
        previous, valid = (torch.cat((part[:, :1], part[:, :-1]), dim=1) for part in actions)
        valid[:, 0] = False
        tokens = AttendedPositions.of(
            torch.cat((position, previous), dim=2), torch.cat((always, valid), dim=2)
        )
        return BlockNeighbours(tokens, actions)

    @cached_property
    def _other_blocks(self) -> BlockNeighbours:
        position, before, always = self._positions
        states = AttendedPositions.of(
            torch.cat((position, self.neighbours), dim=2), torch.cat((always, before), dim=2)
        )
        return BlockNeighbours(states, states)

    @cached_property
    def _positions(self) -> tuple[Tensor, Tensor, Tensor]:
        """Own position int [B, N, 1], neighbours that decide before bool [B, N, K], and True."""
        batch, agents, _ = self.neighbours.shape
        position = torch.arange(agents, device=self.neighbours.device).view(1, -1, 1)
        before = (self.neighbours >= 0) & (self.neighbours < position)
        always = torch.ones(batch, agents, 1, dtype=torch.bool, device=position.device)
        return position.expand(batch, -1, -1), before, always
