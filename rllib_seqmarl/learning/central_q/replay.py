"""Replay of whole sequences, for learners that train on more than their fresh rollouts.

Rollouts are stored and rollouts are drawn, so that stored and fresh ones become batches in the same
way: with their first recurrent state, bootstraps and ends of episodes.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.rollout.rollout_batch import (
    OBS,
    REWARD,
    FinalObservations,
    RolloutBatch,
    concatenate,
)


class SequenceStore:
    """The newest sequences of a run, each the T steps of one environment; on the CPU.

    Args:
        capacity: sequences that are kept.
    """

    def __init__(self, capacity: int) -> None:
        self._sequences: deque[RolloutBatch] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self._sequences)

    def add(self, rollout: RolloutBatch) -> None:
        """Stores a copy of each environment's steps, in place of the oldest when the store is full.

        Raises:
            UserError: its sequences are longer or shorter than those that are stored.
        """
        if self._sequences:
            stored, new = (len(one.columns[REWARD]) for one in (self._sequences[0], rollout))
            if stored != new:
                raise UserError(
                    f"the replay store of this run holds sequences of {stored} steps, and rollouts "
                    f"are now of {new}: set rollout_fragment_length to {stored}, or begin a "
                    "new run."
                )
        for env in range(rollout.num_envs):
            self._sequences.append(_copy(rollout.select_envs(env, env + 1)))

    def draw(self, count: int, generator: torch.Generator) -> RolloutBatch:
        """Some of the sequences side by side, none twice, each choice equally likely."""
        chosen = torch.randperm(len(self), generator=generator)[:count]
        return concatenate([self._sequences[index] for index in chosen.tolist()])

    def get_state(self) -> dict[str, Any]:
        """The fields of a rollout of all sequences, oldest first; empty where there are none."""
        return concatenate(self._sequences).get_state() if self._sequences else {}

    def set_state(self, state: dict[str, Any], obs_shape: tuple[int, ...]) -> None:
        """Holds what `get_state` gave, and nothing else.

        Args:
            state: from there.
            obs_shape: [N, D] of the present team; sequences of another one are forgotten.
        """
        self._sequences.clear()
        if state:
            rollout = RolloutBatch.from_state(state)
            if rollout.columns[OBS].shape[2:] == obs_shape:
                self.add(rollout)


def _copy(rollout: RolloutBatch) -> RolloutBatch:
    """The same in memory of its own, so that what is dropped is freed."""
    final = rollout.final
    if final is not None:
        columns = {name: column.copy() for name, column in final.columns.items()}
        final = FinalObservations(final.step.copy(), final.env.copy(), columns)
    return RolloutBatch(
        rollout.num_env_steps,
        rollout.num_agents,
        {name: column.copy() for name, column in rollout.columns.items()},
        final,
        {name: value.copy() for name, value in rollout.recurrent_state.items()},
    )
