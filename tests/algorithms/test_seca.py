"""SeCA's own settings, its gradient, and what its learner and its runner keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.learners import build, gradients, learner_of

from rllib_seqmarl.envs.core.contract import observation_space
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.central_q.module import state_dim
from rllib_seqmarl.rollout.rollout_batch import (
    ALIVE,
    REWARD,
    TERMINATED,
    TRUNCATED,
    FinalObservations,
    shard,
)

ORDERS = [
    {"order": "contribution"},
    {"order": "contribution", "order_window": 1},
    {"order": "contribution", "order_window": 2},
    {"order": "contribution", "order_source": "previous_episode"},
    {"order": "probability"},
    {"order": "entropy"},
    {"order": "fixed"},
]


@pytest.mark.parametrize("settings", ORDERS, ids=lambda s: "-".join(map(str, s.values())))
def test_trains_with_every_order(settings: dict[str, Any], small: Any) -> None:
    algorithm, learner = build(small, "SeCA", **settings)
    for _ in range(2):
        terms = algorithm.train()["learners"]["default_policy"]
    assert np.isfinite(terms["total_loss"])
    assert terms["vf_loss"] > 0
    rows = learner.build_train_batch(algorithm.env_runner.sample()[0])
    order = rows.order
    assert (order.sort(-1).values == torch.arange(3)).all()
    changes = (order[:, 1:] != order[:, :-1]).any(-1)  # [E, T - 1]
    if settings["order"] == "fixed":
        assert (order == order[0, 0]).all()
    elif settings.get("order_window") == 1 or settings["order"] != "contribution":
        assert changes[~rows.is_first[:, 1:]].any()  # within an episode
    elif "order_window" not in settings:
        assert not changes[~rows.is_first[:, 1:]].any()
        assert changes.any()
    algorithm.stop()


def test_orders_by_probability_and_entropy(small: Any) -> None:
    for settings in ({"order": "probability"}, {"order": "entropy"}):
        algorithm, learner = build(small, "SeCA", **settings, lr=0.05)
        for _ in range(3):
            algorithm.train()  # away from the initialisation
        rows = learner.build_train_batch(algorithm.env_runner.sample()[0])
        forward = learner.core.forward_train(rows)
        by = forward.log_prob[..., 0] if settings["order"] == "probability" else -forward.entropy
        ordered = by.gather(-1, rows.order)
        assert (ordered.diff(dim=-1) <= 1e-5).all()
        algorithm.stop()


@pytest.mark.parametrize("advantage", ["sequential", "counterfactual"])
@pytest.mark.parametrize("ratio", ["sample", "batch"])
@pytest.mark.parametrize("corrected", [False, True])
def test_gradient_is_that_of_a_plain_computation(
    advantage: str, ratio: str, corrected: bool, small: Any
) -> None:
    """Equation 13 with its entropy of equation 14, agent by agent, on plain tensors."""
    settings = {"advantage": advantage, "entropy_ratio": ratio, "entropy_coeff": 0.1}
    settings |= {"return_correction": corrected}
    algorithm, learner = build(small, "SeCA", **settings, micro_batch_size=30)
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
    policy, log_prob = forward.policy, forward.log_prob[..., 0]
    critic = core.critic
    state = rows.critic_state
    alive = rows.alive
    entropy = -torch.xlogy(policy, policy).sum(-1)  # [E, T, N]
    objective = torch.zeros(())
    for e in range(alive.shape[0]):
        for t in range(alive.shape[1]):
            taken, pi = torch.eye(3)[rows.actions[e, t]], policy[e, t].detach()

            def q(v: torch.Tensor, s: torch.Tensor = state[e, t]) -> torch.Tensor:
                return critic(s[None], v[None, None]).detach().squeeze()

            credit, vectors = torch.zeros(3), pi.clone()
            for agent in rows.order[e, t].tolist():
                before = vectors.clone()
                vectors[agent] = taken[agent]  # evaluated now
                credit[agent] = q(vectors) - q(before)
                if advantage == "counterfactual":
                    baseline = taken.clone()
                    baseline[agent] = pi[agent]
                    credit[agent] = q(taken) - q(baseline)
            if corrected:
                credit += rows.targets[e, t] - q(taken)
            level = entropy[e, t] if ratio == "sample" else entropy[alive].mean()
            terms = log_prob[e, t] * credit + 0.1 * entropy[e, t] / level.detach()
            objective = objective + terms[alive[e, t]].sum() / alive.sum()
    (-objective).backward()
    expected = gradients(learner, "agent")
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-3)
    algorithm.stop()


def test_unrolled_log_probs_are_those_of_acting(small: Any) -> None:
    """Ratio 1, over ends of episodes and over rollouts; dealt out and in pieces."""
    algorithm, learner = build(small, "SeCA", lr=0.02)
    for _ in range(2):
        algorithm.train()
    for _ in range(3):
        (rollout,) = algorithm.env_runner.sample()
        assert (
            np.abs(rollout.recurrent_state["hidden"]).max() > 0
        )  # episodes go on from rollout to rollout
        for (share,) in shard([rollout], 3):
            log_prob = learner.core.forward_train(learner.build_train_batch(share)).log_prob
            stored = torch.from_numpy(share.columns["log_prob"]).transpose(0, 1)
            assert stored.std() > 1e-3
            torch.testing.assert_close(log_prob, stored, atol=1e-5, rtol=0)
    algorithm.stop()


def test_random_actions_leave_no_memory(small: Any) -> None:
    algorithm, _ = build(small, "SeCA")
    algorithm.env_runner.sample()
    algorithm.env_runner.sample(num_timesteps=8, random_actions=True)
    (rollout,) = algorithm.env_runner.sample()
    assert not rollout.recurrent_state["hidden"].any()
    algorithm.stop()


def test_runners_memory_is_part_of_their_state(small: Any) -> None:
    algorithm, _ = build(small, "SeCA")
    other, _ = build(small, "SeCA")
    algorithm.env_runner.sample()
    other.env_runner.set_state(algorithm.env_runner.get_state())
    for _ in range(2):
        (one,), (two,) = algorithm.env_runner.sample(), other.env_runner.sample()
        for name, column in [*one.columns.items(), *one.recurrent_state.items()]:
            np.testing.assert_array_equal(column, {**two.columns, **two.recurrent_state}[name])
    for each in (algorithm, other):
        each.stop()


@pytest.mark.parametrize("settings", [ORDERS[3], ORDERS[6]], ids=["previous", "fixed"])
def test_a_resumed_run_goes_on_bit_for_bit(
    settings: dict[str, Any], small: Any, tmp_path: Any
) -> None:
    """Target copy, its count, carried orders and hidden state included."""
    algorithm, learner = build(small, "SeCA", **settings, target_update_env_steps=120, num_epochs=2)
    for _ in range(2):
        algorithm.train()
    assert learner.core.target.env_steps == 160
    path = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    resumed = type(algorithm).from_checkpoint(path)
    again = learner_of(resumed)
    for each in (algorithm, resumed):
        for _ in range(2):
            each.train()
    assert again.core.target.env_steps == 320
    for name, value in learner.core.state_dict().items():
        torch.testing.assert_close(again.core.state_dict()[name], value, atol=0, rtol=0)
    torch.testing.assert_close(
        again.extra_state["carried_orders"], learner.extra_state["carried_orders"]
    )
    for each in (algorithm, resumed):
        each.stop()


def test_minibatches_are_of_whole_sequences(small: Any) -> None:
    algorithm, learner = build(small, "SeCA", minibatch_size=35)  # three sequences of ten steps
    seen: list[tuple[int, ...]] = []
    update_minibatch = learner.update_minibatch

    def record(minibatch: dict[str, torch.Tensor]) -> None:
        seen.append(tuple(minibatch.actions.shape))
        update_minibatch(minibatch)

    learner.update_minibatch = record
    algorithm.train()
    assert sorted(seen) == [(2, 10, 3), (3, 10, 3), (3, 10, 3)]
    algorithm.stop()


def test_pieces_of_a_minibatch_give_the_critics_gradient(small: Any) -> None:
    found = []
    for micro_batch_size in (None, 30):
        algorithm, learner = build(small, "SeCA", micro_batch_size=micro_batch_size)
        rows = learner.build_train_batch(algorithm.env_runner.sample()[0])
        minibatch = learner.prepare_minibatch(rows)
        learner.gradient_step(minibatch, learner.critic_loss)
        assert gradients(learner, "agent") == {}
        found.append(gradients(learner, "critic"))
        algorithm.stop()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=2e-6, rtol=1e-3)


def test_targets_are_those_of_a_plain_computation(small: Any) -> None:
    """Every kind of end; truncated episodes look ahead to Q'(s, pi) of their final state."""
    algorithm, learner = build(small, "SeCA", gamma=0.9, lambda_=0.7, target_update_env_steps=1)
    for _ in range(2):
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
    found = learner.build_train_batch(rollout).targets.T.numpy()

    @torch.no_grad()
    def policy(obs: np.ndarray, memory: dict[str, torch.Tensor]) -> torch.Tensor:
        first = torch.zeros(1, dtype=torch.bool)
        return core.agent.step(torch.as_tensor(obs)[None], memory, first)[0].softmax(-1)

    @torch.no_grad()
    def q(obs: np.ndarray, vectors: torch.Tensor) -> float:
        return float(core.target(torch.as_tensor(obs).flatten()[None], vectors.unsqueeze(0)))

    for e in range(shape[1]):
        memory = {k: torch.from_numpy(v[e : e + 1]) for k, v in rollout.recurrent_state.items()}
        memories = []
        for t in range(shape[0]):
            first = torch.tensor([bool(c["is_first"][t, e])])
            _, hidden = core.agent.step(torch.from_numpy(c["obs"][t, e])[None], memory, first)
            actions = torch.from_numpy(c["actions"][t, e])[None]
            memory = {"hidden": hidden.detach(), "previous_actions": actions}
            memories.append(memory)
        target = 0.0
        for t in reversed(range(shape[0])):
            taken = torch.nn.functional.one_hot(torch.from_numpy(c["actions"]), 3).float()
            if c[TRUNCATED][t, e]:
                k = int(np.flatnonzero((step == t) & (env == e))[0])
                target = q(final["obs"][k], policy(final["obs"][k], memories[t]))
                next_value = target
            elif t + 1 == shape[0]:
                next_value = target = q(c["obs"][-1, e], policy(c["obs"][-1, e], memories[t]))
            else:
                next_value = q(c["obs"][t + 1, e], taken[t + 1, e][None])
            future = 0.0 if c[TERMINATED][t, e] else 0.9 * (0.3 * next_value + 0.7 * target)
            target = c[REWARD][t, e] + future
            assert found[t, e] == pytest.approx(target, abs=1e-4)
    algorithm.stop()


