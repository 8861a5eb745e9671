"""Scaled dot-product attention for the short sequences that teams are.

torch's fused attention goes through one pair of batch row and head after the other: right for long
sequences, and up to ten times slower than products of batched matrices for the agents of a team.
"""

from __future__ import annotations

import contextlib
import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx

from rllib_seqmarl.matmul import multiply_with
from rllib_seqmarl.nets.softmax import softmax

#: Scores L S of one head up to which they are held as matrices; beyond, torch's fused attention is
#: as fast, and its memory grows with S and not with its square.
MAX_SCORES = 256 * 256

#: Multiplications L S d of one head up to which its products are small: the fused attention is then
#: the faster one in a forward pass without gradients, and torch's BLAS the faster library. Above,
#: the fused attention would start oneDNN for each pair, which takes longer than the product.
_FEW_PRODUCTS = 4096


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """bool [queries, keys]: which keys the LAST ``queries`` positions of ``keys`` may attend to."""
    ones = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return ones.tril(diagonal=keys - queries)


def attention(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, equal to torch's ``scaled_dot_product_attention``.

    Args:
        query: [B, H, L, d], of the last L of S positions.
        key: [B, H, S, d].
        value: [B, H, S, d].
        causal: whether a position attends only to positions up to its own.

    Returns:
        [B, H, L, d].
    """
    queries, keys = query.shape[2], key.shape[2]
    causal = causal and queries > 1
    if queries * keys > MAX_SCORES or (_small(query, key) and not torch.is_grad_enabled()):
        if causal and queries == keys:
            return F.scaled_dot_product_attention(query, key, value, is_causal=True)
        mask = causal_mask(queries, keys, query.device) if causal else None
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    q, k, v = (x.flatten(0, 1) for x in (query, key, value))  # [B H, ., d]
    bias = q.new_zeros(1, 1)
    if causal:
        mask = causal_mask(queries, keys, q.device)
        bias = q.new_zeros(queries, keys).masked_fill_(~mask, float("-inf"))
    mixed: Tensor = _Attention.apply(q, k, v, bias)
    return mixed.unflatten(0, query.shape[:2])


def _small(query: Tensor, key: Tensor) -> bool:
    return query.shape[-2] * key.shape[-2] * key.shape[-1] <= _FEW_PRODUCTS


def _library(query: Tensor, key: Tensor) -> contextlib.AbstractContextManager[None]:
    """Inside, products of these shapes are computed by the library that suits their size."""
    return multiply_with("blas") if _small(query, key) else contextlib.nullcontext()


class _Attention(torch.autograd.Function):
    """softmax(q k^T / sqrt(d) + bias) v: q [B, L, d], k and v [B, S, d], bias to [L, S]."""

    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        with _library(q, k):
            scores = torch.baddbmm(bias, q, k.mT, alpha=1.0 / math.sqrt(q.shape[-1]))  # [B, L, S]
            weights = softmax(scores)
            ctx.save_for_backward(q, k, v, weights)
            return weights @ v

    @staticmethod
    def backward(ctx: BackwardCFunction, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, weights = cast("tuple[Tensor, ...]", ctx.saved_tensors)
        gradient = gradient.contiguous()
        with _library(q, k):
            of_weights = gradient @ v.mT  # [B, L, S]
            mean = (of_weights * weights).sum(-1, keepdim=True)
            of_scores = of_weights.sub_(mean).mul_(weights).div_(math.sqrt(q.shape[-1]))
            return of_scores @ k, of_scores.mT @ q, weights.mT @ gradient, None
