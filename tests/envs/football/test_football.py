"""Google Research Football on its real engine, against gfootball's own wrappers."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rllib_seqmarl import registry
from rllib_seqmarl.envs.core.contract import random_actions
from rllib_seqmarl.envs.football.config import (
    INSTALL,
    PAPERS_NUM_AGENTS,
    FootballConfig,
    _scenarios,
)
from rllib_seqmarl.envs.football.engine import import_engine, num_players
from rllib_seqmarl.envs.football.match import MAX_SEED, Match
from rllib_seqmarl.errors import UserError

football = registry.environment("football")

IDLE, RIGHT, SHORT_PASS, SHOT, SPRINT = 0, 5, 11, 12, 13


@pytest.fixture(scope="module")
def gfootball(where_installed: Callable[[], AbstractContextManager[None]]) -> None:
    """gfootball is there."""
    with where_installed():
        football.check({})


def empty_row(num_agents: int) -> dict[str, Any]:
    """What a match writes its observation into."""
    return {
        "obs": np.zeros((num_agents, 115), np.float32),
        "alive": np.zeros(num_agents, bool),
        "action_mask": np.zeros((num_agents, 19), bool),
    }


plays = pytest.mark.usefixtures("gfootball")


def attack(rng: np.random.Generator, num_agents: int) -> Any:
    """Actions int [N] that bring the ball forward and often into the goal."""
    return rng.choice(
        [RIGHT, SPRINT, SHORT_PASS, SHOT, IDLE], num_agents, p=[0.6, 0.1, 0.1, 0.15, 0.05]
    )


def reference_episode(
    scenario: str, num_agents: int, seed: int, rng: np.random.Generator
) -> Iterator[tuple[Any, Any, Any, bool]]:
    """Yields actions, gfootball's features, gfootball's rewards, done; first of the reset."""
    gf = import_engine()
    engine_seed, number = np.random.default_rng(seed).integers(MAX_SEED, size=2).tolist()
    env = gf.football_env.FootballEnv(
        gf.config.Config(
            {
                "level": scenario,
                "players": [f"agent:left_players={num_agents},right_players=0"],
                "game_engine_random_seed": engine_seed,
                "reverse_team_processing": bool(engine_seed % 2),
                "episode_number": number,
            }
        )
    )
    # The constructor has counted an episode; reset counts the next one.
    env._config["episode_number"] = number
    checkpoints = gf.wrappers.CheckpointRewardWrapper(env)
    convert = gf.wrappers.Simple115StateWrapper.convert_observation
    yield None, convert(checkpoints.reset(), True), None, False
    done = False
    while not done:
        actions = attack(rng, num_agents)
        raw, reward, done, _ = env.step(actions.tolist())
        yield actions, convert(raw, True), checkpoints.reward(reward), done


@plays
@pytest.mark.parametrize(
    ("scenario", "num_agents", "num_episodes"),
    [
        ("academy_empty_goal_close", 1, 2),
        ("academy_pass_and_shoot_with_keeper", 2, 4),
        ("academy_3_vs_1_with_keeper", 3, 4),
        ("academy_counterattack_easy", 4, 2),
        ("academy_corner", 11, 2),
        ("1_vs_1_easy", 1, 1),
    ],
)
def test_features_rewards_and_ends_are_gfootballs(
    scenario: str, num_agents: int, num_episodes: int
) -> None:
    config = FootballConfig(scenario=scenario, num_agents=num_agents, reward="per_agent")
    match = Match(config)
    row = empty_row(num_agents)
    most = 0.0
    for seed in range(num_episodes):
        rng = np.random.default_rng(seed)
        for actions, features, rewards, done in reference_episode(scenario, num_agents, seed, rng):
            if actions is None:
                match.reset(seed)
            else:
                reward, terminated, truncated = match.step(actions)
                np.testing.assert_allclose(reward, rewards, atol=1e-6)
                assert (terminated or truncated) == done
                most = max(most, rewards.max())
            match.observe(row)
            np.testing.assert_array_equal(row["obs"], features)
            assert row["alive"].all()
            assert row["action_mask"].all()
    assert most > 0.0
    match.close()


def finished(env: football.FootballTeamEnv, act: Callable[[], Any]) -> Iterator[Any]:
    """Yields of every episode that ends: terminated, truncated and its metrics."""
    env.reset(seed=0)
    while True:
        _, _, terminated, truncated, infos = env.step(act())
        for e in np.flatnonzero(terminated | truncated):
            metrics = {name: value[e] for name, value in infos["final_info"].items()}
            yield terminated[e], truncated[e], metrics


@plays
@pytest.mark.parametrize(
    ("settings", "goal"),
    [
        ({"rewards": "scoring"}, 1.0),
        ({"rewards": "scoring,checkpoints"}, 2.0),
        ({"rewards": "scoring,checkpoints", "team_reward": "sum"}, 4.0),
    ],
)
def test_a_goal_ends_the_episode_and_wins(settings: dict[str, str], goal: float) -> None:
    env = football.make(2, scenario="academy_empty_goal_close", **settings)
    assert env.num_agents == 2
    rng = np.random.default_rng(0)
    ended = list(itertools.islice(finished(env, lambda: attack(rng, 4).reshape(2, 2)), 8))
    won = [metrics for _, _, metrics in ended if metrics["score"] == 1.0]
    assert len(won) >= 2
    for terminated, truncated, metrics in ended:
        assert terminated
        assert not truncated
        assert metrics["won"] == (metrics["score"] > 0)
        if metrics["won"]:
            assert metrics["episode_return"] == pytest.approx(goal, abs=1e-5)
        else:
            assert metrics["episode_return"] < goal
    env.close()


@plays
def test_a_goal_of_the_opponents_ends_the_episode_and_loses() -> None:
    env = football.make(2, scenario="academy_run_to_score", rewards="scoring")
    rng = np.random.default_rng(0)
    ended = finished(env, lambda: rng.integers(19, size=(2, 2)))
    terminated, truncated, metrics = next(
        one for one in itertools.islice(ended, 100) if one[2]["score"] < 0
    )
    assert terminated
    assert not truncated
    assert metrics["won"] == 0.0
    assert metrics["episode_return"] == -1.0
    env.close()


@plays
def test_time_limits_truncate() -> None:
    env = football.make(1, scenario="1_vs_1_easy")
    end = next(finished(env, lambda: np.full((1, 1), IDLE)))
    assert end[:2] == (False, True)
    assert end[2]["episode_length"] == 501  # gfootball counts its game_duration of 500 from zero
    env.close()
    env = football.make(2, scenario="academy_corner", max_episode_steps=7)
    ended = finished(env, lambda: np.full((2, 11), IDLE))
    for terminated, truncated, metrics in itertools.islice(ended, 4):
        assert truncated
        assert not terminated
        assert metrics["episode_length"] == 7
    env.close()


@plays
def test_observed_identity_is_the_engines() -> None:
    env = football.make(1, scenario="academy_counterattack_easy", num_agents=4)
    obs, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(30):
        controlled = obs["obs"][0, :, 97:108]
        assert (controlled.sum(-1) == 1).all()
        assert len(np.unique(controlled.argmax(-1))) == 4
        obs, *_ = env.step(random_actions(env, obs, rng))
    env.close()


def trajectory(matches: list[Match], steps: int) -> list[bytes]:
    """What each of the matches goes through, stepped in turns, each with its own actions."""
    rngs = [np.random.default_rng(1) for _ in matches]
    seen: list[list[bytes]] = [[] for _ in matches]
    for _ in range(steps):
        for match, rng, one in zip(matches, rngs, seen, strict=True):
            ended = match.step(rng.integers(19, size=3))
            row = empty_row(3)
            match.observe(row)
            one.append(row["obs"].tobytes() + repr(ended).encode())
            if ended[1] or ended[2]:
                match.reset(None)
    return [b"".join(one) for one in seen]


@plays
def test_envs_of_one_process_do_not_touch_each_other() -> None:
    matches = [Match(FootballConfig(num_agents=3)) for _ in range(3)]
    alone = []
    for seed, match in enumerate(matches):
        match.reset(seed)
        alone += trajectory([match], 80)
    assert len(set(alone)) == 3
    for seed, match in enumerate(matches):
        match.reset(2 - seed)
    assert trajectory(matches, 80) == alone[::-1]
    for match in matches:
        match.close()


def three_against_one() -> football.FootballTeamEnv:
    return football.make(2, scenario="academy_3_vs_1_with_keeper", max_episode_steps=50)


def go_on(env: football.FootballTeamEnv, obs: Any, seed: int) -> str:
    """The digest of all that 60 steps return."""
    rng = np.random.default_rng(seed)
    digest = hashlib.sha256()
    for _ in range(60):
        obs, *rest, _ = env.step(random_actions(env, obs, rng))
        for array in (obs["obs"], *rest):
            digest.update(array.tobytes())
    return digest.hexdigest()


def replay(state: str) -> None:
    """Prints the digests of a start with seed 3, and of going on from the saved ``state``."""
    env = three_against_one()
    print(go_on(env, env.reset(seed=3)[0], seed=1))
    saved, obs = pickle.loads(Path(state).read_bytes())
    env.set_state(saved)
    print(go_on(env, obs, seed=2))


@plays
def test_another_process_plays_and_goes_on_the_same(tmp_path: Path) -> None:
    env = three_against_one()
    next(finished(env, lambda: np.full((2, 3), SPRINT)))  # engines with a past
    from_the_start = go_on(env, env.reset(seed=3)[0], seed=1)
    obs, *_ = env.step(np.full((2, 3), RIGHT))
    state = tmp_path / "state"
    state.write_bytes(pickle.dumps((env.get_state(), obs)))
    from_the_state = go_on(env, obs, seed=2)
    env.close()

    code = f"import test_football; test_football.replay({str(state)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [from_the_start, from_the_state]
    assert done.stderr == ""  # neither gym's advice nor messages of the engine


@plays
def test_every_scenario_has_its_number_of_agents() -> None:
    assert set(PAPERS_NUM_AGENTS) < set(_scenarios())
    for scenario in _scenarios():
        complete = football.check({"scenario": scenario})
        most = num_players(scenario)
        assert complete["num_agents"] == PAPERS_NUM_AGENTS.get(scenario, most)
        assert football.check({"scenario": scenario, "num_agents": most})["num_agents"] == most


@plays
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"scenario": "academy_3_vs_1_with_keper"},
            "unknown scenario 'academy_3_vs_1_with_keper'. Did you mean 'academy_3_vs_1_with_keep",
        ),
        ({"scenario": "tests"}, "unknown scenario 'tests'"),
        ({"num_agents": 5}, "num_agents is 5, but 'academy_3_vs_1_with_keeper' has 4 players"),
        ({"num_agents": -1}, "'num_agents' must not be negative, got -1"),
        ({"max_episode_steps": -5}, "'max_episode_steps' must not be negative, got -5"),
        (
            {"rewards": "checkpoints"},
            "'rewards' must be one of scoring, scoring,checkpoints,",
        ),
        ({"reward": "max"}, "'reward' must be one of team, mean, per_agent, got 'max'"),
        ({"level": "5_vs_5"}, "unknown env_config key 'level'"),
    ],
)
def test_wrong_configs_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        football.check(config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_gfootball_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "gfootball" else find(name)
    )
    with pytest.raises(UserError, match="gfootball is not installed") as error:
        football.check({})
    for command in INSTALL:
        assert command in str(error.value)


@plays
def test_gfootball_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gym", None)
    with pytest.raises(UserError, match=r"cannot be loaded .*gym.* Install it"):
        football.check({})


@pytest.mark.parametrize("file", [".ci/run", "docs/environments/football.md"])
def test_the_install_commands_are_those_that_are_run(file: str) -> None:
    text = (Path(__file__).parents[3] / file).read_text().replace("\\\n", "")
    words = " ".join(text.split())
    system_packages, _, engine = INSTALL
    assert system_packages in words
    assert engine in words
