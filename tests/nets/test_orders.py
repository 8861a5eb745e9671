"""Decision orders and the way there and back."""

import pytest
import torch

from rllib_seqmarl.nets.orders import ORDERS, to_order, to_slots


@pytest.mark.parametrize("name", ORDERS)
def test_every_order_is_a_permutation(name: str) -> None:
    order = ORDERS[name](torch.zeros(50, 6, 3), torch.Generator().manual_seed(0))
    if order is not None:
        assert torch.equal(order.sort(dim=1).values, torch.arange(6).expand(50, 6))


def test_random_order_is_uniform() -> None:
    order = ORDERS["random"](torch.zeros(30_000, 3, 1), torch.Generator().manual_seed(0))
    assert order is not None
    codes = (order * torch.tensor([9, 3, 1])).sum(1)
    _, counts = codes.unique(return_counts=True)
    assert len(counts) == 6
    assert (counts / 30_000 - 1 / 6).abs().max() < 0.01


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (4, 5, 2, 2)])
def test_there_and_back(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    order = ORDERS["random"](torch.zeros(4, 5, 1), generator)
    assert order is not None
    ordered = to_order(x, order)
    torch.testing.assert_close(ordered[2, 1], x[2, order[2, 1]])
    torch.testing.assert_close(to_slots(ordered, order), x)
    assert to_order(x, None) is x
