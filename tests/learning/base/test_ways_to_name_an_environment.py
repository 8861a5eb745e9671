"""RLlib's own ways to name an environment: classes, creators and import paths of every kind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from helpers.small_games import Herd, Turns
from ray import tune
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv

from rllib_seqmarl import registry
from rllib_seqmarl.envs.core.contract import TeamVectorEnv
from rllib_seqmarl.envs.toy.distinct_actions import DistinctActions
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.spec.check import check
from rllib_seqmarl.experiments.spec.experiment import Overrides, load_file

#: What games of other kinds give per step, team of three and team of two.
HERD, TURNS = 1.0 + 2.0 + 3.0, 0.5 + 0.5


class Line(DistinctActions):
    """A team of one's own, with keywords."""

    def __init__(self, num_envs: int, num_agents: int = 3, worker_index: int = -1) -> None:
        settings = registry.environment("distinct_actions").read({"num_agents": num_agents})
        super().__init__(num_envs, settings)
        self.worker_index = worker_index


class Alone(gym.Env):  # type: ignore[type-arg]
    """An environment of one agent."""


def single(context: Any) -> gym.Env[Any, Any]:
    return Alone()


def team(context: Any) -> TeamVectorEnv:
    settings = dict(context)
    return Line(settings.pop("num_envs"), **settings)


class Started(Herd):
    """RLlib's wrapper resets a game without a seed before anything else."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rng = np.random.default_rng(0)


def local_class() -> type:
    """A class that no other process can import."""

    class Local(Turns):
        pass

    return Local


PATH = "helpers.small_games"
WAYS: dict[str, tuple[Any, dict[str, Any], float]] = {
    "class of RLlib": (Turns, {"end": 4}, TURNS * 4),
    "class of PettingZoo": (Herd, {"end": 5}, HERD * 5),
    "class of a team": (Line, {"num_agents": 2}, 0.0),
    "local class": (local_class(), {"end": 4}, TURNS * 4),
    "path of RLlib": (f"{PATH}:Turns", {"end": 3}, TURNS * 3),
    "path of PettingZoo": (f"{PATH}:Herd", {"end": 5}, HERD * 5),
    "path of a team": (f"{__name__}:Line", {"num_agents": 2}, 0.0),
    "creator of RLlib": (lambda c: Turns(c), {"end": 4}, TURNS * 4),
    "creator with keywords": (lambda c: Herd(**c), {"end": 5}, HERD * 5),
    "creator of a wrapper": (lambda c: ParallelPettingZooEnv(Started(**c)), {"end": 5}, HERD * 5),
    "creator of a team": (team, {"num_agents": 2}, 0.0),
}


@pytest.mark.parametrize("way", WAYS)
def test_trains(way: str, small: Any) -> None:
    env, env_config, expected = WAYS[way]
    if not isinstance(env, str | type):
        tune.register_env(way, env)
        env = way
    config = small("MAT", env=env, env_config=env_config, num_envs_per_env_runner=2, num_epochs=1)
    algorithm = config.build_algo()
    try:
        results = algorithm.train()["env_runners"]
        assert algorithm.env_runner.env.num_envs == 2
        assert algorithm.config.env_config == env_config
    finally:
        algorithm.stop()
    if expected:
        assert results["episode_return_mean"] == pytest.approx(expected)
    else:
        assert algorithm.env_runner.env.num_agents == 2


@pytest.mark.parametrize(
    ("env", "env_config", "message"),
    [
        (Alone, {}, "environment Alone is a class, which is no team: give a TeamVectorEnv"),
        (f"{__name__}:Alone", {}, "Alone' is a class, which is no team"),
        (single, {}, "makes a Alone, which is no team"),
        (Line, {"size": 1}, "unexpected keyword argument 'size'"),
        (Turns, {"all": "all"}, "returned terminateds without '__all__'"),
        (Herd, {"size": 1}, "raised TypeError: .* unexpected keyword argument 'size'"),
        (lambda c: 1 / 0, {}, "its creator raised ZeroDivisionError: division by zero"),
        (lambda c: c["nothing"], {}, "its creator raised KeyError: 'nothing'"),
        (lambda c: team({**c, "size": c["num_envs"]}), {}, "unexpected keyword argument 'size'"),
        (f"{PATH}.Turns", {}, f"a colon before the class: '{PATH}:Turns'"),
        (f"{__name__}:no_keywords", {}, "goes by env: pettingzoo or multi_agent_env"),
        (Turns({}), {}, "`env` is <.*Turns object.*>, which is no team"),
    ],
)
def test_what_cannot_be_is_told_in_one_line_before_anything_starts(
    env: Any, env_config: dict[str, Any], message: str, small: Any
) -> None:
    if callable(env) and not isinstance(env, type):
        tune.register_env("of_another_kind", env)
        env = "of_another_kind"
    config = small("MAT")
    config.env, config.env_config = env, env_config
    with pytest.raises(UserError, match=message) as error:
        config.validate()
    assert "\n" not in str(error.value)


PYTHON_FILE = """
from helpers.small_games import Turns
from ray import tune
from rllib_seqmarl import MATConfig

class Own(Turns):
    pass

tune.register_env("from_a_file", lambda context: Own(context))
config = MATConfig().environment({env}, env_config={{"end": 4}})
"""


@pytest.mark.parametrize("env", ["Own", "'from_a_file'"])
def test_the_python_file_of_an_experiment(env: str, tmp_path: Path, ray_session: None) -> None:
    file = tmp_path / "experiment.py"
    file.write_text(PYTHON_FILE.format(env=env))
    (spec,) = load_file(str(file), Overrides())
    (checked,) = check(spec)
    assert checked["env_config"] == {"end": 4}
    assert checked["env"] == {"Own": "script.Own"}.get(env, "from_a_file")


def test_a_class_of_a_script_is_unknown_elsewhere() -> None:
    with pytest.raises(UserError, match="'Gone' stands in a script or a function, which others"):
        registry.environment("script.Gone")


def no_keywords() -> MultiAgentEnv:
    return Turns({})


def test_a_script_with_its_own_class_trains_through_tune_with_a_runner(tmp_path: Path) -> None:
    """A class of ``__main__`` travels to trials and runners; indices reach it."""
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import ray, rllib_seqmarl
from helpers.small_games import Turns
from ray import tune

class Own(Turns):
    def __init__(self, config):
        super().__init__(config)
        self.pay = 100 * config.worker_index + 10 * config.vector_index + config["base"]
    def step(self, actions):
        obs, rewards, *rest = super().step(actions)
        return obs, dict.fromkeys(rewards, self.pay), *rest

if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    config = rllib_seqmarl.MATConfig().environment(Own, env_config={{"end": 1, "base": 3}})
    config.env_runners(
        num_env_runners=1, num_envs_per_env_runner=2, rollout_fragment_length=2
    ).training(num_epochs=1)
    results = tune.Tuner(
        "MAT",
        param_space=config,
        run_config=tune.RunConfig(
            stop={{"training_iteration": 1}}, storage_path={str(tmp_path)!r}, verbose=0
        ),
    ).fit()
    found = results[0].metrics["env_runners"]
    print("returns", found["episode_return_min"], found["episode_return_max"])
"""
    )
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=variables, timeout=300
    )
    assert "returns 206.0 226.0" in result.stdout, result.stdout[-500:] + result.stderr[-2000:]
