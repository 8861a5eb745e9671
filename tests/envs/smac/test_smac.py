"""The map table, the simulator switch, and SMAX as an environment."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rllib_seqmarl import registry
from rllib_seqmarl.envs.core.contract import random_actions
from rllib_seqmarl.envs.smax.config import SMAXConfig
from rllib_seqmarl.envs.smax.env import SMAXTeamEnv
from rllib_seqmarl.envs.smax.scenarios import SCENARIOS, UNAVAILABLE, UNIT_TYPES
from rllib_seqmarl.errors import UserError

smac = registry.environment("smac")

# Map -> agents N, enemies.
SIZES = {
    "3m": (3, 3), "8m": (8, 8), "25m": (25, 25), "5m_vs_6m": (5, 6), "8m_vs_9m": (8, 9),
    "10m_vs_11m": (10, 11), "27m_vs_30m": (27, 30), "2s3z": (5, 5), "3s5z": (8, 8),
    "3s5z_vs_3s6z": (8, 9), "3s_vs_3z": (3, 3), "3s_vs_4z": (3, 4), "3s_vs_5z": (3, 5),
    "6h_vs_8z": (6, 8), "2m_vs_1z": (2, 1), "corridor": (6, 24), "7m2M": (9, 9),
    "7m2M_vs_8m3M": (9, 11), "4s5z": (9, 9), "2s_vs_64zg": (2, 64), "24zg": (24, 24),
    "smacv2_5_units": (5, 5), "smacv2_10_units": (10, 10), "smacv2_20_units": (20, 20),
}  # fmt: skip


FIVE_VS_SIX = {"allies": {"marine": 5}, "enemies": {"marine": 6}}


def test_every_map_has_its_size() -> None:
    assert SIZES.keys() == SCENARIOS.keys()
    for name, (agents, enemies) in SIZES.items():
        env = smac.make(2, map_name=name, agent_id=False, state=True)
        space = env.single_observation_space
        assert env.single_action_space.nvec.tolist() == [5 + enemies] * agents, name
        assert space["obs"].shape == (agents, 13 * (agents - 1 + enemies) + 10), name
        assert space["action_mask"].shape == (agents, 5 + enemies), name
        assert space["state"].shape == (12 * (agents + enemies),), name


def test_maps_of_jaxmarl_are_the_same() -> None:
    from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO

    for name, theirs in MAP_NAME_TO_SCENARIO.items():
        ours = SCENARIOS[name]
        assert ours.allies + ours.enemies == tuple(theirs.unit_types.tolist()), name
        assert (len(ours.allies), len(ours.enemies)) == (theirs.num_allies, theirs.num_enemies)
        assert ours.random == theirs.smacv2_unit_type_generation
        assert ours.random == theirs.smacv2_position_generation


@pytest.mark.parametrize("name", sorted(UNAVAILABLE))
def test_maps_with_missing_units_name_unit_and_stand_in(name: str) -> None:
    unit, stand_in = UNAVAILABLE[name]
    with pytest.raises(UserError) as error:
        smac.check({"map_name": name})
    assert name in str(error.value)
    assert unit in str(error.value)
    assert stand_in in str(error.value)
    assert stand_in in SCENARIOS
    assert name not in SCENARIOS
    assert unit not in UNIT_TYPES


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"map_name": "3s5y"}, "unknown map '3s5y'. Did you mean '3s5z'"),
        ({"map_nam": "3m"}, "unknown env_config key 'map_nam'. Did you mean 'map_name'"),
        ({"map_name": 3}, "'map_name' must be text, got 3"),
        ({"max_steps": 10.5}, "'max_steps' must be a whole number"),
        ({"max_steps": 0}, "'max_steps' must be at least 1"),
        ({"time_per_step": 0.0}, "'time_per_step' must be above 0"),
        ({"agent_id": "yes"}, "'agent_id' must be true or false"),
        ({"attack_mode": "nearest"}, "'attack_mode' must be one of closest, random"),
        ({"simulator": "smacs"}, "unknown simulator 'smacs' in env_config. Did you mean 'smax'"),
        ({"simulator": 3}, "unknown simulator 3 in env_config. Known: smax, starcraft2"),
        ({"agent_id": "typ"}, "'agent_id' must be true or false or 'type', got 'typ'"),
        ({"allies": {"marine": 5}}, "'enemies' is missing: allies and enemies go together"),
        (
            {"allies": {"marin": 5}, "enemies": {"marine": 6}},
            "'allies': SMAX has no unit 'marin'. Did you mean 'marine'?",
        ),
        (
            {"allies": {"marine": 5}, "enemies": {"medivac": 1}},
            "'enemies': SMAX has no unit 'medivac'. Known: hydralisk, ",
        ),
        ({"allies": {"marine": 0}, "enemies": {"marine": 1}}, "'marine' must be 1 or more, got 0"),
        ({"allies": {}, "enemies": {"marine": 1}}, "'allies' is empty: name a unit"),
        ({"allies": "5m", "enemies": {"marine": 1}}, "how many there are, as in {marine: 5}, got"),
        *(
            ({"map_name": name, **FIVE_VS_SIX}, f"has map_name '{name}' and units of its own")
            for name in ("3s5z", "3m", "any")
        ),
        ({"simulator": "starcraft2", **FIVE_VS_SIX}, "'allies' belongs to the other simulator"),
        ({"difficulty": "7"}, "'difficulty' belongs to the other simulator; 'smax' has no such"),
    ],
)
def test_wrong_configs_are_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        smac.check(config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_given_units_are_those_of_the_map_with_the_same_ones() -> None:
    """Every number of an episode and more, and what is saved of a config means the same again."""
    config = smac.check({**FIVE_VS_SIX, "max_steps": 15})
    assert config["map_name"] == "5marine_vs_6marine"
    assert smac.check(config) == config
    ours = smac.make(2, **config)
    named = smac.make(2, map_name="5m_vs_6m", max_steps=15)
    (obs, _), (expected, _) = ours.reset(seed=3), named.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(30):
        assert obs.keys() == expected.keys()
        for name, value in obs.items():
            np.testing.assert_array_equal(value, expected[name])
        actions = random_actions(named, expected, rng)
        (obs, *paid, _), (expected, *others, _) = ours.step(actions), named.step(actions)
        np.testing.assert_array_equal(paid, others)


def test_given_units_of_several_types() -> None:
    """Whatever the order in which a mapping has them, slots are those of 3s5z_vs_3s6z."""
    counts = {"zealot": 5, "stalker": 3}
    env = smac.make(1, allies=counts, enemies={"stalker": 3, "zealot": 6}, agent_id="type")
    stalker, zealot = np.eye(len(UNIT_TYPES))[[2, 3]].tolist()
    obs, _ = env.reset(seed=0)
    assert obs["obs"][0, :, -6:].tolist() == [stalker] * 3 + [zealot] * 5
    assert SMAXConfig(allies=counts, enemies=counts).scenario == SCENARIOS["3s5z"]
    assert obs["obs"].shape == (1, 8, 13 * 16 + 10 + 6)


def test_missing_jaxmarl_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "jaxmarl" else find(name)
    )
    with pytest.raises(UserError, match=r"pip install 'rllib-seqmarl\[smax\]'"):
        smac.check({})


def test_check_imports_no_simulator_and_making_prints_nothing() -> None:
    code = """
