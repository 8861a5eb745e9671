"""Incremental passes of a decoder, for decoding: keys and values are kept, gradients are not.

A step over one position does little arithmetic, so what it costs is the number of calls. The
passes here therefore work on plain weights, looked up once per joint action, and do exactly the
sums of `model.Decoder.forward`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import singledispatch
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rllib_seqmarl.nets.transformer.model import ActionDecoder, Decoder, DecoderBlock, TokenMixer
from rllib_seqmarl.nets.transformer.sparse_attention import (
    AttendedPositions,
    BlockNeighbours,
    OrderedNeighbours,
)


class ActionCache(ABC):
    """What a decoder keeps of the positions decided so far.

    Used under `torch.no_grad` or `torch.inference_mode`, and with the weights that the decoder
    had when it was made.

    Args:
        encoded: o_hat in decision order, [B, N, D]; in slots where `place` is used.
    """

    def __init__(self, encoded: Tensor) -> None:
        self.encoded = encoded
        self._slots: Tensor | None = None  # what `place` takes agents from

    @abstractmethod
    def extend(self, tokens: Tensor, start: int) -> Tensor:
        """Positions ``start`` .. ``start`` + L, given that all before are in the cache.

        Puts them into the cache, over whatever stood there.

        Args:
            tokens: int [B, L] or float [B, L, A], see `ActionDecoder.shift`.
            start: the first position to compute, from 0.

        Returns:
            What the head reads at these positions, [B, L, D].
        """

    @abstractmethod
    def head(self, x: Tensor) -> Tensor:
        """The decoder's head: [..., D] -> logits or means [..., A]."""

    @abstractmethod
    def as_first(self, start_token: Tensor) -> Tensor:
        """What the head reads as if every agent were the first to decide: [B, N, D].

        Right for the agent that is, a first guess for the others.

        Args:
            start_token: the start symbol, int [1, 1] or float [1, 1, A].
        """

    def place(self, agents: Tensor, start: int) -> None:
        """Puts agents at positions ``start`` .. ``start`` + L, where the order is found on the way.

        Args:
            agents: int [B, L], positions in the o_hat that the cache was made from.
            start: the first position that they take, from 0.
        """
        batch, count = agents.shape
        if self._slots is None:
            self._slots = torch.cat(self._of_agents(), dim=-1)
            self._replace_agents([part.clone() for part in self._of_agents()])
        first_row = torch.arange(batch, device=agents.device) * self._slots.shape[1]
        rows = (agents + first_row.unsqueeze(1)).flatten()
        placed = self._slots.flatten(0, 1).index_select(0, rows).view(batch, count, -1)
        parts = self._of_agents()
        sizes = [part.shape[-1] for part in parts]
        for part, own in zip(parts, placed.split(sizes, dim=-1), strict=True):
            part[:, start : start + count] = own

    def keep(self, rows: Tensor) -> None:
        """Forgets all rows of the batch but these, int [B']."""
        self._replace_agents([part[rows] for part in self._of_agents()])
        if self._slots is not None:
            self._slots = self._slots[rows]

    def _of_agents(self) -> list[Tensor]:
        """What belongs to an agent wherever it stands, each [B, N, ...]: o_hat first."""
        return [self.encoded]

    def _replace_agents(self, parts: list[Tensor]) -> None:
        """Puts other tensors in place of those of `_of_agents`."""
        (self.encoded,) = parts


@singledispatch
def action_cache(
    decoder: ActionDecoder, encoded: Tensor, neighbours: OrderedNeighbours | None = None
) -> ActionCache:
    """The cache of a decoder for passes over o_hat.

    A decoder of another class has a cache of its own by ``action_cache.register``; without one,
    every position takes a pass over all positions before it.

    Args:
        decoder: whose passes.
        encoded: o_hat in decision order, [B, N, D].
        neighbours: whom each agent attends to; None: all.
    """
    return PrefixCache(decoder, encoded, neighbours)


