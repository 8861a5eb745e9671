"""Incremental passes of the decoder, for decoding: keys and values are kept, gradients are not.

A step over one position does little arithmetic, so what it costs is the number of calls. The
passes here therefore work on plain weights, looked up once per joint action, and do exactly the
sums of `transformer.Decoder.forward`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from rllib_seqmarl.nets.transformer import Decoder, DecoderBlock


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """bool [queries, keys]: which keys the LAST ``queries`` positions of ``keys`` may see."""
    ones = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return ones.tril(diagonal=keys - queries)


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
        batch, agents, width = encoded.shape
        attention = block.self_attention
        cross = block.cross_attention
        self.norm_self = _Norm.of(block.norm_self)
        self.norm_cross = _Norm.of(block.norm_cross)
        self.norm_feed_forward = _Norm.of(block.norm_feed_forward)
        self.self_in = _Linear.of(attention.in_projection)
        self.self_out = _Linear.of(attention.out_projection)
        cross_in = _Linear.of(cross.in_projection)
        self.cross_in = cross_in.rows(width)
        self.cross_out = _Linear.of(cross.out_projection)
        self.hidden = _Linear.of(block.feed_forward[0])
        self.out = _Linear.of(block.feed_forward[2])
        #: Queries of the cross-attention, [B, N, D]: they depend on o_hat alone.
        self.queries = F.linear(encoded, *cross_in.rows(0, width))
        #: Keys and values side by side, [B, N, 2 D].
        self.self_key_value = encoded.new_empty(batch, agents, 2 * width)
        self.cross_key_value = encoded.new_empty(batch, agents, 2 * width)

    def finish(self, encoded: Tensor, mixed: Tensor) -> Tensor:
        """What follows the cross-attention: two of [..., D] -> [..., D]."""
        x = torch.layer_norm(encoded + F.linear(mixed, *self.cross_out), *self.norm_cross)
        hidden = F.gelu(F.linear(x, *self.hidden))
        return torch.layer_norm(x + F.linear(hidden, *self.out), *self.norm_feed_forward)


class DecoderCache:
    """Keys and values of the positions decided so far, and the queries of all N positions.

    Used under `torch.no_grad` or `torch.inference_mode`, and with the weights that the decoder
    had when it was made.

    Args:
        decoder: the decoder whose passes these are.
        encoded: o_hat in decision order, [B, N, D].
    """

    def __init__(self, decoder: Decoder, encoded: Tensor) -> None:
        self.width = encoded.shape[-1]
        self.heads = decoder.heads
        self.encoded = encoded
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
            self.table = torch.cat(table, dim=-1)  # [A + 1, 4 D]

    # -- passes ------------------------------------------------------------------------------

    def extend(self, tokens: Tensor, start: int) -> Tensor:
        """Positions ``start`` .. ``start`` + L, given that all before are in the cache.

        Writes their keys and values into the cache, over whatever stood there.

        Args:
            tokens: int [B, L] or float [B, L, A], see `Decoder.shift`.
            start: the first position to compute, from 0.

        Returns:
            The output of the last block at these positions, [B, L, D].
        """
        width, stop = self.width, start + tokens.shape[1]
        encoded = self.encoded[:, start:stop]
        embedded = self._embed(tokens)
        x, projected = embedded[..., :width], embedded[..., width:]
        for index, block in enumerate(self.blocks):
            if index:
                projected = F.linear(x, *block.self_in)
            block.self_key_value[:, start:stop] = projected[..., width:]
            mixed = self._attend(projected[..., :width], block.self_key_value[:, :stop])
            mixed = F.linear(mixed, *block.self_out)
            x = torch.layer_norm(x + mixed, *block.norm_self)
            block.cross_key_value[:, start:stop] = F.linear(x, *block.cross_in)
            mixed = self._attend(block.queries[:, start:stop], block.cross_key_value[:, :stop])
            x = block.finish(encoded, mixed)
        return x

    def head(self, x: Tensor) -> Tensor:
        """The decoder's head: [..., D] -> logits or means [..., A]."""
        hidden = F.gelu(F.linear(x, *self.head_hidden))
        return F.linear(torch.layer_norm(hidden, *self.head_norm), *self.head_out)

    def first_decisions(self, start_token: Tensor) -> Tensor:
        """Logits or means as if every agent were the first to decide: [B, N, A].

        Right for the agent that is, a first guess for the others. Attention to a single position
        is that position's value, which makes this much cheaper than a pass.

        Args:
            start_token: the start symbol, int [1, 1] or float [1, 1, A].
        """
        width = self.width
        embedded = self._embed(start_token)
        x, projected = embedded[..., :width], embedded[..., width:]
        for index, block in enumerate(self.blocks):
            if index:
                value = F.linear(x, *block.self_in.rows(2 * width))
            else:
                value = projected[..., 2 * width :]
            x = torch.layer_norm(x + F.linear(value, *block.self_out), *block.norm_self)
            x = block.finish(self.encoded, F.linear(x, *block.cross_in.rows(width)))
        return self.head(x)

    def keep(self, rows: Tensor) -> None:
        """Forgets all rows of the batch but these, int [B']."""
        self.encoded = self.encoded[rows]
        for block in self.blocks:
            block.queries = block.queries[rows]
            block.self_key_value = block.self_key_value[rows]
            block.cross_key_value = block.cross_key_value[rows]

    # -- parts -------------------------------------------------------------------------------

    def _embed(self, tokens: Tensor) -> Tensor:
        """x, and its query, key and value in the first block, side by side: [B, L, 4 D]."""
        if self.table is not None:
            return F.embedding(tokens, self.table)
        assert self.token is not None
        x = torch.layer_norm(F.gelu(F.linear(tokens, *self.token)), *self.norm)
        return torch.cat((x, F.linear(x, *self.blocks[0].self_in)), dim=-1)

    def _attend(self, query: Tensor, key_value: Tensor) -> Tensor:
        """Causal attention of the last L positions: [B, L, D], [B, S, 2 D] -> [B, L, D]."""
        batch, queries, width = query.shape
        keys, heads = key_value.shape[1], self.heads
        query = query.view(batch, queries, heads, -1).transpose(1, 2)
        pair = key_value.view(batch, keys, 2, heads, -1).transpose(1, 3)  # [B, H, 2, S, D / H]
        key, value = pair[:, :, 0], pair[:, :, 1]
        if queries == 1:
            mixed = F.scaled_dot_product_attention(query, key, value)
        elif queries == keys:
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            mask = causal_mask(queries, keys, query.device)
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return mixed.transpose(1, 2).reshape(batch, queries, width)