import sys
sys.modules["ray"] = None
from rllib_seqmarl import registry
smac = registry.environment("smac")
smac.check({"map_name": "3m"})
assert not {"jax", "jaxmarl", "torch"} & sys.modules.keys()
smac.make(1, map_name="3m")
assert "jax" in sys.modules and "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


@pytest.fixture(scope="module")
def env() -> SMAXTeamEnv:
    """Weak enemies, so that random play wins, loses and runs out of time."""
    return smac.make(32, map_name="3m", max_steps=40, attack_mode="random")


def play(env: SMAXTeamEnv, steps: int, attack: bool) -> Iterator[tuple[Any, ...]]:
    """Yields what each step of random play returns, shooting whenever possible if asked to."""
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    for _ in range(steps):
        legal = {"action_mask": obs["action_mask"].copy()}
        if attack:
            can_shoot = legal["action_mask"][..., 5:].any(-1)
            legal["action_mask"][..., :5] &= ~can_shoot[..., None]
        returned = env.step(random_actions(env, legal, rng))
        obs = returned[0]
        yield returned


def test_wins_losses_and_time_limit(env: SMAXTeamEnv) -> None:
    assert env.simulator == "smax"
    results: dict[str, int] = {"won": 0, "lost": 0, "truncated": 0}
    for attack in (True, False):
        for _, _, terminated, truncated, infos in play(env, 250, attack):
            if not infos:
                continue
            info, last = infos["final_info"], infos["final_obs"]
            for e in np.flatnonzero(terminated | truncated):
                won, dead = info["won"][e], info["dead_ratio"][e]
                length, total = info["episode_length"][e], info["episode_return"][e]
                assert dead == pytest.approx(1 - last["alive"][e].mean())
                assert total <= 2.0 + 1e-5
                if won:
                    assert terminated[e]
                    assert dead < 1.0
                    assert total == pytest.approx(2.0, abs=1e-5)
                if truncated[e]:
                    assert length == 41
                    assert dead < 1.0
                    assert not won
                if terminated[e] and not won:
                    assert dead == 1.0
                    assert total <= 1.0 + 1e-5
                results["truncated" if truncated[e] else "won" if won else "lost"] += 1
    assert min(results.values()) >= 3, results


def test_dead_agents_and_agent_ids(env: SMAXTeamEnv) -> None:
    deaths = 0
    for obs, *_ in play(env, 120, attack=False):
        alive, ids = obs["alive"], obs["obs"][..., -3:]
        np.testing.assert_array_equal(ids, np.eye(3) * alive[..., None])
        assert not obs["obs"][~alive].any()
        only_stop = np.arange(8) == 4
        assert (obs["action_mask"][~alive] == only_stop).all()
        assert obs["action_mask"][alive][:, :5].all()
        deaths += (~alive).sum()
    assert deaths > 20


def test_step_is_compiled_once(env: SMAXTeamEnv) -> None:
    state = env.get_state()
    for _ in play(env, 3, attack=False):
        pass
    env.set_state(state)
    env.step(np.full((32, 3), 4))
    env.step(np.full((32, 3), 4, np.int32))
    assert env._compiled_step._cache_size() == 1
