"""StarCraft II: the adapter against a stand-in of SMAC's class.

No test here starts the game; nobody has run this adapter with it.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers.starcraft2_stand_in import HEALTH, SHIELD, Process, StandIn, StandInWrapper

from rllib_seqmarl.envs import check_team_env
from rllib_seqmarl.envs.core.contract import random_actions
from rllib_seqmarl.envs.starcraft2.config import SMACv2Config, StarCraft2Config
from rllib_seqmarl.envs.starcraft2.env import StarCraft2TeamEnv, build_battle
from rllib_seqmarl.envs.starcraft2.maps import MAPS
from rllib_seqmarl.errors import UserError

STOP, NOTHING, FIRST_ENEMY = 1, 0, 6


@pytest.fixture(autouse=True)
def processes() -> type[Process]:
    """Counts the stand-in's game processes of one test."""
    Process.running, Process.launched = [], 0
    return Process


def build(
    num_envs: int = 1, env_config: dict[str, Any] | None = None, **stand_in: Any
) -> StarCraft2TeamEnv:
    """Envs of the map 3m, or what ``env_config`` says, over stand-ins."""
    given = {"map_name": "3m"} | (env_config or {})
    scenario = MAPS[given["map_name"]]
    config = (SMACv2Config if scenario.race else StarCraft2Config)(**given)
    arguments = {"map_name": scenario.map_name, "continuing_episode": True} | stand_in
    builder = StandInWrapper if scenario.race else StandIn
    factory = partial(build_battle, builder, scenario, arguments, config.shield_reward_fix)
    return StarCraft2TeamEnv(num_envs, config, factory)


def attack(obs: dict[str, Any]) -> np.ndarray:
    """Every living agent shoots the first living enemy; the dead do nothing."""
    legal = obs["action_mask"]
    shoot = FIRST_ENEMY + legal[..., FIRST_ENEMY:].argmax(-1)
    return np.where(legal[..., NOTHING], NOTHING, shoot)


def wait(obs: dict[str, Any]) -> np.ndarray:
    return np.where(obs["action_mask"][..., NOTHING], NOTHING, STOP)


def until_end(env: StarCraft2TeamEnv, obs: dict[str, Any], act: Any = attack) -> tuple[Any, ...]:
    """Plays until an episode ends; what that step returned, and the sum of rewards [E]."""
    total = np.zeros(env.num_envs)
    while True:
        returned = env.step(act(obs))
        obs = returned[0]
        total += returned[1]
        if returned[4]:
            return (*returned, total)


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
@pytest.mark.parametrize("map_name", ["3m", "terran_5_vs_5"])
def test_contract(autoreset: str, map_name: str) -> None:
    env = build(3, {"map_name": map_name, "autoreset": autoreset, "state": True})
    check_team_env(env, num_steps=250)
    agents, enemies = MAPS[map_name].num_agents, MAPS[map_name].num_enemies
    space = env.single_observation_space
    assert env.single_action_space.nvec.tolist() == [6 + enemies] * agents
    assert space["obs"].shape == (agents, 4 + agents)
    assert space["state"].shape == (agents + enemies,)
    assert env.simulator == "starcraft2"
    env.close()
    assert not Process.running


@pytest.mark.parametrize("map_name", ["3m", "terran_5_vs_5"])
def test_one_game_per_env_and_resets_launch_no_other(map_name: str) -> None:
    env = build(3, {"map_name": map_name})
    assert Process.launched == 0
    expected = 200.0 + MAPS[map_name].num_enemies * (10.0 + HEALTH + SHIELD)
    for _ in range(3):  # before any episode has finished
        env.reset(seed=1)
        assert Process.launched == len(Process.running) == 3
        assert {game._battle.max_reward for game in env._games} == {expected}
    until_end(env, env.reset()[0])
    assert Process.launched == 3
    env.close()
    env.close()
    assert not Process.running


def test_return_of_a_win_does_not_depend_on_how_often_units_were_looked_at() -> None:
    for looks in (1, 4):
        env = build(looks=looks)
        *_, infos, total = until_end(env, env.reset()[0])
        assert infos["final_info"]["won"] == 1.0
        np.testing.assert_allclose(total, 20.0, rtol=1e-5)
        np.testing.assert_allclose(infos["final_info"]["episode_return"], 20.0, rtol=1e-5)


def test_win_defeat_and_time_limit_are_told_apart() -> None:
    cases = {
        "won": (build(), attack, (True, False, 1.0)),
        "lost": (build(enemy_damage=20.0), wait, (True, False, 0.0)),
        "time": (build(enemy_damage=0.0), wait, (False, True, 0.0)),
    }
    for name, (env, act, expected) in cases.items():
        _, _, terminated, truncated, infos, _ = until_end(env, env.reset()[0], act)
        info = infos["final_info"]
        assert (terminated[0], truncated[0], info["won"][0]) == expected, name
        assert info["dead_ratio"][0] == pytest.approx(1 - infos["final_obs"]["alive"].mean()), name
        assert info["dead_enemy_ratio"][0] == (1.0 if name == "won" else 0.0), name
        assert (info["episode_length"][0] == 60) == (name == "time")
        assert info["game_restarts"][0] == 0.0


