"""Agents' contributions to the team's value: gradients integrated along the path of their policies.

E worlds, T steps, N agents, A actions, S width of the state, K points per step of the path
(Sundararajan et al. 2017; SeCA, eq. 17 and 18).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rllib_seqmarl.nets.critics.joint import JointCritic


class Path(NamedTuple):
    """What the agents went through in T steps; the last of the T + 1 points follows them."""

    state: Tensor  # [E, T + 1, S]
    policy: Tensor  # [E, T + 1, N, A], probabilities with which they acted
    goes_on: Tensor  # bool [E, T], whether point t + 1 is of the same episode as point t


def path_contributions(
    critic: JointCritic, path: Path, points: int, piece: int | None = None
) -> tuple[Tensor, Tensor]:
    """c^a of each step of the path, which runs straight from (s_t, pi_t) to the next.

        c^a_t = mean_k < dQ/dpi^a (s_t + alpha_k ds, pi_t + alpha_k dpi), dpi^a >

    at the midpoints alpha_k = (k + 1/2) / K. With the state held, the c^a of a path add up to the
    difference of Q between its ends, up to the error of the midpoint rule.

    Args:
        critic: Q.
        path: E sequences.
        points: K.
        piece: steps of the path that are taken at once, to bound memory; None for all.

    Returns:
        Contributions [E, T, N], and what else Q changes by at each step, the state's share [E, T];
        both 0 where the episode ends.
    """
    alpha = (torch.arange(points, device=path.state.device) + 0.5) / points
    alpha = torch.cat((alpha.new_zeros(1), alpha, alpha.new_ones(1)))  # [K + 2], with both ends
    found = []
    columns = (path.state[:, :-1], path.state[:, 1:], path.policy[:, :-1], path.policy[:, 1:])
    size = piece or path.goes_on.numel()
    for state, next_state, policy, next_policy in zip(
        *(column.flatten(0, 1).split(size) for column in columns), strict=True
    ):
        states = torch.lerp(state.unsqueeze(1), next_state.unsqueeze(1), alpha.view(-1, 1))
        step = next_policy - policy  # [B, N, A]
        with torch.enable_grad():
            vectors = policy.unsqueeze(1) + alpha.view(-1, 1, 1) * step.unsqueeze(1)
            vectors = vectors.detach().requires_grad_()  # [B, K + 2, N, A]
            values = critic(states.flatten(0, 1), vectors.flatten(0, 1).unsqueeze(1))
            values = values.view(-1, points + 2)
            (gradient,) = torch.autograd.grad(values[:, 1:-1].mean(1).sum(), vectors)
        own = (gradient.sum(1) * step).sum(-1)  # [B, N]
        found.append((own, (values[:, -1] - values[:, 0]).detach() - own.sum(-1)))
    over = ~path.goes_on
    contributions, beside = (torch.cat(parts) for parts in zip(*found, strict=True))
    contributions = contributions.view(*over.shape, -1).masked_fill(over.unsqueeze(-1), 0.0)
    return contributions, beside.view_as(over).masked_fill(over, 0.0)


def over_windows(
    contributions: Tensor, is_first: Tensor, goes_on: Tensor, window: int | None
) -> Tensor:
    """For every step the contributions of its window, [E, T, N].

    An episode's last step has no contributions of its own: it is of the window before, however
    long that is.

    Args:
        contributions: [E, T, N].
        is_first: bool [E, T].
        goes_on: bool [E, T], whether the episode has a next step.
        window: steps per window, counted from the beginning of the episode or of the block; None
            for whole episodes.
    """
    begins = is_first
    if window is not None:
        t = torch.arange(is_first.shape[1], device=is_first.device)
        since = t - torch.where(is_first, t, 0).cummax(dim=1).values  # [E, T]
        begins = is_first | ((since % window == 0) & goes_on)
    totals, group = _totals(contributions, begins)
    return totals.gather(1, group)


def of_previous_episode(
    contributions: Tensor, is_first: Tensor, carried: Tensor
) -> tuple[Tensor, Tensor]:
    """For every step the contributions of the world's previous episode, [E, T, N].

    Args:
        contributions: [E, T, N].
        is_first: bool [E, T].
        carried: [2, E, N], from the block before: the contributions of the episode that was under
            way there, so far, and those of the episode before it. Random numbers at first.

    Returns:
        Those of each step, and what to carry into the next block.
    """
    totals, group = _totals(contributions, is_first)
    totals[:, 0] += carried[0]
    before = torch.cat((carried[1].unsqueeze(1), totals[:, :-1]), dim=1)
    scores = before.gather(1, group)
    return scores, torch.stack((totals.gather(1, group)[:, -1], scores[:, -1]))


def _totals(x: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
    """Sums [E, T + 1, N] of ``x`` over groups of steps, and each step's group, int [E, T, N].

    A group begins where ``begins`` says; group 0 is what was there before the first beginning.
    """
    group = begins.cumsum(dim=1).unsqueeze(-1).expand_as(x)
    worlds, steps, agents = x.shape
    return x.new_zeros(worlds, steps + 1, agents).scatter_add(1, group, x), group
