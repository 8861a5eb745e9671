"""Generalised advantages against their definition."""

import numpy as np
import pytest
import torch
from torch import Tensor

from rllib_seqmarl.nets.critics.td_lambda import td_lambda
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


def test_rewards_of_every_agent_by_hand() -> None:
    """gamma = lambda = 1/2; deltas 3/2 and -2 of one agent, -3/2 and 6 of the other."""
    advantages = generalized_advantages(
        rewards=torch.tensor([[[1.0, 0.0]], [[0.0, 4.0]]]),
        values=torch.tensor([[[1.0, 2.0]], [[3.0, 1.0]]]),
        next_values=torch.tensor([[[3.0, 1.0]], [[2.0, 6.0]]]),
        terminated=torch.tensor([[False], [False]]),
        truncated=torch.tensor([[False], [True]]),
        gamma=0.5,
        lambda_=0.5,
    )
    assert advantages.tolist() == [[[1.0, 0.0]], [[-2.0, 6.0]]]


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


# --- A2PO's correction --------------------------------------------------------------------------


def test_a_trace_of_ones_changes_nothing() -> None:
    r = rollout()
    torch.testing.assert_close(estimate(r, trace=torch.ones(T, E, N)), estimate(r), rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("time_limit", ["bootstrap", "drop"])
def test_the_trace_is_the_double_sum_of_a2po(seed: int, time_limit: str) -> None:
    """A_t = delta_t + sum_k gamma^k (prod_{j=1..k} lambda c_{t+j}) delta_{t+k} of one episode."""
    r = rollout(seed)
    generator = torch.Generator().manual_seed(seed)
    trace = torch.rand(T, E, N, generator=generator).mul(2.0).clamp(max=1.0)
    found = estimate(r, trace=trace, time_limit=time_limit)
    x = {name: value.numpy() for name, value in r.items()}
    c = trace.numpy()
    for t, e, n in np.ndindex(T, E, N):
        expected, weight = 0.0, 1.0
        for step in range(t, T):
            if step > t:
                weight *= GAMMA * LAMBDA * c[step, e, n]
            future = 0.0 if x["terminated"][step, e] else x["next_values"][step, e, n]
            delta = x["rewards"][step, e] + GAMMA * future - x["values"][step, e, n]
            if not (time_limit == "drop" and x["truncated"][step, e]):
                expected += weight * delta
            if x["terminated"][step, e] or x["truncated"][step, e]:
                break
        assert found[t, e, n].item() == pytest.approx(expected, abs=1e-5)
    one_for_all = trace[..., :1]
    torch.testing.assert_close(
        estimate(r, trace=one_for_all), estimate(r, trace=one_for_all.expand(T, E, N))
    )


# --- TD(lambda) ---------------------------------------------------------------------------------


def targets(r: dict[str, Tensor], lambda_: float, **settings: str) -> Tensor:
    kept = {k: r[k] for k in ("rewards", "next_values", "terminated", "truncated")}
    return td_lambda(**kept, gamma=GAMMA, lambda_=lambda_, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(4))
def test_td_lambda_is_a_mixture_of_n_step_returns(seed: int) -> None:
    """y_t = (1 - lambda) sum_n lambda^{n-1} G_n, the last of which has the weight of the rest."""
    r = rollout(seed)
    found = targets(r, LAMBDA)
    x = {k: v.numpy() for k, v in r.items()}
    for t in range(T):
        for e in range(E):
            for n in range(N):
                mixture, weight, rewards = 0.0, 1.0, 0.0
                for k in range(t, T):
                    rewards += GAMMA ** (k - t) * x["rewards"][k, e]
                    end = x["terminated"][k, e]
                    future = 0.0 if end else GAMMA ** (k - t + 1) * x["next_values"][k, e, n]
                    last = end or x["truncated"][k, e] or k == T - 1
                    mixture += weight * (1.0 if last else 1.0 - LAMBDA) * (rewards + future)
                    weight *= LAMBDA
                    if last:
                        break
                assert found[t, e, n].item() == pytest.approx(mixture, abs=1e-4)


def test_td_lambda_zero_looks_one_step_ahead() -> None:
    r = rollout()
    future = torch.where(r["terminated"].unsqueeze(-1), 0.0, GAMMA * r["next_values"])
    torch.testing.assert_close(targets(r, 0.0), r["rewards"].unsqueeze(-1) + future)


def test_td_lambda_one_is_the_return() -> None:
    """No value counts but that of the state in which the watching ended."""
    r = rollout()
    ends = r["terminated"] | r["truncated"]
    expected, following = torch.empty(T, E, N), r["next_values"][-1]
    for t in reversed(range(T)):
        following = torch.where(r["truncated"][t].unsqueeze(-1), r["next_values"][t], following)
        following = torch.where(r["terminated"][t].unsqueeze(-1), 0.0, GAMMA * following)
        following = expected[t] = r["rewards"][t].unsqueeze(-1) + following
    torch.testing.assert_close(targets(r, 1.0), expected)
    unseen = ~ends
    unseen[-1] = False
    r["next_values"][unseen] = 1e6
    torch.testing.assert_close(targets(r, 1.0), expected)


def test_td_lambda_bootstraps_at_a_truncation_and_not_at_a_termination() -> None:
    r = rollout()
    before = targets(r, LAMBDA)
    r["next_values"][r["terminated"]] += 5.0
    torch.testing.assert_close(targets(r, LAMBDA), before)
    r["next_values"][r["truncated"]] += 5.0
    moved = targets(r, LAMBDA) - before
    truncated = r["truncated"].unsqueeze(-1).expand_as(moved)
    torch.testing.assert_close(moved[truncated], torch.full_like(moved[truncated], 5.0 * GAMMA))


def test_td_lambda_takes_time_limits_as_it_is_told() -> None:
    r = rollout()
    merged = dict(r, terminated=r["terminated"] | r["truncated"], truncated=r["truncated"] & False)
    torch.testing.assert_close(targets(r, LAMBDA, time_limit="terminate"), targets(merged, LAMBDA))
    with pytest.raises(ValueError, match="none can be dropped"):
        targets(r, LAMBDA, time_limit="drop")


def test_td_lambda_of_the_team_has_no_agent_axis() -> None:
    r = rollout()
    whole = targets(r, LAMBDA)
    r["next_values"] = r["next_values"][..., 0]
    torch.testing.assert_close(targets(r, LAMBDA), whole[..., 0])
