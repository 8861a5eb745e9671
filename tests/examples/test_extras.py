"""The package of examples/: from outside, by import paths, through the real commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.running import ROOT, iterations, rllib

from rllib_seqmarl import registry
from rllib_seqmarl.cli import main
from rllib_seqmarl.envs import check_team_env
from rllib_seqmarl.experiments.spec.check import check
from rllib_seqmarl.experiments.spec.experiment import Overrides, load_file

EXAMPLES = ROOT / "examples"
FILES = sorted(EXAMPLES.glob("*.yaml"))
#: Sizes with which a training takes seconds.
SMALL = {"num_envs_per_env_runner": 4, "rollout_fragment_length": 6}


def config_of(file: Path, **settings: Any) -> Any:
    """The config of a file's only experiment."""
    (spec,) = load_file(str(file), Overrides())
    (values,) = check(spec)
    config = registry.config_class(spec.run)()
    config.update_from_dict({**values, **settings})
    return config


def weights(algorithm: Any) -> dict[str, torch.Tensor]:
    found: list[dict[str, torch.Tensor]] = []
    algorithm.learner_group.foreach_learner(
        lambda learner: found.append(
            {k: v.clone() for k, v in learner.module["default_policy"].state_dict().items()}
        )
    )
    return found[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_trains_resumes_evaluates_and_is_shared(
    file: Path, ray_session: None, tmp_path: Path
) -> None:
    settings = SMALL | ({"replay_batch_size": 4} if file.stem == "hasac" else {})
    algorithm = config_of(file, **settings).build_algo()
    first = algorithm.train()
    assert np.isfinite(first["env_runners"]["episode_return_mean"])
    checkpoint = Path(algorithm.save_to_path(str(tmp_path / "checkpoint")))
    before = weights(algorithm)
    algorithm.train()
    resumed = type(algorithm).from_checkpoint(str(checkpoint))
    resumed.train()
    uninterrupted, again = weights(algorithm), weights(resumed)
    assert any(not torch.equal(before[name], uninterrupted[name]) for name in before)
    assert all(torch.equal(again[name], uninterrupted[name]) for name in again)
    for one in (algorithm, resumed):
        one.stop()

    policy = str(tmp_path / "policy.safetensors")
    assert main(["evaluate", str(checkpoint), "--episodes", "3"]) == 0
    assert main(["export", str(checkpoint), policy]) == 0
    assert main(["evaluate", policy, "--episodes", "3", "--trust-imports"]) == 0


def test_the_command_trains_an_algorithm_from_outside(tmp_path: Path) -> None:
    path = f"{ROOT}:{EXAMPLES}"
    file = tmp_path / "hasac.yaml"
    small = "    num_envs_per_env_runner: 4\n    replay_batch_size: 4\n"
    text = (EXAMPLES / "hasac.yaml").read_text()
    file.write_text(text.replace("    num_envs_per_env_runner: 16\n", small))
    train = ("train", "file", str(file), "--storage-path", str(tmp_path))

    def run(*arguments: str) -> str:
        result = rllib(*arguments, PYTHONPATH=path)
        assert result.returncode == 0, result.stdout
        return str(result.stdout)

    run(*train, "--stop", '{"training_iteration": 1}')
    experiment = tmp_path / "hasac-distinct-actions"
    (trial,) = (folder for folder in experiment.iterdir() if folder.is_dir())
    restore = ("--experiment-name", "next", "--restore", str(trial))
    run(*train, *restore, "--stop", '{"training_iteration": 2}')
    assert iterations(tmp_path / "next") == [2]


def test_hasac_learns(ray_session: None) -> None:
    algorithm = config_of(EXAMPLES / "hasac.yaml").build_algo()
    for _ in range(60):
        result = algorithm.train()
        if result["env_runners"]["episode_return_mean"] > 0.95:
            break
    algorithm.stop()
    assert result["env_runners"]["episode_return_mean"] > 0.95


def test_the_nearest_decides_first() -> None:
    from seqmarl_extras.by_distance import ByDistance

    from rllib_seqmarl.nets.orders.base import OrderInputs

    obs = torch.tensor([[[0.5, 1.0], [0.1, 1.0], [0.5, 1.0]]])
    order, log_prob = ByDistance(8).choose(OrderInputs(obs, torch.zeros(1, 3, 8)))
    assert order is not None
    assert order.tolist() == [[1, 0, 2]]
    assert log_prob is None


def test_parking_is_a_team_env() -> None:
    entry = registry.environment("seqmarl_extras.parking:Parking")
    check_team_env(entry.make(4, **entry.check({"num_cars": 3, "episode_length": 2})))
