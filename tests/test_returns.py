"""Generalised advantages against their definition."""

import numpy as np
import pytest
import torch
from torch import Tensor

from rllib_seqmarl.returns import generalized_advantages

T, E, N = 7, 3, 2
GAMMA, LAMBDA = 0.9, 0.8


def rollout(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(T, E, generator=generator)
    return {
        "rewards": torch.randn(T, E, generator=generator),
        "values": torch.randn(T, E, N, generator=generator),
        "next_values": torch.randn(T, E, N, generator=generator),
        "terminated": draw < 0.15,
        "truncated": (draw > 0.15) & (draw < 0.35),
    }


def estimate(r: dict[str, Tensor], **settings: object) -> Tensor:
    return generalized_advantages(**r, gamma=GAMMA, lambda_=LAMBDA, **settings)  # type: ignore[arg-type]


def definition(r: dict[str, Tensor]) -> np.ndarray:
    """The sum of (gamma lambda)^l delta_{t+l} up to the end of the episode, term by term."""
    x = {name: value.numpy() for name, value in r.items()}
    advantages = np.zeros((T, E, N))
    for t in range(T):
        for e in range(E):
            for n in range(N):
                for step in range(t, T):
                    future = 0.0 if x["terminated"][step, e] else x["next_values"][step, e, n]
                    delta = x["rewards"][step, e] + GAMMA * future - x["values"][step, e, n]
                    advantages[t, e, n] += (GAMMA * LAMBDA) ** (step - t) * delta
                    if x["terminated"][step, e] or x["truncated"][step, e]:
                        break
    return advantages


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(seed: int) -> None:
    r = rollout(seed)
    np.testing.assert_allclose(estimate(r).numpy(), definition(r), atol=1e-5)


def test_lambda_one_is_the_discounted_return_minus_the_value() -> None:
    r = rollout()
    r["terminated"] = torch.zeros(T, E, dtype=torch.bool)
    r["truncated"] = torch.zeros(T, E, dtype=torch.bool)
    r["next_values"][:-1] = r["values"][1:]
    advantages = generalized_advantages(**r, gamma=GAMMA, lambda_=1.0)
    discounts = GAMMA ** torch.arange(T)
    returns = (discounts[:, None] * r["rewards"]).sum(0)[:, None]
    returns = returns + GAMMA**T * r["next_values"][-1]
    torch.testing.assert_close(advantages[0] + r["values"][0], returns)


def test_terminate_takes_a_truncation_for_a_termination() -> None:
    r = rollout()
    merged = dict(r, terminated=r["terminated"] | r["truncated"], truncated=r["truncated"] & False)
    torch.testing.assert_close(estimate(r, time_limit="terminate"), estimate(merged))


def test_drop_leaves_truncated_steps_out() -> None:
    r = rollout()
    advantages = estimate(r, time_limit="drop")
    assert (advantages[r["truncated"]] == 0).all()
    assert (advantages[~r["truncated"]] != 0).all()


def test_rewards_may_be_per_agent() -> None:
    r = rollout()
    team = estimate(r)
    r["rewards"] = r["rewards"].unsqueeze(-1).expand(T, E, N)
    torch.testing.assert_close(estimate(r), team)
