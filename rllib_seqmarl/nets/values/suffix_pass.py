"""The decoder's pass over suffixes that share a prefix with the policy's pass; see `suffixes`.

It does the sums of `Decoder.forward`, arranged so that the rows of suffixes, many more than those
of the prefix, go through as few layers as possible: what depends on the agent alone is computed
once per agent, linear layers around a weighted mean are multiplied out (`AbsorbedProjections`), and
what depends on a discrete token alone is computed once per symbol.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rllib_seqmarl.nets.transformer.ablations import FixedTokenMixer, MeanTokenMixer
from rllib_seqmarl.nets.transformer.model import Decoder, DecoderBlock, DecoderTrace, TokenMixer
from rllib_seqmarl.nets.values.suffixes import Suffixes


class AbsorbedProjections(NamedTuple):
    """A token mixer's linear maps, multiplied out so that nothing follows the weighted mean.

    Attributes:
        query: weight [H D, D] and bias [H D]: x -> for each head, the query times the key layer,
            so that its product with x_j itself is a score. None where the weights need no query.
        value: weight [H D, D] and bias [H D]: x -> for each head, its share of the output.
    """

    query: tuple[Tensor, Tensor] | None
    value: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, mixer: TokenMixer) -> AbsorbedProjections:
        """Those of a token mixer. The key's bias adds the same to all scores: left out."""
        width, heads = mixer.width, mixer.heads
        query: tuple[Tensor, Tensor] | None = None
        if not isinstance(mixer, FixedTokenMixer):
            of_query, of_key, _ = mixer.in_projection.weight.view(3, heads, -1, width)
            bias = mixer.in_projection.bias[:width].view(heads, -1, 1)
            of_key = of_key.transpose(1, 2) / math.sqrt(of_key.shape[1])  # [H, D, D / H]
            query = (of_key @ of_query).flatten(0, 1), (of_key @ bias).flatten()
        weight = mixer.in_projection.weight[-width:].view(heads, -1, width)  # [H, D / H, D]
        bias = mixer.in_projection.bias[-width:].view(heads, -1, 1)
        out = mixer.out_projection.weight.view(width, heads, -1).transpose(0, 1)  # [H, D, D / H]
        share = (out @ bias).squeeze(-1) + mixer.out_projection.bias / heads  # [H, D]
        return cls(query, ((out @ weight).flatten(0, 1), share.flatten()))


class SuffixPass:
    """What a decoder computes for suffixes, given what it computed for their shared prefix.

    Args:
        decoder: the decoder.
        trace: of its pass over the policy's own sequence.
    """

    def __init__(self, decoder: Decoder, trace: DecoderTrace) -> None:
        assert trace.tokens is not None
        self.decoder = decoder
        self.encoded = trace.encoded
        self.attends = None if trace.neighbours is None else trace.neighbours.table()
        self.symbols = decoder.symbols()
        self.blocks: list[
            tuple[DecoderBlock, _SymbolMixer | _PositionMixer, _PositionMixer, Tensor | None]
        ] = []
        for block, seen in zip(decoder.layers(), trace.blocks, strict=True):
            scores = None
            # Where agents do not attend to all, a row's symbols cannot be counted once for all.
            if self.symbols is not None and not self.blocks and self.attends is None:
                scores = symbol_scores(block.self_attention, self.symbols)
            own: _SymbolMixer | _PositionMixer
            if self.symbols is None or scores is None:
                own = _PositionMixer(block.self_attention, seen.self_input)
            else:
                own = _SymbolMixer(block.self_attention, self.symbols, scores, trace.tokens)
            cross = _PositionMixer(block.cross_attention, seen.cross_input)
            self.blocks.append((block, own, cross, cross.queries(self.encoded)))

    def __call__(self, tokens: Tensor, suffixes: Suffixes) -> tuple[Tensor, Tensor]:
        """A pass over some suffixes.

        Args:
            tokens: of their rows, int [B, R] or float [B, R, A].
            suffixes: which they are.

        Returns:
            The output of the last block, [B, R, D], and the weights of its cross-attention, see
            `suffix_weights`.
        """
        count = len(self.blocks)
        if self.attends is None:
            views = [(suffixes, suffixes)] * count
        else:
            views = suffixes.with_neighbours(self.attends, count)
        x = self.decoder.embed(tokens, self.symbols)
        encoded = self.encoded.index_select(1, suffixes.agent)  # [B, R, D]
        for (block, own, cross, queries), (to_self, to_cross) in zip(
            self.blocks, views, strict=True
        ):
            if isinstance(own, _SymbolMixer):
                mixed = own.mix(x, tokens, suffixes)
            else:
                mixed, _ = own.mix(x, own.queries(x), x, to_self)
            x = block.norm_self(mixed)
            query = None if queries is None else queries.index_select(1, suffixes.agent)
            mixed, weights = cross.mix(encoded, query, x, to_cross)
            x = block.norm_cross(mixed)
            x = block.norm_feed_forward(x + block.feed_forward(x))
        return x, weights


