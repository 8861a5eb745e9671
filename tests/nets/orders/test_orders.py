"""Decision orders: their laws, and the way there and back."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.nets.orders.base import ChosenOrder, OrderInputs, ranks, to_order, to_slots
from rllib_seqmarl.nets.orders.given import RandomOrder
from rllib_seqmarl.nets.orders.next_agent import NEXT_AGENT_HEADS, NextAgent, next_agent_log_prob
from rllib_seqmarl.nets.orders.plackett_luce import (
    PlackettLuce,
    plackett_luce_entropy,
    plackett_luce_log_prob,
)
from rllib_seqmarl.registry import ORDERS

WIDTH = 8
CHOSEN = [name for name in ORDERS if issubclass(ORDERS.resolve(name), ChosenOrder)]


def seen(encoded: Tensor, *more: Any) -> OrderInputs:
    """What an order that reads no observation is chosen from."""
    return OrderInputs(encoded, encoded, *more)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def shares(orders: Tensor) -> Tensor:
    """How often each permutation of three agents occurs, [6], in lexicographic order."""
    _, counts = (orders * torch.tensor([9, 3, 1])).sum(1).unique(return_counts=True)
    return counts / len(orders)


def permutations(agents: int) -> Tensor:
    """[N!, N], in lexicographic order."""
    return torch.tensor(list(itertools.permutations(range(agents))))


def sure_scorer() -> PlackettLuce:
    """A scorer whose scores are far apart."""
    torch.manual_seed(0)
    scorer = PlackettLuce(WIDTH)
    torch.nn.init.normal_(scorer.out.weight, std=1.0)
    return scorer


@pytest.mark.parametrize("name", CHOSEN)
@pytest.mark.parametrize("deterministic", [True, False])
def test_every_order_is_a_permutation(name: str, deterministic: bool) -> None:
    part = ORDERS.resolve(name)(WIDTH)
    order, _ = part.choose(seen(torch.randn(50, 6, WIDTH), deterministic, generator()))
    if order is not None:
        assert torch.equal(order.sort(dim=1).values, torch.arange(6).expand(50, 6))


def test_random_order_is_uniform() -> None:
    order, log_prob = RandomOrder(1).choose(seen(torch.zeros(30_000, 3, 1), False, generator()))
    assert log_prob is None
    assert order is not None
    assert (shares(order) - 1 / 6).abs().max() < 0.01


def test_random_order_of_an_episode_is_kept_until_it_ends() -> None:
    part = RandomOrder(1, granularity="episode")
    encoded, random = torch.zeros(200, 4, 1), generator()
    first, _ = part.choose(seen(encoded, False, random))
    assert first is not None
    starts = torch.arange(200) % 2 == 0
    second, _ = part.choose(
        seen(encoded, False, random, first.masked_fill(starts.unsqueeze(1), -1))
    )
    assert second is not None
    assert torch.equal(second[~starts], first[~starts])
    assert not torch.equal(second[starts], first[starts])
    assert torch.equal(second.sort(dim=1).values, torch.arange(4).expand(200, 4))
    every_step, _ = RandomOrder(1).choose(seen(encoded, False, random, first))
    assert every_step is not None
    assert not torch.equal(every_step[~starts], first[~starts])


@pytest.mark.parametrize("agents", [1, 2, 3, 4])
def test_plackett_luce_probabilities_are_those_of_the_definition(agents: int) -> None:
    scores = torch.rand(agents, dtype=torch.float64) * 9 + 1
    orders = permutations(agents)
    log_prob = plackett_luce_log_prob(scores.log()[orders])
    assert log_prob.exp().sum().item() == pytest.approx(1.0)
    for order, found in zip(orders, log_prob, strict=True):
        ranked = scores[order]
        naive = sum((ranked[m] / ranked[m:].sum()).log() for m in range(agents))
        assert found.item() == pytest.approx(float(naive))


def test_plackett_luce_entropy_is_right_on_average() -> None:
    scores = torch.tensor([1.0, 3.0, 9.0, 10.0], dtype=torch.float64)
    ranked = scores.log()[permutations(4)]
    log_prob = plackett_luce_log_prob(ranked)
    exact = -(log_prob.exp() * log_prob).sum()
    torch.testing.assert_close((log_prob.exp() * plackett_luce_entropy(ranked)).sum(), exact)


def test_orders_are_drawn_with_their_probability() -> None:
    """One sort of log s + Gumbel noise against the law of drawing one after another."""
    scorer = sure_scorer()
    encoded = torch.randn(1, 3, WIDTH).expand(40_000, 3, WIDTH)
    with torch.no_grad():
        order, log_prob = scorer.choose(seen(encoded, False, generator()))
        assert order is not None
        scores = scorer.scores(encoded)
        expected = plackett_luce_log_prob(scores[0].log()[permutations(3)]).exp()
        assert (expected - 1 / 6).abs().max() > 0.1
        assert (shares(order) - expected).abs().max() < 0.01
        again = scorer.evaluate(encoded, encoded, order)
        torch.testing.assert_close(again.log_prob, log_prob)
        best, _ = scorer.choose(seen(encoded, True, None))
    assert best is not None
    assert torch.equal(scores.gather(1, best), scores.sort(dim=1, descending=True).values)


def test_scorer_has_the_size_of_the_published_one_where_layers_are_shared() -> None:
    for layers in (2, 3, 4):
        shared = PlackettLuce(64, layers=layers, share_hidden=True)
        assert sum(p.numel() for p in shared.parameters()) == 8769
    distinct = PlackettLuce(64, layers=3)
    assert sum(p.numel() for p in distinct.parameters()) == 8769 + 64 * 64 + 3 * 64
    encoded = torch.randn(2, 3, 64)
    two, three = (PlackettLuce(64, layers=n, share_hidden=True) for n in (2, 3))
    three.load_state_dict(two.state_dict())
    assert not torch.equal(two.scores(encoded), three.scores(encoded))  # applied once more
    scores = distinct.scores(encoded)
    assert ((scores > 1) & (scores < 10)).all()


@pytest.mark.parametrize("agents", [2, 3, 4])
def test_choices_of_a_successor_sum_to_one_from_a_given_first_agent(agents: int) -> None:
    """Over all orders that begin with it, whatever agents would want who are gone."""
    orders = permutations(agents)
    orders = orders[orders[:, 0] == 1]
    by_chooser = 3 * torch.randn(agents, agents, dtype=torch.float64)
    log_prob, entropy = next_agent_log_prob(by_chooser[orders[:, :-1]], orders)
    assert log_prob.sum(1).exp().sum().item() == pytest.approx(1.0)
    # Nobody is left to be chosen by the last agent, and one by the last but one.
    assert (log_prob[:, -2:] == 0).all()
    assert (entropy[:, -2:] == 0).all()
    assert (entropy[:, :-2] > 0).all()
    exact = -(log_prob.sum(1).exp() * log_prob.sum(1)).sum()
    torch.testing.assert_close((log_prob.sum(1).exp() * entropy.sum(1)).sum(), exact)


@pytest.mark.parametrize("head", NEXT_AGENT_HEADS)
def test_choice_of_a_successor_stands_in_the_slot_of_who_chooses(head: str) -> None:
    torch.manual_seed(0)
    part = NextAgent(WIDTH, 4, head)
    encoded, decoded = torch.randn(5, 4, WIDTH), torch.randn(5, 4, WIDTH)
    order = torch.tensor([2, 0, 3, 1]).expand(5, 4)
    found = part.evaluate(encoded, decoded, order)
    logits = part.logits(decoded, encoded)
    assert logits.shape == (5, 4, 4)
    first = logits[:, 0, [0, 1, 3]].log_softmax(-1)
    torch.testing.assert_close(found.log_prob[:, 2], first[:, 0])
    assert (found.log_prob[:, [3, 1]] == 0).all()


def test_first_agent_must_exist() -> None:
    with pytest.raises(UserError, match="first_agent is 3, and the 3 agents count from 0"):
        NextAgent(WIDTH, 3, first_agent=3).first(torch.zeros(2, 3, WIDTH))
    with pytest.raises(ValueError, match="needs the number of agents"):
        NextAgent(WIDTH)
    NextAgent(WIDTH, head="pointer")


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (4, 5, 2, 2)])
def test_there_and_back(shape: tuple[int, ...]) -> None:
    random = generator()
    x = torch.randn(shape, generator=random)
    order, _ = RandomOrder(1).choose(seen(torch.zeros(4, 5, 1), False, random))
    assert order is not None
    ordered = to_order(x, order)
    torch.testing.assert_close(ordered[2, 1], x[2, order[2, 1]])
    torch.testing.assert_close(to_slots(ordered, order), x)
    torch.testing.assert_close(to_slots(x, order), to_order(x, ranks(order)))
    assert to_order(x, None) is x
