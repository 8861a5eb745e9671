"""Games by import path: PettingZoo's, mpe2's, gymnasium-robotics', and each convention alone."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from helpers.small_games import Herd

from rllib_seqmarl import registry
from rllib_seqmarl.envs import check_team_env
from rllib_seqmarl.envs.adapters.multi_agent import GameConfig, GameVectorEnv
from rllib_seqmarl.envs.adapters.observations import agent_ids
from rllib_seqmarl.envs.core.contract import random_actions
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.settings import settings_of

pettingzoo = registry.environment("pettingzoo")

KAZ = "pettingzoo.butterfly.knights_archers_zombies_v11:parallel_env"
MULTIWALKER = "pettingzoo.sisl.multiwalker_v9:parallel_env"
SPREAD = "mpe2.simple_spread_v3:parallel_env"
SPEAKER = "mpe2.simple_speaker_listener_v4:parallel_env"
MUJOCO = "gymnasium_robotics:mamujoco_v1.parallel_env"
#: The least Herd whose kwargs are of the given kind.
HERD = "helpers.small_games:Herd"

# Path, kwargs, further env_config -> N, D without agent ids, A, S (0: none), action_mask.
GAMES = [
    (KAZ, {"max_cycles": 40}, {"flatten": True, "state": "env"}, (4, 135, 6, 104, True)),
    (
        "pettingzoo.butterfly.pistonball_v6:parallel_env",
        {"n_pistons": 3, "max_cycles": 20},
        {"flatten": True},
        (3, 457 * 120 * 3, 1, 0, False),
    ),
    (
        "pettingzoo.butterfly.cooperative_pong_v6:parallel_env",
        {"max_cycles": 20, "render_mode": "rgb_array"},
        {"flatten": True},
        (2, 280 * 480 * 3, 3, 0, True),
    ),
    (MULTIWALKER, {"max_cycles": 30}, {"state": "env"}, (3, 31, 4, 75, False)),
    (
        "pettingzoo.sisl.pursuit_v5:parallel_env",
        {"max_cycles": 20},
        {"flatten": True, "reward": "mean"},
        (8, 147, 5, 0, True),
    ),
    (SPREAD, {}, {"state": "env"}, (3, 18, 5, 54, True)),
    (SPREAD, {"continuous_actions": True}, {"reward": "mean"}, (3, 18, 5, 0, False)),
    ("mpe2.simple_tag_v3:parallel_env", {}, {"state": "concatenate"}, (4, 16, 5, 64, True)),
    (SPEAKER, {}, {}, (2, 11, 5, 0, True)),
    (SPEAKER, {"continuous_actions": True}, {}, (2, 11, 5, 0, True)),
    (
        MUJOCO,
        {"scenario": "Walker2d", "agent_conf": "2x3"},
        {"state": "env"},
        (2, 12, 3, 17, False),
    ),
    (MUJOCO, {"scenario": "Humanoid", "agent_conf": "9|8"}, {}, (2, 242, 9, 0, True)),
]


@pytest.mark.parametrize(("path", "kwargs", "options", "sizes"), GAMES)
def test_games(
    path: str, kwargs: dict[str, Any], options: dict[str, Any], sizes: tuple[int, ...]
) -> None:
    agents, obs_size, num_actions, state_size, masked = sizes
    env = pettingzoo.make(2, env=path, kwargs=kwargs, agent_id=False, **options)
    space = env.single_observation_space
    assert space["obs"].shape == (agents, obs_size)
    assert ("action_mask" in space.spaces) == masked
    if masked:
        assert space["action_mask"].shape == (agents, num_actions)
    else:
        assert env.single_action_space.shape == (agents, num_actions)
    assert ("state" in space.spaces) == bool(state_size)
    if state_size:
        assert space["state"].shape == (state_size,)
    if "knights" in path:  # its time to the next zombie goes on through a reset
        with pytest.raises(UserError, match="two runs with the same seed differ"):
            check_team_env(env, num_steps=45)
    else:
        check_team_env(env, num_steps=45)
    env.close()


def herd(num_envs: int = 1, **config: Any) -> GameVectorEnv:
    options = {key: config.pop(key) for key in settings_of(GameConfig) if key in config}
    env = pettingzoo.make(num_envs, env=HERD, kwargs=config, **options)
    env.reset(seed=0)
    return env


def game(env: GameVectorEnv, e: int = 0) -> Herd:
    return env._envs[e]._game  # type: ignore[attr-defined]


def test_slots_padding_and_ids() -> None:
    env = herd(2, sizes=(2, 4, 3), actions=(2, 4, 1), state="concatenate")
    obs, _ = env.reset(seed=0)
    noise = obs["obs"][:, 1, 2]
    assert noise[0] != noise[1]
    np.testing.assert_array_equal(
        obs["obs"][0],
        np.array(
            [
                [1, 1, 0, 0, 1, 0, 0],
                [1, 2, noise[0], 9, 0, 1, 0],
                [1, 3, obs["obs"][0, 2, 2], 0, 0, 0, 1],
            ],
            np.float32,
        ),
    )
    np.testing.assert_array_equal(obs["state"], obs["obs"][:, :, :4].reshape(2, 12))
    assert obs["action_mask"][0].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert herd(agent_id=False).single_observation_space["obs"].shape == (3, 4)


def test_ids_by_type_have_a_width_of_their_own() -> None:
    names = ["knight_0", "knight_1", "archer_10", "archer", "good-adversary_3"]
    knight, archer, other = np.eye(3).tolist()
    assert agent_ids(names, "type").tolist() == [knight, knight, archer, archer, other]
    assert agent_ids(range(4), "type").tolist() == [[1]] * 4
    for walkers in (2, 3):
        kwargs = {"n_walkers": walkers}
        env = pettingzoo.make(1, env=MULTIWALKER, kwargs=kwargs, agent_id="type")
        obs, _ = env.reset(seed=0)
        assert obs["obs"].shape == (1, walkers, 32)
        assert (obs["obs"][..., -1] == 1).all()
    env = herd(agent_id="type", deaths={"b": 1})
    obs, *_ = env.step(np.zeros((1, 3), int))
    np.testing.assert_array_equal(obs["obs"][0, :, 4:], np.diag([1, 0, 1]))  # b is not there


@pytest.mark.parametrize("mask", ["infos", "obs"])
def test_both_places_of_the_action_mask(mask: str) -> None:
    env = herd(mask=mask, limit=10)
    obs, _ = env.reset(seed=0)
    assert obs["obs"].shape == (1, 3, 7)
    assert obs["action_mask"][0].tolist() == [[1, 1, 0, 0], [1, 0, 0, 1], [1, 0, 0, 1]]
    obs, *_ = env.step(np.array([[1, 3, 0]]))
    assert obs["action_mask"][0].tolist() == [[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]]
    assert game(env).received == [{"a": 1, "b": 3, "c": 0}]
    check_team_env(herd(3, mask=mask, deaths={"b": 2}, limit=5))


def test_agents_that_die() -> None:
    env = herd(deaths={"a": 2, "c": 4}, end=5)
    rewards = []
    for step in range(1, 6):
        obs, reward, terminated, truncated, infos = env.step(np.array([[1, 3, 2]]))
        rewards.append(reward[0])
        assert (terminated[0], truncated[0]) == (step == 5, False)
        shown = infos["final_obs"] if step == 5 else obs
        alive = [step < 2, step < 5, step < 4]
        assert shown["alive"][0].tolist() == alive
        assert not shown["obs"][0][~shown["alive"][0]].any()
        for slot in np.flatnonzero(~shown["alive"][0]):
            assert shown["action_mask"][0, slot].tolist() == [1, 0, 0, 0]
    # Who is dead is neither asked nor paid.
    assert [list(actions) for actions in game(env).received] == [
        ["a", "b", "c"], ["a", "b", "c"], ["b", "c"], ["b", "c"], ["b"],
    ]  # fmt: skip
    assert rewards == [6, 6, 5, 5, 2]
    assert infos["final_info"]["dead_ratio"][0] == np.float32(2 / 3)
    assert obs["alive"].all()  # the next episode's


@pytest.mark.parametrize(
    ("config", "length", "ended", "last_alive"),
    [
        ({"end": 3, "limit": 4}, 3, "terminated", [0, 0, 0]),
        ({"limit": 3}, 3, "truncated", [1, 1, 1]),
        ({"limit": 3, "end": 3}, 3, "terminated", [0, 0, 0]),
        # One dies in the step in which the limit ends the game of the others.
        ({"limit": 3, "deaths": {"b": 3}}, 3, "truncated", [1, 0, 1]),
        ({"deaths": {"a": 1, "b": 2, "c": 4}}, 4, "terminated", [0, 0, 0]),
    ],
)
def test_terminated_and_truncated(
    config: dict[str, Any], length: int, ended: str, last_alive: list[int]
) -> None:
    env = herd(**config)
    for _ in range(length - 1):
        assert not np.any(env.step(np.zeros((1, 3), int))[2:4])
    _, _, terminated, truncated, infos = env.step(np.zeros((1, 3), int))
    assert (terminated[0], truncated[0]) == (ended == "terminated", ended == "truncated")
    assert infos["final_obs"]["alive"][0].tolist() == last_alive


def test_the_team_is_paid_the_sum_or_the_mean() -> None:
    assert herd(reward="team").step(np.zeros((1, 3), int))[1][0] == 6.0
    assert herd(reward="mean").step(np.zeros((1, 3), int))[1][0] == 2.0
    # The mean is over all slots, so that a death never raises it.
    env = herd(reward="mean", deaths={"a": 1})
    env.step(np.zeros((1, 3), int))
    assert env.step(np.zeros((1, 3), int))[1][0] == np.float32(5 / 3)


def test_continuous_actions_are_clipped_and_scaled() -> None:
    env = herd(continuous=True, sizes=(2, 2), actions=(1, 2))
    obs, _ = env.reset(seed=0)
    assert obs["action_mask"][0].tolist() == [[1, 0], [1, 1]]
    env.step(np.array([[[0.5, 77.0], [-9.0, 9.0]]], np.float32))
    received = game(env).received[0]
    np.testing.assert_allclose(received["a"], [2.0])  # [-1, 3]
    np.testing.assert_allclose(received["b"], [-2.0, 3.0])  # [-2, 3]
    assert "action_mask" not in herd(continuous=True, actions=(2, 2, 2)).observation_space.spaces


def test_an_env_is_seeded_once() -> None:
    env = herd(2, limit=2)
    env.reset(seed=4)
    for _ in range(5):
        env.step(np.zeros((2, 3), int))
    first, second = (game(env, e).seeds for e in range(2))
    assert first[-3:][1:] == second[-3:][1:] == [None, None]
    assert first[-3] != second[-3]
    assert {type(seed) for seed in (first[-3], second[-3])} == {int}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "'env' must be an import path such as 'pettingzoo.sisl"),
        ({"env": "pettingzoo.sisl.multiwalker_v9"}, "'env' must be an import path such as"),
        ({"env": "pettingzoo.sisl.waterfall:parallel_env"}, "No module named 'pettingzoo.sisl.wa"),
        ({"env": "pettingzoo.sisl.multiwalker_v9:walk"}, "has no attribute 'walk'"),
        ({"env": MULTIWALKER, "kwargs": {"n_runners": 3}}, "unexpected keyword .*'n_runners'"),
        ({"env": MULTIWALKER, "kwargs": "n_walkers=3"}, "'kwargs' must be a mapping"),
        (
            {"env": MULTIWALKER, "reward": "max"},
            "'reward' must be one of team, mean, per_agent, got 'max'",
        ),
        (
            {"env": MULTIWALKER, "state": "yes"},
            "'state' must be one of none, env, concatenate, got 'yes'",
        ),
        ({"env": "helpers.small_games:OneByOne"}, "gives OneByOne, not a pettingzoo.ParallelEnv"),
        ({"env": HERD, "state": "env"}, r"has no state\(\): set env_config 'state'"),
        ({"env": KAZ, "flatten": True, "kwargs": {"obs_method": "image"}}, None),
        (
            {"env": KAZ, "flatten": True, "kwargs": {"obs_method": "vector-sequence"}},
            "no fixed size: a team needs vectors",
        ),
        (
            {"env": KAZ, "kwargs": {"obs_method": "vector-sequence"}},
            "the observation has 'obs', Sequence.* which has no fixed size: a team sees Box",
        ),
    ],
)
def test_wrong_configs_are_refused(config: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert pettingzoo.check(config)["flatten"] is True
        return
    with pytest.raises(UserError, match=message) as error:
        pettingzoo.check(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nobody", "its possible_agents are empty"),
        ("table", r"'b': the action space is float32 \(2, 2\); a team takes"),
        ("unbounded", "'b': the action space .* has no finite bounds"),
    ],
)
def test_games_that_are_no_teams(fault: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pettingzoo.check({"env": "helpers.small_games:Faulty", "kwargs": {"fault": fault}})


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("stranger", "'z' is not in possible_agents"),
        ("size", r"the obs of 'b' has shape \(1,\) .* say \(4,\)"),
        ("mask size", r"action_mask of 'c' has shape \(1,\) .* say \(4,\)"),
    ],
)
def test_games_that_break_their_word(fault: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pettingzoo.make(1, env="helpers.small_games:Faulty", kwargs={"fault": fault})


def test_missing_pettingzoo_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pettingzoo" else find(name)
    )
    with pytest.raises(UserError, match=r"pip install 'rllib-seqmarl\[pettingzoo\]'"):
        pettingzoo.check({"env": MULTIWALKER})


def test_agents_of_a_real_game_die() -> None:
    env = pettingzoo.make(2, env=KAZ, kwargs={"spawn_delay": 1, "max_zombies": 40}, flatten=True)
    obs, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    some_dead, ratios = 0, []
    for _ in range(600):
        obs, _, _, _, infos = env.step(random_actions(env, obs, rng))
        some_dead += int((obs["alive"].any(1) & ~obs["alive"].all(1)).sum())
        if infos:
            ratios += infos["final_info"]["dead_ratio"][infos["_final_info"]].tolist()
    assert some_dead > 10
    assert max(ratios) > 0.0


def test_saving_is_tried_and_never_pretended() -> None:
    # Attributes and generator: goes on bit for bit (see also the contract tests).
    assert herd().cannot_save_reason() is None
    # EzPickle, as most of PettingZoo: pickles well, and loads as a game without an episode.
    kaz = pettingzoo.make(1, env=KAZ, flatten=True)
    kaz.reset(seed=0)
    assert "cannot pickle 'pygame.surface.Surface'" in str(kaz.cannot_save_reason())
    with pytest.raises(UserError, match=r"cannot be saved: a copy of pettingzoo\.butterfly"):
        kaz.get_state()
    # The state of the game is not all that its next step depends on.
    assert "does not go on as the original" in str(herd(shared=True).cannot_save_reason())
    late = pettingzoo.make(1, env="helpers.small_games:SharedStarts")
    assert "does not go on as the original" in str(late.cannot_save_reason())


def test_a_restored_run_starts_new_episodes_and_says_so(
    small: Any, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    config = small(
        "MAT",
        "pettingzoo",
        {"env": SPREAD, "kwargs": {"N": 2}},
        num_envs_per_env_runner=2,
        num_epochs=1,
    )
    algorithm = config.build_algo()
    algorithm.train()
    path = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    algorithm.stop()
    restored = config.copy().build_algo()
    with caplog.at_level(logging.WARNING):
        restored.restore_from_path(path)
    assert any(
        "does not hold the episodes that were under way" in record.message
        and record.message.endswith("new episodes start.")
        for record in caplog.records
    )
    # 10 steps of an episode of 25 had been played: going on, it would end in the second.
    results = [restored.train() for _ in range(3)]
    assert [result["env_runners"].get("num_episodes", 0) for result in results] == [0, 0, 2]
    assert [bool(result["notice"]) for result in results] == [True, False, False]
    restored.stop()


def test_frame() -> None:
    env = pettingzoo.make(1, env=SPREAD, kwargs={"render_mode": "rgb_array"})
    env.reset(seed=0)
    frame = env.render_frame()
    assert frame.shape == (700, 700, 3)
    assert frame.dtype == np.uint8
    assert frame.std() > 0
    with pytest.raises(UserError, match="cannot be drawn"):
        herd().render_frame()


def test_games_are_quiet() -> None:
    code = (
        "import sys; sys.argv = ['rllib']; from rllib_seqmarl import registry; "
        f"env = registry.environment('pettingzoo').make(1, env={KAZ!r}, flatten=True); "
        "env.reset(seed=0); env.close()"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYGAME", "SDL"))}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
