"""Credit of each agent for the team's action value: what its advantage compares.

B states, N agents, A discrete actions. Joint actions are [B, K, N, A], see `nets.critics`; ``q``
is a critic in given states, [B, K, N, A] -> [B, K]. An order is int [B, N]: ``order[b, k]`` is the
slot of the agent that is evaluated k-th.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Q = Callable[[Tensor], Tensor]


def ranks(order: Tensor) -> Tensor:
    """When each agent is evaluated, from 0: int [B, N] by place -> int [B, N] by slot."""
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(-1, order, places)


def action_policy_vectors(actions: Tensor, policy: Tensor, order: Tensor) -> Tensor:
    """v^{1:k} = [u^1 .. u^k, pi^{k+1} .. pi^N] for k = 0 .. N (SeCA, sec. 3.2, policy learning).

    Args:
        actions: that were taken, int [B, N].
        policy: probabilities pi, [B, N, A].
        order: int [B, N].

    Returns:
        [B, N + 1, N, A], in agent slots.
    """
    taken = F.one_hot(actions, policy.shape[-1]).to(policy.dtype)
    count = torch.arange(actions.shape[-1] + 1, device=actions.device)
    known = ranks(order).unsqueeze(1) < count.unsqueeze(-1)  # [B, N + 1, N]
    return torch.where(known.unsqueeze(-1), taken.unsqueeze(1), policy.unsqueeze(1))


def sequential_credit(q: Q, actions: Tensor, policy: Tensor, order: Tensor) -> Tensor:
    """A^{a_i} = Q(v^{1:i}) - Q(v^{1:i-1}) (SeCA, eq. 5 with probabilities in place of sums).

    N + 1 values serve all agents, and the credits of a step add up to Q(u) - Q(pi). For a
    multilinear Q this is eq. 5 itself; else an approximation.

    Args:
        q: the critic in these states.
        actions: int [B, N].
        policy: [B, N, A].
        order: int [B, N].

    Returns:
        [B, N], in agent slots.
    """
    values = q(action_policy_vectors(actions, policy, order))  # [B, N + 1]
    return values.diff(dim=-1).gather(-1, ranks(order))


def counterfactual_advantage(action_values: Tensor, policy: Tensor, actions: Tensor) -> Tensor:
    """A^a = Q(u) - sum_u' pi^a(u') Q(u^-a, u') (COMA, eq. 4); its mean under pi^a is zero.

    Args:
        action_values: Q of each own action, the others' held, [..., A].
        policy: pi, [..., A].
        actions: int [...].

    Returns:
        [...].
    """
    chosen = action_values.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    return chosen - (policy * action_values).sum(-1)


def counterfactual_credit(q: Q, actions: Tensor, policy: Tensor) -> Tensor:
    """A^a = Q(u) - Q(u with pi^a in the slot of a): COMA's advantage (eq. 3) on SeCA's critic.

    Args:
        q: the critic in these states.
        actions: int [B, N].
        policy: [B, N, A].

    Returns:
        [B, N], in agent slots.
    """
    agents = actions.shape[-1]
    taken = F.one_hot(actions, policy.shape[-1]).to(policy.dtype).unsqueeze(1)  # [B, 1, N, A]
    own = torch.eye(agents, dtype=torch.bool, device=actions.device).unsqueeze(-1)  # [N, N, 1]
    baselines = torch.where(own, policy.unsqueeze(1), taken)  # [B, N, N, A]
    values = q(torch.cat((taken, baselines), dim=1))  # [B, N + 1]
    return values[:, :1] - values[:, 1:]


class Coalitions(NamedTuple):
    """Coalitions C of agents, and how the credit of each agent is made of the values Q(C)."""

    present: Tensor  # bool [..., K, N], who belongs to each of the K coalitions
    weight: Tensor  # [..., K, N], of Q(C) in the credit of each agent; those of an agent sum to 0


def all_coalitions(agents: int, device: torch.device | None = None) -> Coalitions:
    """All 2^N, with Shapley's weights: |C|! (N - 1 - |C|)! / N! for i's joining C."""
    masks = torch.arange(2**agents, device=device).unsqueeze(-1)
    present = (masks >> torch.arange(agents, device=device)) % 2 == 1  # [2^N, N]
    joining = [
        math.factorial(size) * math.factorial(agents - 1 - size) / math.factorial(agents)
        for size in range(agents)
    ]
    # Of Q(C): with the agent in C, that of its joining the |C| - 1 others; else of joining C.
    weights = torch.tensor([0.0, *joining, 0.0], device=device)
    size = present.sum(-1, keepdim=True)
    return Coalitions(present, torch.where(present, weights[size], -weights[size + 1]))


def sampled_coalitions(
    shape: tuple[int, ...], agents: int, samples: int, generator: torch.Generator
) -> Coalitions:
    """M random orders, in which each agent joins those before it: M (N + 1) coalitions.

    Those before an agent are any number of the others, from 0 to N - 1 alike, and any of them, so
    its credit's expectation is Shapley's. N + 1 values serve all agents, and the credits of each
    sample add up to Q(all) - Q(none).

    Args:
        shape: leading axes, with samples of their own.
        agents: N.
        samples: M.
        generator: source of the draws, on the CPU.
    """
    place = torch.rand(*shape, samples, 1, agents, generator=generator).argsort(-1)
    count = torch.arange(agents + 1).unsqueeze(-1)
    present = place < count  # [*shape, M, N + 1, N]
    weight = ((place == count - 1).float() - (place == count).float()) / samples
    return Coalitions(present.flatten(-3, -2), weight.flatten(-3, -2))


def released_coalitions(
    shape: tuple[int, ...], agents: int, samples: int, generator: torch.Generator
) -> Coalitions:
    """What SCC's code draws for each agent: 1 to N - 1 of the others are absent, so that the full
    coalition, COMA's case, never occurs; N > 2. Arguments as of `sampled_coalitions`; 2 M N.
    """
    own = torch.eye(agents, dtype=torch.bool)
    keys = torch.rand(*shape, samples, agents, agents, generator=generator).masked_fill(own, 2.0)
    absent = torch.randint(1, agents, (*shape, samples, agents, 1), generator=generator)
    others = keys.argsort(-1).argsort(-1) >= absent  # [*shape, M, N, N], the own slot among them
    present = torch.stack((others, others & ~own), dim=-2)  # with the agent, without it
    weight = torch.stack((own.float(), -own.float()), dim=-2) / samples  # [N, 2, N]
    return Coalitions(present.flatten(-4, -2), weight.expand_as(present).flatten(-4, -2))


def shapley_credit(q: Q, actions: Tensor, absent: Tensor, coalitions: Coalitions) -> Tensor:
    """phi_i, the mean of Q(C with i) - Q(C), N + 1 coalitions at a time.

    Args:
        q: the critic in these states.
        actions: int [B, N].
        absent: what stands for the action of an agent that does not belong to C, [B, N, A].
        coalitions: [K, N], or [B, K, N] where each state has its own.

    Returns:
        [B, N], in agent slots.
    """
    agents = actions.shape[-1]
    taken = F.one_hot(actions, absent.shape[-1]).to(absent.dtype).unsqueeze(1)  # [B, 1, N, A]
    credit = torch.zeros_like(absent[..., 0])
    pieces = (column.split(agents + 1, dim=-2) for column in coalitions)
    for present, weight in zip(*pieces, strict=True):
        values = q(torch.where(present.unsqueeze(-1), taken, absent.unsqueeze(1)))  # [B, k]
        credit = credit + (values.unsqueeze(-1) * weight).sum(-2)
    return credit
