"""The runner, against the environments that it plays and the interface that RLlib expects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.callbacks.callbacks import RLlibCallback

from rllib_seqmarl.envs.toy.distinct_actions import make
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.rollout.rollout_batch import (
    ACTION_MASK,
    ACTIONS,
    IS_FIRST,
    OBS,
    REWARD,
    TERMINATED,
    TRUNCATED,
)
from rllib_seqmarl.rollout.runner import TeamEnvRunner

E, T = 8, 10


def make_runner(config: Any, env_creator: Any = None, worker_index: int = 0) -> TeamEnvRunner:
    def creator(context: dict[str, Any]) -> Any:
        settings = dict(context)
        return make(settings.pop("num_envs"), **settings)

    config.validate()
    return TeamEnvRunner(
        config=config,
        env_creator=env_creator or creator,
        worker_index=worker_index,
        num_workers=0,
    )


def game(length: int = 3) -> dict[str, Any]:
    return {"episode_length": length, "num_agents": 3}


def test_rollout_has_the_shapes_of_the_design(small: Any) -> None:
    runner = make_runner(small("MAT", env_config=game()))
    (rollout,) = runner.sample()
    shapes = {name: column.shape for name, column in rollout.columns.items()}
    width = runner.env.single_observation_space[OBS].shape[1]
    assert shapes[OBS] == (T + 1, E, 3, width)
    assert shapes[ACTION_MASK] == (T + 1, E, 3, 3)
    assert shapes[ACTIONS] == (T, E, 3)
    assert shapes["log_prob"] == (T, E, 3, 1)
    for name in (REWARD, TERMINATED, TRUNCATED, IS_FIRST):
        assert shapes[name] == (T, E)
    assert rollout.env_steps() == T * E == len(rollout)


def test_rewards_follow_from_the_stored_actions(small: Any) -> None:
    """Every stored step is a step of the game: nothing shifted, lost or counted twice."""
    runner = make_runner(small("MAT", env_config=game()))
    (rollout,) = runner.sample()
    actions = rollout.columns[ACTIONS]
    distinct = np.array([[len(set(a)) == 3 for a in row] for row in actions.tolist()])
    np.testing.assert_array_equal(rollout.columns[REWARD] > 0, distinct)
    ended = rollout.columns[TERMINATED] | rollout.columns[TRUNCATED]
    first = rollout.columns[IS_FIRST]
    assert first[0].all()
    np.testing.assert_array_equal(first[1:], ended[:-1])
    assert (np.diff(np.flatnonzero(first[:, 0])) == 3).all()


def test_episodes_go_on_in_the_next_rollout(small: Any) -> None:
    runner = make_runner(small("MAT", env_config=game()))
    (one,), (two,) = runner.sample(), runner.sample()
    for name in (OBS, ACTION_MASK):
        np.testing.assert_array_equal(one.columns[name][-1], two.columns[name][0])
    ended = one.columns[TERMINATED] | one.columns[TRUNCATED]
    np.testing.assert_array_equal(two.columns[IS_FIRST][0], ended[-1])


def test_a_rollout_is_not_written_again(small: Any) -> None:
    runner = make_runner(small("MAT", env_config=game()))
    (rollout,) = runner.sample()
    before = {name: column.copy() for name, column in rollout.columns.items()}
    runner.sample()
    for name, column in rollout.columns.items():
        np.testing.assert_array_equal(column, before[name])


def test_random_actions_are_legal_and_stored(small: Any) -> None:
    runner = make_runner(small("MAT", env_config=game()))
    (rollout,) = runner.sample(random_actions=True)
    assert set(np.unique(rollout.columns[ACTIONS])) == {0, 1, 2}


@pytest.mark.parametrize("episodes", [1, 5, 8, 21])
def test_episode_mode_plays_exactly_as_many(episodes: int, small: Any) -> None:
    runner = make_runner(small("MAT", env_config=game()))
    (rollout,) = runner.sample(num_episodes=episodes, explore=False)
    played = runner.pop_episodes()
    assert all(len(values) == episodes for values in played.values())
    assert rollout.env_steps() == 3 * episodes


def test_metrics_have_rllibs_names(small: Any) -> None:
    runner = make_runner(small("MAT", env_config=game()))
    runner.sample()
    metrics = runner.get_metrics()
    flat = {key: stats.peek() for key, stats in metrics.items() if hasattr(stats, "peek")}
    assert flat["num_env_steps_sampled"] == T * E
    assert flat["num_episodes"] == 3 * E
    assert flat["episode_len_mean"] == 3
    assert 0 <= flat["episode_return_min"] <= flat["episode_return_mean"]
    for part in ("environment", "decode", "sampling_other"):
        assert metrics["time_split"][part].peek() > 0


def test_state_continues_bit_for_bit(small: Any) -> None:
    runner, other = (make_runner(small("MAT", env_config=game(4))) for _ in range(2))
    runner.sample()
    other.set_state(runner.get_state())
    for _ in range(2):
        (one,), (two,) = runner.sample(), other.sample()
        for name, column in one.columns.items():
            np.testing.assert_array_equal(column, two.columns[name])


def test_state_fits_another_number_of_envs(small: Any) -> None:
    runner = make_runner(small("MAT", env_config=game()))
    runner.sample()
    other = make_runner(small("MAT", env_config=game(), num_envs_per_env_runner=3))
    other.set_state(runner.get_state())
    (rollout,) = other.sample()
    assert rollout.columns[IS_FIRST][0].all()


def test_state_of_another_runner_brings_no_episodes(small: Any) -> None:
    """RLlib copies one runner's state to those that it restarted."""
    config = small("MAT", env_config=game(), num_env_runners=2)
    one, two = (make_runner(config.copy(copy_frozen=False), worker_index=i) for i in (1, 2))
    one.sample()
    two.set_state(one.get_state())
    three = make_runner(config.copy(copy_frozen=False), worker_index=2)
    three.set_state(one.get_state(components="rl_module"))
    (theirs,), (ours,) = three.sample(), two.sample()
    for name, column in theirs.columns.items():
        np.testing.assert_array_equal(column, ours.columns[name])


