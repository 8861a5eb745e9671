"""Shapley's credits: by enumeration, by samples, and of a critic."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers.critics import A, B, N, random_case
from torch import Tensor

from rllib_seqmarl.algorithms.scc import (
    Coalitions,
    all_coalitions,
    released_coalitions,
    sampled_coalitions,
    shapley_credit,
)


def game(agents: int, seed: int = 0) -> Tensor:
    """The worth of all 2^N coalitions."""
    return torch.randn(*(2,) * agents, generator=torch.Generator().manual_seed(seed)).double()


def credits_of(worth: Tensor, coalitions: Coalitions) -> Tensor:
    """[B, N], in a game of which agents act at all: (0, 1) is present, (0, 0) absent."""
    agents = worth.ndim
    states = len(coalitions.present) if coalitions.present.ndim == 3 else 1

    def q(vectors: Tensor) -> Tensor:
        return worth[vectors[..., 1].long().unbind(-1)]

    actions = torch.ones(states, agents, dtype=torch.long)
    absent = torch.zeros(states, agents, 2, dtype=torch.double)
    return shapley_credit(q, actions, absent, coalitions)


def by_permutations(worth: Tensor) -> Tensor:
    """Shapley's definition: what each agent adds, mean over all N! orders."""
    agents = worth.ndim
    total = torch.zeros(agents, dtype=torch.double)
    orders = list(itertools.permutations(range(agents)))
    for order in orders:
        inside = [0] * agents
        for agent in order:
            before = worth[tuple(inside)]
            inside[agent] = 1
            total[agent] += worth[tuple(inside)] - before
    return total / len(orders)


@pytest.mark.parametrize("agents", [1, 2, 3, 5])
def test_exact_credit_is_shapleys(agents: int) -> None:
    worth = game(agents)
    credit = credits_of(worth, all_coalitions(agents))[0]
    torch.testing.assert_close(credit, by_permutations(worth), atol=1e-6, rtol=1e-5)
    whole = worth[(1,) * agents] - worth[(0,) * agents]
    torch.testing.assert_close(credit.sum(), whole, atol=1e-6, rtol=1e-5)


def test_credit_of_symmetric_and_of_idle_agents() -> None:
    worth = game(4)
    worth = worth + worth.transpose(0, 2)  # agents 0 and 2 play the same part
    worth[:, 1] = worth[:, 0]  # agent 1 never matters
    credit = credits_of(worth, all_coalitions(4))[0]
    torch.testing.assert_close(credit[0], credit[2])
    torch.testing.assert_close(credit[1], torch.zeros(()).double(), atol=1e-6, rtol=0)
    assert credit[3].abs() > 1e-3


def test_coalition_weights_cancel() -> None:
    """A worth that is the same for all coalitions gives no credit to anybody."""
    generator = torch.Generator().manual_seed(0)
    for coalitions in (
        all_coalitions(4),
        sampled_coalitions((), 4, 3, generator),
        released_coalitions((), 4, 3, generator),
    ):
        total = coalitions.weight.sum(-2)
        torch.testing.assert_close(total, torch.zeros(4), atol=1e-6, rtol=0)


def test_sampled_credit_has_shapleys_mean() -> None:
    """20,000 samples: within four standard errors of it, agent by agent."""
    worth, samples = game(4), 20_000
    coalitions = sampled_coalitions((samples,), 4, 1, torch.Generator().manual_seed(0))
    found = credits_of(worth, coalitions)
    error = found.std(0) / samples**0.5
    exact = by_permutations(worth)
    assert ((found.mean(0) - exact).abs() < 4.0 * error).all()
    assert (error < 0.05 * exact.abs().max()).all()
    whole = worth[(1,) * 4] - worth[(0,) * 4]
    torch.testing.assert_close(found.sum(-1), whole.expand(samples), atol=1e-5, rtol=1e-5)


def test_all_orders_together_are_exact() -> None:
    """The sampled weights of each order, mean over all orders, are Shapley's credit."""
    worth = game(3)
    found = {}
    generator = torch.Generator().manual_seed(0)
    while len(found) < 6:
        present, weight = sampled_coalitions((), 3, 1, generator)
        found[tuple(present.sum(0).tolist())] = credits_of(worth, Coalitions(present, weight))[0]
    mean = torch.stack(list(found.values())).mean(0)
    torch.testing.assert_close(mean, by_permutations(worth), atol=1e-6, rtol=1e-5)


def test_coalition_sizes() -> None:
    """Sampled: any number of others alike. Released: at least one is always absent."""
    agents, samples = 4, 6_000
    generator = torch.Generator().manual_seed(0)
    for sample, shares in (
        (sampled_coalitions, [0.25, 0.25, 0.25, 0.25]),
        (released_coalitions, [1 / 3, 1 / 3, 1 / 3, 0.0]),
    ):
        present, weight = sample((samples,), agents, 1, generator)
        for agent in range(agents):
            joined = present[weight[..., agent] > 0]  # with the agent
            assert joined[:, agent].all()
            assert len(joined) == samples
            counts = torch.bincount(joined.sum(-1) - 1, minlength=agents) / samples
            torch.testing.assert_close(counts, torch.tensor(shares), atol=0.03, rtol=0)
            others = [i for i in range(agents) if i != agent]
            frequency = joined.float().mean(0)[others]  # none of them more often than another
            expected = sum(size * share for size, share in enumerate(shares)) / (agents - 1)
            torch.testing.assert_close(frequency, torch.full((3,), expected), atol=0.03, rtol=0)
        left = present[weight[..., 0] < 0]  # the same coalitions without the agent
        with_agent = present[weight[..., 0] > 0].clone()
        with_agent[:, 0] = False
        assert torch.equal(left, with_agent)


def test_credits_of_a_critic_are_those_of_plain_loops() -> None:
    """Every state with its own coalitions; absent agents act with their policy."""
    actions, policy, _, q = random_case()
    generator = torch.Generator().manual_seed(5)
    coalitions = sampled_coalitions((B,), N, 4, generator)
    credit = shapley_credit(q, actions, policy, coalitions)
    taken = torch.nn.functional.one_hot(actions, A).float()
    expected = torch.zeros(B, N)
    for k in range(coalitions.present.shape[1]):
        inside = coalitions.present[:, k].unsqueeze(-1)
        value = q(torch.where(inside, taken, policy).unsqueeze(1))[:, 0]
        expected += value.unsqueeze(-1) * coalitions.weight[:, k]
    torch.testing.assert_close(credit, expected)
    whole = q(taken.unsqueeze(1)) - q(policy.unsqueeze(1))
    torch.testing.assert_close(credit.sum(-1), whole[:, 0], atol=1e-5, rtol=1e-4)