class _PositionMixer:
    """A token mixer whose rows attend to the prefix, x [B, N, D], and to their own suffix."""

    def __init__(self, mixer: TokenMixer, prefix: Tensor) -> None:
        self.mixer, self.prefix = mixer, prefix
        self.absorbed = AbsorbedProjections.of(mixer)
        self.value = F.linear(prefix, *self.absorbed.value)  # [B, N, H D]

    def queries(self, x: Tensor) -> Tensor | None:
        """[B, M, D] -> [B, M, H D]; None where the weights need none."""
        return None if self.absorbed.query is None else F.linear(x, *self.absorbed.query)

    def mix(
        self, residual: Tensor, query: Tensor | None, x: Tensor, suffixes: Suffixes
    ) -> tuple[Tensor, Tensor]:
        """``residual`` plus what the rows of ``x`` take in, all [B, R, D]; and the weights."""
        weights = suffix_weights(self.mixer, query, self.prefix, x, suffixes)
        own = F.linear(x, *self.absorbed.value)  # [B, R, H D]
        return suffixes.add_weighted(residual, weights, self.value, own), weights


class _SymbolMixer:
    """The first token mixer, where its input is one of K symbols that alone make the weights.

    Then a row takes in a symbol as often as it stands in the row's sequence, and it is enough to
    count: the weight of a symbol is the softmax of its score plus the logarithm of its count.

    Args:
        mixer: the layer.
        symbols: embeddings, [K, D].
        scores: of each symbol for each, [K, H, K].
        tokens: of the prefix, int [B, N].
    """

    def __init__(self, mixer: TokenMixer, symbols: Tensor, scores: Tensor, tokens: Tensor) -> None:
        self.scores = scores
        value = F.linear(symbols, *AbsorbedProjections.of(mixer).value)  # [K, H D]
        self.value = value.view(len(symbols), mixer.heads, -1).transpose(0, 1).flatten(0, 1)
        self.one_hot = torch.eye(len(symbols), dtype=symbols.dtype, device=symbols.device)
        self.count = F.embedding(tokens, self.one_hot).cumsum(1)  # [B, N, K], up to each position

    def mix(self, residual: Tensor, tokens: Tensor, suffixes: Suffixes) -> Tensor:
        """``residual`` [B, R, D] plus what rows with these tokens, int [B, R], take in."""
        own = F.embedding(tokens, self.one_hot)  # [B, R, K]
        before_suffix = (own.cumsum(1) - own).index_select(1, suffixes.start)
        count = own.cumsum(1) - before_suffix + self.count.index_select(1, suffixes.suffix)
        scores = F.embedding(tokens, self.scores.flatten(1)).unflatten(-1, self.scores.shape[1:])
        weights = (scores + count.log().unsqueeze(2)).softmax(-1)  # [B, R, H, K]
        mixed = torch.addmm(residual.flatten(0, 1), weights.flatten(2).flatten(0, 1), self.value)
        return mixed.view_as(residual)


def suffix_weights(
    mixer: TokenMixer, query: Tensor | None, prefix: Tensor, own: Tensor, suffixes: Suffixes
) -> Tensor:
    """w of the rows of suffixes over the prefix and their own group, see `Suffixes`.

    Args:
        mixer: the layer.
        query: through the absorbed layer, [B, R, H D]; None where the weights need none.
        prefix: x of the prefix, [B, N, D].
        own: x of the rows, [B, R, D].
        suffixes: which rows these are.

    Returns:
        [B or 1, C, G, N + G, H].
    """
    if isinstance(mixer, FixedTokenMixer):
        weights = mixer.position_weights(suffixes.visible, suffixes.position, suffixes.key_position)
        return weights.movedim(0, -1)
    assert query is not None
    batch, _, width = prefix.shape
    groups, size = suffixes.shape
    to_prefix = query.view(batch, -1, width) @ prefix.transpose(1, 2)  # [B, R H, N]
    to_own = query.view(batch * groups, -1, width) @ own.view(batch * groups, size, width).mT
    shape = (batch, groups, size, mixer.heads, -1)
    scores = torch.cat((to_prefix.view(shape), to_own.view(shape)), dim=-1)
    bias = scores.new_zeros(suffixes.visible.shape)  # [B or 1, C, G, N + G]
    scores += bias.masked_fill_(~suffixes.visible, float("-inf")).unsqueeze(3)
    return scores.softmax(-1).transpose(-1, -2)


def symbol_scores(mixer: TokenMixer, symbols: Tensor) -> Tensor | None:
    """How each of K symbols is scored by each, where the weights are the softmax of that.

    Args:
        mixer: the layer.
        symbols: [K, D].

    Returns:
        [K, H, K]; None where the weights depend on more.
    """
    if isinstance(mixer, MeanTokenMixer):
        return symbols.new_zeros(len(symbols), mixer.heads, len(symbols))
    if isinstance(mixer, FixedTokenMixer):
        return None
    query = AbsorbedProjections.of(mixer).query
    assert query is not None
    return F.linear(symbols, *query).unflatten(-1, (mixer.heads, -1)) @ symbols.T
