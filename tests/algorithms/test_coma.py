"""COMA's critic, advantage, targets and gradient on plain tensors; that it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.critics import A, N, everything, table
from helpers.learners import build, gradients
from torch import Tensor

from rllib_seqmarl.algorithms.coma import COMACritic, counterfactual_advantage
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.rollout.rollout_batch import (
    ALIVE,
    REWARD,
    TERMINATED,
    TRUNCATED,
    FinalObservations,
)


def test_counterfactual_advantage_is_comas_and_has_no_mean() -> None:
    """Equation 4 by plain loops; over an agent's own actions, the others' held, its mean is 0."""
    q = table()
    actions, policy, _ = everything()
    values = torch.stack(  # Q of every own action, [A^N, N, A]
        [
            torch.stack([q[(*u[:i], slice(None), *u[i + 1 :])] for i in range(N)])
            for u in actions.tolist()
        ]
    )
    advantage = counterfactual_advantage(values, policy, actions)
    for row, u in zip(advantage, actions.tolist(), strict=True):
        for i in range(N):
            baseline = sum(policy[0, i, a] * q[(*u[:i], a, *u[i + 1 :])] for a in range(A))
            torch.testing.assert_close(row[i], q[tuple(u)] - baseline)
    per_agent = advantage.view(*(A,) * N, N)
    for i in range(N):
        own = policy[0, i].view(*(A if j == i else 1 for j in range(N)))
        mean = (own * per_agent[..., i]).sum(i)
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-12, rtol=0)
        assert per_agent[..., i].abs().min() > 1e-3


def test_critic_reads_what_figure_1c_says() -> None:
    """State, own observation, the others' actions, all last actions, slot; not the own action."""
    torch.manual_seed(0)
    batch, count, agents, actions, state, obs = 4, 2, 3, 5, 6, 7
    critic = COMACritic(state, obs, agents, actions, 16)
    s, o = torch.randn(batch, state), torch.randn(batch, agents, obs)
    last = torch.rand(batch, agents, actions)
    joint = torch.rand(batch, count, agents, actions)
    read = torch.cat((s, o.flatten(1), last.flatten(1)), dim=-1)
    values = critic.action_values(read, joint)
    assert values.shape == (batch, count, agents, actions)
    for b in range(batch):
        for k in range(count):
            for i in range(agents):
                others = joint[b, k].clone()
                others[i] = 0.0
                slot = torch.eye(agents)[i]
                x = torch.cat((s[b], o[b, i], others.flatten(), last[b].flatten(), slot))
                torch.testing.assert_close(values[b, k, i], critic.layers(x))
                own = critic(read, joint)[b, k, i]
                torch.testing.assert_close(own, critic.layers(x) @ joint[b, k, i])


def test_last_actions_are_those_of_the_same_episode(small: Any) -> None:
    algorithm, learner = build(small, "COMA")
    algorithm.env_runner.sample()
    (rollout,) = algorithm.env_runner.sample()
    rows = learner.build_train_batch(rollout)
    read = rows.critic_state[..., -3 * 3 :].unflatten(-1, (3, 3))
    actions, last = rows.actions, torch.where(read.any(-1), read.argmax(-1), -1)
    before = torch.from_numpy(rollout.recurrent_state["previous_actions"])
    for e in range(actions.shape[0]):
        for t in range(actions.shape[1]):
            expected = before[e] if t == 0 else actions[e, t - 1]
            if rows.is_first[e, t]:
                expected = torch.full_like(expected, -1)
            assert torch.equal(last[e, t], expected)
    assert (last == -1).any()
    assert torch.equal(read.sum(-1), (last >= 0).float())
    algorithm.stop()


def test_gradient_is_that_of_a_plain_computation(small: Any) -> None:
    """log pi A + c H with the advantage of equation 4, agent by agent, on plain tensors."""
    settings = {"entropy_coeff": 0.1, "use_policy_active_mask": True, "lr": 0.02}
    algorithm, learner = build(small, "COMA", **settings, micro_batch_size=30)
    for _ in range(2):
        algorithm.train()
    rollout = algorithm.env_runner.sample()[0]
    rollout.columns[ALIVE] = np.random.default_rng(0).random(rollout.columns[ALIVE].shape) > 0.3
    rows = learner.build_train_batch(rollout)
    core = learner.core
    core.zero_grad()
    for piece in learner.micro_batches(learner.prepare_minibatch(rows)):
        learner.loss(piece).backward()
    found = gradients(learner, "agent")
    assert gradients(learner, "critic") == {}

    core.zero_grad()
    forward = core.forward_train(rows)
    policy, log_prob, alive = forward.policy, forward.log_prob[..., 0], rows.alive
    with torch.no_grad():
        taken = torch.nn.functional.one_hot(rows.actions, 3).float()
        read = rows.critic_state
    objective = torch.zeros(())
    for e, t, i in alive.nonzero().tolist():
        with torch.no_grad():
            q = []  # Q of each own action, from the value of a joint action that has it
            for a in range(3):
                joint = taken[e, t].clone()
                joint[i] = torch.eye(3)[a]
                q.append(core.critic(read[e, t][None], joint[None, None])[0, 0, i])
            own = int(rows.actions[e, t, i])
            advantage = q[own] - sum(policy[e, t, i, a] * q[a] for a in range(3))
        entropy = -torch.xlogy(policy[e, t, i], policy[e, t, i]).sum()
        objective = objective + log_prob[e, t, i] * advantage + 0.1 * entropy
    (-objective / alive.sum()).backward()
    expected = gradients(learner, "agent")
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-3)
    algorithm.stop()


