"""RLlib's multi-agent environments by import path."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_seqmarl import registry
from rllib_seqmarl.envs import check_team_env
from rllib_seqmarl.envs.adapters.multi_agent import GameVectorEnv
from rllib_seqmarl.errors import UserError

multi_agent_env = registry.environment("multi_agent_env")

EXAMPLES = "ray.rllib.examples.envs.classes.multi_agent"
TWO_STEP_GAME = f"{EXAMPLES}:TwoStepGame"


@pytest.mark.parametrize(
    ("path", "kwargs", "agents", "size", "actions"),
    [
        (TWO_STEP_GAME, {}, 2, 6, 2),
        (f"{EXAMPLES}:MultiAgentCartPole", {"num_agents": 3}, 3, 4, 2),
        (f"{EXAMPLES}:MultiAgentPendulum", {"num_agents": 2}, 2, 3, None),
        (f"{EXAMPLES}.double_row_corridor_env:DoubleRowCorridorEnv", {}, 2, 2, 4),
        (f"{EXAMPLES}.rock_paper_scissors:RockPaperScissors", {}, 2, 3, 3),
    ],
)
def test_classes_of_rllibs_examples(
    path: str, kwargs: dict[str, Any], agents: int, size: int, actions: int | None
) -> None:
    env = multi_agent_env.make(2, env=path, kwargs=kwargs, flatten=True, agent_id=False)
    space = env.single_observation_space
    assert space["obs"].shape == (agents, size)
    assert ("action_mask" in space.spaces) == (actions is not None)
    if actions is not None:
        assert env.single_action_space.nvec.tolist() == [actions] * agents
    check_team_env(env, num_steps=60)
    assert env.cannot_save_reason() is None
    env.close()


def test_rllibs_example_with_two_choices_at_once() -> None:
    env = multi_agent_env.make(2, env=f"{EXAMPLES}:GuessTheNumberGame", flatten=True)
    assert env.single_action_space.sizes == (3, 3)
    check_team_env(env, num_steps=60)


def play(env: GameVectorEnv, steps: list[list[int]]) -> list[float]:
    env.reset(seed=0)
    return [float(env.step(np.array([actions]))[1][0]) for actions in steps]


def test_the_two_step_game_pays_what_it_should() -> None:
    env = multi_agent_env.make(1, env=TWO_STEP_GAME, flatten=True)
    assert play(env, [[0, 0], [1, 0]]) == [0, 7]
    assert play(env, [[1, 0], [1, 1]]) == [0, 8]
    assert play(env, [[1, 0], [1, 0]]) == [0, 1]
    # One-hot of the state, then of the agent, in the order of the names though they are a set.
    obs, _ = env.reset()
    assert obs["obs"][0].nonzero()[1].tolist() == [0, 6, 3, 7]


def test_agents_that_take_turns() -> None:
    env = multi_agent_env.make(1, env="helpers.small_games:Turns", kwargs={"end": 5})
    obs, _ = env.reset(seed=0)
    for step in range(5):
        slot = 1 - step % 2  # slots are in the order of possible_agents: second, first
        assert obs["alive"][0].tolist() == [slot == 0, slot == 1]
        assert obs["action_mask"][0, slot].all()
        assert obs["action_mask"][0, 1 - slot].tolist() == [1, 0, 0]
        actions = np.zeros((1, 2), int)
        actions[0, slot] = 2
        obs, reward, terminated, truncated, _ = env.step(actions)
        assert (reward[0], terminated[0], truncated[0]) == (1.0, step == 4, False)
    received = env._envs[0]._game.received  # type: ignore[attr-defined]
    assert received == [{("first", "second")[step % 2]: 7} for step in range(5)]


def test_a_truncated_episode_shows_its_last_observation() -> None:
    env = multi_agent_env.make(1, env="helpers.small_games:Turns", kwargs={"end": 0, "limit": 2})
    env.reset(seed=0)
    env.step(np.zeros((1, 2), int))
    _, _, terminated, truncated, infos = env.step(np.zeros((1, 2), int))
    assert (terminated[0], truncated[0]) == (False, True)
    assert infos["final_obs"]["alive"][0].tolist() == [False, True]
    assert infos["final_obs"]["obs"][0, 1].any()


class Unready(MultiAgentEnv):
    """Names its agents only when it has been started."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.observation_space = self.action_space = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.possible_agents = ["late"]
        return {}, {}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "multi_agent_env: env_config 'env' must be an import path such as 'ray.rllib"),
        ({"env": "collections:OrderedDict"}, "gives OrderedDict, not a ray.rllib MultiAgentEnv"),
        (
            {"env": f"{EXAMPLES}:TwoStepGam"},
            "'ray.rllib.examples.envs.classes.multi_agent:TwoStepGam' cannot be imported",
        ),
        ({"env": f"{__name__}:Unready"}, "'late': the observation is None, not a space"),
    ],
)
def test_wrong_configs_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        multi_agent_env.check(config)
    assert "\n" not in str(error.value)


def test_an_episode_must_say_whether_it_is_over() -> None:
    with pytest.raises(UserError, match="returned terminateds without '__all__'"):
        multi_agent_env.check({"env": "helpers.small_games:Turns", "kwargs": {"all": "all"}})
