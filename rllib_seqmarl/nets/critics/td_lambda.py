"""What a central critic of action values is regressed on. Pure torch; T steps, E envs, N agents."""

from __future__ import annotations

import torch
from torch import Tensor


def td_lambda(
    rewards: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    gamma: float,
    lambda_: float,
    time_limit: str = "bootstrap",
) -> Tensor:
    """TD(lambda) targets of an action value (SeCA, eq. 12; COMA, LICA), T along the first axis.

        y_t = r_t + gamma [lambda y_{t+1} + (1 - lambda) Q(s_{t+1}, u_{t+1})]

    with y_{t+1} = Q(s_{t+1}, u_{t+1}) where what came after step t was not observed: at the last
    row, and where an episode was truncated. A terminated step has no future: y_t = r_t.

    Args:
        rewards: [T, E] of the team, or [T, E, N].
        next_values: Q of the state that followed step t and of the action taken there (or of what
            stands for it), [T, E] or [T, E, N]; at a truncated step, of the episode's final state.
        terminated: bool [T, E].
        truncated: bool [T, E].
        gamma: discount.
        lambda_: 0 gives one-step targets, 1 the returns.
        time_limit: ``bootstrap``, or ``terminate`` to take a truncated step for a terminated one.

    Returns:
        y, of the shape of ``next_values``.

    Raises:
        ValueError: ``time_limit`` is ``drop``, which leaves a step without a target.
    """
    if time_limit == "drop":
        raise ValueError("td_lambda gives every step a target; none can be dropped.")
    extra = (1,) * (next_values.ndim - terminated.ndim)
    end = terminated | truncated if time_limit == "terminate" else terminated
    discount = gamma * (~end).to(next_values.dtype)  # [T, E]
    trace = lambda_ * (~truncated).to(next_values.dtype)
    rewards = rewards.view(*rewards.shape, *(1,) * (next_values.ndim - rewards.ndim))
    targets = torch.empty_like(next_values)
    next_target = next_values[-1]
    for t in range(len(next_values) - 1, -1, -1):
        # lambda y_{t+1} + (1 - lambda) Q_{t+1}; Q_{t+1} alone at a truncation.
        future = torch.lerp(next_values[t], next_target, trace[t].view(-1, *extra))
        next_target = targets[t] = rewards[t] + discount[t].view(-1, *extra) * future
    return targets
