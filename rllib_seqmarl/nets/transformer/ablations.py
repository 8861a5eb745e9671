"""Parts of the ablations of the MAT and SrSv papers: what stands in place of one part of MAT.

- `StaticTokenMixer` (SrSv-mlp) and `MeanTokenMixer` (SrSv-gnn) take the place of attention;
- `EncoderOnly` (SrSv-enc) and `OwnObservation` (MAT-Dec) take the place of the decoder: all agents
  decide at once.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import cast

import torch
from torch import Tensor, nn

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.nets.transformer.model import (
    GAIN_BEFORE_GELU,
    ActionSpec,
    Attention,
    BlockTrace,
    DecoderTrace,
    EncoderBlock,
    TokenMixer,
    causal_mask,
    embedding,
    head,
    linear,
)
from rllib_seqmarl.nets.transformer.sparse_attention import AttendedPositions, OrderedNeighbours

# -- in place of attention -------------------------------------------------------------------------


class FixedTokenMixer(TokenMixer):
    """Weights that do not depend on x: there is no query, and a key-value is a value alone."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, query_size=0, key_value_size=width)

    @abstractmethod
    def position_weights(self, visible: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """w by position: bool [..., L, S], int [..., L] and int [..., S] -> [H, ..., L, S]."""

    def _weights(self, queries: int, keys: int, causal: bool, device: torch.device) -> Tensor:
        """w of the last L of S positions: [H, L, S]."""
        if causal:
            visible = causal_mask(queries, keys, device)
        else:
            visible = torch.ones(queries, keys, dtype=torch.bool, device=device)
        positions = torch.arange(keys, device=device)
        return self.position_weights(visible, positions[keys - queries :], positions)

    def mix(self, query: Tensor, key_value: Tensor, causal: bool = True) -> Tensor:
        """See `TokenMixer.mix`."""
        weights = self._weights(query.shape[1], key_value.shape[1], causal, key_value.device)
        value = key_value.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, S, D / H]
        return (weights @ value).transpose(1, 2).flatten(2)

    def weights(self, query: Tensor, key_value: Tensor, causal: bool = True) -> Tensor:
        """See `TokenMixer.weights`."""
        weights = self._weights(query.shape[1], key_value.shape[1], causal, key_value.device)
        return weights.mean(0).expand(len(key_value), -1, -1)


class StaticTokenMixer(FixedTokenMixer):
    """SrSv-mlp (SrSv paper, Fig. 6): a learned matrix over positions, as MLPs mix tokens.

    The weights are the softmax of a table of logits, for each head; they begin equal. The paper
    says that an MLP replaces the attention and not how: this keeps rows of sum 1, which eq. 6
    weights the values with. The table has a row per position, hence a fixed number of agents.

    Args:
        width: D.
        heads: H.
        positions: rows and columns of the table.

    Raises:
        ValueError: ``positions`` is not given.
    """

    def __init__(self, width: int, heads: int, positions: int | None = None) -> None:
        super().__init__(width, heads)
        if positions is None:
            raise ValueError("StaticTokenMixer needs the number of positions.")
        self.logits = nn.Parameter(torch.zeros(heads, positions, positions))

    def mix(self, query: Tensor, key_value: Tensor, causal: bool = True) -> Tensor:
        """See `TokenMixer.mix`.

        Raises:
            UserError: not all positions are there, although all should be attended to.
        """
        made_for, given = self.logits.shape[-1], key_value.shape[1]
        if not causal and given != made_for:
            raise UserError(
                f"network 'mlp' has learned how {made_for} agents are mixed and cannot run with "
                f"{given}: train with {given}, or use network 'transformer' or 'gnn'."
            )
        return super().mix(query, key_value, causal)

    def position_weights(self, visible: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """See `FixedTokenMixer.position_weights`."""
        logits = self.logits[:, queries.unsqueeze(-1), keys.unsqueeze(-2)]
        return logits.masked_fill(~visible, float("-inf")).softmax(-1)


class MeanTokenMixer(FixedTokenMixer):
    """SrSv-gnn (SrSv paper, Fig. 6): a fully connected graph whose nodes take in the mean.

    In the decoder, the mean over predecessors and self.
    """

    def __init__(self, width: int, heads: int, positions: int | None = None) -> None:
        super().__init__(width, heads)

    def position_weights(self, visible: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """See `FixedTokenMixer.position_weights`."""
        counted = visible.to(self.out_projection.weight.dtype)
        return (counted / counted.sum(-1, keepdim=True)).unsqueeze(0)

    def sparse_weights(
        self, query: Tensor, key_value: Tensor, attended: AttendedPositions
    ) -> Tensor:
        """See `TokenMixer.sparse_weights`."""
        counted = attended.valid.to(key_value.dtype)
        return (counted / counted.sum(-1, keepdim=True)).unsqueeze(-1)


# -- in place of the decoder -----------------------------------------------------------------------


class SimultaneousActor(nn.Module):
    """What stands in a decoder's place where nobody reads an action: tokens play no part."""

    head: nn.Module

    def shift(self, actions: Tensor) -> None:
        """There are no tokens, since no action is read."""


class OwnObservation(SimultaneousActor):
    """MAT-Dec: layers that all agents share, each on its own observation."""

    def __init__(self, obs_dim: int, action: ActionSpec, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *embedding(obs_dim, width),
            nn.LayerNorm(width),
            linear(width, width, GAIN_BEFORE_GELU),
            nn.GELU(),
            nn.LayerNorm(width),
        )
        self.head = linear(width, action.size)

    def forward(
        self, tokens: None, obs: Tensor, neighbours: OrderedNeighbours | None = None
    ) -> DecoderTrace:
        """Observations [B, N, obs_dim] -> a pass with output [B, N, D]."""
        return DecoderTrace(obs, output=self.body(obs))


class EncoderOnly(SimultaneousActor):
    """The encoder's blocks, with the action head on o_hat."""

    def __init__(self, action: ActionSpec, width: int, blocks: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            EncoderBlock(width, Attention(width, heads)) for _ in range(blocks)
        )
        self.head = head(width, action.size)

    def forward(
        self, tokens: None, embedded: Tensor, neighbours: OrderedNeighbours | None = None
    ) -> DecoderTrace:
        """Embedded observations [B, N, D] -> a pass whose output is o_hat, [B, N, D].

        The blocks' traces hold query and key-value of their only attention.
        """
        x, traces = embedded, []
        for block in cast("list[EncoderBlock]", list(self.blocks)):
            query, key_value = block.attention.split(block.attention.project(x))
            traces.append(BlockTrace(x, x, query, key_value))
            x = block.norm_attention(x + block.attention(query, key_value, causal=False))
            x = block.norm_feed_forward(x + block.feed_forward(x))
        return DecoderTrace(embedded, output=x, blocks=tuple(traces))

    @property
    def last_attention(self) -> TokenMixer:
        """The attention of the last block."""
        return cast(EncoderBlock, self.blocks[-1]).attention
