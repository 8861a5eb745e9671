"""Contributions along a path: completeness, windows and previous episodes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rllib_seqmarl.algorithms.seca import of_previous_episode, over_windows, path_contributions
from rllib_seqmarl.learning.central_q.module import Path
from rllib_seqmarl.nets.critics.joint import HypernetworkCritic, JointCritic

E, T, N, A, S = 3, 8, 3, 4, 5


class Quadratic(JointCritic):
    """A smooth critic, for which the midpoint rule is exact: it has no third derivative."""

    def forward(self, state: Tensor, joint_actions: Tensor) -> Tensor:
        x = joint_actions.flatten(2)
        return (x.square() * torch.arange(x.shape[-1])).sum(-1) + x.sum(-1) * state[:, :1]


def path(constant_state: bool) -> Path:
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(E, T + 1, S, generator=generator)
    state = state[:, :1].expand(E, T + 1, S) if constant_state else state
    policy = (2.0 * torch.randn(E, T + 1, N, A, generator=generator)).softmax(-1)
    return Path(state, policy, torch.ones(E, T, dtype=torch.bool))


def change(critic: JointCritic, path: Path) -> Tensor:
    """Q at the end of each sequence minus Q at its beginning, [E]."""
    ends = [critic(path.state[:, t], path.policy[:, t].unsqueeze(1))[:, 0] for t in (0, -1)]
    return ends[1] - ends[0]


def test_completeness_is_exact_for_a_quadratic_with_a_constant_state() -> None:
    one = path(constant_state=True)
    contributions, beside = path_contributions(Quadratic(), one, points=1)
    torch.testing.assert_close(contributions.sum((1, 2)), change(Quadratic(), one))
    assert beside.abs().max() < 1e-4


@pytest.mark.parametrize(("points", "tolerance"), [(5, 0.1), (200, 0.01)])
def test_completeness_of_the_critic_with_a_constant_state(points: int, tolerance: float) -> None:
    """Up to the kinks of its relu: relative to the change along the path."""
    torch.manual_seed(0)
    critic, one = HypernetworkCritic(S, N, A, 32, 16), path(constant_state=True)
    contributions, beside = path_contributions(critic, one, points)
    whole = change(critic, one)
    scale = (beside + contributions.sum(-1)).abs().sum(1)  # length of the path in Q
    error = (contributions.sum((1, 2)) - whole).abs() / scale
    assert error.max() < tolerance
    assert whole.abs().max() > 1e-3


def test_what_agents_do_not_contribute_is_the_states_share() -> None:
    torch.manual_seed(0)
    critic, one = HypernetworkCritic(S, N, A, 32, 16), path(constant_state=False)
    contributions, beside = path_contributions(critic, one, points=5)
    torch.testing.assert_close((contributions.sum(-1) + beside).sum(1), change(critic, one))
    still = one._replace(policy=one.policy[:, :1].expand_as(one.policy))
    contributions, beside = path_contributions(critic, still, points=5)
    assert (contributions == 0).all()
    assert beside.abs().max() > 1e-3


def test_an_agent_the_critic_ignores_contributes_nothing() -> None:
    class IgnoresAgent1(Quadratic):
        def forward(self, state: Tensor, joint_actions: Tensor) -> Tensor:
            attended = joint_actions.clone()
            attended[:, :, 1] = 0.0
            return super().forward(state, attended)

    contributions, _ = path_contributions(IgnoresAgent1(), path(constant_state=False), points=3)
    assert (contributions[..., 1] == 0).all()
    assert (contributions[..., [0, 2]] != 0).all()


def test_parts_and_ends_of_episodes() -> None:
    one = path(constant_state=False)
    one.not_done[1, 3] = False
    whole = path_contributions(Quadratic(), one, points=3)
    parts = path_contributions(Quadratic(), one, points=3, steps_at_once=5)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b)
        assert (a[1, 3] == 0).all()
        assert (a[1, 4] != 0).any()


IS_FIRST = torch.tensor([[0, 0, 1, 0, 0, 0, 0, 1]]).bool()
NOT_DONE = torch.tensor([[1, 0, 1, 1, 1, 1, 0, 1]]).bool()
C = (10.0 ** torch.arange(8)).masked_fill(~NOT_DONE, 0.0).view(1, 8, 1)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (None, [1e0, 1e0, *[1e2 + 1e3 + 1e4 + 1e5] * 5, 1e7]),
        (1, [1e0, 1e0, 1e2, 1e3, 1e4, 1e5, 1e5, 1e7]),
        (2, [1e0, 1e0, *[1e2 + 1e3] * 2, *[1e4 + 1e5] * 3, 1e7]),
        (3, [1e0, 1e0, *[1e2 + 1e3 + 1e4] * 3, *[1e5] * 2, 1e7]),
    ],
)
def test_windows_stay_within_their_episode(window: int | None, expected: list[float]) -> None:
    """The last step, which has no path of its own, belongs to the window before it."""
    scores = over_windows(C, IS_FIRST, NOT_DONE, window)
    assert scores.flatten().tolist() == expected


def test_previous_episodes_reach_across_rollouts() -> None:
    """In one rollout or cut in two, every step is scored by the episode before."""
    before = torch.tensor([[[0.5]], [[0.25]]])
    whole, after = of_previous_episode(C, IS_FIRST, before)
    own = [1e2 + 1e3 + 1e4 + 1e5]
    assert whole.flatten().tolist() == [0.25, 0.25, *[1.5] * 5, *own]
    assert after.flatten().tolist() == [1e7, *own]
    for cut in range(1, 8):
        first, between = of_previous_episode(C[:, :cut], IS_FIRST[:, :cut], before)
        second, last = of_previous_episode(C[:, cut:], IS_FIRST[:, cut:], between)
        torch.testing.assert_close(torch.cat((first, second), dim=1), whole)
        torch.testing.assert_close(last, after)
