"""The GRU whose gradient is written by hand: its values are tested in `test_stacked`."""

from __future__ import annotations

import pytest
import torch

from rllib_seqmarl.nets.agents.gru import gru

T, L, H = 5, 4, 3


@pytest.mark.parametrize("sets", [(), (2,)], ids=["one", "two"])
@pytest.mark.parametrize("begins", [0.0, 0.3, 1.0])
def test_gradients_are_those_of_finite_differences(sets: tuple[int, ...], begins: float) -> None:
    torch.manual_seed(0)
    shapes = (T, L, 3 * H), (L, H), (H, 3 * H), (3 * H,)
    gates, hidden, weight, bias = (
        torch.randn(*sets, *shape, dtype=torch.double, requires_grad=True) for shape in shapes
    )
    is_first = torch.rand(T, L) < begins
    assert torch.autograd.gradcheck(gru, (gates, hidden, is_first, weight, bias))
