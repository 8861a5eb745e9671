"""What holds for all algorithms with recurrent agents and a central critic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.learners import build, gradients

from rllib_seqmarl import registry
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.central_q.learner import CentralQLearner
from rllib_seqmarl.rollout.rollout_batch import ALIVE, TERMINATED, TRUNCATED

ALGORITHMS = [
    name
    for name in sorted(registry.ALGORITHMS)
    if issubclass(registry.config_class(name)().get_default_learner_class(), CentralQLearner)
]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_garbage_of_dead_agents_changes_nothing(name: str, small: Any) -> None:
    """Observations, memory and log-probs of agents that died, who have their no-op only."""
    env_config = {"task": "predator_prey", "episode_length": 6}
    algorithm, learner = build(small, name, env="mpe", env_config=env_config)
    algorithm.train()
    (rollout,) = algorithm.env_runner.sample()
    c = rollout.columns
    dead = np.zeros(c[ALIVE].shape, bool)  # [T + 1, E, N]
    for e in range(dead.shape[1]):  # dies and stays dead until the next episode begins
        agent, lives = e % 3, False
        for t in range(len(dead)):
            if t > 0 and (c[TERMINATED] | c[TRUNCATED])[t - 1, e]:
                lives = True
            elif t > 0 and t % 4 == 0:
                lives = False
            dead[t, e, agent] = not lives
    assert 0 < dead.mean() < 0.33
    c[ALIVE] = ~dead
    c["action_mask"][dead] = np.arange(c["action_mask"].shape[-1]) == 0
    c["actions"][dead[:-1]] = 0
    rollout.final = None
    c[TERMINATED] |= c[TRUNCATED]
    c[TRUNCATED][:] = False
    results = []
    for garbage in (False, True):
        if garbage:
            c["obs"][dead] = 1e3
            c["log_prob"][dead[:-1]] = -50.0
            rollout.recurrent_state["hidden"][dead[0]] = 7.0
        learner.generator.manual_seed(0)
        rows = learner.build_train_batch(rollout)
        minibatch = learner.prepare_minibatch(rows)
        found = []
        for part, loss in (("critic", learner.critic_loss), ("agent", learner.loss)):
            learner.core.zero_grad()
            value = loss(minibatch)
            value.backward()
            found += [value.detach(), *gradients(learner, part).values()]
        results.append(found)
    for clean, corrupted in zip(*results, strict=True):
        torch.testing.assert_close(clean, corrupted, atol=1e-6, rtol=1e-4)
    algorithm.stop()


def test_random_actions_follow_their_schedule(small: Any, tmp_path: Any) -> None:
    """160 steps per round: epsilon falls by a fifth each; it travels with the weights."""
    schedule = {"epsilon": [[0, 1.0], [800, 0.0]], "lr": 0.05}
    algorithm, learner = build(small, "COMA", **schedule)
    behaviour = algorithm.env_runner.module.agent.behaviour
    assert behaviour.epsilon == 1.0
    for iteration in range(1, 3):
        (rollout,) = algorithm.env_runner.sample()  # not learned from
        with torch.no_grad():
            policy = learner.core.forward_train(learner.build_train_batch(rollout)).policy
        taken = torch.from_numpy(rollout.columns["actions"]).transpose(0, 1).unsqueeze(-1)
        mixed = torch.lerp(policy, torch.full_like(policy, 1 / policy.shape[-1]), behaviour.epsilon)
        stored = torch.from_numpy(rollout.columns["log_prob"]).transpose(0, 1)
        torch.testing.assert_close(stored, mixed.gather(-1, taken).log(), atol=1e-5, rtol=0)
        algorithm.train()
        assert float(behaviour.epsilon) == pytest.approx(1.0 - 0.2 * iteration, abs=1e-6)
        assert learner.core.agent.behaviour.epsilon == behaviour.epsilon
    path = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    resumed = type(algorithm).from_checkpoint(path)
    assert resumed.env_runner.module.agent.behaviour.epsilon == behaviour.epsilon
    for each in (algorithm, resumed):
        each.stop()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 1.5}, "'epsilon' must lie between 0 and 1"),
        ({"epsilon": [[0, 2.0], [100, 0.0]]}, "values that must lie between 0 and 1"),
        ({"epsilon": [[0, 0.5]]}, "'epsilon' is not a schedule"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusals(settings: dict[str, Any], message: str, small: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        small("COMA", **settings).validate()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_rollouts_of_an_older_policy_are_refused(name: str, small: Any) -> None:
    config = small(name, async_sampling=True, num_env_runners=1)
    with pytest.raises(UserError, match="no ratio corrects this gradient") as caught:
        config.validate()
    assert "\n" not in str(caught.value)


def test_the_target_copy_follows_at_the_environment_steps_that_are_set(small: Any) -> None:
    """Iterations of 80 environment steps, whatever number of steps the critic takes in them."""
    algorithm, learner = build(small, "SeCA", target_update_env_steps=200, critic_steps=3)
    target, critic = learner.core.target.critic, learner.core.critic
    copied = []
    for _ in range(6):
        algorithm.train()
        pairs = zip(target.parameters(), critic.parameters(), strict=True)
        copied.append(all(torch.equal(one, other) for one, other in pairs))
    algorithm.stop()
    #                   80    160    240    320    400   480
    assert copied == [False, False, True, False, True, False]


@pytest.mark.parametrize(
    ("name", "settings", "env_steps"),
    [
        ("SeCA", {"critic_steps": 4}, 200 * 80 // 4),
        ("COMA", {"critic_steps": 2, "minibatch_size": 30, "num_epochs": 2}, 200 * 80 // 12),
        ("RIIT", {"replay_capacity": 100}, 200 * 80 // 2),
    ],
)
def test_an_interval_in_steps_of_the_critic_is_converted_and_told(
    name: str,
    settings: dict[str, Any],
    env_steps: int,
    small: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = small(name, **{"num_epochs": 1, **settings})
    config.update_from_dict({"target_update_interval": 200})
    config.validate()
    assert config.target_update_env_steps == env_steps
    assert f"'target_update_env_steps' now: {env_steps} environment steps" in caplog.text
    config.validate()
    assert config.target_update_env_steps == env_steps


def test_an_interval_that_is_none_is_refused(small: Any) -> None:
    with pytest.raises(UserError, match="'target_update_interval' must be above 0"):
        small("SeCA", target_update_interval=0).validate()