def test_the_dead_see_nothing_and_do_nothing() -> None:
    env = build(enemy_damage=15.0)
    obs, _ = env.reset()
    obs = env.step(wait(obs))[0]  # the third enemy's blow kills the first agent
    alive = obs["alive"][0]
    assert alive.tolist() == [False, True, True]
    assert not obs["obs"][0][~alive].any()
    np.testing.assert_array_equal(obs["obs"][0, :, 4:], np.eye(3) * alive[:, None])
    assert obs["action_mask"][0, 0].tolist() == [True] + [False] * 8


@pytest.mark.parametrize(
    ("trouble", "in_the_new_game", "restarts"),
    [
        (["step"], [], 1),
        (["step", "launch"], [], 1),
        (["step"], ["reset"], 2),
        (["step"], ["launch", "units"], 3),
    ],
)
def test_a_lost_connection_cuts_the_episode_short_and_is_no_defeat(
    trouble: list[str], in_the_new_game: list[str], restarts: int
) -> None:
    later: list[str] = []
    env = build(2, trouble=later)
    obs, _ = env.reset()
    before, *_ = env.step(attack(obs))
    env._games[1]._battle.trouble = trouble
    later.extend(in_the_new_game)
    obs, reward, terminated, truncated, infos = env.step(attack(before))
    assert truncated.tolist() == [False, True]
    assert not terminated.any()
    assert reward[0] > 0.0
    assert reward[1] == 0.0
    assert infos["_final_info"].tolist() == [False, True]
    assert infos["final_info"]["won"][1] == 0.0
    assert infos["final_info"]["game_restarts"][1] == restarts
    np.testing.assert_array_equal(infos["final_obs"]["obs"][1], before["obs"][1])
    # Env 1 is in a new battle of a new game, env 0 in its old one.
    np.testing.assert_array_equal(obs["obs"][1, :, 0], HEALTH)
    assert obs["obs"][0, 0, 0] < HEALTH
    assert len(Process.running) == 2
    assert not trouble
    assert not later
    _, _, _, truncated, infos, _ = until_end(env, obs)
    assert not truncated.any()
    assert infos["final_info"]["game_restarts"][0] == 0.0


@pytest.mark.parametrize("trouble", ["launch", "reset", "units"])
def test_a_battle_that_cannot_be_set_up_is_tried_again(trouble: str) -> None:
    env = build(trouble=[trouble])
    obs, _ = env.reset()
    assert (obs["obs"][0, :, 0] == HEALTH).all()
    assert len(Process.running) == 1
    *_, infos, total = until_end(env, obs)
    assert infos["final_info"]["won"][0] == 1.0
    np.testing.assert_allclose(total, 20.0, rtol=1e-5)


def test_a_connection_lost_between_episodes_shows_no_units_of_the_old_one() -> None:
    trouble: list[str] = []
    env = build(trouble=trouble)
    obs, _ = env.reset()
    obs = env.step(attack(obs))[0]
    trouble.append("reset")
    obs, *_ = until_end(env, obs)
    assert not trouble
    assert (obs["obs"][0, :, 0] == HEALTH).all()
    assert len(Process.running) == 1
    assert env._games[0].restarts == 1


def test_a_game_that_dies_again_and_again_ends_in_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    env = build(env_config={"max_restarts": 2}, trouble=["launch"] * 3)
    with pytest.raises(UserError) as error:
        env.reset()
    assert str(error.value) == (
        "smac: the StarCraft II game of env 0 died 3 times in a row (env_config max_restarts is "
        "2); at last: RuntimeError: the game did not start"
    )
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert not Process.running


def test_restarts_are_counted_anew_after_every_episode_that_ends() -> None:
    trouble: list[str] = []
    env = build(env_config={"max_restarts": 1}, trouble=trouble)
    obs, _ = env.reset()
    for _ in range(4):
        trouble.append("step")
        obs, _, _, truncated, infos = env.step(wait(obs))
        assert truncated[0]
        assert infos["final_info"]["game_restarts"][0] == 1.0
        obs = until_end(env, obs)[0]
    trouble.extend(["step", "step"])
    obs = env.step(wait(obs))[0]
    with pytest.raises(UserError, match="died 2 times in a row"):
        env.step(wait(obs))


def test_illegal_actions_do_not_reach_the_game() -> None:
    env = build(2)
    obs, _ = env.reset()
    actions = wait(obs)
    for agent, action in ((1, 0), (2, 5)):
        wrong = actions.copy()
        wrong[1, agent] = action
        message = rf"agent {agent} of env 1 may not take action {action} now.*\[1, 2, 3, 4, 6"
        with pytest.raises(UserError, match=message):
            env.step(wrong)
    assert all(game._battle.played == [] for game in env._games)


