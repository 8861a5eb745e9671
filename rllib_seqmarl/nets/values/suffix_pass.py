"""The decoder's pass over rows that share a prefix with the policy's pass; see `suffixes`.

It does the sums of `Decoder.forward`. The linear layers around a weighted mean are multiplied out,
so that keys and values are the input itself; and where the input is one of few symbols, a row takes
in a symbol as often as it stands in the row's sequence, and it is enough to count.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx

from rllib_seqmarl.matmul import multiply_with
from rllib_seqmarl.nets.softmax import log_softmax, softmax
from rllib_seqmarl.nets.transformer.ablations import FixedTokenMixer, MeanTokenMixer
from rllib_seqmarl.nets.transformer.model import Decoder, DecoderTrace, TokenMixer, causal_mask
from rllib_seqmarl.nets.values.suffixes import Suffixes


class AbsorbedProjections(NamedTuple):
    """A token mixer's linear maps, multiplied out so that it mixes its input itself.

    Attributes:
        query: weight [H D, D] and bias [H D]: x -> for each head, the query times the key layer,
            so that its product with x_j is a score. None where the weights need no query.
        out: weight [D, H D] and bias [D]: the mean of x_j for each head -> what the layer gives.
    """

    query: tuple[Tensor, Tensor] | None
    out: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, mixer: TokenMixer) -> AbsorbedProjections:
        """Those of a token mixer. The key's bias adds the same to all scores: left out."""
        width, heads = mixer.width, mixer.heads
        weight, bias = mixer.in_projection.weight, mixer.in_projection.bias
        query: tuple[Tensor, Tensor] | None = None
        if not isinstance(mixer, FixedTokenMixer):
            of_query, of_key, _ = weight.view(3, heads, -1, width)
            of_key = of_key.transpose(1, 2) / math.sqrt(of_key.shape[1])  # [H, D, D / H]
            query_bias = of_key @ bias[:width].view(heads, -1, 1)
            query = (of_key @ of_query).flatten(0, 1), query_bias.flatten()
        out = mixer.out_projection.weight
        of_value = weight[-width:].view(heads, -1, width)  # [H, D / H, D]
        by_head = out.view(width, heads, -1).transpose(0, 1) @ of_value  # [H, D, D]
        out_bias = torch.addmv(mixer.out_projection.bias, out, bias[-width:])
        return cls(query, (by_head.transpose(0, 1).flatten(1), out_bias))


def suffix_pass(decoder: Decoder, trace: DecoderTrace, suffixes: Suffixes) -> tuple[Tensor, Tensor]:
    """What a decoder computes for the rows of suffixes, given its pass over their prefix.

    Args:
        decoder: the decoder.
        trace: of its pass over the policy's own sequence.
        suffixes: the rows.

    Returns:
        The output of the last block, [R, D], and the weights with which each pair's last row reads
        the positions of its sequence in the last cross-attention, mean over heads, [P, N + 1].
    """
    assert trace.tokens is not None
    symbols = decoder.symbols()
    x = decoder.embed(suffixes.tokens, symbols)  # [R, D]
    encoded = trace.encoded.flatten(0, 1).index_select(0, suffixes.encoded)  # [R, D]
    for index, (block, seen) in enumerate(zip(decoder.layers(), trace.blocks, strict=True)):
        own = block.self_attention
        mixed = None
        if index == 0 and symbols is not None:
            mixed = _mix_symbols(own, symbols, trace.tokens, suffixes)
        if mixed is None:
            mixed, _ = _mix(own, x, seen.self_input, x, suffixes)
        x = block.norm_self(x + mixed)
        mixed, weights = _mix(block.cross_attention, encoded, seen.cross_input, x, suffixes)
        x = block.norm_cross(encoded + mixed)
        x = block.norm_feed_forward(x + block.feed_forward(x))
    return x, weights