def test_an_evaluation_depends_on_its_weights_alone(small: Any) -> None:
    """Not on what was evaluated before, so that it is the same after a resume."""
    weights = make_runner(small("MAT", env_config=game())).get_state(components="rl_module")
    returns = []
    for earlier in (False, True):
        config = small("MAT", env_config=game())
        config.in_evaluation = True
        runner = make_runner(config)
        if earlier:
            runner.sample(num_episodes=5)
            runner.pop_episodes()
        runner.set_state({**weights, "weights_seq_no": 3})
        runner.sample(num_episodes=20, explore=True)
        returns.append(runner.pop_episodes()["episode_return"])
    np.testing.assert_array_equal(*returns)


def test_weights_are_taken_unless_they_are_those_in_use(small: Any) -> None:
    """A smaller number than the present one comes from an older checkpoint, restored."""
    runner = make_runner(small("MAT", env_config=game()))
    first = runner.get_state(components="rl_module")["rl_module"]
    for number, offset, taken in ((5, 1.0, 1.0), (5, 2.0, 1.0), (4, 3.0, 3.0), (0, 4.0, 4.0)):
        changed = {k: v + offset for k, v in first.items()}
        runner.set_state({"rl_module": changed, "weights_seq_no": number})
        for name, value in runner.get_state(components="rl_module")["rl_module"].items():
            np.testing.assert_array_equal(value, first[name] + np.float32(taken))


def test_runners_of_a_group_play_different_episodes(small: Any) -> None:
    rollouts = []
    for index in (1, 2):
        config = small("MAT", env_config={"continuous": True, "num_agents": 3}, num_env_runners=2)
        rollouts.append(make_runner(config, worker_index=index).sample()[0])
    assert not np.array_equal(rollouts[0].columns[OBS], rollouts[1].columns[OBS])
    assert not np.array_equal(rollouts[0].columns[ACTIONS], rollouts[1].columns[ACTIONS])


class Listener(RLlibCallback):
    seen: list[Any] = []  # noqa: RUF012 - shared on purpose: RLlib makes the instance

    def on_episode_end(self, *, episode: Any, env_index: int, **kwargs: Any) -> None:
        self.seen.append((episode, env_index))

    def on_sample_end(self, *, samples: Any, **kwargs: Any) -> None:
        self.seen.append(samples)


def test_callbacks(small: Any) -> None:
    Listener.seen.clear()
    config = small("MAT", env_config=game()).callbacks(Listener)
    runner = make_runner(config)
    rollouts = runner.sample()
    assert Listener.seen[-1] is not None
    assert Listener.seen[-1][0] is rollouts[0]
    ended = Listener.seen[:-1]
    assert len(ended) == 3 * E
    assert {env for _, env in ended} == set(range(E))
    total = sum(episode.get_return() for episode, _ in ended)
    finished = rollout_return(rollouts[0])
    assert total == pytest.approx(finished)
    assert all(len(episode) == 3 for episode, _ in ended)