def test_an_env_that_waits_for_its_reset_is_not_stepped() -> None:
    env = build(2, {"autoreset": "next_step"}, enemy_damage=20.0)
    obs, _ = env.reset()
    env._games[1]._battle.enemy_damage = 0.0
    obs, _, terminated, *_ = until_end(env, obs, wait)
    assert terminated.tolist() == [True, False]
    played = [len(game._battle.played) for game in env._games]
    anything = np.full((2, 3), NOTHING)  # illegal for env 0, which ignores it
    anything[1] = STOP
    obs, reward, terminated, *_ = env.step(anything)
    assert [len(game._battle.played) for game in env._games] == [played[0], played[1] + 1]
    assert reward[0] == 0.0
    assert not terminated.any()
    assert (obs["obs"][0, :, 0] == HEALTH).all()


def test_envs_wait_for_their_games_at_the_same_time() -> None:
    env = build(8, seconds=0.1, enemy_damage=0.0)
    obs, _ = env.reset()
    begin = time.perf_counter()
    for _ in range(5):
        obs = env.step(wait(obs))[0]
    seconds = time.perf_counter() - begin
    assert 0.5 <= seconds < 1.5  # one after another: 4 seconds


def test_games_are_launched_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    launching = threading.Semaphore(1)
    launch = StandIn._launch

    def slow(self: StandIn) -> None:
        assert launching.acquire(blocking=False), "two games look for a port at once"
        time.sleep(0.02)
        launch(self)
        launching.release()

    monkeypatch.setattr(StandIn, "_launch", slow)
    env = build(6, env_config={"max_restarts": 0})
    env.reset()
    assert Process.launched == 6


def test_regenerating_shields_pay_in_smac_unless_that_is_mended() -> None:
    """SMAC takes abs() of the damage: an enemy that recovers 5 pays as one that loses 5."""
    returns = {}
    for fixed in (False, True):
        env = build(env_config={"shield_reward_fix": fixed}, enemy_damage=0.0, regenerate=5.0)
        obs, _ = env.reset()
        shot = np.array([[FIRST_ENEMY, STOP, STOP]])
        returns[fixed] = [env.step(shot)[1][0] * 380.0 / 20.0]  # 10 of the shield
        returns[fixed] += [env.step(wait(obs))[1][0] * 380.0 / 20.0 for _ in range(3)]
    np.testing.assert_allclose(returns[False], [10.0, 5.0, 5.0, 0.0], rtol=1e-5)
    np.testing.assert_allclose(returns[True], [10.0, 0.0, 0.0, 0.0], rtol=1e-5)


def test_a_mended_reward_still_pays_20_for_a_win() -> None:
    env = build(env_config={"shield_reward_fix": True})
    *_, total = until_end(env, env.reset()[0])
    np.testing.assert_allclose(total, 20.0, rtol=1e-5)


def test_games_are_given_different_seeds_that_a_seed_fixes() -> None:
    def seeds(seed: int) -> list[int]:
        env = build(4)
        env.reset(seed=seed)
        return [game._battle.arguments["seed"] for game in env._games]

    first = seeds(5)
    assert len(set(first)) == 4
    assert first == seeds(5)
    assert first != seeds(6)


def test_a_battle_cannot_be_saved() -> None:
    env = build()
    env.reset()
    assert env.cannot_save_reason() == "StarCraft II cannot save a battle"
    with pytest.raises(UserError, match=r"\(starcraft2\) cannot be saved: StarCraft II cannot"):
        env.get_state()


def test_a_package_with_other_maps_is_refused() -> None:
    class CheapTalk(StandIn):
        def get_env_info(self) -> dict[str, int]:
            return super().get_env_info() | {"n_actions": self.n_actions + 8}

    config = StarCraft2Config(map_name="3m")
    with pytest.raises(UserError, match=r"3 agents, 17 actions and 60 steps.*3, 9 and 60"):
        StarCraft2TeamEnv(1, config, lambda seed: CheapTalk("3m"))


# As a part of a training.


def stand_in_envs(num_envs: int, **_: Any) -> StarCraft2TeamEnv:
    return build(num_envs, enemy_damage=6.0)


def test_training_reports_win_rate_and_resumes_with_new_episodes(
    small: Any, caplog: pytest.LogCaptureFixture
) -> None:
    config = small("MAT", "test_starcraft2:stand_in_envs", num_envs_per_env_runner=4)
    algorithm = config.build_algo()
    result = algorithm.train()["env_runners"]
    while "win_rate" not in result:
        result = algorithm.train()["env_runners"]
    assert {"win_rate", "dead_ratio", "dead_enemy_ratio", "game_restarts"} <= result.keys()
    state = algorithm.get_state()
    other = config.copy(copy_frozen=False).build_algo()
    other.set_state(state)
    assert "because StarCraft II cannot save a battle: new episodes start" in caplog.text
    other.train()
    algorithm.stop()
    other.stop()
    assert not Process.running


def test_random_play(processes: type[Process]) -> None:
    """Whatever is legal, the stand-in's assertion on illegal actions never fails."""
    env = build(4, enemy_damage=5.0)
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    ended = 0
    for _ in range(200):
        obs, _, terminated, truncated, _ = env.step(random_actions(env, obs, rng))
        ended += int((terminated | truncated).sum())
    assert ended > 5
    assert processes.launched == 4
