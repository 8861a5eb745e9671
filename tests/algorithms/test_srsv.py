"""SrSv's own settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.learners import learner_of

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
    torch.testing.assert_close(learner.prepare_minibatch(batch).value_inputs, batch.value_inputs)
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
    [{"value_chunk_size": 1}, {"value_chunk_size": None}, {"value_agents": 100}],
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
