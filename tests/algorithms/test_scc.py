"""SCC's two modes, its critic and its coalitions; that both modes learn."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers.learners import build, gradients
from torch import Tensor

from rllib_seqmarl.algorithms.scc import GroupedCritic
from rllib_seqmarl.errors import UserError

VALUE = {"mode": "value", "entropy_coeff": 0.0, "lambda_": 0.0}


def minibatch_of(algorithm: Any, learner: Any) -> dict[str, Tensor]:
    rows = learner.build_train_batch(algorithm.env_runner.sample()[0])
    return learner.prepare_minibatch(rows)


def exact_credit(learner: Any, batch: Any, absent: str = "zeros") -> Tensor:
    """phi, [E, T, N], by the paper's sum over all coalitions without the agent."""
    agents = batch.actions.shape[-1]
    slots = range(agents)
    coalitions = [set(c) for n in range(agents + 1) for c in itertools.combinations(slots, n)]
    credit = torch.zeros(batch.actions.shape)
    with torch.no_grad():
        policy = learner.core.forward_train(batch).policy
        for e, t in np.ndindex(*batch.actions.shape[:2]):
            taken = torch.eye(3)[batch.actions[e, t]]
            away = policy[e, t] if absent == "policy" else torch.zeros(agents, 3)
            vectors = [
                torch.stack([(taken if i in c else away)[i] for i in slots]) for c in coalitions
            ]
            values = learner.core.critic(batch.critic_state[e, t][None], torch.stack(vectors)[None])
            worth = {frozenset(c): q for c, q in zip(coalitions, values[0], strict=True)}
            for i in slots:
                for c in coalitions:
                    if i not in c:
                        orders = math.factorial(len(c)) * math.factorial(agents - 1 - len(c))
                        gain = worth[frozenset(c | {i})] - worth[frozenset(c)]
                        credit[e, t, i] += orders / math.factorial(agents) * gain
    return credit


def test_critic_is_the_formula() -> None:
    """Without groups the layers see all agents; with them each agent has those of its group."""
    torch.manual_seed(0)
    batch, count, agents, actions, obs = 2, 3, 3, 4, 5
    state, joint = torch.randn(batch, agents * obs), torch.rand(batch, count, agents, actions)
    whole = GroupedCritic(agents * obs, agents, actions, 8, None)
    grouped = GroupedCritic(agents * obs, agents, actions, 8, [1, 2])
    for b in range(batch):
        for k in range(count):
            x = torch.cat((state[b], joint[b, k].flatten()))
            expected = whole.value(whole.layers[0](x))[0]
            torch.testing.assert_close(whole(state, joint)[b, k], expected)
            hidden = [
                grouped.layers[min(i, 1)](torch.cat((o, joint[b, k, i])))
                for i, o in enumerate(state[b].view(agents, obs))
            ]
            expected = grouped.value(torch.cat(hidden))[0]
            torch.testing.assert_close(grouped(state, joint)[b, k], expected)


@pytest.mark.parametrize("absent", ["zeros", "policy"])
def test_policy_mode_is_the_score_function_of_credits(absent: str, small: Any) -> None:
    settings = {"num_coalitions": None, "absent": absent, "entropy_coeff": 0.1}
    algorithm, learner = build(small, "SCC", **settings, micro_batch_size=30)
    algorithm.train()
    batch = minibatch_of(algorithm, learner)
    core = learner.core
    core.zero_grad()
    for piece in learner.micro_batches(batch):
        learner.loss(piece).backward()
    found = gradients(learner, "agent")
    assert gradients(learner, "critic") == {}
    core.zero_grad()
    forward = core.forward_train(batch)
    credit = exact_credit(learner, batch, absent)
    objective = forward.log_prob[..., 0] * credit + 0.1 * forward.entropy
    (-objective.mean()).backward()
    for name, gradient in gradients(learner, "agent").items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-3)
    algorithm.stop()


def test_value_mode_is_the_squared_distance_to_credits(small: Any) -> None:
    algorithm, learner = build(small, "SCC", **VALUE, num_coalitions=None, epsilon=0.5)
    algorithm.train()
    batch = minibatch_of(algorithm, learner)
    core = learner.core
    core.zero_grad()
    learner.loss(batch).backward()
    found = gradients(learner, "agent")
    core.zero_grad()
    logits = core.forward_train(batch).logits
    values = logits.gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
    (values - exact_credit(learner, batch)).square().mean().backward()
    for name, gradient in gradients(learner, "agent").items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-3)
    assert type(learner.get_optimizers_for_module("default_policy")[0][1]) is torch.optim.RMSprop
    assert type(learner.get_optimizers_for_module("default_policy")[1][1]) is torch.optim.Adam
    algorithm.stop()