def rollout_return(rollout: Any) -> float:
    """Reward of all episodes that ended in a rollout which began with all of them."""
    return float(rollout.columns[REWARD][:9].sum())


class Faulty:
    """A creator of environments in which one thing goes wrong, once."""

    def __init__(self, fault: str, at: int = 4) -> None:
        self.fault, self.at, self.count, self.built = fault, at, 0, 0

    def __call__(self, context: dict[str, Any]) -> Any:
        self.built += 1
        env = make(context["num_envs"], num_agents=3, episode_length=3)
        step = env.step

        def faulty(actions: Any) -> Any:
            self.count += 1
            obs, reward, *rest = step(actions)
            if self.count == self.at:
                if self.fault == "obs":
                    obs[OBS][5, 2, 0] = np.nan
                elif self.fault == "reward":
                    reward[6] = np.inf
                elif self.fault == "mask":
                    obs[ACTION_MASK][1, 2] = False
                else:
                    raise RuntimeError("the simulator is gone")
            return obs, reward, *rest

        env.step = faulty
        return env


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("obs", "gave nan in 'obs' at step 4, env 5, agent 2"),
        ("reward", "gave inf in 'reward' at step 3, env 6"),
        ("mask", "agent 2 of env 1 no action at all"),
    ],
)
def test_bad_envs_are_named(fault: str, message: str, small: Any) -> None:
    runner = make_runner(small("MAT", env_config=game()), Faulty(fault))
    with pytest.raises(UserError, match=message):
        runner.sample()


def test_a_failing_environment_is_built_again_where_asked(small: Any) -> None:
    creator = Faulty("raise")
    config = small("MAT", env_config=game(), restart_failed_sub_environments=True)
    runner = make_runner(config, creator)
    (rollout,) = runner.sample()
    assert creator.built == 2
    assert rollout.columns[IS_FIRST][0].all()
    assert np.isfinite(rollout.columns["log_prob"]).all()


def test_an_environment_that_always_fails_is_given_up(small: Any) -> None:
    config = small("MAT", env_config=game(), restart_failed_sub_environments=True)
    runner = make_runner(config, lambda context: Faulty("raise", at=1)(context))
    with pytest.raises(UserError, match="built 10 times and failed every time"):
        runner.sample()


def test_episodes_of_a_failed_attempt_do_not_count(small: Any) -> None:
    creator = Faulty("raise", at=5)
    config = small("MAT", env_config=game(), restart_failed_sub_environments=True)
    runner = make_runner(config, creator)
    (rollout,) = runner.sample(num_episodes=16)
    assert creator.built == 2
    assert len(runner.pop_episodes()["episode_return"]) == 16
    assert rollout.env_steps() == 3 * 16


@pytest.mark.parametrize("fault", ["obs", "reward"])
def test_bad_envs_are_named_in_evaluations_too(fault: str, small: Any) -> None:
    runner = make_runner(small("MAT", env_config=game()), Faulty(fault))
    with pytest.raises(UserError, match=f"in '{fault}' at step 0, env"):
        runner.sample(num_episodes=16)


def test_in_another_process_the_rollout_carries_the_error(small: Any) -> None:
    """An exception there would be taken for a crash, and the runner would start again for ever."""
    config = small("MAT", env_config=game(), num_env_runners=1)
    runner = make_runner(config, Faulty("obs"), worker_index=1)
    (rollout,) = runner.sample()
    assert rollout.env_steps() == 0
    assert "gave nan in 'obs'" in str(rollout.error)


def test_a_failing_environment_raises_otherwise(small: Any) -> None:
    runner = make_runner(small("MAT", env_config=game()), Faulty("raise"))
    message = r"\(distinct_actions\) failed in a step: RuntimeError: the simulator is gone"
    with pytest.raises(RuntimeError, match=message):
        runner.sample()


def test_log_probs_are_those_of_the_module(small: Any) -> None:
    runner = make_runner(small("MAT", env_config=game(), decode="cached"))
    (rollout,) = runner.sample()
    policy = runner.module.policy
    obs, actions, mask = (
        torch.from_numpy(rollout.columns[name][:T]).flatten(0, 1)
        for name in (OBS, ACTIONS, ACTION_MASK)
    )
    encoded = policy.encoder(obs)
    logits = policy.decoder.head(policy.decoder(policy.decoder.shift(actions), encoded).output)
    expected = policy.distribution.log_prob(logits, mask, actions)
    stored = torch.from_numpy(rollout.columns["log_prob"]).flatten(0, 1)
    torch.testing.assert_close(stored, expected, atol=1e-5, rtol=0)
