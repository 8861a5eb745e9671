"""LICA's gradient, which is the critic's own, on plain tensors; its settings; that it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.learners import build, gradients
from torch import Tensor, nn

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.central_q.module import RecurrentOutput
from rllib_seqmarl.rollout.rollout_batch import ALIVE


def minibatch_of(algorithm: Any, learner: Any) -> dict[str, Tensor]:
    """A rollout in which some agents are dead."""
    rollout = algorithm.env_runner.sample()[0]
    rollout.columns[ALIVE] = np.random.default_rng(0).random(rollout.columns[ALIVE].shape) > 0.3
    rows = learner.build_train_batch(rollout)
    return learner.prepare_minibatch(rows)


def loss_of_logits(learner: Any, batch: dict[str, Tensor], logits: Tensor) -> Tensor:
    """The learner's loss as a function of all agents' logits [E, T, N, A]."""
    policy = logits.softmax(-1)
    entropy = -torch.xlogy(policy, policy).sum(-1)
    forward = RecurrentOutput(torch.zeros(()), entropy, policy, logits)
    loss: Tensor = learner.compute_loss_for_module(
        module_id="default_policy", config=learner.config, batch=batch, fwd_out=forward
    )
    return loss


@pytest.mark.parametrize("ratio", ["batch", "sample"])
def test_gradient_is_that_of_a_plain_computation(ratio: str, small: Any) -> None:
    """-mean f(s, pi) - xi H / stop_gradient(H), step by step and agent by agent."""
    algorithm, learner = build(
        small, "LICA", entropy_ratio=ratio, entropy_coeff=0.1, micro_batch_size=30, lr=0.02
    )
    for _ in range(2):
        algorithm.train()
    batch = minibatch_of(algorithm, learner)
    core = learner.core
    core.zero_grad()
    for piece in learner.micro_batches(batch):
        learner.loss(piece).backward()
    found = gradients(learner, "agent")
    assert gradients(learner, "critic") == {}
    assert gradients(learner, "target") == {}

    core.zero_grad()
    policy, alive, state = core.forward_train(batch).policy, batch.alive, batch.critic_state
    entropy = -torch.xlogy(policy, policy).sum(-1)  # [E, T, N]
    envs, steps, agents = alive.shape
    objective = torch.zeros(())
    for e in range(envs):
        for t in range(steps):
            each = [
                policy[e, t, i] if alive[e, t, i] else policy[e, t, i].detach()
                for i in range(agents)
            ]
            value = core.critic(state[e, t][None], torch.stack(each)[None, None])
            objective = objective + value.squeeze() / (envs * steps)
            for i in range(agents):
                if alive[e, t, i]:
                    level = entropy[e, t, i] if ratio == "sample" else entropy[alive].mean()
                    ratio_of_one = entropy[e, t, i] / level.detach()
                    objective = objective + 0.1 * ratio_of_one / alive.sum()
    (-objective).backward()
    expected = gradients(learner, "agent")
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-3)
    algorithm.stop()


def test_gradient_reaches_every_living_agent_at_every_step(small: Any) -> None:
    algorithm, learner = build(small, "LICA", entropy_coeff=0.0)
    batch = minibatch_of(algorithm, learner)
    logits = torch.randn(*batch.actions.shape, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss_of_logits(learner, batch, logits), logits)
    reached = gradient.abs().sum(-1) > 0
    assert torch.equal(reached, batch.alive)
    algorithm.stop()


class OneAgentsChoice(nn.Module):
    """f(s, v) = w . v^i for one agent i."""

    def __init__(self, agent: int, weights: Tensor) -> None:
        super().__init__()
        self.agent = agent
        self.weights = nn.Parameter(weights)

    def forward(self, state: Tensor, joint_actions: Tensor) -> Tensor:
        return joint_actions[:, :, self.agent] @ self.weights


def test_gradient_of_a_critic_that_is_linear_in_one_agents_vector(small: Any) -> None:
    """d(w . pi) / d logit_j = pi_j (w_j - w . pi) for that agent, and nothing for the others."""
    algorithm, learner = build(small, "LICA", entropy_coeff=0.0)
    rows = learner.build_train_batch(algorithm.env_runner.sample()[0])
    batch = learner.prepare_minibatch(rows)
    weights = torch.tensor([1.0, -2.0, 0.5])
    learner.core.critic = OneAgentsChoice(1, weights)
    logits = torch.randn(*batch.actions.shape, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss_of_logits(learner, batch, logits), logits)
    policy = logits.detach().softmax(-1)[:, :, 1]  # [E, T, A]
    slope = policy * (weights - (policy @ weights).unsqueeze(-1))
    envs, steps = policy.shape[:2]
    torch.testing.assert_close(gradient[:, :, 1], -slope / (envs * steps))
    assert not gradient[:, :, [0, 2]].any()
    algorithm.stop()


def test_critic_takes_its_step_first(small: Any) -> None:
    """The agents follow the improved critic; their step leaves it as it is."""
    algorithm, learner = build(small, "LICA", critic_steps=2)
    rows = learner.build_train_batch(algorithm.env_runner.sample()[0])
    steps, gradient_step = [], learner.gradient_step

    def record(minibatch: Any, loss: Any) -> None:
        before = {k: v.clone() for k, v in learner.core.named_parameters()}
        gradient_step(minibatch, loss)
        now = learner.core.named_parameters()
        steps.append({k.split(".")[0] for k, v in now if not torch.equal(v, before[k])})

    learner.gradient_step = record
    learner.update_minibatch(rows)
    assert steps == [{"critic"}, {"critic"}, {"agent"}]
    algorithm.stop()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"state": "environment"}, "the critic reads the environment's state, and this"),
        ({"entropy_ratio": "agent"}, "'entropy_ratio' must be one of batch, sample"),
        ({"hypernet_dim": 0}, "'hypernet_dim' must be above 0"),
        ({"embed_dim": 1.5}, "'embed_dim' must be a whole number"),
        ({"use_value_active_mask": True}, "'use_value_active_mask' has no meaning here"),
        ({"order": "contribution"}, "unknown config key 'order'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusals(settings: dict[str, Any], message: str, small: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(small, "LICA", **settings)
    assert "\n" not in str(caught.value)


def test_learns_to_tell_slots_apart(small: Any) -> None:
    """Two agents see the same and must act differently; by chance they do in every other game."""
    settings = {
        "env_config": {"num_agents": 2, "episode_length": 1},
        "num_envs_per_env_runner": 32,
        "lr": 5e-3,
        "critic_lr": 5e-3,
        "critic_steps": 8,
        "target_update_env_steps": 2000,
        "entropy_coeff": 0.003,
        "hidden_dim": 64,
        "hypernet_dim": 64,
        "embed_dim": 32,
        "seed": 0,
        "metrics_num_episodes_for_smoothing": 300,
    }
    algorithm, _ = build(small, "LICA", **settings)
    returns = [algorithm.train()["env_runners"]["episode_return_mean"] for _ in range(40)]
    algorithm.stop()
    assert returns[0] < 0.6
    assert returns[-1] > 0.9
