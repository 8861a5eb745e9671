"""No environment is given the settings of another one that looks like it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pytest
from gymnasium import spaces
from helpers.faulty_games import Plain
from helpers.small_games import Herd, Turns
from ray import tune

from rllib_seqmarl import registry
from rllib_seqmarl.envs.toy.distinct_actions import DistinctActions
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.rollout.runner import text_of_settings
from rllib_seqmarl.settings import Doc, settings


@settings
class PricesConfig:
    """Settings of which one is an array."""

    prices: Annotated[Any, Doc("what is paid.")] = None


def long_array(last: float) -> np.ndarray:
    """Of which NumPy prints the ends alone, with 8 digits."""
    values = np.zeros(2001)
    values[1000] = last
    return values


class SameText:
    """Says nothing of what it holds."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "SameText()"


PAIRS: dict[str, tuple[Any, Any]] = {
    "long arrays": (long_array(1.0), long_array(2.0)),
    "ninth digit": (np.array([1.0]), np.array([1.0 + 1e-12])),
    "objects": (SameText(1.0), SameText(2.0)),
    "whole and real numbers": ([1], [1.0]),
}


def value_of(setting: Any) -> Any:
    return getattr(setting, "value", setting)


@pytest.mark.parametrize("pair", PAIRS)
def test_settings_are_read_as_they_are(pair: str) -> None:
    entry = registry.Environment("prices", DistinctActions, PricesConfig)
    for setting in PAIRS[pair]:
        read = entry.read({"prices": setting}).prices
        np.testing.assert_array_equal(value_of(read), value_of(setting))


def test_a_changed_array_is_read_again() -> None:
    entry, array = registry.Environment("prices", DistinctActions, PricesConfig), np.ones(3)
    entry.read({"prices": array})
    array[:] = 5.0
    assert entry.read({"prices": np.ones(3)}).prices.tolist() == [1.0] * 3


class Sized(Plain):
    """Observes as many numbers as an array says."""

    def __init__(self, sizes: np.ndarray) -> None:
        self.size = int(sizes[1000])

    def observation_space(self, agent: str) -> Any:
        return spaces.Box(-1.0, 1.0, (self.size,), np.float32)

    def _obs(self) -> dict[str, Any]:
        return {agent: np.zeros(self.size, np.float32) for agent in self.agents}


@pytest.mark.parametrize("last", [2.0, 3.0])
def test_a_game_is_tried_with_its_own_settings(last: float) -> None:
    config = {"env": f"{__name__}:Sized", "kwargs": {"sizes": long_array(last)}, "agent_id": False}
    layout = registry.environment("pettingzoo").observation_layout(config)
    assert layout is not None
    assert layout.size == last


class Unpicklable(Plain):
    """Takes what no pickle holds."""

    def __init__(self, ask: Any) -> None:
        self.ask = ask


def test_what_cannot_be_pickled_is_tried_every_time() -> None:
    kwargs = {"ask": (one for one in "ab")}
    config = {"env": f"{__name__}:Unpicklable", "kwargs": kwargs}
    layout = registry.environment("pettingzoo").observation_layout(config)
    assert layout is not None
    assert layout.size == 5


@pytest.mark.parametrize("pair", ["long arrays", "ninth digit", "whole and real numbers"])
def test_texts_of_settings_differ(pair: str) -> None:
    one, other = PAIRS[pair]
    assert text_of_settings({"prices": one}) != text_of_settings({"prices": other})
    assert text_of_settings(np.copy(one)) == text_of_settings(np.copy(one))


def test_addresses_are_no_difference() -> None:
    assert text_of_settings([object()]) == text_of_settings([object()])


def of_one_name(end: int) -> type:
    class Local(Turns):
        def __init__(self, config: Mapping[str, Any]) -> None:
            super().__init__({"end": end})

    return Local


def test_local_classes_of_one_name_are_different_environments(ray_session: None) -> None:
    classes = [of_one_name(3), of_one_name(7)]
    names = [registry.register_class(cls) for cls in (*classes, *classes)]
    assert names[0] != names[1]
    assert names[:2] == names[2:]  # each keeps its name
    for name, end in zip(names, (3, 7), strict=False):
        creator: Any = registry._ray_compat.registered_environment(name)
        assert creator({}).end == end


class Lonely(DistinctActions):
    """Makes one env whatever it is asked for."""

    def __init__(self, num_envs: int = 1) -> None:
        super().__init__(1, registry.environment("distinct_actions").read({}))


def test_a_creator_that_ignores_num_envs_is_told(small: Any) -> None:
    tune.register_env("lonely", lambda context: Lonely())
    config = small("MAT", env="lonely", env_config={}, num_envs_per_env_runner=3)
    with pytest.raises(UserError, match="'lonely' has 1 envs where num_envs is 3: its creator"):
        config.build_algo()


class Indexed(DistinctActions):
    """Cannot be made without the index of its runner."""

    def __init__(self, num_envs: int, worker_index: int, size: int = 3) -> None:
        self.worker_index = worker_index
        super().__init__(num_envs, registry.environment("distinct_actions").read({}))


def test_a_constructor_may_require_the_index_of_its_runner() -> None:
    entry = registry.environment(f"{__name__}:Indexed")
    assert entry.check({"size": 2}) == {"size": 2}
    made: Any = entry.make(2)
    assert made.worker_index == 0
    with pytest.raises(UserError, match="unexpected keyword argument 'sise'"):
        entry.check({"sise": 2})


class Pictures(Herd):
    """Every agent sees a picture."""

    def observation_space(self, agent: str) -> Any:
        return spaces.Box(0, 255, (2, 2, 3), np.uint8)

    def _speak(self) -> tuple[dict[str, Any], dict[str, Any]]:
        seen, infos = super()._speak()
        return {agent: np.zeros((2, 2, 3), np.uint8) for agent in seen}, infos


@pytest.mark.parametrize("env", [f"{__name__}:Pictures", "pictures"])
def test_images_without_an_encoder_are_refused_before_anything_is_made(
    env: str, small: Any
) -> None:
    tune.register_env("pictures", lambda context: Pictures())
    config = small("MAT", env=env, env_config={})
    with pytest.raises(UserError, match=r"is not a vector: it has obs \[2, 2, 3\]"):
        config.validate()


class NoGame:
    """Nothing that anybody could play."""

    closed = False

    def close(self) -> None:
        NoGame.closed = True


def test_what_is_no_environment_is_left_alone(small: Any) -> None:
    tune.register_env("no_game", lambda context: NoGame())
    config = small("MAT", env="no_game", env_config={})
    with pytest.raises(UserError, match="makes a NoGame, which is no team"):
        config.validate()
    assert not NoGame.closed
