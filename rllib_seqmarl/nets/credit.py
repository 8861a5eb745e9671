"""Credit of each agent for the team's action value: what its advantage compares.

B states, N agents, A discrete actions. Joint actions are [B, K, N, A], see `nets.critics`; ``q``
is a critic in given states, [B, K, N, A] -> [B, K]. An order is int [B, N]: ``order[b, k]`` is the
slot of the agent that is evaluated k-th.
"""

from __future__ import annotations

from collections.abc import Callable

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
