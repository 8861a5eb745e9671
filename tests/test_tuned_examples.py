"""Every example trains and is evaluated, in small: its algorithm, environment and settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from rllib_seqmarl import registry
from rllib_seqmarl.experiments.evaluate.evaluation import evaluate_checkpoint
from rllib_seqmarl.experiments.examples import Example, examples
from rllib_seqmarl.experiments.spec.check import check
from rllib_seqmarl.experiments.spec.experiment import Overrides, load_file

#: As little as still passes through everything; whatever else the file says stays.
SMALL = {
    "num_env_runners": 0,
    "num_envs_per_env_runner": 2,
    "rollout_fragment_length": 8,
    "minibatch_size": None,
    "evaluation_interval": None,
    "evaluation_max_episode_steps": 20,
}
#: Likewise of a team; test_cluster.py trains 1,024.
MOST_AGENTS = 16


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_example_trains_and_is_evaluated(
    example: Example,
    tmp_path: Path,
    ray_session: None,
    where_installed: Callable[[], AbstractContextManager[None]],
) -> None:
    if "starcraft2" in example.name or "smacv2" in example.name:
        pytest.skip("StarCraft II is on no test machine; test_experiment.py loads the file.")
    with where_installed():
        specs = load_file(str(example.path), Overrides())
        variants = [(spec, variant) for spec in specs for variant in check(spec)]
    trained = []
    for spec, variant in variants:
        config = registry.config_class(spec.algorithm)()
        team = dict(variant.get("env_config", {}))
        if team.get("num_agents", 0) > MOST_AGENTS:
            team["num_agents"] = MOST_AGENTS
        config.update_from_dict({**variant, **SMALL, "env_config": team})
        # Of a search over numbers only what makes another network: `check` has seen the rest.
        words = {k: v for k, v in variant.items() if isinstance(v, bool | str | dict)}
        code = (spec.name, words, config.get_default_rl_module_spec().model_config)
        if code in trained:
            continue
        trained.append(code)
        algorithm = config.build_algo()
        try:
            for _ in range(2):
                result = algorithm.train()
            algorithm.save_to_path(str(tmp_path / "checkpoint"))
        finally:
            algorithm.stop()
        assert result["num_env_steps_sampled_lifetime"] == 2 * 2 * 8
        losses = result["learners"]["default_policy"]
        assert math.isfinite(losses["total_loss"])
        played = evaluate_checkpoint(str(tmp_path / "checkpoint"), episodes=1, seed=0)
        assert played["episodes"] == 1
        assert all(math.isfinite(mean) for mean in played["metrics"].values())
