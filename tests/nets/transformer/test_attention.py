"""Attention of short sequences, beside torch's own."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from rllib_seqmarl.nets.transformer.attention import (
    MAX_SCORES,
    attention,
    causal_mask,
)

LONG = math.isqrt(MAX_SCORES) + 1
SIZES = [
    (3, 3),
    (1, 5),
    (2, 5),
    (8, 8),
    (27, 27),
    (4, 20),
    (1, 300),
    (LONG, LONG),
    (9, MAX_SCORES // 8),
]


@pytest.mark.parametrize(("queries", "keys"), SIZES)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads", [1, 2])
def test_values_and_gradients_are_those_of_torch(
    queries: int, keys: int, causal: bool, heads: int
) -> None:
    torch.manual_seed(0)
    q = torch.randn(5, heads, queries, 4, requires_grad=True)
    k, v = (torch.randn(5, heads, keys, 4, requires_grad=True) for _ in range(2))
    weight = torch.randn(5, heads, queries, 4)
    mask = causal_mask(queries, keys, q.device) if causal else None
    reference = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    expected = torch.autograd.grad((reference * weight).sum(), (q, k, v))
    found = attention(q, k, v, causal)
    gradients = torch.autograd.grad((found * weight).sum(), (q, k, v))
    torch.testing.assert_close(found, reference, rtol=1e-5, atol=1e-6)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(attention(q, k, v, causal), found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keys", [4, 20])
def test_gradients_are_those_of_finite_differences(keys: int) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 1, n, 3).double().requires_grad_() for n in (3, keys, keys)]
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v, True), inputs)
