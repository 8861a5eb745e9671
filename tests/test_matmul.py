"""Matrix products on the CPU: the same float32 numbers, whichever library computes them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rllib_seqmarl import matmul
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.nets.sequential_policy import SequentialPolicy
from rllib_seqmarl.nets.transformer.model import ActionSpec

try:
    matmul.library("onednn")
    LIBRARIES = ("blas", "onednn")
except UserError:
    LIBRARIES = ("blas",)


def test_rounded_factors_are_found() -> None:
    """bfloat16 factors are what must never be used unasked."""
    assert matmul.is_exact(torch.matmul)
    assert not matmul.is_exact(lambda a, b: (a.bfloat16() @ b.bfloat16()).float())
    assert not matmul.is_exact(lambda a, b: a.bfloat16().float() @ b)


@pytest.mark.parametrize("choice", ["auto", "blas"])
def test_what_is_chosen_is_exact_and_repeatable(choice: matmul.Choice) -> None:
    chosen = matmul.library(choice)
    assert chosen in LIBRARIES
    with matmul.multiply_with(choice):
        assert matmul.is_exact(torch.matmul)
    matmul.library.cache_clear()
    assert matmul.library(choice) == chosen


def test_the_switch_is_put_back() -> None:
    switch = matmul._switch()
    if switch is None:
        pytest.skip("this torch has no switch")
    before = switch.fp32_precision
    with pytest.raises(ZeroDivisionError), matmul.multiply_with("auto"):  # noqa: PT012
        with matmul.multiply_with("blas"):
            assert switch.fp32_precision == "ieee"
        assert switch.fp32_precision != before
        _ = 1 / 0
    assert switch.fp32_precision == before


def gradients(policy: SequentialPolicy, obs: Tensor, actions: Tensor) -> list[Tensor]:
    """Of what a loss is made of, with respect to every parameter."""
    policy.zero_grad()
    out = policy.evaluate(obs, None, actions, None, None)
    (out.log_prob.sum() + out.entropy.sum() + out.values.square().sum()).backward()
    return [out.log_prob.detach(), *(p.grad.clone() for p in policy.parameters())]


def test_a_policy_and_its_gradients_are_the_same_with_every_library() -> None:
    """Reference: the same policy in float64."""
    torch.manual_seed(0)
    policy = SequentialPolicy(obs_dim=30, action=ActionSpec(5, discrete=True))
    obs, actions = torch.randn(64, 8, 30), torch.randint(5, (64, 8))
    found = {}
    for choice in LIBRARIES:
        with matmul.multiply_with(choice):
            found[choice] = gradients(policy, obs, actions)
    exact = gradients(policy.double(), obs.double(), actions)
    for choice in LIBRARIES:
        for one, reference in zip(found[choice], exact, strict=True):
            scale = reference.abs().max()
            assert (one - reference).abs().max() <= 1e-5 * scale + 1e-9, choice


def test_few_rows_stay_with_the_blas() -> None:
    switch = getattr(torch.backends.mkldnn, "matmul", None)
    if switch is None:
        pytest.skip("an older torch has its BLAS only")
    x, y = torch.randn(32, 64), torch.randn(64, 64)
    with matmul.multiply_with("auto"):
        chosen, expected = switch.fp32_precision, x @ y
        with matmul.multiply_few_rows(matmul.FEW_ROWS):
            assert switch.fp32_precision == chosen
        with matmul.multiply_few_rows(len(x)):
            assert switch.fp32_precision == "ieee"
            torch.testing.assert_close(x @ y, expected)
        assert switch.fp32_precision == chosen