def _mix(
    mixer: TokenMixer, query: Tensor, prefix: Tensor, own: Tensor, suffixes: Suffixes
) -> tuple[Tensor, Tensor]:
    """What a token mixer gives to rows, and what the last row of each pair is weighted with.

    Args:
        mixer: the layer.
        query: what queries are made of, [R, D].
        prefix: what the rows attend to of the prefix, [B, N, D].
        own: and of the rows, [R, D].
        suffixes: which rows these are.

    Returns:
        [R, D] and [P, N + 1], as in `suffix_pass`.
    """
    absorbed = AbsorbedProjections.of(mixer)
    keys = torch.cat((prefix.flatten(0, 1), own)).index_select(0, suffixes.keys.flatten())
    keys = keys.view(*suffixes.keys.shape, mixer.width)  # [P, N + 1, D]
    positions = torch.arange(keys.shape[1], device=keys.device)
    by_window = keys.split([count for count, _ in suffixes.windows])
    if absorbed.query is not None:
        query = F.linear(query, *absorbed.query)  # [R, H D]
    sizes = [count * window for count, window in suffixes.windows]
    more = len(query) - sum(sizes)  # rows of no window
    queries = query.split([*sizes, more])
    mixed, last = [], []
    for x, q, (count, window) in zip(by_window, queries[:-1], suffixes.windows, strict=True):
        visible = causal_mask(window, positions.numel(), x.device)
        if isinstance(mixer, FixedTokenMixer):
            weights = mixer.position_weights(visible, positions[-window:], positions)
            weights = weights.transpose(0, 1).flatten(0, 1).expand(count, -1, -1)
            mixed.append((weights @ x).view(count * window, -1))  # [S, W H, D] -> [S W, H D]
            last.append(weights[:, -mixer.heads :].mean(1))
        else:
            bias = x.new_zeros(visible.shape).masked_fill_(~visible, float("-inf"))
            bias = bias.repeat_interleave(mixer.heads, 0)  # [W H, N + 1]
            q = q.reshape(count, -1, mixer.width)  # [S, W H, D]
            taken_in, read = _Attention.apply(q, x, bias, mixer.heads)
            mixed.append(taken_in.view(count * window, -1))  # [S W, H D]
            last.append(read.mean(1))
    return F.linear(F.pad(torch.cat(mixed), (0, 0, 0, more)), *absorbed.out), torch.cat(last)


class _Attention(torch.autograd.Function):
    """softmax(q x^T + bias) x, and the weights of the last rows.

    q is [S, L, D], x [S, K, D], the bias [L, K]; of the weights, those of the last M of L rows are
    returned, [S, M, K].
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, q: Tensor, x: Tensor, bias: Tensor, last: int
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        with multiply_with("blas"):  # oneDNN would prepare itself again for every S
            weights = softmax(torch.baddbmm(bias, q, x.mT))
            ctx.save_for_backward(q, x, weights)
            return weights @ x, weights[:, -last:].clone()

    @staticmethod
    def backward(
        ctx: BackwardCFunction, gradient: Tensor, of_last: Tensor | None
    ) -> tuple[Tensor, Tensor, None, None]:
        q, x, weights = cast("tuple[Tensor, ...]", ctx.saved_tensors)
        gradient = gradient.contiguous()
        with multiply_with("blas"):
            of_weights = gradient @ x.mT  # [S, L, K]
            if of_last is not None:
                of_weights[:, -of_last.shape[1] :] += of_last
            mean = (of_weights * weights).sum(-1, keepdim=True)
            of_scores = of_weights.sub_(mean).mul_(weights)
            of_x = torch.baddbmm(of_scores.mT @ q, weights.mT, gradient)
            return of_scores @ x, of_x, None, None


def _mix_symbols(
    mixer: TokenMixer, symbols: Tensor, prefix: Tensor, suffixes: Suffixes
) -> Tensor | None:
    """What a token mixer gives to rows where its input is one of K symbols: [R, D].

    The weight of a symbol is the softmax of its score plus the logarithm of its count. None where
    weights do not depend on the symbols alone.

    Args:
        mixer: the layer.
        symbols: [K, D].
        prefix: which symbol stands where in the prefix, int [B, N].
        suffixes: the rows.
    """
    width, heads, absorbed = mixer.width, mixer.heads, AbsorbedProjections.of(mixer)
    if absorbed.query is not None:
        # Of each symbol for each, [K, H, K].
        scores = F.linear(symbols, *absorbed.query).unflatten(-1, (heads, -1)) @ symbols.T
    elif isinstance(mixer, MeanTokenMixer):
        scores = symbols.new_zeros(len(symbols), heads, len(symbols))
    else:
        return None
    tokens = torch.cat((prefix.flatten(), suffixes.tokens))
    one_hot = torch.eye(len(symbols), dtype=symbols.dtype, device=symbols.device)
    counts = one_hot[tokens[suffixes.keys]].cumsum(1)  # [P, N + 1, K], up to each position
    by_window = counts.split([count for count, _ in suffixes.windows])
    counts = torch.cat(
        [
            c[:, -window:].flatten(0, 1)
            for c, (_, window) in zip(by_window, suffixes.windows, strict=True)
        ]
    )
    # Rows of no window count every symbol once: weights of nothing would not be finite.
    counts = F.pad(counts, (0, 0, 0, len(suffixes.tokens) - len(counts)), value=1.0)
    scores = F.embedding(suffixes.tokens, scores.flatten(1)).unflatten(1, (heads, -1))
    weights = log_softmax(scores + counts.log().unsqueeze(1)).exp()  # [R, H, K]
    weight, bias = absorbed.out
    value = symbols @ weight.view(width, heads, width).permute(1, 2, 0)  # [H, K, D]
    return torch.addmm(bias, weights.flatten(1), value.flatten(0, 1))
