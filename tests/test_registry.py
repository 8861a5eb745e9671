"""Names: known to Ray on import, and again after Ray was shut down and started anew."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rllib_seqmarl
from rllib_seqmarl import registry
from rllib_seqmarl.errors import UserError


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_names_survive_a_second_connection() -> None:
    output = run(
        """
import ray, rllib_seqmarl
from ray import tune
from ray.tune.registry import get_trainable_cls

for _ in range(2):
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    assert get_trainable_cls("SrSv").__name__ == "SrSv"
    algorithm = rllib_seqmarl.MATConfig().environment("distinct_actions").update_from_dict(
        {"num_envs_per_env_runner": 2, "rollout_fragment_length": 4, "num_epochs": 1}
    ).build_algo()
    algorithm.train()
    algorithm.stop()
    ray.shutdown()
print("both")
"""
    )
    assert output.strip().endswith("both")


def test_tuner_finds_an_algorithm_by_its_name(tmp_path: object) -> None:
    output = run(
        f"""
import ray, rllib_seqmarl
from ray import tune

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
results = tune.Tuner(
    "SrSv",
    param_space={{
        "env": "distinct_actions",
        "num_envs_per_env_runner": 2,
        "rollout_fragment_length": 4,
        "num_epochs": 1,
        "lr": tune.grid_search([1e-3, 1e-4]),
    }},
    run_config=tune.RunConfig(
        stop={{"training_iteration": 2}}, storage_path={str(tmp_path)!r}, verbose=0
    ),
).fit()
print([r.metrics["training_iteration"] for r in results], len(results.errors))
"""
    )
    assert output.strip().endswith("[2, 2] 0")


def test_the_command_does_not_load_torch() -> None:
    code = """
import sys
sys.argv = ["rllib"]
import rllib_seqmarl.cli
print(sorted({"torch", "ray", "jax"} & set(sys.modules)))
"""
    assert run(code).strip() == "[]"


def test_attributes_of_the_package() -> None:
    assert rllib_seqmarl.SrSv is registry.algorithm_class("SrSv")
    assert rllib_seqmarl.MATConfig is registry.config_class("MAT")
    assert rllib_seqmarl.AOADMAT is registry.algorithm_class("AOAD-MAT")
    with pytest.raises(AttributeError, match="no attribute 'PPO'"):
        _ = rllib_seqmarl.PPO


@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_algorithms_have_a_config_of_their_own(name: str) -> None:
    config = registry.config_class(name)()
    assert config.algo_class is registry.algorithm_class(name)
    assert type(registry.algorithm_class(name).get_default_config()) is type(config)


@pytest.mark.parametrize(
    ("alias", "name"),
    [("mat", "MAT"), ("SRSV", "SrSv"), ("SrSv", "SrSv"), ("aoad_mat", "AOAD-MAT")],
)
def test_spelling(alias: str, name: str) -> None:
    assert registry.algorithm_name(alias) == name


def test_unknown_names_have_a_hint() -> None:
    with pytest.raises(UserError, match=r"unknown algorithm 'SrSw'. Did you mean 'SrSv'\?"):
        registry.algorithm_class("SrSw")
    with pytest.raises(UserError, match="unknown environment 'atari'"):
        registry.environment("atari")
