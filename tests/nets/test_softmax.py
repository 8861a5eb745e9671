"""Softmax and log-softmax over few entries, beside torch's own."""

from __future__ import annotations

import pytest
import torch

from rllib_seqmarl.nets.softmax import LONG_ROW, log_softmax, softmax


@pytest.mark.parametrize("size", [1, 5, 13, LONG_ROW, 30])
def test_both_are_those_of_torch(size: int) -> None:
    """Also where logits are those of actions that are not available, and far apart."""
    torch.manual_seed(0)
    logits = 30.0 * torch.randn(50, size)
    logits[::2, 1:] = -1e10
    logits.requires_grad_()
    weight = torch.randn(50, size)
    weight[::2, 1:] = 0.0
    expected = logits.log_softmax(-1)
    found = log_softmax(logits)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(softmax(logits), logits.softmax(-1), rtol=1e-6, atol=1e-7)
    one, other = (torch.autograd.grad((y * weight).sum(), logits)[0] for y in (found, expected))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [4, LONG_ROW])
def test_gradients_are_those_of_finite_differences(size: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, size).double().requires_grad_()
    assert torch.autograd.gradcheck(log_softmax, logits)
