"""The store of sequences by itself, and with a learner that is saved and resumed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.central_q.replay import SequenceStore
from rllib_seqmarl.rollout.rollout_batch import FinalObservations, RolloutBatch

T, N = 4, 2
OBS_SHAPE = (N,)


def rollout(numbers: list[int], steps: int = T) -> RolloutBatch:
    """A env of each number, which stands in all of its columns; odd ones are truncated once."""
    numbered = np.array(numbers)
    columns = {
        "obs": np.broadcast_to(numbered[None, :, None], (steps + 1, len(numbers), N)).copy(),
        "reward": np.broadcast_to(numbered[None], (steps, len(numbers))).astype(float),
    }
    env = np.flatnonzero(numbered % 2)
    final = None
    if len(env):
        final = FinalObservations(
            env % steps, env, {"obs": np.repeat(numbered[env][:, None], N, axis=1)}
        )
    memory = {"hidden": np.repeat(numbered[:, None], N, axis=1)}
    return RolloutBatch(steps * len(numbers), N, columns, final, memory)


def numbers_of(drawn: RolloutBatch) -> list[int]:
    """Which envs a rollout is of; all of its columns must agree."""
    numbers = drawn.columns["obs"][0, :, 0]
    for column in (drawn.columns["obs"], drawn.columns["reward"][..., None]):
        assert (column == numbers[None, :, None]).all()
    assert (drawn.recurrent_state["hidden"] == numbers[:, None]).all()
    odd = np.flatnonzero(numbers % 2)
    if len(odd):
        assert drawn.final is not None
        assert sorted(drawn.final.env) == list(odd)
        assert (drawn.final.columns["obs"] == numbers[drawn.final.env][:, None]).all()
    assert drawn.num_env_steps == len(drawn.columns["reward"]) * len(numbers)
    return [int(number) for number in numbers]


def test_only_the_newest_are_kept() -> None:
    store, generator = SequenceStore(5), torch.Generator()
    for first in range(0, 12, 3):
        store.add(rollout([first, first + 1, first + 2]))
    assert len(store) == 5
    assert sorted(numbers_of(store.draw(5, generator))) == [7, 8, 9, 10, 11]


def test_draws_are_uniform_and_without_repeats() -> None:
    store, generator = SequenceStore(6), torch.Generator().manual_seed(0)
    store.add(rollout(list(range(6))))
    counts = np.zeros((6, 6))
    for _ in range(3000):
        one, other = numbers_of(store.draw(2, generator))
        assert one != other
        counts[one, other] += 1
    pairs = counts[~np.eye(6, dtype=bool)]  # 30 of them, 100 each
    assert ((pairs - 100) ** 2 / 100).sum() < 58.3  # chi-squared of 29 degrees, 0.1 %


def test_what_is_stored_is_a_copy() -> None:
    store, one = SequenceStore(2), rollout([3])
    store.add(one)
    for column in (*one.columns.values(), *one.recurrent_state.values()):
        column[:] = 0
    assert numbers_of(store.draw(1, torch.Generator())) == [3]


def test_a_saved_store_goes_on_alike() -> None:
    store, other = SequenceStore(5), SequenceStore(5)
    assert store.get_state() == {}
    store.add(rollout([0, 1, 2, 3]))
    other.add(rollout([9]))
    other.set_state(store.get_state(), OBS_SHAPE)
    for each in (store, other):
        each.add(rollout([4, 5, 6]))
    one, two = (each.draw(4, torch.Generator().manual_seed(1)) for each in (store, other))
    assert numbers_of(one) == numbers_of(two)
    smaller = SequenceStore(2)
    smaller.set_state(store.get_state(), OBS_SHAPE)
    assert sorted(numbers_of(smaller.draw(2, torch.Generator()))) == [5, 6]
    smaller.set_state(store.get_state(), (N + 1,))  # another team's
    assert len(smaller) == 0
    other.set_state({}, OBS_SHAPE)
    assert len(other) == 0


def test_sequences_of_another_length_are_refused() -> None:
    store = SequenceStore(5)
    store.add(rollout([0]))
    with pytest.raises(UserError, match=f"of {T} steps, and rollouts are now of 7"):
        store.add(rollout([1], steps=7))


def test_nothing_is_kept_without_capacity() -> None:
    store = SequenceStore(0)
    store.add(rollout([0, 1]))
    assert len(store) == 0


def test_a_resumed_run_draws_what_an_uninterrupted_one_does(small: Any, tmp_path: Any) -> None:
    settings = {"replay_capacity": 20, "replay_batch_size": 5, "num_epochs": 1}
    algorithm = small("RIIT", env_config={"episode_length": 3}, **settings).build_algo()
    for _ in range(3):
        algorithm.train()
    path = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    resumed = type(algorithm).from_checkpoint(path)
    learners: list[Any] = []
    for each in (algorithm, resumed):
        each.learner_group.foreach_learner(lambda learner: learners.append(learner))
        for _ in range(2):
            each.train()
    one, other = learners
    assert len(one.store) == len(other.store) == 20
    for name, value in one.core.state_dict().items():
        torch.testing.assert_close(other.core.state_dict()[name], value, atol=0, rtol=0)
    drawn = [learner.replayed() for learner in learners]
    for name, column in drawn[0].columns.items():
        np.testing.assert_array_equal(column, drawn[1].columns[name])
    for each in (algorithm, resumed):
        each.stop()
