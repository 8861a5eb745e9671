"""Actions of several parts in whole algorithms: two choices and a number, some of them absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.learners import learner_of

from rllib_seqmarl import registry
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.evaluate.evaluation import evaluate_checkpoint, evaluate_policy
from rllib_seqmarl.experiments.share.policy_file import SharedPolicy, export
from rllib_seqmarl.losses import probability_ratio

WORKSHOP = "helpers.mixed_games:Workshop"
GAME = {"episode_length": 3}
CONTINUOUS_TOO = [n for n in registry.ALGORITHMS if registry.config_class(n).continuous_actions]
DISCRETE_ONLY = [name for name in registry.ALGORITHMS if name not in CONTINUOUS_TOO]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {}) for name in CONTINUOUS_TOO),
        ("AOAD-MAT", {"next_agent_loss": "sum"}),
        ("SrSv", {"network": "gnn", "ratio_aggregation": "mean"}),
        ("MAPPO", {"recurrent": True, "chunk_length": 5, "ratio_aggregation": "mean"}),
        ("A2PO", {"share_parameters": True, "ratio_aggregation": "per_dim"}),
    ],
)
def test_no_probability_moves_before_the_first_step(
    name: str, settings: dict[str, Any], small: Any
) -> None:
    algorithm = small(name, env=WORKSHOP, env_config=GAME, lr=1e-2, **settings).build_algo()
    algorithm.train()  # away from the initialisation, where all probabilities are alike
    learner = learner_of(algorithm)
    rows = learner.build_train_batch(algorithm.env_runner.sample()[0])
    forward = learner.module["default_policy"].forward_train(rows)
    for aggregation in ("per_dim", "prod", "mean"):
        ratio = probability_ratio(forward.log_prob, rows.log_prob, aggregation)
        assert (ratio - 1.0).abs().max() < 1e-5
    has = rows.log_prob.flatten(0, -3).abs().amax(0) > 0  # [N, K]
    assert has.tolist() == [[True, True, False], [True, True, True], [True, False, True]]
    assert np.isfinite(algorithm.train()["env_runners"]["episode_return_mean"])
    algorithm.stop()


@pytest.mark.parametrize("name", DISCRETE_ONLY)
def test_refused_where_only_one_choice_is_made(name: str, small: Any) -> None:
    with pytest.raises(UserError, match="this environment's have several parts") as caught:
        small(name, env=WORKSHOP).build_algo()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["MAT", "HAPPO"])
def test_saved_resumed_evaluated_and_shared(name: str, small: Any, tmp_path: Path) -> None:
    algorithm = small(name, env=WORKSHOP, env_config=GAME).build_algo()
    algorithm.train()
    checkpoint = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    resumed = type(algorithm).from_checkpoint(checkpoint)
    for one in (algorithm, resumed):
        one.train()
    states = [learner_of(one).module["default_policy"].state_dict() for one in (algorithm, resumed)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    for one in (algorithm, resumed):
        one.stop()
    result = evaluate_checkpoint(checkpoint, episodes=8, seed=3)
    export(checkpoint, tmp_path / "policy.safetensors")
    shared = SharedPolicy(tmp_path / "policy.safetensors", trust_imports=True)
    assert shared.stored.metadata["action"] == {"discrete": False, "size": 7, "parts": [4, 2]}
    again = evaluate_policy(shared, episodes=8, seed=3)
    assert again["per_episode"] == result["per_episode"]


def test_the_mean_ratio_is_over_the_parts_that_an_agent_has(small: Any) -> None:
    """And what it lacks moves no gradient, whatever the way to combine."""
    algorithm = small("MAPPO", env=WORKSHOP, ratio_aggregation="mean").build_algo()
    learner = learner_of(algorithm)
    rows = learner.build_train_batch(algorithm.env_runner.sample()[0])
    moved = rows.log_prob + torch.tensor([[0.2, 0.4, 0.0], [0.2, 0.4, 0.6], [0.2, 0.0, 0.6]])
    ratio = learner.ratio(moved, rows)[..., 0].log()
    torch.testing.assert_close(ratio, torch.tensor([0.3, 0.4, 0.4]).expand_as(ratio))
    algorithm.stop()


def test_a_successor_counts_once_for_every_part_that_an_agent_has(small: Any) -> None:
    """AOAD-MAT, ratio per dimension: a part that is not there adds no gradient to the choice."""
    algorithm = small("AOAD-MAT", env=WORKSHOP, order_entropy_coeff=0.0).build_algo()
    learner = learner_of(algorithm)
    rows = learner.prepare_minibatch(learner.build_train_batch(algorithm.env_runner.sample()[0]))
    forward = learner.module["default_policy"].forward_train(rows)
    choice = forward.order.log_prob.detach().requires_grad_()
    now = forward._replace(order=forward.order._replace(log_prob=choice))
    ratio = torch.ones_like(forward.log_prob)
    (gradient,) = torch.autograd.grad(learner.policy_objective(rows, now, ratio), choice)
    parts = torch.tensor([2.0, 3.0, 2.0])
    expected = -rows.policy_weight * rows.advantages * parts
    torch.testing.assert_close(gradient, expected)
    algorithm.stop()


def test_mat_learns_all_parts(small: Any) -> None:
    """Tools are told apart by the predecessors' actions alone: at random 0.9 would be the best."""
    algorithm = small(
        "MAT",
        env=WORKSHOP,
        num_envs_per_env_runner=64,
        lr=5e-3,
        clip_param=0.2,
        num_epochs=5,
        embed_dim=32,
        seed=0,
    ).build_algo()
    for _ in range(20):
        algorithm.train()
    algorithm.env_runner.pop_episodes()
    algorithm.env_runner.sample(num_episodes=500, explore=False)
    returns = algorithm.env_runner.pop_episodes()["episode_return"]
    algorithm.stop()
    assert np.mean(returns) > 0.95
