"""The environment contract, over every registered environment, and the validator itself."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import DictInfoToList
from helpers.environments import SMALL

from rllib_seqmarl import registry
from rllib_seqmarl.envs import TeamVectorEnv, check_env_config, check_team_env
from rllib_seqmarl.envs.core.contract import (
    VectorStep,
    discrete_actions,
    mixed_actions,
    observation_space,
    random_actions,
)
from rllib_seqmarl.envs.core.sync_vector import SingleEnv, SyncVectorEnv
from rllib_seqmarl.envs.toy.distinct_actions import DistinctActions, make
from rllib_seqmarl.errors import UserError

NUM_ENVS = 4


@pytest.fixture(scope="module", params=sorted(registry.ENVIRONMENTS))
def pair(
    request: pytest.FixtureRequest, where_installed: Callable[[], AbstractContextManager[None]]
) -> tuple[TeamVectorEnv, TeamVectorEnv]:
    """The same environment with both autoreset modes."""
    config = SMALL[request.param]
    with where_installed():
        same = registry.make_environment(request.param, NUM_ENVS, config)
    following = registry.make_environment(
        request.param, NUM_ENVS, config | {"autoreset": "next_step"}
    )
    return same, following


def rollout(env: TeamVectorEnv, steps: int, seed: int) -> list[Any]:
    """What ``steps`` steps of random legal actions return, from the next reset on."""
    obs, _ = env.reset(seed=seed)
    return [(obs, None, None, None, {}), *go_on(env, obs, steps, seed)]


def go_on(env: TeamVectorEnv, obs: Mapping[str, Any], steps: int, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    returned = []
    for _ in range(steps):
        returned.append(env.step(random_actions(env, dict(obs), rng)))
        obs = returned[-1][0]
    return returned


def played_alike(env: TeamVectorEnv, obs: Mapping[str, Any]) -> Any:
    """Observations [T + 1, E, N, D] of envs that all do what the first one does, if they may.

    Envs may start alike (football does), so only what becomes of them tells seeds apart.
    """
    rng = np.random.default_rng(0)
    seen = [obs["obs"]]
    for _ in range(60):
        own = random_actions(env, dict(obs), rng)
        actions = np.broadcast_to(own[:1], own.shape)
        if isinstance(env.single_action_space, spaces.MultiDiscrete):
            legal = np.take_along_axis(obs["action_mask"], actions[..., None], -1)[..., 0]
            actions = np.where(legal, actions, own)
        obs, *_ = env.step(actions)
        seen.append(obs["obs"])
    return np.array(seen)


def assert_equal(left: Any, right: Any) -> None:
    if isinstance(left, Mapping):
        assert left.keys() == right.keys()
        for key in left:
            assert_equal(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        for one, other in zip(left, right, strict=True):
            assert_equal(one, other)
    else:
        np.testing.assert_array_equal(left, right)


def test_contract(pair: tuple[TeamVectorEnv, TeamVectorEnv]) -> None:
    for env in pair:
        check_team_env(env)
        assert env.num_agents == env.single_action_space.shape[0]
        obs, _ = env.reset(seed=0)
        assert env.observation_space.contains(obs)
    assert pair[0].metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert pair[1].metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_equal_seeds_equal_trajectories(pair: tuple[TeamVectorEnv, TeamVectorEnv]) -> None:
    env = pair[0]
    first = rollout(env, 60, seed=5)
    env.reset(seed=99)
    assert_equal(first, rollout(env, 60, seed=5))
    fifth = played_alike(env, env.reset(seed=5)[0])
    assert not np.array_equal(fifth, played_alike(env, env.reset(seed=6)[0]))
    # Without a seed the generator goes on: reproducible, and not a repetition.
    env.reset(seed=5)
    second, _ = env.reset()
    following = played_alike(env, second)
    assert not np.array_equal(fifth, following)
    env.reset(seed=5)
    assert_equal(second, env.reset()[0])
    assert len({following[:, e].tobytes() for e in range(NUM_ENVS)}) == NUM_ENVS


def test_state_continues_bit_for_bit(pair: tuple[TeamVectorEnv, TeamVectorEnv]) -> None:
    for env in pair:
        before = rollout(env, 33, seed=1)
        state = pickle.loads(pickle.dumps(env.get_state()))
        expected = go_on(env, before[-1][0], 50, seed=2)
        assert_equal(env.get_state()["episode_length"] > 0, np.ones(NUM_ENVS, bool))
        after_reset = env.reset()[0]
        env.reset(seed=77)
        env.set_state(state)
        assert_equal(expected, go_on(env, before[-1][0], 50, seed=2))
        assert_equal(after_reset, env.reset()[0])
        with pytest.raises(UserError, match="holds 3 envs"):
            env.set_state(state | {"num_envs": 3})


def episodes(env: TeamVectorEnv, steps: int) -> list[list[Any]]:
    """Per env, its finished episodes: observations (with the last), rewards, ends, metrics.

    Each env's actions come from a generator of its own, used only when it really acts.
    """
    same_step = env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    rngs = [np.random.default_rng(e) for e in range(NUM_ENVS)]
    obs, _ = env.reset(seed=3)
    finished: list[list[Any]] = [[] for _ in range(NUM_ENVS)]
    current: list[list[Any]] = [[obs["obs"][e]] for e in range(NUM_ENVS)]
    waiting = np.zeros(NUM_ENVS, bool)
    for _ in range(steps):
        actions = np.zeros(env.action_space.shape, env.action_space.dtype)
        for e in np.flatnonzero(~waiting):
            if isinstance(env.single_action_space, spaces.Box):
                actions[e] = rngs[e].uniform(-1.0, 1.0, actions.shape[1:])
                continue
            legal = obs["action_mask"][e]
            actions[e] = np.where(legal, rngs[e].random(legal.shape), -1.0).argmax(-1)
        obs, reward, terminated, truncated, infos = env.step(actions)
        done = terminated | truncated
        for e in range(NUM_ENVS):
            if waiting[e]:
                assert reward[e] == 0.0
                assert not done[e]
                current[e] = [obs["obs"][e]]
                continue
            shown = infos["final_obs"]["obs"] if same_step and done[e] else obs["obs"]
            current[e] += [reward[e], terminated[e], truncated[e], shown[e]]
            if done[e]:
                metrics = {name: value[e] for name, value in infos["final_info"].items()}
                finished[e].append([*current[e], metrics])
                current[e] = [obs["obs"][e]]
        waiting = done & (not same_step)
    return finished


def test_both_autoreset_modes_give_the_same_episodes(
    pair: tuple[TeamVectorEnv, TeamVectorEnv],
) -> None:
    same, following = (episodes(env, 90) for env in pair)
    for left, right in zip(same, following, strict=True):
        both = min(len(left), len(right))
        assert both >= 2
        assert_equal(left[:both], right[:both])


def test_episode_figures(pair: tuple[TeamVectorEnv, TeamVectorEnv]) -> None:
    for episode in [episode for e in episodes(pair[0], 90) for episode in e]:
        rewards, metrics = episode[1:-1:4], episode[-1]
        assert metrics["episode_length"] == len(rewards)
        assert metrics["episode_return"] == pytest.approx(sum(rewards), abs=1e-5)
        assert set(pair[0].metric_names) < set(metrics)


def test_arrays_belong_to_the_caller(pair: tuple[TeamVectorEnv, TeamVectorEnv]) -> None:
    env = pair[0]
    clean = rollout(env, 40, seed=8)
    obs, _ = env.reset(seed=8)
    rng = np.random.default_rng(8)
    for expected in clean[1:]:
        returned = env.step(random_actions(env, obs, rng))
        assert_equal(expected, returned)
        obs = {name: value.copy() for name, value in returned[0].items()}
        for value in (*returned[0].values(), *returned[1:4]):
            value[...] = 1  # what the caller does to them must not reach the envs


def test_infos_convert_to_rllibs_list_form(pair: tuple[TeamVectorEnv, TeamVectorEnv]) -> None:
    env = DictInfoToList(pair[1])
    obs, infos = env.reset(seed=0)
    assert infos == [{}] * NUM_ENVS
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(60):
        obs, _, terminated, truncated, infos = env.step(random_actions(pair[1], obs, rng))
        for e, done in enumerate(terminated | truncated):
            assert ("final_info" in infos[e]) == done
            seen += done and infos[e]["final_info"]["episode_length"] > 0
    assert seen


def test_wrong_calls_are_refused(pair: tuple[TeamVectorEnv, TeamVectorEnv]) -> None:
    env = pair[0]
    env.reset(seed=0)
    with pytest.raises(UserError, match="actions must have shape"):
        env.step(np.zeros((NUM_ENVS, env.num_agents + 1), int))
    right = np.zeros(env.action_space.shape, env.action_space.dtype)
    if isinstance(env.single_action_space, spaces.Box):
        wrong = [(np.nan, "nan.* must be finite"), (np.inf, "inf.* must be finite")]
    else:
        most = int(env.single_action_space.nvec.max()) - 1
        wrong = [(-1, f"is -1, it must be 0 to {most}"), (most + 1, f"must be 0 to {most}")]
        with pytest.raises(UserError, match="actions must be integers, got float64"):
            env.step(right.astype(np.float64))
    for value, message in wrong:
        actions = right.copy()
        actions[2, 1] = value
        with pytest.raises(UserError, match=f"action of agent 1 of env 2 .*{message}"):
            env.step(actions)
    with pytest.raises(UserError, match="unknown options"):
        env.reset(options={"difficulty": 7})


@pytest.mark.parametrize("name", sorted(registry.ENVIRONMENTS))
def test_config_mistakes_of_every_environment(
    name: str, where_installed: Callable[[], AbstractContextManager[None]]
) -> None:
    module = registry.environment(name)
    with where_installed():
        complete = module.check(SMALL[name])
    assert module.check(complete) == complete
    with pytest.raises(UserError, match=r"unknown env_config key 'autorest'.*'autoreset'"):
        module.check({"autorest": "same_step"})
    with pytest.raises(UserError, match="'autoreset' must be one of same_step, next_step, got 1"):
        module.check({"autoreset": 1})
    with pytest.raises(
        UserError, match="'autoreset' must be one of same_step, next_step, got 'both'"
    ):
        module.check(SMALL[name] | {"autoreset": "both"})
    with pytest.raises(UserError, match="num_envs must be a whole number from 1, got 0"):
        registry.make_environment(name, 0, SMALL[name])


def test_a_step_before_the_first_reset_is_refused() -> None:
    env = make(2)
    with pytest.raises(UserError, match="have not started: reset first"):
        env.step(np.zeros((2, 4), int))


def test_types_of_env_config() -> None:
    defaults = {"flag": True, "count": 3, "scale": 1.0, "name": "x"}
    assert check_env_config({"scale": 2}, defaults, "toy") == defaults | {"scale": 2.0}
    assert type(check_env_config({"scale": 2}, defaults, "toy")["scale"]) is float
    for key, value in (("flag", 1), ("count", True), ("count", 3.5), ("scale", "1"), ("name", 3)):
        with pytest.raises(UserError, match=f"toy: env_config '{key}' must be"):
            check_env_config({key: value}, defaults, "toy")
    for value in (float("nan"), float("inf"), -(10**400)):
        with pytest.raises(UserError, match="toy: env_config 'scale' must be"):
            check_env_config({"scale": value}, defaults, "toy")
    with pytest.raises(UserError, match=r"toy: unknown env_config key None\. Known: count"):
        check_env_config({None: 1}, defaults, "toy")  # type: ignore[dict-item]


class Broken(DistinctActions):
    """Breaks one promise, chosen by ``fault``."""

    fault = ""

    def _step_envs(self, actions: Any, frozen: Any) -> VectorStep:
        step = super()._step_envs(actions, frozen)
        if self.fault == "nan":
            step.obs["obs"][1, 2, 0] = np.nan
        if self.fault == "mask":
            step.obs["action_mask"][1, 2] = False
        if self.fault == "dtype":
            return step._replace(reward=step.reward.astype(np.float64))
        if self.fault == "shape":
            step.obs["obs"] = step.obs["obs"][:, :2]
        if self.fault == "dead":
            step.obs["alive"][0, 0] = False
        if self.fault == "read-only":
            step.obs["obs"].flags.writeable = False
        if self.fault == "key":
            del step.obs["alive"]
        if self.fault == "ends":
            return step._replace(truncated=step.terminated.copy())
        return step


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([1, 1], "agent 2 of env 0 has another agent twice among its neighbours"),
        ([2, -1], "agent 2 of env 0 has itself among"),
        ([0, 3], "agent 2 of env 0 has one that is not a slot from 0 to 2"),
        ([-2, 0], "agent 2 of env 0 has one that is not a slot"),
    ],
)
def test_validator_looks_at_neighbours(wrong: list[int], message: str) -> None:
    config = {"num_agents": 3, "neighbours": True, "num_neighbours": 2, "obstacles": 0}
    env = registry.make_environment("dubins_car", 1, config)
    check_team_env(env)
    observe = env._observe

    def faulty(*args: Any) -> Any:
        obs = observe(*args)
        obs["neighbours"][0, 2] = wrong
        return obs

    env._observe = faulty
    with pytest.raises(UserError, match=message):
        check_team_env(env)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", "obs holds NaN"),
        ("mask", "agent 2 of env 1 has no legal action"),
        ("dtype", r"reward must be float32 \(5,\), got float64"),
        ("shape", r"'obs' of _step_envs is of shape \(5, 2, 5\), not \(5, 4, 5\)"),
        ("dead", "observation of a dead agent is not zero"),
        ("read-only", "is read-only"),
        ("key", "the observation of _step_envs lacks 'alive'"),
        ("ends", "env 0 as terminated and truncated at once"),
    ],
)
def test_validator_names_the_fault(fault: str, message: str) -> None:
    env = Broken(5, registry.environment("distinct_actions").read({"episode_length": 3}))
    check_team_env(env)
    env.fault = fault
    with pytest.raises(UserError, match=message):
        check_team_env(env)


#: What a step gives instead of (obs, reward, terminated, truncated), and what is said of it.
FORMS: dict[str, tuple[Any, str]] = {
    "ends are numbers": (
        lambda s: s._replace(terminated=s.terminated.astype(int)),
        "'terminated' of _step_envs is of type int64, not bool",
    ),
    "a limit as real numbers": (
        lambda s: s._replace(truncated=s.truncated.astype(float)),
        "'truncated' of _step_envs is of type float64, not bool",
    ),
    "one end for all": (
        lambda s: s._replace(terminated=np.bool_(False)),
        r"'terminated' of _step_envs is of shape \(\), not \(5,\)",
    ),
    "one bool": (
        lambda s: s._replace(terminated=False),
        "'terminated' of _step_envs is bool, not an array",
    ),
    "one reward for all": (
        lambda s: s._replace(reward=np.float32(1)),
        r"'reward' of _step_envs is of shape \(\), not \(5,\)",
    ),
    "a number as reward": (
        lambda s: s._replace(reward=1.0),
        "'reward' of _step_envs is float, not an array of NumPy",
    ),
    "whole rewards": (
        lambda s: s._replace(reward=s.reward.astype(int)),
        "'reward' of _step_envs is of type int64, not real numbers",
    ),
    "a reward per agent": (
        lambda s: s._replace(reward=np.ones((5, 4), np.float32)),
        r"'reward' of _step_envs is of shape \(5, 4\), not \(5,\)",
    ),
    "no reward": (lambda s: s._replace(reward=None), "'reward' of _step_envs is NoneType"),
    "objects": (
        lambda s: s._replace(reward=np.array([None] * 5)),
        "'reward' of _step_envs is of type object, not real numbers",
    ),
    "no obs": (lambda s: s._replace(obs=None), "_step_envs gave a NoneType as the observation"),
    "an array as obs": (
        lambda s: s._replace(obs=s.obs["obs"]),
        "_step_envs gave a ndarray as the observation",
    ),
    "obs of one agent": (
        lambda s: s._replace(obs={**s.obs, "obs": s.obs["obs"][:, :1]}),
        r"'obs' of _step_envs is of shape \(5, 1, 3\), not \(5, 4, 3\)",
    ),
    "more envs": (
        lambda s: s._replace(obs={**s.obs, "obs": np.repeat(s.obs["obs"], 2, 0)}),
        r"'obs' of _step_envs is of shape \(10, 4, 3\)",
    ),
    "wider obs": (
        lambda s: s._replace(obs={**s.obs, "obs": np.repeat(s.obs["obs"], 2, 2)}),
        r"'obs' of _step_envs is of shape \(5, 4, 6\)",
    ),
    "lists": (
        lambda s: s._replace(obs={**s.obs, "obs": s.obs["obs"].tolist()}),
        "'obs' of _step_envs is list, not an array",
    ),
    "numbers as mask": (
        lambda s: s._replace(obs={**s.obs, "action_mask": s.obs["action_mask"].astype(int)}),
        "'action_mask' of _step_envs is of type int64, not bool",
    ),
    "no mask": (
        lambda s: s._replace(obs={k: v for k, v in s.obs.items() if k != "action_mask"}),
        "the observation of _step_envs lacks 'action_mask'",
    ),
    "a column more": (
        lambda s: s._replace(obs={**s.obs, "goal": s.obs["obs"]}),
        "the observation of _step_envs has also 'goal'",
    ),
    "gymnasium's five": (lambda s: (*s, {}), "_step_envs gave a tuple of 5; expected VectorStep"),
    "nothing": (lambda s: None, "_step_envs gave a NoneType; expected VectorStep"),
    "one agent's row for all": (
        lambda s: s._replace(obs={**s.obs, "obs": s.obs["obs"][0]}),
        r"'obs' of _step_envs is of shape \(4, 3\), not \(5, 4, 3\)",
    ),
    "fewer envs": (
        lambda s: s._replace(reward=s.reward[:3]),
        r"'reward' of _step_envs is of shape \(3,\), not \(5,\)",
    ),
    "text": (
        lambda s: s._replace(obs={**s.obs, "obs": s.obs["obs"].astype(str)}),
        "'obs' of _step_envs is of type <U32, not real numbers",
    ),
    "bytes of an image": (
        lambda s: s._replace(obs={**s.obs, "obs": s.obs["obs"].astype(np.uint8)}),
        "'obs' of _step_envs is of type uint8, not real numbers",
    ),
    "complex numbers": (
        lambda s: s._replace(reward=s.reward.astype(complex)),
        "'reward' of _step_envs is of type complex128, not real numbers",
    ),
}

_FINAL = "_final_obs_and_metrics"
#: What the end of an episode gives instead of (observation, metrics), and what is said of it.
FINAL_FORMS: dict[str, tuple[Any, str]] = {
    "nothing": (lambda obs, metrics: None, f"{_FINAL} gave a NoneType; expected .observation, met"),
    "an observation alone": (lambda obs, metrics: obs, f"{_FINAL} gave a dict; expected"),
    "no observation": (
        lambda obs, metrics: (None, metrics),
        f"{_FINAL} gave a NoneType as the observation",
    ),
    "one observation": (
        lambda obs, metrics: ({**obs, "obs": obs["obs"][0]}, metrics),
        rf"'obs' of {_FINAL} is of shape \(4, 3\), not \(5, 4, 3\)",
    ),
    "no metrics": (lambda obs, metrics: (obs, None), f"{_FINAL} gave a NoneType as the metrics"),
    "a metric is missing": (
        lambda obs, metrics: (obs, {}),
        f"the metrics of {_FINAL} lack 'distinct_ratio', which stands in its metric_names",
    ),
    "one number for all": (
        lambda obs, metrics: (obs, dict.fromkeys(metrics, 1.0)),
        f"'distinct_ratio' of {_FINAL} is float, not an array of NumPy",
    ),
    "a metric per agent": (
        lambda obs, metrics: (obs, dict.fromkeys(metrics, np.ones((5, 4)))),
        rf"'distinct_ratio' of {_FINAL} is of shape \(5, 4\), not \(5,\)",
    ),
    "flags as a metric": (
        lambda obs, metrics: (obs, dict.fromkeys(metrics, np.ones(5, bool))),
        f"'distinct_ratio' of {_FINAL} is of type bool, not real numbers",
    ),
}


class Formless(DistinctActions):
    """Returns something else than it must, once ``form`` is set."""

    form = ""

    def _step_envs(self, actions: Any, frozen: Any) -> VectorStep:
        step = super()._step_envs(actions, frozen)
        return FORMS[self.form][0](step) if self.form else step


@pytest.mark.parametrize("form", FORMS)
def test_a_step_of_another_form_is_told_at_once(form: str) -> None:
    env = Formless(5, registry.environment("distinct_actions").read({}))
    obs, _ = env.reset(seed=0)
    env.form = form
    with pytest.raises(UserError, match=FORMS[form][1]) as error:
        env.step(random_actions(env, obs, np.random.default_rng(0)))
    assert str(error.value).startswith("the environment (")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", FINAL_FORMS)
def test_the_end_of_an_episode_of_another_form_is_told(form: str) -> None:
    class Ending(DistinctActions):
        def _final_obs_and_metrics(self) -> Any:
            return FINAL_FORMS[form][0](*super()._final_obs_and_metrics())

    env = Ending(5, registry.environment("distinct_actions").read({"episode_length": 1}))
    obs, _ = env.reset(seed=0)
    with pytest.raises(UserError, match=FINAL_FORMS[form][1]) as error:
        env.step(random_actions(env, obs, np.random.default_rng(0)))
    assert "\n" not in str(error.value)


#: Spaces of one env that are no team's, and what is said of them.
SPACES: dict[str, tuple[Any, Any, str]] = {
    "no mask": (observation_space(2, 3), discrete_actions(2, 4), r"lacks 'action_mask'.* \[2, 4\]"),
    "a narrow mask": (
        observation_space(2, 3, 3),
        discrete_actions(2, 4),
        r"has \(2, 3\) as 'action_mask', which is \[2, 4\]",
    ),
    "a mask of another mixture": (
        observation_space(2, 3, 4),
        mixed_actions(2, (2, 3), 1),
        r"has \(2, 4\) as 'action_mask', which is \[2, 6\]",
    ),
    "more agents": (
        observation_space(3, 3, 4),
        discrete_actions(2, 4),
        r"has \(3, 3\) as 'obs', which is \[2, D\]",
    ),
    "nobody alive": (
        spaces.Dict(obs=spaces.Box(-1, 1, (2, 3)), action_mask=spaces.Box(0, 1, (2, 4), bool)),
        discrete_actions(2, 4),
        "lacks 'alive'",
    ),
    "a box": (spaces.Box(-1, 1, (2, 3)), discrete_actions(2, 4), "expected a Dict"),
    "one action for all": (observation_space(2, 3, 4), spaces.Discrete(4), "is Discrete.4.; expe"),
    "no action space": (observation_space(2, 3, 4), None, "action_space is None; expected"),
}


@pytest.mark.parametrize("wrong", SPACES)
def test_spaces_that_are_no_teams_are_told(wrong: str) -> None:
    class Spaced(DistinctActions):
        def __init__(self) -> None:
            TeamVectorEnv.__init__(self, 2, *SPACES[wrong][:2])

    with pytest.raises(UserError, match=SPACES[wrong][2]) as error:
        Spaced()
    assert "\n" not in str(error.value)


class One(SingleEnv):
    """One env that gives what it is told to give."""

    def __init__(self, given: Any) -> None:
        self.given = given

    def reset(self, seed: int | None) -> None: ...

    def step(self, actions: Any) -> Any:
        return self.given

    def observe(self, row: Any) -> None:
        for column in row.values():
            column[...] = 1

    def close(self) -> None: ...


class Several(SyncVectorEnv):
    """Two of them."""

    simulator = "several"

    def __init__(self, given: Any, reward_per_agent: bool = False) -> None:
        space = observation_space(2, 3, 4), discrete_actions(2, 4)
        super().__init__([One(given), One(given)], *space, reward_per_agent=reward_per_agent)


@pytest.mark.parametrize(
    "given",
    [
        None,
        (1.0, False),
        (1.0, False, False, {}),
        (None, False, False),
        (np.ones(2), False, False),
        ("much", False, False),
        (1.0, 2, False),
        (1.0, None, False),
        (1.0, np.zeros(2, bool), False),
    ],
    ids=str,
)
def test_a_single_env_of_another_form_is_told(given: Any) -> None:
    env = Several(given)
    env.reset(seed=0)
    with pytest.raises(
        UserError, match=r"several.: step of env 0, a One, gave .*; expected .the t"
    ):
        env.step(np.zeros((2, 2), int))


@pytest.mark.parametrize("reward", [1, 1.0, np.float32(1.0), np.ones(1), np.array(1.0), [1.0]])
def test_a_reward_of_one_element_is_taken(reward: Any) -> None:
    env = Several((reward, np.bool_(False), False))
    env.reset(seed=0)
    assert env.step(np.zeros((2, 2), int))[1].tolist() == [1.0, 1.0]


def test_a_single_env_that_pays_every_agent() -> None:
    env = Several(([1.0, 2.0], False, False), reward_per_agent=True)
    env.reset(seed=0)
    assert env.step(np.zeros((2, 2), int))[1].tolist() == [[1.0, 2.0]] * 2
    env = Several((1.0, False, False), reward_per_agent=True)
    env.reset(seed=0)
    with pytest.raises(UserError, match=r"expected .the rewards of all agents, terminated"):
        env.step(np.zeros((2, 2), int))


@pytest.mark.parametrize("method", ["_reset_envs", "_step_envs"])
def test_an_exit_is_an_error(method: str) -> None:
    """It would end the command as if the training had come to its end."""
    env = make(2)
    actions = np.zeros((2, 4), int)
    if method == "_step_envs":
        env.reset(seed=0)

    def leave(*_: object) -> None:
        raise SystemExit(0)

    setattr(env, method, leave)
    with pytest.raises(RuntimeError, match=r"sys.exit\(0\) was called"):
        env.step(actions) if method == "_step_envs" else env.reset(seed=0)


def test_a_first_observation_of_another_form_is_told() -> None:
    class Late(DistinctActions):
        def _reset_envs(self) -> Any:
            return {"obs": super()._reset_envs()["obs"]}

    env = Late(2, registry.environment("distinct_actions").read({}))
    with pytest.raises(UserError, match="the observation of _reset_envs lacks 'action_mask'"):
        env.reset(seed=0)


def test_real_numbers_of_another_precision_are_taken() -> None:
    class Precise(DistinctActions):
        def _step_envs(self, actions: Any, frozen: Any) -> VectorStep:
            step = super()._step_envs(actions, frozen)
            return step._replace(reward=step.reward.astype(np.float64))

    env = Precise(2, registry.environment("distinct_actions").read({}))
    obs, _ = env.reset(seed=0)
    env.step(random_actions(env, obs, np.random.default_rng(0)))


def test_continuous_environment_passes_the_validator() -> None:
    check_team_env(make(3, continuous=True, episode_length=2))


def test_an_environment_with_names_of_version_0_1_works_and_is_told_so() -> None:
    with pytest.warns(FutureWarning, match="control is now scripted_actions"):

        class Old(DistinctActions):
            controllers = ("nothing",)

            def _step_worlds(self, actions: Any, frozen: Any) -> Any:
                self.stepped = True
                return super()._step_worlds(actions, frozen)  # type: ignore[misc]

            def control(self, name: str) -> Any:
                return np.zeros((self.num_envs, self.num_agents), int)

    env: Any = Old(2, registry.environment("distinct_actions").read({}))
    check_team_env(env)
    assert env.stepped
    assert env.scripted_policies == ("nothing",)
    assert not env.scripted_actions("nothing").any()
    state = env.get_state()
    env.set_state({("worlds" if name == "envs" else name): value for name, value in state.items()})
    with pytest.warns(FutureWarning, match=r"WorldStep is now .*\.VectorStep"):
        from rllib_seqmarl.envs.core.contract import WorldStep  # type: ignore[attr-defined]
    assert WorldStep is VectorStep
    with pytest.warns(FutureWarning, match=r"World is now .*\.SingleEnv"):
        from rllib_seqmarl.envs.separate_worlds import World  # type: ignore[import-not-found]
    assert World is SingleEnv
