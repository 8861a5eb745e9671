"""Credit of single agents: identities, and Proposition 1 of SeCA by enumeration."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from torch import Tensor

from rllib_seqmarl.nets.critics.credit import (
    Coalitions,
    action_policy_vectors,
    all_coalitions,
    counterfactual_advantage,
    counterfactual_credit,
    ranks,
    released_coalitions,
    sampled_coalitions,
    sequential_credit,
    shapley_credit,
)
from rllib_seqmarl.nets.critics.joint import HypernetworkCritic

B, N, A, S = 6, 3, 3, 4


def table(seed: int = 0) -> Tensor:
    """Q of all A^N joint actions."""
    return torch.randn(*(A,) * N, generator=torch.Generator().manual_seed(seed)).double()


def multilinear(q: Tensor, vectors: Tensor) -> Tensor:
    """E[Q] under independent policies: [B, K, N, A] -> [B, K]."""
    return torch.einsum("abc,zka,zkb,zkc->zk", q, *vectors.unbind(2))


def policies(seed: int = 1) -> Tensor:
    logits = torch.randn(1, N, A, generator=torch.Generator().manual_seed(seed)).double()
    return (2.0 * logits).softmax(-1)


def everything() -> tuple[Tensor, Tensor, Tensor]:
    """All joint actions [A^N, N], the policy beside each, and their probabilities [A^N]."""
    actions = torch.tensor(list(itertools.product(range(A), repeat=N)))
    policy = policies()
    chosen = policy.expand(len(actions), N, A).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    return actions, policy.expand(len(actions), N, A), chosen.prod(-1)


def random_case() -> tuple[Tensor, Tensor, Tensor, partial[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    actions = torch.randint(A, (B, N), generator=generator)
    policy = torch.randn(B, N, A, generator=generator).softmax(-1)
    order = torch.stack([torch.randperm(N, generator=generator) for _ in range(B)])
    torch.manual_seed(0)
    critic = HypernetworkCritic(S, N, A, 16, 16)
    return actions, policy, order, partial(critic, torch.randn(B, S, generator=generator))


def test_vectors_fill_up_in_the_order_of_evaluation() -> None:
    actions, policy, order, _ = random_case()
    vectors = action_policy_vectors(actions, policy, order)
    assert vectors.shape == (B, N + 1, N, A)
    for b in range(B):
        for k in range(N + 1):
            evaluated = order[b, :k].tolist()
            for agent in range(N):
                taken = torch.nn.functional.one_hot(actions[b, agent], A).float()
                expected = taken if agent in evaluated else policy[b, agent]
                torch.testing.assert_close(vectors[b, k, agent], expected)


def test_ranks_invert_the_order() -> None:
    _, _, order, _ = random_case()
    assert (order.gather(-1, ranks(order)) == torch.arange(N)).all()


def test_credits_telescope() -> None:
    """They add up to Q(u) - Q(pi), for any critic."""
    actions, policy, order, q = random_case()
    vectors = action_policy_vectors(actions, policy, order)
    ends = q(vectors)
    total = sequential_credit(q, actions, policy, order).sum(-1)
    torch.testing.assert_close(total, ends[:, -1] - ends[:, 0])
    assert total.abs().max() > 1e-3


def test_the_last_agents_credit_is_comas() -> None:
    actions, policy, order, q = random_case()
    last = order[:, -1:]
    sequential = sequential_credit(q, actions, policy, order).gather(-1, last)
    counterfactual = counterfactual_credit(q, actions, policy).gather(-1, last)
    torch.testing.assert_close(sequential, counterfactual)


def test_counterfactual_credit_is_equation_3() -> None:
    """On a multilinear Q: Q(u) - sum_u' pi(u') Q(u', u^-a)."""
    q, (actions, policy, _) = table(), everything()
    credit = counterfactual_credit(partial(multilinear, q), actions, policy)
    for row, u in zip(credit, actions.tolist(), strict=True):
        for agent in range(N):
            others = [[*u[:agent], a, *u[agent + 1 :]] for a in range(A)]
            baseline = sum(policy[0, agent, a] * q[tuple(others[a])] for a in range(A))
            torch.testing.assert_close(row[agent], q[tuple(u)] - baseline)


def test_sequential_credit_is_equation_5() -> None:
    """On a multilinear Q: expectations over all actions of those not yet evaluated."""
    q, (actions, policy, _) = table(), everything()
    order = torch.tensor([2, 0, 1]).expand(len(actions), N)
    credit = sequential_credit(partial(multilinear, q), actions, policy, order)

    def expectation(u: list[int], known: set[int]) -> Tensor:
        total = torch.zeros((), dtype=torch.double)
        for other in itertools.product(range(A), repeat=N):
            joint = [u[i] if i in known else other[i] for i in range(N)]
            weight = torch.stack([policy[0, i, other[i]] for i in range(N)]).prod()
            total = total + weight * q[tuple(joint)]
        return total

    for row, u in zip(credit, actions.tolist(), strict=True):
        for place, agent in enumerate((2, 0, 1)):
            before = set((2, 0, 1)[:place])
            expected = expectation(u, before | {agent}) - expectation(u, before)
            torch.testing.assert_close(row[agent], expected)


@pytest.mark.parametrize("order", list(itertools.permutations(range(N))))
def test_proposition_1(order: tuple[int, ...]) -> None:
    """Var[A_SeCA] <= Var[A_COMA] for every agent, equal for the last, both of mean zero."""
    actions, policy, probability = everything()
    for seed in range(5):
        q = partial(multilinear, table(seed))
        places = torch.tensor(order).expand(len(actions), N)
        variances = []
        for credit in (
            sequential_credit(q, actions, policy, places),
            counterfactual_credit(q, actions, policy),
        ):
            mean = (probability.unsqueeze(-1) * credit).sum(0)
            torch.testing.assert_close(mean, torch.zeros(N, dtype=torch.double), atol=1e-12, rtol=0)
            variances.append((probability.unsqueeze(-1) * credit.square()).sum(0))
        sequential, counterfactual = variances
        assert (sequential <= counterfactual + 1e-12).all()
        torch.testing.assert_close(sequential[order[-1]], counterfactual[order[-1]])
        assert sequential[order[0]] < 0.99 * counterfactual[order[0]]


def test_counterfactual_advantage_is_comas_and_has_no_mean() -> None:
    """Equation 4 by plain loops; over an agent's own actions, the others' held, its mean is 0."""
    q = table()
    actions, policy, _ = everything()
    values = torch.stack(  # Q of every own action, [A^N, N, A]
        [
            torch.stack([q[(*u[:i], slice(None), *u[i + 1 :])] for i in range(N)])
            for u in actions.tolist()
        ]
    )
    advantage = counterfactual_advantage(values, policy, actions)
    for row, u in zip(advantage, actions.tolist(), strict=True):
        for i in range(N):
            baseline = sum(policy[0, i, a] * q[(*u[:i], a, *u[i + 1 :])] for a in range(A))
            torch.testing.assert_close(row[i], q[tuple(u)] - baseline)
    per_agent = advantage.view(*(A,) * N, N)
    for i in range(N):
        own = policy[0, i].view(*(A if j == i else 1 for j in range(N)))
        mean = (own * per_agent[..., i]).sum(i)
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-12, rtol=0)
        assert per_agent[..., i].abs().min() > 1e-3


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
