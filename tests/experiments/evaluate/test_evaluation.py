"""Playing with a checkpoint: what is refused, each with one line; scripted policies beside it."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from ray import tune
from ray.rllib.utils.checkpoints import Checkpointable

from rllib_seqmarl import registry
from rllib_seqmarl.envs.core.contract import Observation
from rllib_seqmarl.envs.dubins_car.env import DubinsCar
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.evaluate.evaluation import evaluate_checkpoint

CONFIG_FILE = Checkpointable.CLASS_AND_CTOR_ARGS_FILE_NAME


def refusal(path: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        evaluate_checkpoint(str(path), **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("episodes", [0, -3])
def test_no_episodes(episodes: int, tmp_path: Path) -> None:
    """Said before the checkpoint, which is missing here, is looked at."""
    message = refusal(tmp_path, episodes=episodes)
    assert message == f"episodes must be at least 1, got {episodes}."


def test_not_a_checkpoint(tmp_path: Path) -> None:
    assert f"{tmp_path} is not a checkpoint" in refusal(tmp_path)
    (tmp_path / CONFIG_FILE).write_bytes(b"garbage")
    assert f"{tmp_path} is not a checkpoint, or it is damaged" in refusal(tmp_path)


def forget_module(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, name)


def forget_class(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules[name], "Own")


@pytest.mark.parametrize("forget", [forget_module, forget_class])
def test_code_that_is_not_here(
    forget: Callable[[str, pytest.MonkeyPatch], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "code_of_another_machine"
    module = types.ModuleType(name)
    module.Own = type("Own", (), {"__module__": name})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    state = {"ctor_args_and_kwargs": (({"callbacks_class": module.Own},), {})}
    (tmp_path / CONFIG_FILE).write_bytes(pickle.dumps(state))
    forget(name, monkeypatch)
    message = refusal(tmp_path)
    assert "needs code that cannot be imported here" in message
    assert name in message


def test_an_environment_that_does_not_fit_the_policy(small: Any, tmp_path: Path) -> None:
    algorithm = small("MAT", env_config={"num_agents": 3}).build_algo()
    algorithm.save_to_path(str(tmp_path))
    algorithm.stop()
    assert evaluate_checkpoint(str(tmp_path), episodes=2)["episodes"] == 2
    message = refusal(tmp_path, episodes=2, env_config={"num_agents": 5, "num_actions": 5})
    assert f"the policy of {tmp_path} does not fit this environment" in message
    assert "num_agnets" in refusal(tmp_path, episodes=2, env_config={"num_agnets": 5})


# --- scripted policies -------------------------------------------------------------------------

CARS = {"num_agents": 3, "episode_length": 12, "max_travel": 1.0, "num_rays": 4}
dubins_car = registry.environment("dubins_car")
STEPS = CARS["episode_length"]


class NotedCars(DubinsCar):
    """Keeps the starts and goals of the episodes that were played."""

    played: list[NDArray[np.float32]]

    def _reset_envs(self) -> Observation:
        obs = super()._reset_envs()
        self.played.append(np.stack([self.cars.x, self.cars.y, self.cars.goal_x]))
        return obs


@pytest.fixture
def cars(small: Any, tmp_path: Path) -> str:
    """A checkpoint of a policy that drives cars."""
    algorithm = small("MAT", "dubins_car", env_config=CARS).build_algo()
    algorithm.save_to_path(str(tmp_path / "cars"))
    algorithm.stop()
    return str(tmp_path / "cars")


def test_scripted_policies_play_the_episodes_of_the_policy(small: Any, tmp_path: Path) -> None:
    """In an environment, too, that only ``tune.register_env`` knows."""

    class Noted(NotedCars):
        played: list[NDArray[np.float32]] = []  # noqa: RUF012 - of this class, not of an instance

    def creator(context: Mapping[str, Any]) -> Noted:
        return Noted(context["num_envs"], dubins_car.read(CARS))

    tune.register_env("noted_cars", creator)
    algorithm = small("MAT", "noted_cars").build_algo()
    algorithm.save_to_path(str(tmp_path))
    algorithm.stop()
    Noted.played.clear()
    result = evaluate_checkpoint(str(tmp_path), episodes=11, seed=5)

    assert list(result["controllers"]) == ["nominal", "full_speed", "potential_field"]
    assert len(Noted.played) == 4
    for one in Noted.played[1:]:
        np.testing.assert_array_equal(one, Noted.played[0])
    for played in result["controllers"].values():
        assert played["metrics"].keys() == result["metrics"].keys()
        for name, values in played["per_episode"].items():
            assert len(values) == 11
            assert played["metrics"][name] == pytest.approx(np.mean(values))


def test_a_scripted_policy_does_what_it_does_without_a_checkpoint(cars: str) -> None:
    result = evaluate_checkpoint(cars, episodes=3, seed=5, scripted_policies=["nominal"])
    env = dubins_car.make(3, **CARS)
    env.reset(seed=int(np.random.SeedSequence((5, 0, 0)).generate_state(1)[0]))
    for _ in range(STEPS):
        *_, infos = env.step(env.scripted_actions("nominal"))
    (played,) = result["controllers"].values()
    expected = infos["final_info"]["episode_return"].tolist()
    assert played["per_episode"]["episode_return"] == expected
    assert result["per_episode"]["episode_return"] != expected


def test_which_scripted_policies_play_is_asked_for(cars: str) -> None:
    alone = evaluate_checkpoint(cars, episodes=2, seed=5, scripted_policies=())
    assert alone["controllers"] == {}
    former = evaluate_checkpoint(cars, episodes=2, seed=5, controllers=())
    assert former == alone
    beside = evaluate_checkpoint(cars, episodes=2, seed=5)
    assert beside["per_episode"] == alone["per_episode"]
    message = refusal(Path(cars), episodes=2, scripted_policies=["nominal", "full_sped"])
    assert "no scripted policy 'full_sped'. Did you mean 'full_speed'?" in message


def test_an_environment_without_scripted_policies(small: Any, tmp_path: Path) -> None:
    algorithm = small("MAT").build_algo()
    algorithm.save_to_path(str(tmp_path))
    algorithm.stop()
    assert evaluate_checkpoint(str(tmp_path), episodes=2)["controllers"] == {}
    message = refusal(tmp_path, episodes=2, scripted_policies=["nominal"])
    assert "(distinct_actions) has no scripted policies" in message


def test_the_first_episode_of_env_0_is_watched(cars: str) -> None:
    times: list[int] = []
    evaluate_checkpoint(cars, episodes=20, before_step=lambda env: times.append(int(env.time[0])))
    assert times == list(range(STEPS))
