"""Central critics and their target copies."""

from __future__ import annotations

import torch

from rllib_seqmarl.nets.critics.joint import HypernetworkCritic, TargetCritic, fixed

B, K, N, A, S, E = 5, 4, 3, 2, 6, 8


def test_mixing_network_is_the_formula() -> None:
    """Q = relu(v W1(s) + b1(s)) . w2(s) + b2(s), for every joint action by itself."""
    torch.manual_seed(0)
    critic = HypernetworkCritic(S, N, A, E, 16)
    state, vectors = torch.randn(B, S), torch.rand(B, K, N, A)
    values = critic(state, vectors)
    for b in range(B):
        weight1 = critic.mixer.weight1(state[b]).view(N * A, E)
        for k in range(K):
            hidden = torch.relu(vectors[b, k].flatten() @ weight1 + critic.mixer.bias1(state[b]))
            expected = hidden @ critic.mixer.weight2(state[b]) + critic.mixer.bias2(state[b])
            torch.testing.assert_close(values[b, k], expected[0])


def test_width_of_the_hypernetwork() -> None:
    assert HypernetworkCritic(S, N, A, E, 16).mixer.weight1[0].out_features == 16
    assert HypernetworkCritic(S, N, A, E, None).mixer.weight1[0].out_features == N * A * E


def test_gradients_pass_through_a_fixed_critic_and_stop_before_its_weights() -> None:
    critic = HypernetworkCritic(S, N, A, E, 16)
    state, vectors = torch.randn(B, S), torch.rand(B, K, N, A, requires_grad=True)
    values = critic(state, vectors)
    torch.testing.assert_close(fixed(critic)(state, vectors), values)
    (expected,) = torch.autograd.grad(values.sum(), vectors)
    fixed(critic)(state, vectors).sum().backward()
    torch.testing.assert_close(vectors.grad, expected)
    assert all(parameter.grad is None for parameter in critic.parameters())


def test_target_is_updated_at_multiples_of_the_interval() -> None:
    critic = HypernetworkCritic(S, N, A, E, 16)
    target = TargetCritic(critic)
    state, vectors = torch.randn(B, S), torch.rand(B, K, N, A)
    first = critic(state, vectors).detach()
    for env_steps, is_copied in ((80, False), (160, True), (240, True), (320, False), (800, True)):
        with torch.no_grad():
            for parameter in critic.parameters():
                parameter += 0.1
        target.update_target(critic, env_steps, interval=120)
        now = critic(state, vectors).detach()
        if is_copied:
            first = now
        torch.testing.assert_close(target(state, vectors), first)
    assert target.env_steps == 800
    assert not any(parameter.requires_grad for parameter in target.parameters())


def test_target_and_its_count_are_saved() -> None:
    critic = HypernetworkCritic(S, N, A, E, 16)
    target = TargetCritic(critic)
    target.update_target(critic, 80, interval=3)
    other = TargetCritic(HypernetworkCritic(S, N, A, E, 16))
    other.load_state_dict(target.state_dict())
    assert other.env_steps == 80
    state, vectors = torch.randn(B, S), torch.rand(B, K, N, A)
    torch.testing.assert_close(other(state, vectors), target(state, vectors))


def test_where_the_steps_are_not_known_the_first_update_only_notes_them() -> None:
    """So it is after a checkpoint of version 0.2, which counted gradient steps of the critic."""
    critic = HypernetworkCritic(S, N, A, E, 16)
    target = TargetCritic(HypernetworkCritic(S, N, A, E, 16))
    target.env_steps.fill_(-1)
    before = [parameter.clone() for parameter in target.parameters()]
    target.update_target(critic, 5000, interval=1000)
    assert all(map(torch.equal, target.parameters(), before))
    target.update_target(critic, 6000, interval=1000)
    assert all(map(torch.equal, target.parameters(), critic.parameters()))
