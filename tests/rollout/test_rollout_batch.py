"""Rollouts: concatenated, and spread over learners."""

import pickle

import numpy as np
import pytest

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.rollout.rollout_batch import FinalObservations, RolloutBatch, concatenate, shard

T, N = 4, 2


def rollout(envs: int, first: int) -> RolloutBatch:
    """Environments whose columns hold their own number."""
    number = np.arange(first, first + envs)
    columns = {
        "obs": np.broadcast_to(number[None, :, None, None], (T + 1, envs, N, 3)).astype(float),
        "reward": np.broadcast_to(number, (T, envs)).astype(float),
    }
    final = FinalObservations(
        np.array([1, 2]),
        np.array([0, envs - 1]),
        {"obs": np.stack([np.full((N, 3), number[0]), np.full((N, 3), number[-1])])},
    )
    return RolloutBatch(T * envs, N, columns, final)


def test_concatenate_keeps_final_observations_with_their_env() -> None:
    whole = concatenate([rollout(2, 0), rollout(3, 2)])
    assert whole.num_env_steps == 5 * T
    np.testing.assert_array_equal(whole.columns["reward"][0], np.arange(5))
    assert whole.final is not None
    for step, env, obs in zip(
        whole.final.step, whole.final.env, whole.final.columns["obs"], strict=True
    ):
        assert obs[0, 0] == whole.columns["reward"][step, env]


@pytest.mark.parametrize("learners", [1, 2, 3, 5])
def test_every_env_goes_to_one_learner(learners: int) -> None:
    shares = [concatenate(parts) for parts in shard([rollout(2, 0), rollout(3, 2)], learners)]
    assert len(shares) == learners
    assert max(s.num_envs for s in shares) - min(s.num_envs for s in shares) <= 1
    envs = np.concatenate([s.columns["reward"][0] for s in shares])
    np.testing.assert_array_equal(envs, np.arange(5))
    finals = [s.final for s in shares if s.final is not None]
    assert sum(len(f.step) for f in finals) == 4
    for share in shares:
        assert share.num_env_steps == T * share.num_envs
        assert share.final is not None
        for env, obs in zip(share.final.env, share.final.columns["obs"], strict=True):
            assert obs[0, 0] == share.columns["reward"][0, env]


def test_a_rollout_that_goes_to_one_learner_is_not_copied() -> None:
    rollouts = [rollout(2, 0), rollout(2, 2), rollout(2, 4), rollout(2, 6)]
    assert shard(rollouts, 2) == [rollouts[:2], rollouts[2:]]


def test_a_part_of_a_rollout_travels_as_it_is() -> None:
    """Pickle takes arrays out of band only where they are contiguous."""
    for (share,) in shard([rollout(4, 0)], 2):
        out_of_band: list[pickle.PickleBuffer] = []
        pickle.dumps(share, protocol=5, buffer_callback=out_of_band.append)
        assert len(out_of_band) >= len(share.columns)


def test_more_learners_than_envs() -> None:
    with pytest.raises(UserError, match="3 learners cannot share 2 environments"):
        shard([rollout(2, 0)], 3)


def test_large_but_finite_values_pass() -> None:
    one = rollout(2, 0)
    one.columns["reward"][:] = 1e38
    one.check("test")


def test_recurrent_state_goes_with_its_envs() -> None:
    rollouts = [rollout(2, 0), rollout(3, 2)]
    for one in rollouts:
        one.recurrent_state = {"hidden": one.columns["obs"][0, :, :, :2].copy()}  # [E, N, 2]
    for parts in shard(rollouts, 2):
        share = concatenate(parts)
        numbers = share.columns["reward"][0]
        np.testing.assert_array_equal(share.recurrent_state["hidden"][:, 1, 0], numbers)


@pytest.mark.parametrize(("wrong", "named"), [(2, "gave 2"), (-2, "gave -2")])
def test_neighbours_that_do_not_exist_are_refused(wrong: int, named: str) -> None:
    """As an index into all environments, such a slot would be an agent of the next one."""
    sound = rollout(3, 0)
    sound.columns["neighbours"] = np.full((T + 1, 3, N, 1), -1, np.int32)
    sound.check("a game")
    sound.columns["neighbours"][2, 1, 0] = wrong
    line = rf"\(a game\) {named} among the neighbours of agent 0 of env 1: .* 0 to 1, or -1"
    with pytest.raises(UserError, match=line):
        sound.check("a game")


def test_a_state_of_before_is_read() -> None:
    """Version 0.1 wrote ``memory`` and ``world``."""
    one = rollout(2, 0)
    one.recurrent_state = {"hidden": np.ones((2, N, 2))}
    old = one.get_state()
    old["memory"] = old.pop("recurrent_state")
    assert old["final"] is not None
    old["final"]["world"] = old["final"].pop("env")
    for state in old, one.get_state():
        again = RolloutBatch.from_state(state)
        assert again.final is not None
        assert one.final is not None
        np.testing.assert_array_equal(again.final.env, one.final.env)
        np.testing.assert_array_equal(again.recurrent_state["hidden"], 1.0)
        assert again.num_env_steps == one.num_env_steps
