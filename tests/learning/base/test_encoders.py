"""Encoders of observations in the networks of every family: trained, saved, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.learners import learner_of

from rllib_seqmarl.cli import main
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.evaluate.evaluation import evaluate_checkpoint
from rllib_seqmarl.losses import probability_ratio

LIT_CORNER = "seqmarl_extras.lit_corner:LitCorner"
#: Two agents see a white image; with numbers beside it, where the form is "dict".
IMAGES = {"env": "helpers.faulty_games:Images", "kwargs": {"form": "dict"}, "state": "concatenate"}
APART: dict[str, Any] = {"share_parameters": False, "share_critic": False}
CHUNKS: dict[str, Any] = {"recurrent": True, "chunk_length": 5}


def weights(algorithm: Any) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in learner_of(algorithm).core.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("MAT", {}),
        ("MAT", {"network": "mat_dec"}),
        ("SrSv", {}),
        ("AOAD-MAT", {}),
        ("MAPPO", {"state": "observations"}),
        ("MAPPO", {"state": "observation", **APART, **CHUNKS}),
        ("HAPPO", {"state": "environment", **CHUNKS}),
        ("A2PO", {"state": "environment_and_observation"}),
    ],
    ids=lambda given: given if isinstance(given, str) else "-".join(given) or "default",
)
def test_no_probability_moves_before_the_first_step_and_every_parameter_is_trained(
    name: str, settings: dict[str, Any], small: Any
) -> None:
    reads_state = str(settings.get("state")).startswith("environment")
    env = {"env": "pettingzoo", "env_config": IMAGES} if reads_state else {"env": LIT_CORNER}
    algorithm = small(name, **env, observation_encoder="cnn", lr=1e-2, **settings).build_algo()
    before = weights(algorithm)
    algorithm.train()
    after = weights(algorithm)
    trained = [k for k in before if "reader" in k]
    assert trained
    assert [k for k in trained if torch.equal(before[k], after[k])] == []

    learner = learner_of(algorithm)
    rollout = algorithm.env_runner.sample()[0]
    assert rollout.columns["obs"].dtype == (np.float32 if reads_state else np.uint8)
    rows = learner.build_train_batch(rollout)
    forward = learner.module["default_policy"].forward_train(rows)
    ratio = probability_ratio(forward.log_prob, rows.log_prob, "per_dim")
    assert (ratio - 1.0).abs().max() < 1e-5
    algorithm.stop()


def test_agents_with_a_central_action_value_have_encoders_too(small: Any) -> None:
    settings = {"env": "pettingzoo", "env_config": IMAGES, "state": "environment"}
    algorithm = small("LICA", observation_encoder="mlp", **settings).build_algo()
    before = weights(algorithm)
    algorithm.train()
    after = weights(algorithm)
    trained = [k for k in before if k.startswith("agent.reader.")]
    assert trained
    assert [k for k in trained if torch.equal(before[k], after[k])] == []
    algorithm.stop()


@pytest.mark.parametrize(("name", "state"), [("COMA", "environment"), ("LICA", "observations")])
def test_critics_that_read_observations_as_numbers_refuse_images(
    name: str, state: str, small: Any
) -> None:
    settings = {"env": "pettingzoo", "env_config": IMAGES, "state": state}
    with pytest.raises(UserError, match=r"which the critic reads .* it has a \[2, 2, 3\]") as line:
        small(name, observation_encoder="cnn", **settings).build_algo()
    assert "\n" not in str(line.value)


@pytest.mark.parametrize("name", ["MAT", "MAPPO", "LICA"])
def test_images_need_an_encoder_or_to_be_flattened(name: str, small: Any) -> None:
    """Of a game before anything starts; of an own environment when the networks are built."""
    both = r"a vector: it has .* \[\d, \d, \d\].*observation_encoder.*'flatten: true'"
    with pytest.raises(UserError, match=f"pettingzoo: the observation is not {both}") as line:
        small(name, env="pettingzoo", env_config=IMAGES).validate()
    assert "\n" not in str(line.value)
    small(name, env="pettingzoo", env_config={**IMAGES, "flatten": True}).validate()
    with pytest.raises(UserError, match=f"the observation is not {both}"):
        small(name, env=LIT_CORNER).build_algo()


def test_an_encoder_goes_with_any_vector(small: Any) -> None:
    algorithm = small("MAT", observation_encoder="mlp").build_algo()
    algorithm.train()
    assert any("reader" in name for name in weights(algorithm))
    algorithm.stop()


def test_a_policy_with_an_encoder_is_resumed_evaluated_and_shared(
    small: Any, tmp_path: Path
) -> None:
    settings = {"env": "pettingzoo", "env_config": {**IMAGES, "kwargs": {"form": "nested"}}}
    algorithm = small("MAPPO", observation_encoder="cnn", **settings).build_algo()
    algorithm.train()
    checkpoint = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    algorithm.train()
    resumed = type(algorithm).from_checkpoint(checkpoint)
    resumed.train()
    uninterrupted, again = weights(algorithm), weights(resumed)
    assert [k for k in again if not torch.equal(again[k], uninterrupted[k])] == []
    for one in (algorithm, resumed):
        one.stop()
    assert evaluate_checkpoint(checkpoint, episodes=3, seed=3)["algorithm"] == "MAPPO"
    policy = str(tmp_path / "policy.safetensors")
    assert main(["export", checkpoint, policy]) == 0
    assert main(["evaluate", policy, "--episodes", "3", "--trust-imports"]) == 0


@pytest.mark.parametrize("name", ["MAT", "MAPPO"])
def test_a_cue_in_an_image_is_learned(name: str, small: Any) -> None:
    """Every agent names the corner that is lit; by chance a quarter of them is right."""
    settings: dict[str, Any] = {"lr": 2e-3, "clip_param": 0.2, "num_epochs": 5}
    if name == "MAPPO":
        settings |= {"critic_lr": 2e-3, "hidden_sizes": [32]}
    algorithm = small(
        name, env=LIT_CORNER, observation_encoder="cnn", num_envs_per_env_runner=32, **settings
    ).build_algo()
    for _ in range(40):
        result = algorithm.train()
        if result["env_runners"]["episode_return_mean"] > 0.9:
            break
    algorithm.stop()
    assert result["env_runners"]["episode_return_mean"] > 0.9
