"""Central critics and their target copies."""

from __future__ import annotations

import torch

from rllib_seqmarl.nets.critics.joint import FactoredCritic, HypernetworkCritic, TargetCritic, held

B, K, N, A, S, E, D = 5, 4, 3, 2, 6, 8, 7


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


def test_factored_critic_is_the_formula() -> None:
    """q(o_i, i, v_i) of every agent, and elu(q |W1(s)| + b1(s)) . |w2(s)| + b2(s) of them."""
    torch.manual_seed(0)
    critic = FactoredCritic(D, S, N, A, 16, E)
    obs, state, vectors = torch.randn(B, N, D), torch.randn(B, S), torch.rand(B, K, N, A)
    values = critic(torch.cat((obs.flatten(1), state), dim=-1), vectors)
    mixer = critic.mixer
    for b in range(B):
        weight1 = mixer.weight1(state[b]).view(N, E).abs()
        for k in range(K):
            each = []
            for i in range(N):
                slot = torch.eye(N)[i]
                each.append(critic.agent_value(torch.cat((obs[b, i], slot, vectors[b, k, i]))))
            hidden = torch.cat(each) @ weight1 + mixer.bias1(state[b])
            hidden = torch.where(hidden > 0, hidden, hidden.exp() - 1)
            expected = hidden @ mixer.weight2(state[b]).abs() + mixer.bias2(state[b])
            torch.testing.assert_close(values[b, k], expected[0])


def test_factored_critic_is_monotone_in_every_agents_value() -> None:
    torch.manual_seed(0)
    mixer = FactoredCritic(D, S, N, A, 16, E).mixer
    state = 10 * torch.randn(1000, S)
    assert (mixer.weight1(state) < 0).any()
    assert (mixer.weight2(state) < 0).any()
    values = (10 * torch.randn(1000, K, N)).requires_grad_()
    (slope,) = torch.autograd.grad(mixer(state, values).sum(), values)
    assert (slope >= 0).all()
    assert slope.mean() > 0.1
    free = HypernetworkCritic(S, N, A, E, 16)
    vectors = torch.rand(1000, K, N, A, requires_grad=True)
    (slope,) = torch.autograd.grad(free(state, vectors).sum(), vectors)
    assert (slope < 0).any()


def test_gradients_pass_through_a_held_critic_and_stop_before_its_weights() -> None:
    critic = HypernetworkCritic(S, N, A, E, 16)
    state, vectors = torch.randn(B, S), torch.rand(B, K, N, A, requires_grad=True)
    values = critic(state, vectors)
    torch.testing.assert_close(held(critic)(state, vectors), values)
    (expected,) = torch.autograd.grad(values.sum(), vectors)
    held(critic)(state, vectors).sum().backward()
    torch.testing.assert_close(vectors.grad, expected)
    assert all(parameter.grad is None for parameter in critic.parameters())


def test_target_follows_when_it_is_time() -> None:
    critic = HypernetworkCritic(S, N, A, E, 16)
    target = TargetCritic(critic, interval=3)
    state, vectors = torch.randn(B, S), torch.rand(B, K, N, A)
    first = critic(state, vectors).detach()
    for step in range(1, 7):
        with torch.no_grad():
            for parameter in critic.parameters():
                parameter += 0.1
        target.follow(critic)
        now = critic(state, vectors).detach()
        if step % 3 == 0:
            first = now
        torch.testing.assert_close(target(state, vectors), first)
    assert target.updates == 6
    assert not any(parameter.requires_grad for parameter in target.parameters())


def test_target_and_its_count_are_saved() -> None:
    critic = HypernetworkCritic(S, N, A, E, 16)
    target = TargetCritic(critic, interval=3)
    target.follow(critic)
    other = TargetCritic(HypernetworkCritic(S, N, A, E, 16), interval=3)
    other.load_state_dict(target.state_dict())
    assert other.updates == 1
    state, vectors = torch.randn(B, S), torch.rand(B, K, N, A)
    torch.testing.assert_close(other(state, vectors), target(state, vectors))
