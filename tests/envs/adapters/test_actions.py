"""Actions of several parts, and of another kind for each agent, in games of others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from helpers.mixed_games import Crew

from rllib_seqmarl import registry
from rllib_seqmarl.envs import check_team_env
from rllib_seqmarl.envs.adapters.actions import AgentActions, TeamActions
from rllib_seqmarl.envs.core.contract import MixedActions
from rllib_seqmarl.errors import UserError

pettingzoo = registry.environment("pettingzoo")
CREW = "helpers.mixed_games:Crew"


def crew(**kwargs: Any) -> Any:
    return pettingzoo.make(1, env=CREW, kwargs=kwargs)


def test_the_team_has_the_parts_of_all() -> None:
    env = crew()
    obs, _ = env.reset(seed=0)
    space = env.single_action_space
    assert isinstance(space, MixedActions)
    # The first choices have 3, 2 and 3 actions, the second one 4; the driver has two numbers.
    assert (space.sizes, space.num_real, space.mask_size) == ((3, 4), 2, 9)
    assert obs["action_mask"][0].astype(int).tolist() == [
        [1, 1, 1, 0, 0, 0, 0, 1, 1],
        [1, 1, 0, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 1, 0],
    ]


def test_every_agent_gets_an_action_of_its_own_space() -> None:
    env = crew()
    env.reset(seed=0)
    actions = [[2, 0, 0.5, 77.0], [1, 3, 0, 0], [1, 0, -0.5, 0], [0, 0, -9.0, 0]]
    env.step(np.array([actions], np.float32))
    (received,) = env._envs[0]._game.received
    assert received["driver"]["gear"] == 1
    assert type(received["driver"]["gear"]) is int
    np.testing.assert_allclose(received["driver"]["pedals"], [3.75, 2.0])  # [0, 5] and [-2, 2]
    assert received["gunner"].tolist() == [1, 3]
    assert received["gunner"].dtype == np.int64
    np.testing.assert_allclose(received["cook"][0], [0.0])
    assert received["cook"][1] == 1
    np.testing.assert_allclose(received["scout"], [10.0])


@pytest.mark.parametrize("mask", ["flat", "as the space"])
def test_masks_of_the_parts(mask: str) -> None:
    env = crew(mask=mask)
    obs, _ = env.reset(seed=0)
    assert obs["action_mask"][0].astype(int).tolist() == [
        [0, 1, 1, 0, 0, 0, 0, 1, 1],
        [1, 0, 0, 0, 0, 0, 1, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 1, 0],
    ]


def test_what_gymnasium_takes_for_a_mask_is_taken() -> None:
    """The same masks, given to the spaces' own ``sample``."""
    for agent, mask in Crew.AS_THE_SPACE.items():
        Crew.SPACES[agent].sample(mask=mask)  # gymnasium checks its form
        flags = AgentActions(Crew.SPACES[agent], "").flags(mask)
        assert np.asarray(flags).tolist() == Crew.FLAT[agent]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("nothing", "the action_mask of 'driver' leaves nothing of choice 0: fix the game"),
        ("other", r"the action_mask of 'cook', \(None, None, None\), has not the form of its"),
    ],
)
def test_wrong_masks(mask: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        crew(mask=mask)
    assert "\n" not in str(error.value)


def test_the_dead_have_a_no_op_in_every_choice() -> None:
    env = crew(mask="flat", deaths={"driver": 1, "gunner": 1})
    env.reset(seed=0)
    obs, *_ = env.step(np.array([[[1, 0, 0, 0], [0, 3, 0, 0], [0] * 4, [0] * 4]], np.float32))
    assert obs["alive"][0].tolist() == [False, False, True, True]
    assert obs["action_mask"][0, :2].astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 1, 1],
        [1, 0, 0, 1, 0, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize("mask", ["", "as the space"])
def test_random_actions_are_legal(mask: str) -> None:
    config = {"env": CREW, "kwargs": {"mask": mask, "deaths": {"gunner": 2}}}
    pettingzoo.check(config)
    check_team_env(pettingzoo.make(2, **config), num_steps=20)


def test_one_choice_in_a_tuple_is_an_action_of_one_part() -> None:
    actions = TeamActions([AgentActions(spaces.Tuple((spaces.Discrete(4),)), "")] * 2)
    assert isinstance(actions.space, MixedActions)
    assert actions.decode(np.array([[3.0], [0.0]], np.float32)) == [(3,), (0,)]


def test_real_numbers_in_a_tuple_are_continuous_actions() -> None:
    box = spaces.Box(0.0, 1.0, (1,), np.float32)
    actions = TeamActions([AgentActions(spaces.Tuple((box, box)), "")] * 2)
    assert isinstance(actions.space, spaces.Box)
    assert not isinstance(actions.space, MixedActions)
    assert not actions.masked
    (first, second), _ = actions.decode(np.array([[-1.0, 1.0], [0.0, 0.0]], np.float32))
    assert (first.tolist(), second.tolist()) == ([0.0], [1.0])
    assert first.dtype == np.float32


def test_a_table_of_choices_keeps_its_axes() -> None:
    space = spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [0, 0]])
    actions = AgentActions(space, "")
    assert actions.sizes == [2, 3, 4, 5]
    taken = actions.taken([1, 2, 3, 4], np.zeros(0))
    assert space.contains(taken)
    assert taken.tolist() == [[1, 3], [3, 4]]


@pytest.mark.parametrize(
    ("space", "mask", "flags"),
    [
        (spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2))), (None, [0, 1]), [1, 1, 0, 1]),
        (
            spaces.Dict(a=spaces.Discrete(2), b=spaces.MultiDiscrete([2, 2])),
            {"a": [1, 0], "b": None},
            [1, 0, 1, 1, 1, 1],
        ),
        (
            spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(-1, 1, (1,), np.float32)),
            {"a": [0, 1]},
            [0, 1],
        ),
        (spaces.MultiDiscrete([2, 2]), (None, [0, 1]), [1, 1, 0, 1]),
        (
            spaces.Tuple((spaces.Discrete(2), spaces.Dict(c=spaces.Discrete(3)))),
            ([1, 0], None),
            [1, 0, 1, 1, 1],
        ),
    ],
)
def test_none_in_a_mask_stands_for_all_choices_of_a_part(
    space: spaces.Space[Any], mask: Any, flags: list[int]
) -> None:
    assert np.asarray(AgentActions(space, "").flags(mask)).astype(int).tolist() == flags


def test_a_part_that_a_mask_does_not_name_is_not_guessed() -> None:
    space = spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(2))
    with pytest.raises(KeyError, match="b"):
        AgentActions(space, "").flags({"a": [1, 0]})


@pytest.mark.parametrize(
    "space",
    [
        spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 1, (2, 2), np.float32))),
        spaces.Dict(a=spaces.Text(3)),
        spaces.Tuple((spaces.Box(0, 5, (2,), np.int64),)),
    ],
)
def test_other_parts_are_refused(space: spaces.Space[Any]) -> None:
    with pytest.raises(UserError, match=r"here: the action space is .* a team takes Discrete ones"):
        AgentActions(space, "here")