class PrefixCache(ActionCache):
    """The cache of any causal decoder: tokens are kept, and whole passes made over them."""

    def __init__(
        self, decoder: ActionDecoder, encoded: Tensor, neighbours: OrderedNeighbours | None = None
    ) -> None:
        super().__init__(encoded)
        if neighbours is not None:
            raise NotImplementedError(f"{type(decoder).__name__} attends to all agents.")
        self.decoder = decoder
        self.tokens = decoder.start_tokens(len(encoded), encoded.shape[1])

    def extend(self, tokens: Tensor, start: int) -> Tensor:
        """See `ActionCache.extend`."""
        stop = start + tokens.shape[1]
        self.tokens[:, start:stop] = tokens
        output = self.decoder(self.tokens[:, :stop], self.encoded[:, :stop]).output
        return output[:, start:]

    def head(self, x: Tensor) -> Tensor:
        """See `ActionCache.head`."""
        return self.decoder.head(x)

    def as_first(self, start_token: Tensor) -> Tensor:
        """See `ActionCache.as_first`."""
        encoded = self.encoded.flatten(0, 1).unsqueeze(1)  # [B N, 1, D]
        tokens = self.decoder.start_tokens(len(encoded))
        return self.decoder(tokens, encoded).output.view_as(self.encoded)

    def keep(self, rows: Tensor) -> None:
        """See `ActionCache.keep`."""
        super().keep(rows)
        self.tokens = self.tokens[rows]


class _Linear(NamedTuple):
    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, layer: nn.Module) -> _Linear:
        assert isinstance(layer, nn.Linear)
        return cls(layer.weight, layer.bias)

    def outputs(self, start: int, stop: int | None = None) -> _Linear:
        """The part of the layer that makes these outputs."""
        bias = None if self.bias is None else self.bias[start:stop]
        return _Linear(self.weight[start:stop], bias)


class _Norm(NamedTuple):
    shape: tuple[int, ...]
    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, layer: nn.Module) -> _Norm:
        assert isinstance(layer, nn.LayerNorm)
        return cls(tuple(layer.normalized_shape), layer.weight, layer.bias, layer.eps)


class _Block:
    """The weights of one decoder block, and what it keeps of the positions decided so far."""

    def __init__(self, block: DecoderBlock, encoded: Tensor) -> None:
        batch, agents, _ = encoded.shape
        attention = block.self_attention
        cross = block.cross_attention
        self.norm_self = _Norm.of(block.norm_self)
        self.norm_cross = _Norm.of(block.norm_cross)
        self.norm_feed_forward = _Norm.of(block.norm_feed_forward)
        self.self_in = _Linear.of(attention.in_projection)
        self.self_out = _Linear.of(attention.out_projection)
        cross_in = _Linear.of(cross.in_projection)
        self.cross_in = cross_in.outputs(cross.query_size)
        self.cross_out = _Linear.of(cross.out_projection)
        self.hidden = _Linear.of(block.feed_forward[0])
        self.out = _Linear.of(block.feed_forward[2])
        self.attention, self.cross = attention, cross
        self.self_query_size = attention.query_size
        #: Queries of the cross-attention, [B, N, query_size]: they depend on o_hat alone.
        self.queries = F.linear(encoded, *cross_in.outputs(0, cross.query_size))
        #: Keys and values of the positions so far, [B, N, key_value_size].
        self.self_key_values = encoded.new_empty(batch, agents, attention.key_value_size)
        self.cross_key_values = encoded.new_empty(batch, agents, cross.key_value_size)

    def finish(self, encoded: Tensor, mixed: Tensor) -> Tensor:
        """What follows the cross-attention: two of [..., D] -> [..., D]."""
        x = torch.layer_norm(encoded + F.linear(mixed, *self.cross_out), *self.norm_cross)
        hidden = F.gelu(F.linear(x, *self.hidden))
        return torch.layer_norm(x + F.linear(hidden, *self.out), *self.norm_feed_forward)


