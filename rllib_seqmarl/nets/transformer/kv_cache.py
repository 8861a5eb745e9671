"""Incremental passes of a decoder, for decoding: keys and values are kept, gradients are not.

A step over one position does little arithmetic, so what it costs is the number of calls. The
passes here therefore work on plain weights, looked up once per joint action, and do the sums of
`model.Decoder.forward`; attention with one head does them with its layers multiplied out.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from functools import singledispatch
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rllib_seqmarl.matmul import multiply_with
from rllib_seqmarl.nets.transformer.attention import MAX_SCORES, causal_mask
from rllib_seqmarl.nets.transformer.model import (
    ActionDecoder,
    Attention,
    Decoder,
    DecoderBlock,
    TokenMixer,
)
from rllib_seqmarl.nets.transformer.sparse_attention import (
    AttendedPositions,
    BlockNeighbours,
    OrderedNeighbours,
)

#: Scores of attention that are held at once, B x L x S; what has more goes through a fused kernel,
#: which costs more per call.
SCORES_AT_ONCE = 2**17


class ActionCache(ABC):
    """What a decoder keeps of the positions decided so far.

    Used under `torch.no_grad` or `torch.inference_mode`, and with the weights that the decoder
    had when it was made.

    Args:
        encoded: o_hat in decision order, [B, N, D]; in slots where `place` is used.
    """

    def __init__(self, encoded: Tensor) -> None:
        self.encoded = encoded
        # What belongs to an agent, side by side: where `place` takes agents from and puts them.
        self._slots: Tensor | None = None
        self._placed: Tensor | None = None

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
        if self._slots is None or self._placed is None:
            self._slots = torch.cat(self._of_agents(), dim=-1)
            self._put(self._slots.clone())
            assert self._placed is not None
        total = self._slots.shape[1]
        first_row = torch.arange(0, batch * total, total, device=agents.device).unsqueeze(1)
        rows = (agents + first_row).flatten()
        placed = self._slots.flatten(0, 1).index_select(0, rows).view(batch, count, -1)
        self._placed[:, start : start + count] = placed

    def keep(self, rows: Tensor) -> None:
        """Forgets all rows of the batch but these, int [B']."""
        if self._slots is None or self._placed is None:
            self._replace_agents([part[rows] for part in self._of_agents()])
        else:
            self._slots = self._slots[rows]
            self._put(self._placed[rows])

    def _put(self, placed: Tensor) -> None:
        """Takes what belongs to agents, side by side, for what is at the positions."""
        self._placed = placed
        sizes = [part.shape[-1] for part in self._of_agents()]
        self._replace_agents(list(placed.split(sizes, dim=-1)))

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


class _Mixed(ABC):
    """A token mixer of a decoder block, and what it keeps of the positions decided so far.

    Args:
        mixer: the token mixer.
        batch: B.
        agents: N.
        width: E, of what is kept of a position.
    """

    #: Of each position decided so far, [B, N, E].
    entries: Tensor

    @abstractmethod
    def query(self, x: Tensor) -> Tensor:
        """What a position asks with: [..., D] -> [..., Q]."""

    @abstractmethod
    def entry(self, x: Tensor) -> Tensor:
        """What is kept of a position: [..., D] -> [..., E]."""

    @abstractmethod
    def alone(self, entry: Tensor) -> Tensor:
        """What a position takes in that attends to itself alone: [..., E] -> [..., D]."""

    @abstractmethod
    def _mix(self, query: Tensor, start: int, attended: AttendedPositions | None) -> Tensor:
        """See `extend`, with the entries in their place."""

    def extend(
        self, query: Tensor, entry: Tensor, start: int, attended: AttendedPositions | None
    ) -> Tensor:
        """What the L positions from ``start`` take in, through the output layer: [B, L, D].

        Args:
            query: [B, L, Q].
            entry: [B, L, E], kept over whatever stood there.
            start: the first of the positions.
            attended: what the N positions attend to; None: all up to their own.
        """
        batch, stop = len(query), start + query.shape[1]
        self.entries[:batch, start:stop] = entry
        if attended is not None:
            attended = attended.batch_rows(slice(batch)).window(start, stop)
        return self._mix(query, start, attended)

    def keep(self, rows: Tensor) -> None:
        """See `ActionCache.keep`."""
        self.entries = self.entries[rows]


class _Projected(_Mixed):
    """Keeps keys and values, [B, N, key_value_size]: of any token mixer."""

    def __init__(self, mixer: TokenMixer, encoded: Tensor) -> None:
        projection = _Linear.of(mixer.in_projection)
        self.mixer, self.width = mixer, mixer.width
        self.to_query = projection.outputs(0, mixer.query_size)
        self.to_entry = projection.outputs(mixer.query_size)
        self.out = _Linear.of(mixer.out_projection)
        self.entries = encoded.new_empty(*encoded.shape[:2], mixer.key_value_size)

    def query(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.to_query)

    def entry(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.to_entry)

    def alone(self, entry: Tensor) -> Tensor:
        return F.linear(entry[..., -self.width :], *self.out)  # its own value

    def _mix(self, query: Tensor, start: int, attended: AttendedPositions | None) -> Tensor:
        if attended is None:
            mixed = self.mixer.mix(query, self.entries[: len(query), : start + query.shape[1]])
        else:
            mixed = self.mixer.mix_sparsely(query, self.entries[: len(query)], attended)
        return F.linear(mixed, *self.out)


class _Absorbed(_Mixed):
    """Keeps x itself, [B, N, D]: of attention with one head.

    The key layer is multiplied into the query's and the value layer into the output's: half as
    much to keep and to read, and two products with a D x D matrix less at every position.
    """

    def __init__(self, attention: Attention, encoded: Tensor) -> None:
        projection, out = attention.in_projection, _Linear.of(attention.out_projection)
        of_query, of_key, of_value = projection.weight.split(attention.width)
        query_bias, _, value_bias = projection.bias.split(attention.width)  # the key's: no matter
        of_key = of_key.t() / math.sqrt(attention.width)
        self.to_query = _Linear(of_key @ of_query, of_key @ query_bias)
        self.out = _Linear(out.weight @ of_value, F.linear(value_bias, *out))
        self.entries = encoded.new_empty(encoded.shape)

    def query(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.to_query)

    def entry(self, x: Tensor) -> Tensor:
        return x

    def alone(self, entry: Tensor) -> Tensor:
        return F.linear(entry, *self.out)

    def _mix(self, query: Tensor, start: int, attended: AttendedPositions | None) -> Tensor:
        batch, count, _ = query.shape
        if attended is None:
            stop = start + count
            entries = self.entries[:batch, :stop]
            if count > 1 and batch * count * stop > SCORES_AT_ONCE:
                mixed = _flash_attention(query, entries)
            else:
                scores = torch.bmm(query, entries.transpose(1, 2))  # [B, L, S]
                if count > 1:
                    scores[:, :, start:] += _later(count, query)
                mixed = torch.bmm(scores.softmax(-1), entries)
        else:
            rows = attended.gather(self.entries[:batch]).flatten(0, 1)  # [B L, K, D]
            scores = torch.bmm(rows, query.reshape(batch * count, -1, 1)).squeeze(2)  # [B L, K]
            scores.masked_fill_(~attended.valid.flatten(0, 1), float("-inf"))
            mixed = torch.bmm(scores.softmax(-1).unsqueeze(1), rows).view(batch, count, -1)
        return F.linear(mixed, *self.out)


def _later(count: int, like: Tensor) -> Tensor:
    """[L, L]: minus infinity where a position would attend to a later one, else 0."""
    return like.new_full((count, count), float("-inf")).triu_(1)


def _flash_attention(query: Tensor, entries: Tensor) -> Tensor:
    """Of the last L of S positions, without the table of their scores: [B, L, D]."""
    count, stop = query.shape[1], entries.shape[1]
    query, entries = query.unsqueeze(1), entries.unsqueeze(1)  # one head
    mask = None if count == stop else causal_mask(count, stop, query.device)
    # It multiplies row by row of the batch, for which oneDNN takes long to begin.
    small = count * stop < MAX_SCORES
    with multiply_with("blas") if small else contextlib.nullcontext():
        mixed = F.scaled_dot_product_attention(
            query, entries, entries, attn_mask=mask, is_causal=mask is None, scale=1.0
        )
    return mixed.squeeze(1)


def _mixed(mixer: TokenMixer, encoded: Tensor) -> _Mixed:
    if isinstance(mixer, Attention) and mixer.heads == 1:
        return _Absorbed(mixer, encoded)
    return _Projected(mixer, encoded)


class _Block:
    """The weights of one decoder block, and what it keeps of the positions decided so far."""

    def __init__(self, block: DecoderBlock, encoded: Tensor) -> None:
        self.norm_self = _Norm.of(block.norm_self)
        self.norm_cross = _Norm.of(block.norm_cross)
        self.norm_feed_forward = _Norm.of(block.norm_feed_forward)
        self.attention = _mixed(block.self_attention, encoded)
        self.cross = _mixed(block.cross_attention, encoded)
        self.hidden = _Linear.of(block.feed_forward[0])
        self.out = _Linear.of(block.feed_forward[2])
        #: Queries of the cross-attention, [B, N, Q]: they depend on o_hat alone.
        self.queries = self.cross.query(encoded)

    def finish(self, encoded: Tensor, taken_in: Tensor) -> Tensor:
        """What follows the cross-attention: two of [..., D] -> [..., D]."""
        x = torch.layer_norm(encoded + taken_in, *self.norm_cross)
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
        self.blocks = [_Block(block, encoded) for block in decoder.layers()]
        self.attended: list[BlockNeighbours] | None = None
        if neighbours is not None:
            self.attended = [neighbours.of_block(index) for index in range(len(self.blocks))]
        self.head_hidden = _Linear.of(decoder.head[0])
        self.head_norm = _Norm.of(decoder.head[2])
        self.head_out = _Linear.of(decoder.head[3])
        self.norm = _Norm.of(decoder.norm)
        #: Of each symbol, what `_embed` returns side by side, [A + 1, D + Q + E].
        self.table: Tensor | None = None
        self.token: _Linear | None = None
        self.token_input = decoder.token_input
        symbols = decoder.symbols()
        if symbols is None:
            self.token = _Linear.of(decoder.token)
        else:
            parts = self._of_first_block(symbols)
            self.table = torch.cat(parts, dim=-1)
            self.sizes = [part.shape[-1] for part in parts]

    # -- passes ------------------------------------------------------------------------------

    def extend(self, tokens: Tensor, start: int) -> Tensor:
        """See `ActionCache.extend`; tokens may be those of the first rows of the batch alone."""
        window = slice(start, start + tokens.shape[1])
        encoded = self.encoded[: len(tokens), window]
        x, query, entry = self._embed(tokens)
        for index, block in enumerate(self.blocks):
            to_self, to_cross = (None, None) if self.attended is None else self.attended[index]
            if index:
                query, entry = block.attention.query(x), block.attention.entry(x)
            taken_in = block.attention.extend(query, entry, start, to_self)
            y = torch.layer_norm(x + taken_in, *block.norm_self)
            query, entry = block.queries[: len(tokens), window], block.cross.entry(y)
            x = block.finish(encoded, block.cross.extend(query, entry, start, to_cross))
        return x

    def head(self, x: Tensor) -> Tensor:
        """See `ActionCache.head`."""
        hidden = F.gelu(F.linear(x, *self.head_hidden))
        return F.linear(torch.layer_norm(hidden, *self.head_norm), *self.head_out)

    def as_first(self, start_token: Tensor) -> Tensor:
        """See `ActionCache.as_first`.

        A single position attends to itself alone, which makes this much cheaper than a pass.
        """
        x, _, entry = self._embed(start_token)
        for index, block in enumerate(self.blocks):
            if index:
                entry = block.attention.entry(x)
            y = torch.layer_norm(x + block.attention.alone(entry), *block.norm_self)
            x = block.finish(self.encoded, block.cross.alone(block.cross.entry(y)))
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
            block.attention.keep(rows)
            block.cross.keep(rows)

    # -- parts -------------------------------------------------------------------------------

    def _embed(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """x, and its query and entry in the first block: [B, L, D], [B, L, Q], [B, L, E]."""
        if self.table is not None:
            return F.embedding(tokens, self.table).split(self.sizes, dim=-1)
        assert self.token is not None
        x = F.gelu(F.linear(self.token_input(tokens), *self.token))
        return self._of_first_block(torch.layer_norm(x, *self.norm))

    def _of_first_block(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention = self.blocks[0].attention
        return x, attention.query(x), attention.entry(x)

    def _of_agents(self) -> list[Tensor]:
        return [self.encoded, *(block.queries for block in self.blocks)]

    def _replace_agents(self, parts: list[Tensor]) -> None:
        self.encoded, *queries = parts
        for block, own in zip(self.blocks, queries, strict=True):
            block.queries = own


action_cache.register(Decoder, DecoderCache)
