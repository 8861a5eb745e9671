"""Whom each agent hears, where attention is restricted to neighbours.

Softmax over 1,024 agents dilutes what was learned among 8, and costs N^2. Where the environment
names the neighbours of each agent, attention may be over these alone:

- in the encoder, agent i hears itself and its neighbours;
- in the decoder's first block, where position m holds the action of the agent m - 1: the action
  of an agent hears those of its neighbours that decided before it, and o_hat of an agent likewise;
- in the decoder's other blocks, where position m holds what has become of agent m: an agent hears
  itself and its neighbours that decided before it.

With all others as neighbours, this is attention over all. Lists have the same length K for all
agents, so the cost is linear in N.

Shapes: B rows, N agents, K neighbours, L positions that hear, S that are heard.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Heard(NamedTuple):
    """The positions that each of L positions hears: some, and never none."""

    positions: Tensor  # int64 [B, L, K]; 0 where not valid
    valid: Tensor  # bool [B, L, K]

    @classmethod
    def of(cls, positions: Tensor, valid: Tensor) -> Heard:
        """Positions that may be anything where they are not valid."""
        return cls(positions.masked_fill(~valid, 0), valid)

    def rows(self, rows: Tensor) -> Heard:
        """Those of some rows of the batch, int [B']."""
        return Heard(self.positions[rows], self.valid[rows])

    def window(self, start: int, stop: int) -> Heard:
        """Those of the positions from ``start`` to before ``stop``."""
        return Heard(self.positions[:, start:stop], self.valid[:, start:stop])

    def gather(self, x: Tensor) -> Tensor:
        """What each position hears: [B, S, D] -> [B, L, K, D]."""
        first_row = torch.arange(len(x), device=x.device) * x.shape[1]
        rows = self.positions + first_row.view(-1, 1, 1)
        return F.embedding(rows, x.flatten(0, 1))  # its backward pass is faster than a gather's


def in_slots(neighbours: Tensor) -> Heard:
    """Whom each agent hears in the encoder: itself and its neighbours.

    Args:
        neighbours: their slots, int [B, N, K], -1 where there are fewer.
    """
    batch, agents, _ = neighbours.shape
    own = torch.arange(agents, device=neighbours.device).expand(batch, agents).unsqueeze(2)
    positions = torch.cat((own, neighbours.long()), dim=2)
    return Heard.of(positions, positions >= 0)


class BlockHeard(NamedTuple):
    """Whom positions hear in a block of the decoder."""

    own: Heard  # in its self-attention
    cross: Heard  # in its cross-attention


class OrderedNeighbours(NamedTuple):
    """Neighbours in decision order."""

    neighbours: Tensor  # int64 [B, N, K], when those of the m-th agent decide; -1: fewer than K

    def blocks(self, count: int) -> list[BlockHeard]:
        """Whom positions hear in each of ``count`` blocks of the decoder."""
        batch, agents, _ = self.neighbours.shape
        position = torch.arange(agents, device=self.neighbours.device).view(1, -1, 1)
        before = (self.neighbours >= 0) & (self.neighbours < position)
        always = torch.ones(batch, agents, 1, dtype=torch.bool, device=position.device)
        start = torch.zeros_like(position).expand(batch, -1, -1)
        position = position.expand(batch, -1, -1)
        # The action of agent n stands at position n + 1, the start symbol at 0.
        actions = Heard.of(
            torch.cat((start, self.neighbours + 1), dim=2), torch.cat((always, before), dim=2)
        )
        # Position m + 1 hears what o_hat of agent m hears, and the action of agent m, its own.
        shifted = [torch.cat((part[:, :1], part[:, :-1]), dim=1) for part in actions]
        shifted[1][:, 0] = False
        tokens = Heard.of(
            torch.cat((position, shifted[0]), dim=2), torch.cat((always, shifted[1]), dim=2)
        )
        first = BlockHeard(tokens, actions)
        if count == 1:
            return [first]
        states = Heard.of(
            torch.cat((position, self.neighbours), dim=2), torch.cat((always, before), dim=2)
        )
        return [first, *[BlockHeard(states, states)] * (count - 1)]

    def table(self) -> Tensor:
        """bool [B, N, N]: whether the m-th agent hears the n-th, itself included."""
        batch, agents, _ = self.neighbours.shape
        valid = self.neighbours >= 0
        own = torch.eye(agents, dtype=torch.bool, device=self.neighbours.device)
        hears = own.repeat(batch, 1, 1)
        # Written to a column of its own where there is no neighbour, which is then cut off.
        hears = torch.cat((hears, hears.new_zeros(batch, agents, 1)), dim=2)
        hears.scatter_(2, torch.where(valid, self.neighbours, agents), True)
        return hears[..., :agents]
