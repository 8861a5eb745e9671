"""Recurrent agents: acting step by step and learning from unrolled sequences are one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rllib_seqmarl.nets.agents.recurrent import (
    HIDDEN,
    PREVIOUS_ACTIONS,
    RecurrentAgent,
    previous_actions,
)

B, T, N, D, A, H = 4, 9, 3, 5, 4, 8


@pytest.fixture
def agent() -> RecurrentAgent:
    torch.manual_seed(0)
    return RecurrentAgent(D, A, N, H)


def state(agent: RecurrentAgent, scale: float = 0.0) -> dict[str, Tensor]:
    start = {k: v.expand(B, *v.shape) for k, v in agent.initial_state().items()}
    return start | {HIDDEN: start[HIDDEN] + scale * torch.randn(B, N, H)}


def play(agent: RecurrentAgent, is_first: Tensor, start: dict[str, Tensor]) -> dict[str, Tensor]:
    """T steps of acting: what a rollout stores, [B, T, ...]."""
    generator = torch.Generator().manual_seed(1)
    columns: dict[str, list[Tensor]] = {"obs": [], "mask": [], "actions": [], "log_prob": []}
    now = start
    for t in range(T):
        obs = torch.randn(B, N, D, generator=generator)
        mask = torch.rand(B, N, A, generator=generator) < 0.7
        mask[..., 0] = True
        actions, log_prob, now = agent.act(
            obs, mask, now, is_first[:, t], deterministic=False, generator=generator
        )
        for name, value in zip(columns, (obs, mask, actions, log_prob), strict=True):
            columns[name].append(value)
    return {k: torch.stack(v, dim=1) for k, v in columns.items()} | {"last": now[HIDDEN]}


def boundaries() -> Tensor:
    """bool [B, T]: episodes that begin anywhere, env 0's at row 0, env 1's nowhere."""
    is_first = torch.rand(B, T, generator=torch.Generator().manual_seed(2)) < 0.3
    is_first[:, 0] = torch.tensor([True, False, True, False])
    is_first[1] = False
    return is_first


def unroll(agent: RecurrentAgent, c: dict[str, Tensor], is_first: Tensor, start: dict) -> Tensor:
    before = previous_actions(c["actions"], start[PREVIOUS_ACTIONS])
    unrolled = agent.unroll(c["obs"], before, start[HIDDEN], is_first)
    torch.testing.assert_close(unrolled.hidden[:, -1], c["last"])
    return agent.distribution.log_prob(unrolled.logits, c["mask"], c["actions"])


def test_unrolled_log_probs_are_those_of_acting(agent: RecurrentAgent) -> None:
    is_first, start = boundaries(), state(agent, scale=1.0)
    columns = play(agent, is_first, start)
    torch.testing.assert_close(unroll(agent, columns, is_first, start), columns["log_prob"])


def test_nothing_of_an_episode_reaches_the_next(agent: RecurrentAgent) -> None:
    """Neither its state, its observations nor its last action; infinite garbage included."""
    is_first, start = boundaries(), state(agent)
    columns = play(agent, is_first, start)
    expected = unroll(agent, columns, is_first, start)
    t = int(is_first[0, 1:].nonzero()[0]) + 1
    corrupted = {k: v.clone() for k, v in columns.items()}
    corrupted["obs"][0, :t] = float("inf")
    corrupted["actions"][0, :t] = (corrupted["actions"][0, :t] + 1) % A
    start[HIDDEN] = start[HIDDEN].clone()
    start[HIDDEN][0] = float("nan")
    found = unroll(agent, corrupted, is_first, start)
    torch.testing.assert_close(found[0, t:], expected[0, t:], atol=0, rtol=0)


def test_the_past_of_an_episode_counts(agent: RecurrentAgent) -> None:
    is_first, start = torch.zeros(B, T, dtype=torch.bool), state(agent, scale=1.0)
    columns = play(agent, is_first, start)
    for name in ("obs", "actions"):
        changed = {k: v.clone() for k, v in columns.items()}
        changed[name][:, 0] = (changed[name][:, 0] + 1) % A
        before = previous_actions(changed["actions"], start[PREVIOUS_ACTIONS])
        logits = agent.unroll(changed["obs"], before, start[HIDDEN], is_first).logits
        same = previous_actions(columns["actions"], start[PREVIOUS_ACTIONS])
        expected = agent.unroll(columns["obs"], same, start[HIDDEN], is_first).logits
        assert (logits - expected).abs()[:, 1:].amax((2, 3)).min() > 1e-7


def test_agents_do_not_see_each_other_but_differ(agent: RecurrentAgent) -> None:
    obs = torch.randn(B, 1, D).expand(B, N, D).clone()
    first = torch.ones(B, dtype=torch.bool)
    logits, _ = agent.step(obs, state(agent), first)
    assert (logits[:, 0] - logits[:, 1]).abs().min() > 0  # their slots differ
    obs[:, 0] += 1.0
    changed, _ = agent.step(obs, state(agent), first)
    torch.testing.assert_close(changed[:, 1:], logits[:, 1:], atol=0, rtol=0)


def test_gradient_flows_through_time_within_an_episode_only(agent: RecurrentAgent) -> None:
    obs = torch.randn(1, T, N, D, requires_grad=True)
    is_first = torch.zeros(1, T, dtype=torch.bool)
    is_first[0, 4] = True
    actions = torch.zeros(1, T, N, dtype=torch.long)
    logits = agent.unroll(obs, actions, torch.zeros(1, N, H), is_first).logits
    (gradient,) = torch.autograd.grad(logits[0, -1].sum(), obs)
    assert (gradient[0, :4] == 0).all()
    assert (gradient[0, 4:].abs().amax((1, 2)) > 0).all()
