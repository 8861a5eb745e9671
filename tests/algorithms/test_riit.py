"""RIIT's two ways of learning, its gradient and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from helpers.learners import SHORT_GAME, build
from numpy.typing import NDArray
from ray import tune

from rllib_seqmarl import registry
from rllib_seqmarl.algorithms.riit import FactoredCritic
from rllib_seqmarl.envs.toy.distinct_actions import DistinctActions
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.central_q.module import RecurrentOutput
from rllib_seqmarl.nets.critics.joint import HypernetworkCritic
from rllib_seqmarl.rollout.rollout_batch import ALIVE

REPLAY = {"replay_capacity": 12, "replay_batch_size": 10}


B, K, N, A, S, E, D = 5, 4, 3, 2, 6, 8, 7


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


def test_critic_reads_living_agents_observations_and_the_state(small: Any) -> None:
    env_config = {"task": "cooperative_navigation", "state": True}
    algorithm, learner = build(small, "RIIT", env="mpe", env_config=env_config, state="environment")
    (rollout,) = algorithm.env_runner.sample()
    rollout.columns[ALIVE][:, :, 1] = False
    rows = learner.build_train_batch(rollout)
    obs, state = rows.obs.clone(), torch.from_numpy(rollout.columns["state"][:-1]).transpose(0, 1)
    obs[:, :, 1] = 0.0
    expected = torch.cat((obs.flatten(2), state), dim=-1)
    torch.testing.assert_close(rows.critic_state, expected)
    algorithm.stop()


def test_critic_loss_is_half_the_squared_error(small: Any) -> None:
    algorithm, learner = build(small, "RIIT")
    algorithm.train()
    rows = learner.build_train_batch(algorithm.env_runner.sample()[0])
    loss = learner.critic_loss(learner.prepare_minibatch(rows))
    state, critic = rows.critic_state, learner.core.critic
    taken = torch.nn.functional.one_hot(rows.actions, 3).float()
    errors = [
        rows.targets[e, t] - critic(state[e, t][None], taken[e, t][None, None]).squeeze()
        for e in range(taken.shape[0])
        for t in range(taken.shape[1])
    ]
    torch.testing.assert_close(loss, 0.5 * torch.stack(errors).square().mean())
    algorithm.stop()


def test_agents_follow_the_mixture(small: Any) -> None:
    """The chain rule: of the mixing network, of an agent's value, of its softmax."""
    algorithm, learner = build(small, "RIIT", entropy_coeff=0.0)
    algorithm.train()
    rows = learner.build_train_batch(algorithm.env_runner.sample()[0])
    batch = learner.prepare_minibatch(rows)
    logits = torch.randn(*rows.actions.shape, 3, requires_grad=True)
    policy = logits.softmax(-1)
    entropy = -torch.xlogy(policy, policy).sum(-1)
    forward = RecurrentOutput(torch.zeros(()), entropy, policy, logits)
    loss = learner.compute_loss_for_module(
        module_id="default_policy", config=learner.config, batch=batch, fwd_out=forward
    )
    (found,) = torch.autograd.grad(loss, logits)
    assert all(parameter.grad is None for parameter in learner.core.critic.parameters())

    critic, pi = learner.core.critic, policy.detach()
    obs, state = rows.critic_state.flatten(0, 1).split(critic.widths, dim=-1)
    vectors = pi.flatten(0, 1).unsqueeze(1).requires_grad_()
    values = critic.agent_values(obs, vectors)  # [E T, 1, N]
    (own,) = torch.autograd.grad(values.sum(), vectors)  # dq_i / dv_i
    values = values.detach().requires_grad_()
    (share,) = torch.autograd.grad(critic.mixer(state, values).sum(), values)  # dQ / dq_i
    assert (share >= 0).all()
    slope = (share.unsqueeze(-1) * own).view_as(pi)
    slope = pi * (slope - (pi * slope).sum(-1, keepdim=True))
    torch.testing.assert_close(found, -slope / rows.targets.numel(), atol=1e-7, rtol=1e-4)
    algorithm.stop()


def test_targets_of_stored_sequences_are_those_of_fresh_ones(small: Any) -> None:
    """With the same networks; truncated and cut episodes among them."""
    algorithm, learner = build(small, "RIIT", **REPLAY, gamma=0.9)
    (rollout,) = algorithm.env_runner.sample()
    assert rollout.final is not None or rollout.columns["terminated"].any()
    learner.on_rollout(rollout)
    fresh = learner.build_train_batch(rollout, lambda_=0.0)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    stored = learner.build_train_batch(
        learner.store.draw(8, torch.Generator().manual_seed(3)), lambda_=0.0
    )
    torch.testing.assert_close(stored.obs, fresh.obs[order])
    torch.testing.assert_close(stored.targets, fresh.targets[order])
    ordinary = learner.build_train_batch(rollout).targets
    assert not torch.allclose(ordinary, fresh.targets)  # lambda is 0.6 there

    taken = torch.nn.functional.one_hot(fresh.actions, 3).float().flatten(0, 1)
    with torch.no_grad():
        state = fresh.critic_state.flatten(0, 1)
        values = learner.core.target(state, taken.unsqueeze(1)).view(8, 10)
    reward = torch.from_numpy(rollout.columns["reward"]).T.float()
    terminated = torch.from_numpy(rollout.columns["terminated"]).T
    truncated = torch.from_numpy(rollout.columns["truncated"]).T
    one_step = reward[:, :-1] + 0.9 * values[:, 1:] * ~terminated[:, :-1]
    inside = ~truncated[:, :-1]
    assert inside.any()
    torch.testing.assert_close(fresh.targets[:, :-1][inside], one_step[inside])
    algorithm.stop()


