"""SeCA's credits: identities, and Proposition 1 by enumeration."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from helpers.critics import A, B, N, everything, multilinear, random_case, table
from torch import Tensor

from rllib_seqmarl.algorithms.seca import (
    action_policy_vectors,
    counterfactual_credit,
    ranks,
    sequential_credit,
    unexplained_return,
)


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


@pytest.mark.parametrize("advantage", ["sequential", "counterfactual"])
def test_a_corrected_credit_follows_the_return_whatever_the_critic(advantage: str) -> None:
    """All joint actions, with their probabilities: the gradient of the return's expectation."""
    actions, policy, _ = everything()
    generator = torch.Generator().manual_seed(3)
    returns = torch.randn(A**N, generator=generator, dtype=torch.double)  # y(u)
    q = partial(multilinear, table())  # has nothing to do with it
    logits = policy[0].log().requires_grad_()
    log_prob = logits.log_softmax(-1).expand(len(actions), N, A)
    log_prob = log_prob.gather(-1, actions.unsqueeze(-1)).squeeze(-1)  # [A^N, N]
    probability = log_prob.sum(-1).exp()
    (expected,) = torch.autograd.grad((probability * returns).sum(), logits, retain_graph=True)

    if advantage == "sequential":
        order = torch.tensor([2, 0, 1]).expand(len(actions), N)
        credit = sequential_credit(q, actions, policy, order)
    else:
        credit = counterfactual_credit(q, actions, policy)

    def gradient(credit: Tensor) -> Tensor:
        loss = (probability.detach() * (log_prob * credit).sum(-1)).sum()
        (found,) = torch.autograd.grad(loss, logits, retain_graph=True)
        return found

    rest = unexplained_return(q, actions, policy, returns)
    torch.testing.assert_close(gradient(credit + rest.unsqueeze(-1)), expected)
    assert (gradient(credit) - expected).abs().max() > 0.01
