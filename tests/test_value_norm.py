"""Running normalisation of value targets."""

import pytest
import torch

from rllib_seqmarl.returns import ValueNorm


def update(norm: ValueNorm, returns: torch.Tensor) -> None:
    norm.update(returns.mean(), returns.square().mean())


def test_no_effect_before_any_update() -> None:
    x = torch.tensor([1.0, -2.0])
    norm = ValueNorm()
    torch.testing.assert_close(norm.normalize(x), x)
    torch.testing.assert_close(norm.denormalize(x), x)


def test_first_update_is_debiased() -> None:
    norm = ValueNorm()
    returns = 5.0 + 3.0 * torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    update(norm, returns)
    mean, std = norm.mean_and_std()
    assert mean.item() == pytest.approx(returns.mean().item(), rel=1e-4)
    assert std.item() == pytest.approx(returns.std(correction=0).item(), rel=1e-3)


def test_there_and_back() -> None:
    norm = ValueNorm()
    for offset in (0.0, 10.0):
        update(norm, offset + torch.arange(100.0))
    x = torch.linspace(-50, 50, 11)
    torch.testing.assert_close(norm.denormalize(norm.normalize(x)), x)


def test_equal_weights_while_beta_is_close_to_one() -> None:
    norm = ValueNorm()
    for value in (0.0, 1.0, 2.0, 3.0):
        update(norm, torch.full((5,), value))
    assert norm.mean_and_std()[0].item() == pytest.approx(1.5, abs=1e-3)


def test_variance_never_collapses() -> None:
    norm = ValueNorm()
    update(norm, torch.full((5,), 4.0))
    assert norm.mean_and_std()[1].item() == pytest.approx(0.1)


def test_statistics_are_part_of_the_state() -> None:
    norm, other = ValueNorm(), ValueNorm()
    update(norm, torch.arange(10.0))
    other.load_state_dict(norm.state_dict())
    torch.testing.assert_close(other.mean_and_std(), norm.mean_and_std())
