"""The decoder's pass over the branches of a trunk, for SrSv's value; see `branches`.

It does the sums of `transformer.Decoder.forward`, arranged so that the rows of branches, many more
than those of the trunk, go through as few layers as possible: what depends on the agent alone is
computed once per agent, linear layers around a weighted mean are multiplied out
(`AbsorbedProjections`), and what depends on a discrete token alone is computed once per symbol.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rllib_seqmarl.nets.transformer.model import BlockTrace, Decoder, DecoderBlock
from rllib_seqmarl.nets.transformer.token_mixers import TokenMixer
from rllib_seqmarl.nets.values.suffixes import Suffixes


class SuffixPass:
    """What a decoder computes for branches, given what it computed for their trunk.

    Args:
        decoder: the decoder.
        tokens: of the trunk, int [B, N] or float [B, N, A].
        encoded: o_hat in decision order, [B, N, D].
        trace: of the decoder's pass over both.
    """

    def __init__(
        self, decoder: Decoder, tokens: Tensor, encoded: Tensor, trace: list[BlockTrace]
    ) -> None:
        self.decoder = decoder
        self.encoded = encoded
        self.hears = None if decoder.neighbours is None else decoder.neighbours.table()
        self.symbols = decoder.symbols()
        self.blocks: list[
            tuple[DecoderBlock, _Symbols | _Positions, _Positions, Tensor | None]
        ] = []
        for block, seen in zip(decoder.layers(), trace, strict=True):
            scores = None
            # Where agents do not hear all, a row's symbols cannot be counted once for all.
            if self.symbols is not None and not self.blocks and self.hears is None:
                scores = block.self_attention.symbol_scores(self.symbols)
            own: _Symbols | _Positions
            if self.symbols is None or scores is None:
                own = _Positions(block.self_attention, seen.self_input)
            else:
                own = _Symbols(block.self_attention, self.symbols, scores, tokens)
            cross = _Positions(block.cross_attention, seen.cross_input)
            self.blocks.append((block, own, cross, cross.ask(encoded)))

    def __call__(self, tokens: Tensor, branches: Suffixes) -> tuple[Tensor, Tensor]:
        """Some branches.

        Args:
            tokens: of their rows, int [B, R] or float [B, R, A].
            branches: which they are.

        Returns:
            The output of the last block, [B, R, D], and the weights of its cross-attention, see
            `TokenMixer.branch_weights`.
        """
        count = len(self.blocks)
        if self.hears is None:
            views = [(branches, branches)] * count
        else:
            views = branches.among(self.hears, count)
        x = self.decoder.embed(tokens, self.symbols)
        encoded = self.encoded.index_select(1, branches.agent)  # [B, R, D]
        for (block, own, cross, queries), (in_self, in_cross) in zip(
            self.blocks, views, strict=True
        ):
            if isinstance(own, _Symbols):
                heard = own.hear(x, tokens, branches)
            else:
                heard, _ = own.hear(x, own.ask(x), x, in_self)
            x = block.norm_self(heard)
            query = None if queries is None else queries.index_select(1, branches.agent)
            heard, weights = cross.hear(encoded, query, x, in_cross)
            x = block.norm_cross(heard)
            x = block.norm_feed_forward(x + block.feed_forward(x))
        return x, weights


class _Positions:
    """A mixing layer whose rows hear the trunk, x [B, N, D], and their own branch."""

    def __init__(self, mixing: TokenMixer, trunk: Tensor) -> None:
        self.mixing, self.trunk = mixing, trunk
        self.fold = mixing.fold()
        self.value = F.linear(trunk, *self.fold.value)  # [B, N, H D]

    def ask(self, x: Tensor) -> Tensor | None:
        """Queries of ``x``: [B, M, D] -> [B, M, H D]; None where nothing is asked."""
        return None if self.fold.query is None else F.linear(x, *self.fold.query)

    def hear(
        self, residual: Tensor, query: Tensor | None, x: Tensor, branches: Suffixes
    ) -> tuple[Tensor, Tensor]:
        """``residual`` plus what the rows of ``x`` hear, all [B, R, D]; and with which weights."""
        weights = self.mixing.branch_weights(query, self.trunk, x, branches)
        own = F.linear(x, *self.fold.value)  # [B, R, H D]
        return branches.hear(residual, weights, self.value, own), weights


class _Symbols:
    """The first mixing layer, where its input is one of K symbols that alone make the weights.

    Then a row hears a symbol as often as it stands in the row's sequence, and it is enough to
    count: the weight of a symbol is the softmax of its score plus the logarithm of its count.

    Args:
        mixing: the layer.
        symbols: embeddings, [K, D].
        scores: of each symbol for each, [K, H, K].
        tokens: of the trunk, int [B, N].
    """

    def __init__(self, mixing: TokenMixer, symbols: Tensor, scores: Tensor, tokens: Tensor) -> None:
        self.scores = scores
        value = F.linear(symbols, *mixing.fold().value)  # [K, H D]
        self.value = value.view(len(symbols), mixing.heads, -1).transpose(0, 1).flatten(0, 1)
        self.one_hot = torch.eye(len(symbols), dtype=symbols.dtype, device=symbols.device)
        self.count = F.embedding(tokens, self.one_hot).cumsum(1)  # [B, N, K], up to each position

    def hear(self, residual: Tensor, tokens: Tensor, branches: Suffixes) -> Tensor:
        """``residual`` [B, R, D] plus what rows with these tokens, int [B, R], hear."""
        own = F.embedding(tokens, self.one_hot)  # [B, R, K]
        before_branch = (own.cumsum(1) - own).index_select(1, branches.start)
        count = own.cumsum(1) - before_branch + self.count.index_select(1, branches.branch)
        scores = F.embedding(tokens, self.scores.flatten(1)).unflatten(-1, self.scores.shape[1:])
        weights = (scores + count.log().unsqueeze(2)).softmax(-1)  # [B, R, H, K]
        heard = torch.addmm(residual.flatten(0, 1), weights.flatten(2).flatten(0, 1), self.value)
        return heard.view_as(residual)
