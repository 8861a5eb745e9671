"""SrSv's own settings."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.learners import learner_of, with_moved_weights
from torch import Tensor

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.evaluate.evaluation import evaluate_checkpoint
from rllib_seqmarl.nets.values.encoder import EncoderValue
from rllib_seqmarl.nets.values.sequential import SUCCESSORS, SequentialValue
from rllib_seqmarl.nets.values.sequential_without_policy import SequentialValueWithoutPolicy


def build(small: Any, name: str = "SrSv", **settings: Any) -> tuple[Any, Any]:
    algorithm = small(name, env_config={"episode_length": 3}, **settings).build_algo()
    return algorithm, learner_of(algorithm)


@pytest.mark.parametrize("successors", SUCCESSORS)
def test_trains_with_every_kind_of_successors(successors: str, small: Any) -> None:
    algorithm, learner = build(small, successors=successors, minibatch_size=40)
    terms = algorithm.train()["learners"]["default_policy"]
    assert terms["vf_loss"] > 0
    batch = learner.build_train_batch(algorithm.env_runner.sample()[0])
    assert (batch.value_inputs is not None) == (successors != "greedy_per_minibatch")
    algorithm.stop()


def test_greedy_continuations_are_as_fresh_as_asked(small: Any) -> None:
    """Before the first gradient step, both kinds of greedy continuation are the same."""
    algorithm, learner = build(small)
    batch = learner.build_train_batch(algorithm.env_runner.sample()[0])
    learner.core.policy.value.prepares_per_minibatch = True
    torch.testing.assert_close(learner.with_value_inputs(batch).value_inputs, batch.value_inputs)
    algorithm.stop()


@pytest.mark.parametrize("minibatch_size", [None, 40])
def test_greedy_per_minibatch_is_computed_before_every_step(
    minibatch_size: int | None, small: Any
) -> None:
    settings = {"minibatch_size": minibatch_size, "num_epochs": 3}
    algorithm, learner = build(small, successors="greedy_per_minibatch", **settings)
    policy, calls = learner.core.policy, 0
    prepare = policy.prepare_value

    def counting(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        return prepare(*args, **more)

    rollout = algorithm.env_runner.sample()[0]
    batch = learner.build_train_batch(rollout)
    policy.prepare_value = counting
    learner.build_train_batch = lambda _: batch
    algorithm.learner_group.update(batches=[rollout])
    assert calls == 3 * (1 if minibatch_size is None else 2)
    algorithm.stop()


def test_value_of_each_variant(small: Any) -> None:
    for name, settings, value in (
        ("MAT", {}, EncoderValue),
        ("SrSv", {}, SequentialValue),
        ("SrSv", {"use_successor_policy": False}, SequentialValueWithoutPolicy),
    ):
        algorithm, learner = build(small, name, **settings)
        assert type(learner.core.policy.value) is value
        algorithm.stop()


@pytest.mark.parametrize("network", ["mlp", "gnn", "encoder", "decoder"])
def test_trains_with_the_networks_of_the_ablations(network: str, small: Any) -> None:
    """SrSv paper, Fig. 6; every parameter takes part, as several learners need it."""
    algorithm, learner = build(small, network=network)
    before = {name: p.clone() for name, p in learner.core.named_parameters()}
    terms = algorithm.train()["learners"]["default_policy"]
    assert terms["vf_loss"] > 0
    for name, parameter in learner.core.named_parameters():
        assert parameter.grad is not None, name
    assert any(not torch.equal(p, before[name]) for name, p in learner.core.named_parameters())
    algorithm.stop()


@pytest.mark.parametrize(
    "settings",
    [
        {"value_chunk_size": 1},
        {"value_chunk_size": None},
        {"value_agents": 100},
        {"value_loss_agents": 100},
    ],
    ids=str,
)
def test_chunks_and_a_sample_of_the_whole_team_give_the_same_step(
    settings: dict[str, int | None], small: Any
) -> None:
    gradients = []
    for these in ({}, settings):
        algorithm, learner = build(small, num_epochs=1, **these)
        algorithm.train()
        gradients.append([p.grad.clone() for p in learner.core.parameters()])
        algorithm.stop()
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-3)


def value_gradients(learner: Any, micro_batch: Any) -> tuple[Tensor, list[Tensor]]:
    """The value loss of a micro-batch and its gradients; nothing else is weighted."""
    only_values = micro_batch.replace(policy_weight=torch.zeros_like(micro_batch.policy_weight))
    parameters = list(learner.core.parameters())
    loss = learner.loss(only_values)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    zeros = [torch.zeros_like(p) for p in parameters]
    return loss.detach(), [z if g is None else g for g, z in zip(found, zeros, strict=True)]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    ("settings", "order"),
    [
        ({"successors": "greedy"}, "index"),
        ({"successors": "greedy_per_minibatch"}, "random"),
        ({"successors": "teacher_forced", "value_agents": 4}, "index"),
        ({"network": "mlp"}, "random"),
        ({"use_successor_policy": False}, "random"),
        ({"network": "encoder"}, "index"),
    ],
    ids=str,
)
def test_loss_of_drawn_values_is_expected_to_be_that_of_all(
    settings: dict[str, Any], order: str, count: int, small: Any
) -> None:
    """Over all sets of agents that may be drawn, the mean of losses and of gradients, exactly."""
    game = {"num_agents": 4, "num_actions": 4, "episode_length": 3}
    sizes = {"num_envs_per_env_runner": 2, "use_value_active_mask": True}
    config = small("SrSv", env_config=game, order=order, **sizes, **settings)
    algorithm = config.build_algo()
    learner, batch = with_moved_weights(algorithm)
    loss, gradients = value_gradients(learner, batch)
    drawn = [torch.tensor(ids) for ids in combinations(range(4), count)]
    found = [value_gradients(learner, learner.with_value_loss_of(batch, ids)) for ids in drawn]
    losses = torch.stack([one for one, _ in found])
    assert losses.std() > 1e-3 * loss.abs()
    torch.testing.assert_close(losses.mean(), loss, rtol=1e-5, atol=1e-7)
    for k, expected in enumerate(gradients):
        mean = torch.stack([of_all[k] for _, of_all in found]).mean(0)
        torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-6)
    algorithm.stop()


def test_every_agent_has_its_value_loss_equally_often(small: Any) -> None:
    """Of 5 agents, 2 per micro-batch: two sets of a permutation, then a new permutation."""
    game = {"num_agents": 5, "num_actions": 5, "episode_length": 3}
    config = small("SrSv", env_config=game, value_loss_agents=2, micro_batch_size=1)
    algorithm = config.build_algo()
    learner = learner_of(algorithm)
    batch = learner.prepare_minibatch(learner.build_train_batch(algorithm.env_runner.sample()[0]))
    counts, total = torch.zeros(5), 0
    for _ in range(20):
        positions = [one.value_positions for one in learner.micro_batches(batch)]
        assert len(positions) == len(batch)
        for first, second in zip(positions[::2], positions[1::2], strict=True):
            assert len({*first, *second}) == 4
            assert list(first) == sorted(first)
            counts[[*first, *second]] += 1
            total += 1
    assert (counts / total - 0.8).abs().max() <= 4 * (0.8 * 0.2 / total) ** 0.5
    algorithm.stop()


def test_policy_loss_and_advantages_are_of_all_agents(small: Any) -> None:
    """Whose value loss is drawn changes nothing else; first ratios are 1."""
    batches, game = [], {"num_agents": 4, "num_actions": 4, "episode_length": 3}
    for count in (None, 2):
        config = small("SrSv", env_config=game, num_epochs=1, value_loss_agents=count)
        algorithm = config.build_algo()
        learner = learner_of(algorithm)
        rollout = algorithm.env_runner.sample()[0]
        batch = learner.prepare_minibatch(learner.build_train_batch(rollout))
        (micro_batch,) = learner.micro_batches(batch)
        batches.append((batch, micro_batch))
        assert (micro_batch.value_weight > 0).sum(1).tolist() == [count or 4] * len(batch)
        now = learner.core.forward_train(micro_batch)
        torch.testing.assert_close(now.log_prob, batch.log_prob, rtol=0, atol=1e-5)
        algorithm.stop()
    (every, of_all), (some, of_some) = batches
    for name in ("advantages", "returns", "old_values", "policy_weight", "value_weight"):
        assert torch.equal(getattr(every, name), getattr(some, name))
    assert torch.equal(of_all.policy_weight, of_some.policy_weight)


@pytest.mark.parametrize("successors", SUCCESSORS)
def test_only_agents_with_a_value_are_learned_from(successors: str, small: Any) -> None:
    game = {"num_agents": 6, "num_actions": 6, "episode_length": 3}
    config = small("SrSv", value_agents=2, successors=successors)
    algorithm = config.environment("distinct_actions", env_config=game).build_algo()
    learner = learner_of(algorithm)
    rollout = algorithm.env_runner.sample()[0]
    seen = set()
    for _ in range(8):
        batch = learner.build_train_batch(rollout)
        agents = batch.value_mask[0].nonzero().squeeze(-1)
        seen.add(tuple(agents.tolist()))
        assert len(agents) == 2
        assert (batch.value_mask == batch.value_mask[0]).all()
        advantages = batch.advantages[:, agents]
        torch.testing.assert_close(advantages.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
        torch.testing.assert_close(advantages.std(), torch.tensor(1.0), atol=1e-2, rtol=0)
        prepared = learner.prepare_minibatch(batch)
        for weight in (prepared.policy_weight, prepared.value_weight):
            torch.testing.assert_close(weight.sum(), torch.tensor(1.0))
            assert (weight[:, agents] > 0).all()
            assert not weight[~batch.value_mask].any()
    assert len(seen) > 1
    dead = learner.prepare_minibatch(batch.replace(alive=batch.alive & ~batch.value_mask))
    assert not dead.policy_weight.any()
    before = learner.core.value_norm.mean.clone()
    learner.update_minibatch(
        batch.replace(returns=torch.where(batch.value_mask, batch.returns, torch.nan))
    )
    assert torch.isfinite(learner.core.value_norm.mean).all()
    assert not torch.equal(learner.core.value_norm.mean, before)
    terms = algorithm.train()["learners"]["default_policy"]
    assert terms["vf_loss"] > 0
    assert terms["total_loss"] == terms["total_loss"]
    algorithm.stop()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"value_loss_agents": 0}, "'value_loss_agents' must be above 0"),
        ({"value_agents": 0}, "'value_agents' must be above 0"),
        (
            {"value_agents": 8, "order": "random"},
            "value_agents needs every agent to keep",
        ),
        ({"value_agents": 8, "use_successor_policy": False}, "leave it at null"),
        ({"value_agents": 8, "network": "encoder"}, "leave it at null"),
        ({"network": "gru"}, "network 'gru' has no value 'sequential'"),
        ({"network": "mat_dec"}, "network 'mat_dec' has no value 'sequential'"),
        (
            {"network": "encoder", "use_successor_policy": False},
            "network 'encoder' has no value 'sequential_without_policy'",
        ),
        ({"network": "gnn", "num_heads": 2}, "leave num_heads at 1"),
        ({"network": "lstm"}, "'network' must be one of transformer, mlp"),
        ({"value": "decoder"}, "SrSv with value 'decoder' is MAT"),
        ({"value_chunk_size": 0}, "'value_chunk_size' must be above 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    settings: dict[str, Any], line: str, small: Any
) -> None:
    with pytest.raises(UserError, match=line):
        small("SrSv", **settings).validate()


def test_acting_carries_no_value_function(small: Any) -> None:
    algorithm, learner = build(small)
    acting = {name for name, _ in algorithm.get_module().named_parameters()}
    learning = {name for name, _ in learner.core.named_parameters()}
    assert acting < learning
    assert all(name.startswith("policy.value") for name in learning - acting)
    algorithm.stop()


def test_a_learned_mixture_of_positions_refuses_another_number_of_agents(
    small: Any, tmp_path: Path
) -> None:
    env_config = {"episode_length": 3, "num_agents": 3, "num_actions": 5}
    algorithm = small("SrSv", env_config=env_config, network="mlp").build_algo()
    checkpoint = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    algorithm.stop()
    with pytest.raises(UserError, match=r"logits.*number of agents where a network depends on it"):
        evaluate_checkpoint(checkpoint, episodes=1, env_config={"num_agents": 4})
