"""What algorithms with an advantage and a value for every agent train on (GAE and PPO)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from rllib_seqmarl.learning.base.batch import SET_LATER, TrainBatch


class Trajectory(NamedTuple):
    """What advantages are estimated from; values are in the units of the reward."""

    rewards: Tensor  # [T, E] of the team, or [T, E, N]
    values: Tensor  # [T, E, N]
    next_values: Tensor  # [T, E, N]
    terminated: Tensor  # bool [T, E]
    truncated: Tensor  # bool [T, E]


@dataclass(kw_only=True)
class AdvantageBatch(TrainBatch):
    """Columns of the clipped objectives, all [B, N]."""

    old_values: Tensor = SET_LATER  # normalised, from before the update
    returns: Tensor = SET_LATER  # in the units of the reward
    advantages: Tensor = SET_LATER  # standardised
    value_mask: Tensor | None = None  # bool, agents with a value in this update; None: all
