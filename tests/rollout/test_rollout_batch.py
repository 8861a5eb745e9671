"""Blocks of columns: side by side and dealt out."""

import pickle

import numpy as np
import pytest

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.rollout.rollout_batch import FinalObservations, RolloutBatch, concatenate, deal

T, N = 4, 2


def block(worlds: int, first: int) -> RolloutBatch:
    """Worlds whose columns hold their own number."""
    number = np.arange(first, first + worlds)
    columns = {
        "obs": np.broadcast_to(number[None, :, None, None], (T + 1, worlds, N, 3)).astype(float),
        "reward": np.broadcast_to(number, (T, worlds)).astype(float),
    }
    final = FinalObservations(
        np.array([1, 2]),
        np.array([0, worlds - 1]),
        {"obs": np.stack([np.full((N, 3), number[0]), np.full((N, 3), number[-1])])},
    )
    return RolloutBatch(T * worlds, N, columns, final)


def test_concatenate_keeps_final_observations_with_their_world() -> None:
    whole = concatenate([block(2, 0), block(3, 2)])
    assert whole.num_env_steps == 5 * T
    np.testing.assert_array_equal(whole.columns["reward"][0], np.arange(5))
    assert whole.final is not None
    for step, world, obs in zip(
        whole.final.step, whole.final.world, whole.final.columns["obs"], strict=True
    ):
        assert obs[0, 0] == whole.columns["reward"][step, world]


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_every_world_is_dealt_out_once(parts: int) -> None:
    shares = [concatenate(pieces) for pieces in deal([block(2, 0), block(3, 2)], parts)]
    assert len(shares) == parts
    assert max(s.num_worlds for s in shares) - min(s.num_worlds for s in shares) <= 1
    worlds = np.concatenate([s.columns["reward"][0] for s in shares])
    np.testing.assert_array_equal(worlds, np.arange(5))
    finals = [s.final for s in shares if s.final is not None]
    assert sum(len(f.step) for f in finals) == 4
    for share in shares:
        assert share.num_env_steps == T * share.num_worlds
        assert share.final is not None
        for world, obs in zip(share.final.world, share.final.columns["obs"], strict=True):
            assert obs[0, 0] == share.columns["reward"][0, world]


def test_a_block_that_goes_to_one_learner_is_not_copied() -> None:
    blocks = [block(2, 0), block(2, 2), block(2, 4), block(2, 6)]
    assert deal(blocks, 2) == [blocks[:2], blocks[2:]]


def test_a_part_of_a_block_travels_as_it_is() -> None:
    """Pickle takes arrays out of band only where they are contiguous."""
    for (share,) in deal([block(4, 0)], 2):
        out_of_band: list[pickle.PickleBuffer] = []
        pickle.dumps(share, protocol=5, buffer_callback=out_of_band.append)
        assert len(out_of_band) >= len(share.columns)


def test_more_learners_than_worlds() -> None:
    with pytest.raises(UserError, match="3 learners cannot share 2 worlds"):
        deal([block(2, 0)], 3)


def test_large_but_finite_values_pass() -> None:
    one = block(2, 0)
    one.columns["reward"][:] = 1e38
    one.check("test")


def test_memory_goes_with_its_worlds() -> None:
    blocks = [block(2, 0), block(3, 2)]
    for one in blocks:
        one.memory = {"hidden": one.columns["obs"][0, :, :, :2].copy()}  # [E, N, 2]
    for pieces in deal(blocks, 2):
        share = concatenate(pieces)
        numbers = share.columns["reward"][0]
        np.testing.assert_array_equal(share.memory["hidden"][:, 1, 0], numbers)


@pytest.mark.parametrize(("wrong", "named"), [(2, "gave 2"), (-2, "gave -2")])
def test_neighbours_that_do_not_exist_are_refused(wrong: int, named: str) -> None:
    """As an index into all worlds, such a slot would be an agent of the next one."""
    sound = block(3, 0)
    sound.columns["neighbours"] = np.full((T + 1, 3, N, 1), -1, np.int32)
    sound.check("a game")
    sound.columns["neighbours"][2, 1, 0] = wrong
    line = rf"\(a game\) {named} among the neighbours of agent 0 of world 1: .* 0 to 1, or -1"
    with pytest.raises(UserError, match=line):
        sound.check("a game")