def test_replay_is_a_step_of_the_critic_alone_before_each_minibatch(small: Any) -> None:
    algorithm, learner = build(small, "RIIT", **REPLAY, minibatch_size=40)
    steps: list[tuple[str, int]] = []
    gradient_step = learner.gradient_step

    def record(minibatch: Any, loss: Any) -> None:
        before = {k: v.clone() for k, v in learner.core.named_parameters()}
        gradient_step(minibatch, loss)
        now = learner.core.named_parameters()
        changed = {k.split(".")[0] for k, v in now if not torch.equal(v, before[k])}
        steps.append((changed.pop(), len(minibatch.actions)))
        assert not changed

    learner.gradient_step = record
    terms = algorithm.train()["learners"]["default_policy"]
    ordinary = [("critic", 4), ("agent", 4)]
    assert steps == ordinary * 2  # eight sequences are stored, and ten make a batch
    assert "replay_vf_loss" not in terms
    steps.clear()
    terms = algorithm.train()["learners"]["default_policy"]
    assert steps == [("critic", 10), *ordinary] * 2
    assert np.isfinite(terms["replay_vf_loss"])
    assert len(learner.store) == 12
    assert learner.core.target.env_steps == 160
    for name, value in learner.core.critic.state_dict().items():
        torch.testing.assert_close(learner.core.target.critic.state_dict()[name], value)
    algorithm.stop()


def test_without_replay_nothing_is_stored(small: Any) -> None:
    algorithm, learner = build(small, "RIIT")
    algorithm.train()
    assert len(learner.store) == 0
    assert learner.replayed() is None
    algorithm.stop()


def test_two_learners_replay_together(small: Any) -> None:
    """Four sequences of the nine go to one and five to the other: both wait for the first's."""
    algorithm = small(
        "RIIT",
        env_config=SHORT_GAME,
        num_learners=2,
        num_envs_per_env_runner=9,
        num_epochs=1,
        replay_capacity=50,
        replay_batch_size=5,
    ).build_algo()
    first = algorithm.train()["learners"]["default_policy"]
    assert "replay_vf_loss" not in first
    second = algorithm.train()["learners"]["default_policy"]
    assert np.isfinite(second["replay_vf_loss"])
    sizes = algorithm.learner_group.foreach_learner(lambda learner: len(learner.store))
    assert sorted(size.get() for size in sizes) == [8, 10]
    algorithm.stop()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replay_capacity": 5, "replay_batch_size": 6}, "holds no replay_batch_size .6. sequ"),
        ({"replay_capacity": -5}, "'replay_capacity' must not be negative"),
        ({"replay_capacity": 1.5}, "'replay_capacity' must be a whole number"),
        ({"replay_batch_size": 0}, "'replay_batch_size' must be above 0"),
        ({"hypernet_dim": 64}, "unknown config key 'hypernet_dim'"),
        ({"critic_dim": 0}, "'critic_dim' must be above 0"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusals(settings: dict[str, Any], message: str, small: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(small, "RIIT", **settings)
    assert "\n" not in str(caught.value)


class OwnActions(DistinctActions):
    """Paid is the part of the agents whose action is the number of their slot: a monotone game."""

    def _distinct_ratio(self, actions: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray((actions == np.arange(self.num_agents)).mean(axis=1))


def own_actions(context: Mapping[str, Any]) -> OwnActions:
    config = registry.environment("distinct_actions").read({"num_agents": 3, "reward": "fraction"})
    return OwnActions(context["num_envs"], config)


@pytest.mark.parametrize("replay", [False, True], ids=["online", "replay"])
def test_learns_what_a_monotone_mixture_can_say(replay: bool, small: Any) -> None:
    tune.register_env("own_actions", own_actions)
    settings = {
        "num_envs_per_env_runner": 32,
        "lr": 1e-2,
        "critic_lr": 5e-3,
        "critic_steps": 16,
        "entropy_coeff": 0.003,
        "hidden_dim": 32,
        "critic_dim": 32,
        "seed": 0,
        "metrics_num_episodes_for_smoothing": 300,
    }
    if replay:
        settings |= {"replay_capacity": 200, "replay_batch_size": 32}
    algorithm, _ = build(small, "RIIT", env="own_actions", env_config=None, **settings)
    returns = [algorithm.train()["env_runners"]["episode_return_mean"] for _ in range(40)]
    algorithm.stop()
    assert returns[0] < 0.45
    assert returns[-1] > 0.9