def test_value_mode_acts_epsilon_greedily(small: Any) -> None:
    algorithm, learner = build(small, "SCC", **VALUE, epsilon=[[0, 0.6], [800, 0.0]], lr=0.01)
    for epsilon in (0.6, 0.48):  # 80 steps are taken here, 80 in train()
        (rollout,) = algorithm.env_runner.sample()
        rows = learner.build_train_batch(rollout)
        with torch.no_grad():
            forward = learner.core.forward_train(rows)
        best = forward.logits.argmax(-1) == rows.actions
        expected = torch.where(best, 1.0 - epsilon + epsilon / 3, epsilon / 3)
        stored = torch.from_numpy(rollout.columns["log_prob"]).transpose(0, 1)[..., 0]
        torch.testing.assert_close(stored.exp(), expected)
        chosen = forward.policy.gather(-1, rows.actions.unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(chosen, expected)
        assert 0 < best.float().mean() < 1
        algorithm.train()
    algorithm.stop()


@pytest.mark.parametrize("sampler", ["shapley", "released"])
def test_coalitions_are_the_same_in_all_worlds_and_differ_between_steps(
    sampler: str, small: Any
) -> None:
    algorithm, learner = build(small, "SCC", sampler=sampler, num_coalitions=2)
    rows = learner.build_train_batch(algorithm.env_runner.sample()[0])
    present = learner.prepare_minibatch(rows).coalitions  # [E, T, K, N]
    assert present.shape == (8, 10, 8 if sampler == "shapley" else 12, 3)
    assert (present == present[:1]).all()
    assert (present[:, 1:] != present[:, :-1]).any()
    assert (learner.prepare_minibatch(rows).coalitions != present).any()
    algorithm.stop()


def test_replay_takes_the_place_of_fresh_rollouts(small: Any) -> None:
    replay = {"replay_capacity": 20, "replay_batch_size": 12}
    algorithm, learner = build(small, "SCC", **VALUE, **replay, epsilon=0.5)
    seen, gradient_step = [], learner.gradient_step

    def record(minibatch: dict[str, Tensor], loss: Any) -> None:
        seen.append(len(minibatch.actions))
        gradient_step(minibatch, loss)

    learner.gradient_step = record
    for _ in range(3):
        algorithm.train()
    assert len(learner.store) == 20
    assert seen == [8] * 11 + [12] * 22  # ten steps of the critic and one of the agents each
    algorithm.stop()


def test_groups_have_layers_of_their_own(small: Any) -> None:
    """A sum over agents, so what one adds is the same in every coalition."""
    algorithm, learner = build(small, "SCC", agent_groups=[1, 2], num_coalitions=1)
    assert len(learner.core.critic.layers) == 2
    algorithm.train()
    batch = minibatch_of(algorithm, learner)
    credit = learner._credit(batch, learner.core.forward_train(batch).policy)
    torch.testing.assert_close(credit, exact_credit(learner, batch), atol=1e-5, rtol=1e-4)
    algorithm.stop()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "value"}, "'entropy_coeff' has no meaning with mode 'value'"),
        ({"replay_capacity": 100}, "mode 'policy' learns from fresh rollouts only"),
        ({"num_coalitions": None, "sampler": "released"}, "sampler 'released' has no exact"),
        ({"num_coalitions": 0}, "'num_coalitions' must be above 0"),
        ({"agent_groups": [3, 0]}, "'agent_groups' must list numbers of agents"),
        ({"agent_groups": [2, 2]}, "do not add up to the 3 agents"),
        ({"state": "environment"}, "'state' must be one of observations"),
        ({"use_value_active_mask": True}, "'use_value_active_mask' has no meaning here"),
        (
            {"env_config": {"num_agents": 13}, "num_coalitions": None},
            "exact credits of 13 agents take",
        ),
        ({"env_config": {"num_agents": 2}, "sampler": "released"}, "needs three agents"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusals(settings: dict[str, Any], message: str, small: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(small, "SCC", **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"entropy_coeff": 0.01},
        {**VALUE, "epsilon": [[0, 1.0], [16_000, 0.0]], "num_coalitions": None},
    ],
    ids=["policy", "value"],
)
def test_learns_to_tell_slots_apart(settings: dict[str, Any], small: Any) -> None:
    """All see the same and must act differently; by chance they do in 2 games of 9."""
    common = {
        "env_config": {"num_agents": 3, "episode_length": 1},
        "num_envs_per_env_runner": 32,
        "lr": 5e-3,
        "critic_lr": 2e-3,
        "target_update_env_steps": 2000,
        "hidden_dim": 64,
        "critic_dim": 64,
        "seed": 0,
        "metrics_num_episodes_for_smoothing": 300,
    }
    algorithm, _ = build(small, "SCC", **common, **settings)
    returns = [algorithm.train()["env_runners"]["episode_return_mean"] for _ in range(60)]
    algorithm.stop()
    assert returns[0] < 0.4
    assert returns[-1] > 0.9