def test_targets_are_those_of_a_plain_computation(small: Any) -> None:
    """One of every agent; where no action was chosen, pi stands for all actions."""
    algorithm, learner = build(small, "COMA", gamma=0.9, lambda_=0.7, target_update_env_steps=1)
    algorithm.train()
    (rollout,) = algorithm.env_runner.sample()
    c, core, generator = rollout.columns, learner.core, np.random.default_rng(0)
    shape = c[REWARD].shape
    c[REWARD][:] = generator.normal(size=shape)
    c[TERMINATED][:] = generator.random(shape) < 0.15
    c[TRUNCATED][:] = (generator.random(shape) < 0.15) & ~c[TERMINATED]
    c["is_first"][1:] = (c[TERMINATED] | c[TRUNCATED])[:-1]
    step, env = np.nonzero(c[TRUNCATED])
    final = {k: c[k][step + 1, env].copy() for k in ("obs", "action_mask", "alive")}
    final["obs"] += generator.normal(size=final["obs"].shape).astype(np.float32)
    rollout.final = FinalObservations(step, env, final)
    found = learner.build_train_batch(rollout).targets.transpose(0, 1)
    actions = torch.from_numpy(c["actions"])
    taken = torch.nn.functional.one_hot(actions, 3).float()

    @torch.no_grad()
    def q(obs: np.ndarray, last: Tensor, joint: Tensor) -> Tensor:
        columns = {
            "obs": torch.as_tensor(obs)[None],
            "alive": torch.ones(1, 3, dtype=torch.bool),
            "last_actions": last[None],
        }
        return core.target(core.state_of(columns), joint[None, None])[0, 0]  # [N]

    @torch.no_grad()
    def policy(obs: np.ndarray, memory: dict[str, Tensor]) -> Tensor:
        going_on = torch.zeros(1, dtype=torch.bool)
        return core.agent.step(torch.as_tensor(obs)[None], memory, going_on)[0][0].softmax(-1)

    for e in range(shape[1]):
        memory = {k: torch.from_numpy(v[e : e + 1]) for k, v in rollout.recurrent_state.items()}
        memories = []
        for t in range(shape[0]):
            first = torch.tensor([bool(c["is_first"][t, e])])
            with torch.no_grad():
                _, hidden = core.agent.step(torch.from_numpy(c["obs"][t, e])[None], memory, first)
            memory = {"hidden": hidden, "previous_actions": actions[t, e][None]}
            memories.append(memory)
        target = torch.zeros(3)
        for t in reversed(range(shape[0])):
            if c[TRUNCATED][t, e] or t + 1 == shape[0]:
                obs = c["obs"][-1, e]
                if c[TRUNCATED][t, e]:
                    obs = final["obs"][int(np.flatnonzero((step == t) & (env == e))[0])]
                next_value = target = q(obs, actions[t, e], policy(obs, memories[t]))
            else:
                next_value = q(c["obs"][t + 1, e], actions[t, e], taken[t + 1, e])
            future = torch.zeros(3)
            if not c[TERMINATED][t, e]:
                future = 0.9 * (0.3 * next_value + 0.7 * target)
            target = float(c[REWARD][t, e]) + future
            torch.testing.assert_close(found[t, e], target, atol=1e-4, rtol=1e-4)
    algorithm.stop()


@pytest.mark.parametrize("masked", [True, False])
def test_dead_agents_count_where_the_config_says(masked: bool, small: Any) -> None:
    settings = {"use_policy_active_mask": masked, "use_value_active_mask": masked}
    algorithm, learner = build(small, "COMA", **settings)
    rollout = algorithm.env_runner.sample()[0]
    rollout.columns[ALIVE] = np.random.default_rng(0).random(rollout.columns[ALIVE].shape) > 0.3
    rows = learner.build_train_batch(rollout)
    counted = rows.alive if masked else torch.ones_like(rows.alive)
    prepared = learner.prepare_minibatch(rows)
    for found in (prepared.policy_weight, prepared.value_weight):
        torch.testing.assert_close(found, counted.float() / counted.sum())
    algorithm.stop()


def test_refuses_a_critic_without_width(small: Any) -> None:
    with pytest.raises(UserError, match="'critic_dim' must be above 0"):
        small("COMA", critic_dim=0).validate()


def test_learns_to_tell_slots_apart(small: Any) -> None:
    """All see the same and must act differently; by chance they do in 2 games of 9."""
    settings = {
        "env_config": {"num_agents": 3, "episode_length": 1},
        "num_envs_per_env_runner": 32,
        "lr": 1e-2,
        "critic_lr": 2e-3,
        "critic_steps": 8,
        "target_update_env_steps": 2000,
        "entropy_coeff": 0.01,
        "hidden_dim": 64,
        "critic_dim": 64,
        "seed": 0,
        "metrics_num_episodes_for_smoothing": 300,
    }
    algorithm, _ = build(small, "COMA", **settings)
    returns = [algorithm.train()["env_runners"]["episode_return_mean"] for _ in range(60)]
    algorithm.stop()
    assert returns[0] < 0.4
    assert returns[-1] > 0.9