class DecoderCache(ActionCache):
    """Keys and values of the positions decided so far, and the queries of all N positions.

    Args:
        decoder: the decoder whose passes these are.
        encoded: o_hat in decision order, [B, N, D].
        neighbours: whom each agent attends to; None: all.
    """

    def __init__(
        self, decoder: Decoder, encoded: Tensor, neighbours: OrderedNeighbours | None = None
    ) -> None:
        super().__init__(encoded)
        self.width = encoded.shape[-1]
        self.blocks = [_Block(block, encoded) for block in decoder.layers()]
        self.attended = None
        if neighbours is not None:
            self.attended = [neighbours.of_block(index) for index in range(len(self.blocks))]
        self.head_hidden = _Linear.of(decoder.head[0])
        self.head_norm = _Norm.of(decoder.head[2])
        self.head_out = _Linear.of(decoder.head[3])
        self.norm = _Norm.of(decoder.norm)
        #: Of each symbol, x and its query and key-value in the first block, [A + 1, ...].
        self.table: Tensor | None = None
        self.token: _Linear | None = None
        symbols = decoder.symbols()
        if symbols is None:
            self.token = _Linear.of(decoder.token)
        else:
            projected = decoder.layers()[0].self_attention.project(symbols)
            self.table = torch.cat((symbols, projected), dim=-1)

    # -- passes ------------------------------------------------------------------------------

    def extend(self, tokens: Tensor, start: int) -> Tensor:
        """See `ActionCache.extend`; the output of the last block."""
        width, stop = self.width, start + tokens.shape[1]
        encoded = self.encoded[:, start:stop]
        embedded = self._embed(tokens)
        x, projected = embedded[..., :width], embedded[..., width:]
        for index, block in enumerate(self.blocks):
            to_self, to_cross = (None, None) if self.attended is None else self.attended[index]
            if index:
                projected = F.linear(x, *block.self_in)
            size = block.self_query_size
            block.self_key_values[:, start:stop] = projected[..., size:]
            query, key_values = projected[..., :size], block.self_key_values
            mixed = _mix(block.attention, query, key_values, start, to_self)
            mixed = F.linear(mixed, *block.self_out)
            x = torch.layer_norm(x + mixed, *block.norm_self)
            block.cross_key_values[:, start:stop] = F.linear(x, *block.cross_in)
            query, key_values = block.queries[:, start:stop], block.cross_key_values
            mixed = _mix(block.cross, query, key_values, start, to_cross)
            x = block.finish(encoded, mixed)
        return x

    def head(self, x: Tensor) -> Tensor:
        """See `ActionCache.head`."""
        hidden = F.gelu(F.linear(x, *self.head_hidden))
        return F.linear(torch.layer_norm(hidden, *self.head_norm), *self.head_out)

    def as_first(self, start_token: Tensor) -> Tensor:
        """See `ActionCache.as_first`.

        A single position attends to itself alone and takes in its own value, the last columns of
        its key-value, which makes this much cheaper than a pass.
        """
        width = self.width
        embedded = self._embed(start_token)
        x, projected = embedded[..., :width], embedded[..., width:]
        for index, block in enumerate(self.blocks):
            value = projected[..., -width:]
            if index:
                value = F.linear(x, *block.self_in.outputs(-width))
            x = torch.layer_norm(x + F.linear(value, *block.self_out), *block.norm_self)
            x = block.finish(self.encoded, F.linear(x, *block.cross_in.outputs(-width)))
        return x

    def keep(self, rows: Tensor) -> None:
        """See `ActionCache.keep`."""
        super().keep(rows)
        if self.attended is not None:
            self.attended = [
                BlockNeighbours(*(part.batch_rows(rows) for part in block))
                for block in self.attended
            ]
        for block in self.blocks:
            block.self_key_values = block.self_key_values[rows]
            block.cross_key_values = block.cross_key_values[rows]

    # -- parts -------------------------------------------------------------------------------

    def _embed(self, tokens: Tensor) -> Tensor:
        """x, and its query and key-value in the first block, side by side: [B, L, ...]."""
        if self.table is not None:
            return F.embedding(tokens, self.table)
        assert self.token is not None
        x = torch.layer_norm(F.gelu(F.linear(tokens, *self.token)), *self.norm)
        return torch.cat((x, F.linear(x, *self.blocks[0].self_in)), dim=-1)

    def _of_agents(self) -> list[Tensor]:
        return [self.encoded, *(block.queries for block in self.blocks)]

    def _replace_agents(self, parts: list[Tensor]) -> None:
        self.encoded, *queries = parts
        for block, own in zip(self.blocks, queries, strict=True):
            block.queries = own


action_cache.register(Decoder, DecoderCache)


def _mix(
    mixer: TokenMixer,
    query: Tensor,
    key_values: Tensor,
    start: int,
    attended: AttendedPositions | None,
) -> Tensor:
    """What the L positions from ``start`` take in, of all up to them or of some: [B, L, D]."""
    stop = start + query.shape[1]
    if attended is None:
        return mixer.mix(query, key_values[:, :stop])
    return mixer.mix_sparsely(query, key_values, attended.window(start, stop))
