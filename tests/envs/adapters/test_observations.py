"""Observations of a game as one array of the team: arrays stay what they are, and bytes bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from helpers.faulty_games import Images

from rllib_seqmarl import registry
from rllib_seqmarl.envs import check_team_env
from rllib_seqmarl.envs.adapters.observations import TeamObservations, agent_ids, parts
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.layout import Layout

pettingzoo = registry.environment("pettingzoo")
IMAGE = spaces.Box(0, 255, (2, 3, 1), np.uint8)
NUMBERS = spaces.Box(-np.inf, np.inf, (2,), np.float64)


def team(*agents: spaces.Space[Any], agent_id: bool = False) -> TeamObservations:
    arrays = {f"agent_{m}": parts(space, False, "what") for m, space in enumerate(agents)}
    return TeamObservations(arrays, agent_ids(list(arrays), agent_id), "game")


def row(observations: TeamObservations, seen: object, m: int = 0) -> np.ndarray:
    written = np.zeros(observations.layout.size, observations.dtype)
    observations.write(written, m, seen)
    return written


@pytest.mark.parametrize("form", ["image", "dict", "tuple", "nested", "vector"])
@pytest.mark.parametrize("agent_id", [False, True])
def test_bytes_mean_the_same_wherever_they_stand(form: str, agent_id: bool) -> None:
    """As with `flatten: true`, whose vectors `test_faulty_games` compares with gymnasium's."""
    settings = {"env": "helpers.faulty_games:Images", "kwargs": {"form": form}}
    settings |= {"agent_id": agent_id, "state": "concatenate"}
    arrays = []
    for flatten in (False, True):
        env = pettingzoo.make(1, flatten=flatten, **settings)
        check_team_env(env)
        arrays.append(env.reset(seed=0)[0])
        obs = arrays[-1]["obs"]
        assert obs.dtype == env.single_observation_space["obs"].dtype
        if obs.dtype == np.uint8:
            arrays[-1]["obs"] = obs / np.float32(255)
    kept, flattened = arrays
    np.testing.assert_array_equal(kept["obs"], flattened["obs"])
    np.testing.assert_array_equal(kept["state"], flattened["state"])


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        ("image", np.uint8),
        ("vector", np.uint8),
        ("nested", np.uint8),  # beside a one-hot vector
        ("dict", np.float32),  # beside real numbers
        ("tuple", np.float32),
    ],
)
def test_what_is_all_bytes_is_kept_as_bytes(form: str, dtype: type) -> None:
    env = pettingzoo.make(1, env="helpers.faulty_games:Images", kwargs={"form": form})
    assert env.reset(seed=0)[0]["obs"].dtype == dtype
    flat = pettingzoo.make(
        1, env="helpers.faulty_games:Images", kwargs={"form": form}, flatten=True
    )
    flat_bytes = flat.reset(seed=0)[0]["obs"].nbytes
    assert env.reset(seed=0)[0]["obs"].nbytes * (4 if dtype == np.uint8 else 1) == flat_bytes


def test_every_array_has_its_place_and_name() -> None:
    space = spaces.Dict(
        pose=spaces.Tuple((NUMBERS, spaces.Discrete(3, start=1))),
        goal=spaces.MultiDiscrete([2, 2]),
        camera=spaces.Dict(rgb=IMAGE),
        flags=spaces.MultiBinary(2),
        speed=spaces.Box(0, 9, (), np.float32),
    )
    observations = team(space)
    assert observations.layout == Layout.of(
        {
            "pose/0": (2,),
            "pose/1": (3,),
            "goal": (4,),
            "camera/rgb": (2, 3, 1),
            "flags": (2,),
            "speed": (1,),
        }
    )
    seen = space.sample()
    expected = np.asarray(spaces.flatten(space, seen), np.float32)
    expected[9:15] /= np.float32(255)
    np.testing.assert_array_equal(row(observations, seen), expected)


def test_a_team_has_the_arrays_of_all_its_agents() -> None:
    observations = team(
        spaces.Dict(map=IMAGE, speed=NUMBERS),
        spaces.Dict(speed=spaces.Box(-1, 1, (3,), np.float32)),
        agent_id=True,
    )
    assert observations.layout == Layout.of({"map": (2, 3, 1), "speed": (3,)}, agent_id=2)
    scout = row(observations, {"map": np.full((2, 3, 1), 255), "speed": [5.0, 6.0]})
    assert scout.tolist() == [1] * 6 + [5, 6, 0] + [1, 0]
    driver = row(observations, {"speed": np.array([0.5, 1, 0])}, m=1)
    assert driver.tolist() == [0] * 6 + [0.5, 1, 0] + [0, 1]


def test_agents_whose_arrays_do_not_go_together_are_refused() -> None:
    with pytest.raises(UserError, match=r"'obs' of the observation of 'agent_1' is \[2, 2, 1\]"):
        team(IMAGE, spaces.Box(0, 255, (2, 2, 1), np.uint8))
    with pytest.raises(UserError, match="two entries 'a/0'"):
        team(spaces.Dict({"a": spaces.Tuple((IMAGE,)), "a/0": NUMBERS}))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(5),
        spaces.Sequence(NUMBERS),
        spaces.Graph(NUMBERS, None),
        spaces.Dict(a=NUMBERS, b=spaces.Text(5)),
    ],
    ids=["text", "sequence", "graph", "inside"],
)
def test_what_has_no_fixed_size_is_refused_in_one_line(space: spaces.Space[Any]) -> None:
    with pytest.raises(UserError, match=r"^what has '(obs|b)', .* which has no fixed size") as line:
        team(space)
    assert "\n" not in str(line.value)


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        ({"i": np.zeros((2, 3)), "d": 0}, r"'i' in the obs of 'agent_0' has shape \(2, 3\)"),
        ({"i": np.full((2, 3, 1), 0.5), "d": 0}, "'i' .* holds other numbers than 0 to 255"),
        ({"i": np.full((2, 3, 1), 256), "d": 0}, "'i' .* holds other numbers than 0 to 255"),
        ({"i": np.full((2, 3, 1), "x"), "d": 0}, "'i' .* holds other things than numbers"),
        ({"i": np.zeros((2, 3, 1)), "d": 4}, r"not of its observation space .*4 is not in Discr"),
        ({"d": 0}, "not of its observation space .KeyError: 'i'"),
    ],
)
def test_what_is_not_of_its_space_is_told(seen: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as line:
        row(team(spaces.Dict(i=IMAGE, d=spaces.Discrete(4))), seen)
    assert "\n" not in str(line.value)


def test_the_images_of_the_tests_are_white() -> None:
    """So that the tests above compare numbers, not zeros."""
    game = Images("image")
    game.reset()
    assert game.seen.min() == 255
