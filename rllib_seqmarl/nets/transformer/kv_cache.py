"""Incremental passes of a decoder, for decoding: what is heard is kept, gradients are not.

A step over one position does little arithmetic, so what it costs is the number of calls. The
passes here therefore work on plain weights, looked up once per joint action, and do exactly the
sums of `transformer.Decoder.forward`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rllib_seqmarl.nets.transformer.sparse_attention import BlockHeard, Heard

if TYPE_CHECKING:
    from rllib_seqmarl.nets.transformer.model import Decoder, DecoderBlock
    from rllib_seqmarl.nets.transformer.token_mixers import TokenMixer


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
    def first_rows(self, start_token: Tensor) -> Tensor:
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


class _Linear(NamedTuple):
    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, layer: nn.Module) -> _Linear:
        assert isinstance(layer, nn.Linear)
        return cls(layer.weight, layer.bias)

    def rows(self, start: int, stop: int | None = None) -> _Linear:
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
        self.cross_in = cross_in.rows(cross.query_size)
        self.cross_out = _Linear.of(cross.out_projection)
        self.hidden = _Linear.of(block.feed_forward[0])
        self.out = _Linear.of(block.feed_forward[2])
        self.attention, self.cross = attention, cross
        self.self_query_size = attention.query_size
        #: Queries of the cross-attention, [B, N, query_size]: they depend on o_hat alone.
        self.queries = F.linear(encoded, *cross_in.rows(0, cross.query_size))
        #: What the positions so far offer (`TokenMixer`), [B, N, message_size].
        self.self_messages = encoded.new_empty(batch, agents, attention.message_size)
        self.cross_messages = encoded.new_empty(batch, agents, cross.message_size)

    def finish(self, encoded: Tensor, mixed: Tensor) -> Tensor:
        """What follows the cross-attention: two of [..., D] -> [..., D]."""
        x = torch.layer_norm(encoded + F.linear(mixed, *self.cross_out), *self.norm_cross)
        hidden = F.gelu(F.linear(x, *self.hidden))
        return torch.layer_norm(x + F.linear(hidden, *self.out), *self.norm_feed_forward)


class DecoderCache(ActionCache):
    """Messages of the positions decided so far, and the queries of all N positions.

    Args:
        decoder: the decoder whose passes these are.
        encoded: o_hat in decision order, [B, N, D].
    """

    def __init__(self, decoder: Decoder, encoded: Tensor) -> None:
        super().__init__(encoded)
        self.width = encoded.shape[-1]
        self.heard = decoder.heard
        self.blocks = [_Block(block, encoded) for block in decoder.layers()]
        self.head_hidden = _Linear.of(decoder.head[0])
        self.head_norm = _Norm.of(decoder.head[2])
        self.head_out = _Linear.of(decoder.head[3])
        self.norm = _Norm.of(decoder.norm)
        self.table: Tensor | None = None
        self.token: _Linear | None = None
        table = decoder.token_table()
        if table is None:
            self.token = _Linear.of(decoder.token)
        else:
            self.table = torch.cat(table, dim=-1)  # [A + 1, ...]

    # -- passes ------------------------------------------------------------------------------

    def extend(self, tokens: Tensor, start: int) -> Tensor:
        """See `ActionCache.extend`; the output of the last block."""
        width, stop = self.width, start + tokens.shape[1]
        encoded = self.encoded[:, start:stop]
        embedded = self._embed(tokens)
        x, projected = embedded[..., :width], embedded[..., width:]
        for index, block in enumerate(self.blocks):
            own, others = (None, None) if self.heard is None else self.heard[index]
            if index:
                projected = F.linear(x, *block.self_in)
            asked = block.self_query_size
            block.self_messages[:, start:stop] = projected[..., asked:]
            query, messages = projected[..., :asked], block.self_messages
            mixed = _mix(block.attention, query, messages, start, own)
            mixed = F.linear(mixed, *block.self_out)
            x = torch.layer_norm(x + mixed, *block.norm_self)
            block.cross_messages[:, start:stop] = F.linear(x, *block.cross_in)
            query, messages = block.queries[:, start:stop], block.cross_messages
            mixed = _mix(block.cross, query, messages, start, others)
            x = block.finish(encoded, mixed)
        return x

    def head(self, x: Tensor) -> Tensor:
        """See `ActionCache.head`."""
        hidden = F.gelu(F.linear(x, *self.head_hidden))
        return F.linear(torch.layer_norm(hidden, *self.head_norm), *self.head_out)

    def first_rows(self, start_token: Tensor) -> Tensor:
        """See `ActionCache.first_rows`.

        Of a single position, only its own value is heard, the last columns of its message, which
        makes this much cheaper than a pass.
        """
        width = self.width
        embedded = self._embed(start_token)
        x, projected = embedded[..., :width], embedded[..., width:]
        for index, block in enumerate(self.blocks):
            value = F.linear(x, *block.self_in.rows(-width)) if index else projected[..., -width:]
            x = torch.layer_norm(x + F.linear(value, *block.self_out), *block.norm_self)
            x = block.finish(self.encoded, F.linear(x, *block.cross_in.rows(-width)))
        return x

    def keep(self, rows: Tensor) -> None:
        """See `ActionCache.keep`."""
        super().keep(rows)
        if self.heard is not None:
            self.heard = [BlockHeard(*(part.rows(rows) for part in one)) for one in self.heard]
        for block in self.blocks:
            block.self_messages = block.self_messages[rows]
            block.cross_messages = block.cross_messages[rows]

    # -- parts -------------------------------------------------------------------------------

    def _embed(self, tokens: Tensor) -> Tensor:
        """x, and its query and message in the first block, side by side: [B, L, ...]."""
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


def _mix(
    mixing: TokenMixer, query: Tensor, messages: Tensor, start: int, heard: Heard | None
) -> Tensor:
    """What the L positions from ``start`` hear, of all before them or of some: [B, L, D]."""
    stop = start + query.shape[1]
    if heard is None:
        return mixing.mix(query, messages[:, :stop])
    return mixing.mix_heard(query, messages, heard.window(start, stop))