def test_critic_reads_the_environments_state(small: Any) -> None:
    env_config = {"task": "cooperative_navigation", "state": True}
    algorithm, learner = build(small, "SeCA", env="mpe", env_config=env_config, state="environment")
    algorithm.train()
    (rollout,) = algorithm.env_runner.sample()
    state = torch.from_numpy(rollout.columns["state"][:-1]).transpose(0, 1)
    torch.testing.assert_close(learner.build_train_batch(rollout).critic_state, state)
    algorithm.stop()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"state": "environment"}, "the critic reads the environment's state, and this"),
        ({"env": "mpe", "env_config": {}, "state": "environment"}, "the critic reads the"),
        ({"micro_batch_size": 9}, "'micro_batch_size' .9. holds no whole sequence"),
        ({"minibatch_size": 9}, "'minibatch_size' .9. holds no whole sequence"),
        ({"use_value_active_mask": True}, "'use_value_active_mask' has no meaning here"),
        ({"time_limit": "drop"}, "'time_limit' must be one of bootstrap, terminate"),
        ({"order": "index"}, "'order' must be one of contribution"),
        ({"order_window": 0}, "'order_window' must be above 0"),
        ({"order_source": "previous_episode", "order_window": 10}, "is about contributions to"),
        ({"order_source": "previous_episode", "order": "fixed"}, "is about contributions to"),
        ({"hypernet_dim": 1.5}, "'hypernet_dim' must be a whole number"),
        ({"critic_lr": -0.5}, "'critic_lr' must not be negative"),
        ({"lambda_": 1.5}, "'lambda_' must lie between 0 and 1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusals(settings: dict[str, Any], message: str, small: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(small, "SeCA", **settings)
    assert "\n" not in str(caught.value)


def test_a_state_of_the_users_own_environment_is_looked_for_in_its_spaces() -> None:
    for shape, width in (((5,), 5), ((3, 5), 15)):
        assert state_dim(observation_space(3, 4, 2, shape), "environment") == width
    assert state_dim(observation_space(3, 4, 2), "observations") == 12
    with pytest.raises(UserError, match="this environment has none"):
        state_dim(observation_space(3, 4, 2), "environment")


def test_acting_carries_no_critic(small: Any) -> None:
    algorithm, learner = build(small, "SeCA")
    acting = {name for name, _ in algorithm.get_module().named_parameters()}
    learning = {name for name, _ in learner.core.named_parameters()}
    assert acting < learning
    assert {name.split(".")[0] for name in learning - acting} == {"critic", "target"}
    algorithm.stop()


@pytest.mark.parametrize("advantage", ["sequential", "counterfactual"])
def test_learns_to_tell_slots_apart(advantage: str, small: Any) -> None:
    """All see the same and must act differently; by chance they do in 2 games of 9."""
    settings = {
        "env_config": {"num_agents": 3, "episode_length": 1},
        "num_envs_per_env_runner": 32,
        "lr": 5e-3,
        "critic_lr": 2e-3,
        "critic_steps": 8,
        "target_update_env_steps": 2000,
        "entropy_coeff": 0.01,
        "hidden_dim": 64,
        "hypernet_dim": 64,
        "embed_dim": 32,
        "seed": 0,
        "metrics_num_episodes_for_smoothing": 300,
    }
    algorithm, _ = build(small, "SeCA", advantage=advantage, **settings)
    returns = [algorithm.train()["env_runners"]["episode_return_mean"] for _ in range(80)]
    algorithm.stop()
    assert returns[0] < 0.4
    assert returns[-1] > 0.9
