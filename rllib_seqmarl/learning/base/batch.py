"""The batch that a learner trains on: typed columns with one entry per row.

A row is what a minibatch takes or leaves as a whole: one step of one environment, [B, N, ...], or a
sequence of T steps of it where agents are recurrent, [B, T, N, ...].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from typing_extensions import Self

#: The value of a field until a later step of the update sets it.
SET_LATER: Any = None


@dataclass(kw_only=True)
class TrainBatch:
    """Columns that all families of algorithms train on; each family adds its own.

    A field is a tensor with one entry per row, or None. A tensor without axes, or a value that is
    no tensor, holds for all rows. The policy and value weights of a minibatch sum up to a mean over
    all learners (see `TeamLearner.mean_weights`), so losses are weighted sums.
    """

    obs: Tensor  # [B, N, D]
    action_mask: Tensor | None = None  # bool [B, N, A]
    actions: Tensor  # int [B, N], or [B, N, A]
    log_prob: Tensor  # of the policy that acted, [B, N, K]
    alive: Tensor  # bool [B, N]
    targets: Tensor = SET_LATER  # what values are regressed on, [B, N]
    policy_weight: Tensor = SET_LATER  # [B, N]
    value_weight: Tensor = SET_LATER  # [B, N], or [B] of a team's value

    def columns(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors that have one entry per row."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor) and value.ndim > 0:
                yield field.name, value

    def __len__(self) -> int:
        """The number of rows, B."""
        return len(self.obs)

    def __getitem__(self, rows: Tensor | slice) -> Self:
        """Some of the rows, by a tensor of indices, a mask or a slice."""
        return self.replace(**{name: column[rows] for name, column in self.columns()})

    def replace(self, **columns: object) -> Self:
        """The same batch with other values in some fields."""
        fields: dict[str, Any] = {**vars(self), **columns}
        return type(self)(**fields)

    def micro_batches(self, size: int) -> Iterator[Self]:
        """The rows in their order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]
