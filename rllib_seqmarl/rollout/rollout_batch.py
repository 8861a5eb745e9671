"""What runners hand to learners: arrays per column, without an object per step or agent."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from rllib_seqmarl._checkpoint_aliases import ROLLOUT_FIELDS, rename
from rllib_seqmarl.columns import ACTION_MASK as ACTION_MASK
from rllib_seqmarl.columns import ACTIONS as ACTIONS
from rllib_seqmarl.columns import ALIVE as ALIVE
from rllib_seqmarl.columns import IS_FIRST as IS_FIRST
from rllib_seqmarl.columns import LOG_PROB as LOG_PROB
from rllib_seqmarl.columns import NEIGHBOURS as NEIGHBOURS
from rllib_seqmarl.columns import OBS as OBS
from rllib_seqmarl.columns import OBSERVATION_COLUMNS as OBSERVATION_COLUMNS
from rllib_seqmarl.columns import ORDER as ORDER
from rllib_seqmarl.columns import ORDER_LOG_PROB as ORDER_LOG_PROB
from rllib_seqmarl.columns import REWARD as REWARD
from rllib_seqmarl.columns import STATE as STATE
from rllib_seqmarl.columns import TERMINATED as TERMINATED
from rllib_seqmarl.columns import TRUNCATED as TRUNCATED
from rllib_seqmarl.errors import UserError

Columns = dict[str, NDArray[Any]]


@dataclass
class FinalObservations:
    """The last observations of the K episodes that were truncated inside a rollout.

    Attributes:
        step: int64 [K], row t of the step that ended the episode.
        env: int64 [K], its environment e.
        columns: `OBSERVATION_COLUMNS`, each [K, ...].
    """

    step: NDArray[np.int64]
    env: NDArray[np.int64]
    columns: Columns

    @classmethod
    def concatenate(cls, parts: Sequence[FinalObservations]) -> FinalObservations | None:
        """All of them, in the order of ``parts``; None where there are none."""
        if not parts:
            return None
        columns = {
            name: np.concatenate([part.columns[name] for part in parts])
            for name in parts[0].columns
        }
        step = np.concatenate([part.step for part in parts])
        return cls(step, np.concatenate([part.env for part in parts]), columns)


@dataclass
class RolloutBatch:
    """T steps of E environments, time first.

    Attributes:
        num_env_steps: T x E, or the steps of an evaluation, which keeps no columns.
        num_agents: N.
        columns: observation columns [T + 1, E, N, ...]; ``actions`` [T, E, N(, A)]; ``log_prob``
            [T, E, N, K]; ``order`` [T, E, N] where it is not the index; ``order_log_prob`` [T, E]
            or [T, E, N] where it is learned; ``reward`` [T, E], or
            [T, E, N] where every agent has its own; ``terminated``, ``truncated``, ``is_first``
            bool [T, E].
        final: for the bootstrap at truncation.
        recurrent_state: of the policy before row 0, by name, each [E, N, ...]; to be replaced by
            the initial one in environments in which row 0 is the first of an episode. Empty
            without recurrence.
        error: what went wrong in a runner of another process, which cannot raise it here.
    """

    num_env_steps: int
    num_agents: int
    columns: Columns = field(default_factory=dict)
    final: FinalObservations | None = None
    recurrent_state: Columns = field(default_factory=dict)
    error: str | None = None

    def __len__(self) -> int:
        return self.num_env_steps

    def env_steps(self) -> int:
        """Steps of single environments, as RLlib counts them."""
        return self.num_env_steps

    def agent_steps(self) -> int:
        """The team is one agent to RLlib."""
        return self.num_env_steps

    @property
    def num_envs(self) -> int:
        """E."""
        return int(self.columns[REWARD].shape[1])

    def select_envs(self, start: int, stop: int) -> RolloutBatch:
        """The same steps of environments ``start`` to ``stop``; itself where these are all."""
        if (start, stop) == (0, self.num_envs):
            return self
        # Contiguous, since Ray sends only such arrays as they are; others it pickles.
        columns = {
            name: np.ascontiguousarray(column[:, start:stop])
            for name, column in self.columns.items()
        }
        final = None
        if self.final is not None:
            inside = (self.final.env >= start) & (self.final.env < stop)
            final = FinalObservations(
                self.final.step[inside],
                self.final.env[inside] - start,
                {name: column[inside] for name, column in self.final.columns.items()},
            )
        recurrent_state = {name: value[start:stop] for name, value in self.recurrent_state.items()}
        steps = len(self.columns[REWARD])
        return RolloutBatch(
            steps * (stop - start), self.num_agents, columns, final, recurrent_state
        )

    def get_state(self) -> dict[str, Any]:
        """Its fields as a dict of plain values, for a checkpoint."""
        return {**vars(self), "final": self.final and dict(vars(self.final))}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """What `get_state` gave, here or in a version before."""
        fields = rename(state, ROLLOUT_FIELDS)
        final = fields.pop("final")
        if final is not None:
            final = FinalObservations(**rename(final, ROLLOUT_FIELDS))
        return cls(final=final, **fields)

    def check(self, simulator: str) -> None:
        """Refuses observations and rewards that are not finite, and neighbours that do not exist.

        Raises:
            UserError: names the first bad column, step, environment and agent.
        """
        for name in (OBS, STATE, REWARD):
            bad = _not_finite(self.columns.get(name))
            if bad is not None:
                axes = ("step", "env") if name == STATE else ("step", "env", "agent")
                where = ", ".join(f"{axis} {i}" for axis, i in zip(axes, bad, strict=False))
                raise UserError(
                    f"the environment ({simulator}) gave {self.columns[name][bad]} in {name!r} at "
                    f"{where} of this rollout: fix the environment; nothing was learned from this "
                    "rollout."
                )
            bad = None if self.final is None else _not_finite(self.final.columns.get(name))
            if self.final is not None and bad is not None:
                raise UserError(
                    f"the environment ({simulator}) gave {self.final.columns[name][bad]} in the "
                    f"last {name!r} of the episode of env {self.final.env[bad[0]]} that ended at "
                    f"step {self.final.step[bad[0]]} of this rollout: fix the environment; nothing "
                    "was learned from this rollout."
                )
        neighbours = self.columns.get(NEIGHBOURS)
        if neighbours is None or not neighbours.size:
            return
        agents = neighbours.shape[2]
        if neighbours.min() < -1 or neighbours.max() >= agents:
            bad = np.argwhere((neighbours < -1) | (neighbours >= agents))[0]
            raise UserError(
                f"the environment ({simulator}) gave {neighbours[tuple(bad)]} among the neighbours "
                f"of agent {bad[2]} of env {bad[1]}: give slots from 0 to {agents - 1}, or -1."
            )


def _not_finite(column: NDArray[Any] | None) -> tuple[int, ...] | None:
    """Where a column first holds NaN or infinity; None where it does not."""
    # One sum shows that all is well; only otherwise is the bad entry looked for.
    if column is None or column.dtype.kind != "f" or np.isfinite(column.sum(dtype=np.float64)):
        return None
    bad = np.argwhere(~np.isfinite(column))
    return tuple(bad[0].tolist()) if len(bad) else None


def write_row(columns: Columns, t: int, rows: int, values: Columns) -> None:
    """Row t of each column [rows, ...]; the first call makes the column."""
    for name, value in values.items():
        if name not in columns:
            columns[name] = np.empty((rows, *value.shape), value.dtype)
        columns[name][t] = value


def check_action_mask(mask: NDArray[np.bool_] | None, simulator: str) -> None:
    """Refuses a mask [E, N, A] that leaves an agent nothing at all to decide.

    Raises:
        UserError: names the agent.
    """
    if mask is not None and not mask.any(-1).all():
        env, agent = np.argwhere(~mask.any(-1))[0]
        raise UserError(
            f"the environment ({simulator}) allows agent {agent} of env {env} no action at all: "
            "its action_mask is all zero; a dead agent needs a no-op."
        )


def concatenate(rollouts: Sequence[RolloutBatch]) -> RolloutBatch:
    """Rollouts of equally many steps as one rollout of all their environments."""
    first = rollouts[0]
    if len(rollouts) == 1:
        return first
    columns = {
        name: np.concatenate([rollout.columns[name] for rollout in rollouts], axis=1)
        for name in first.columns
    }
    offsets = itertools.accumulate((rollout.num_envs for rollout in rollouts), initial=0)
    finals = [
        FinalObservations(final.step, final.env + offset, final.columns)
        for final, offset in zip((rollout.final for rollout in rollouts), offsets, strict=False)
        if final is not None
    ]
    recurrent_state = {
        name: np.concatenate([rollout.recurrent_state[name] for rollout in rollouts])
        for name in first.recurrent_state
    }
    return RolloutBatch(
        sum(rollout.num_env_steps for rollout in rollouts),
        first.num_agents,
        columns,
        FinalObservations.concatenate(finals),
        recurrent_state,
    )


def shard(rollouts: Sequence[RolloutBatch], num_shards: int) -> list[list[RolloutBatch]]:
    """All environments of ``rollouts``, spread over learners as evenly as they allow.

    A rollout that goes to one learner is not copied; a learner concatenates its shard itself.

    Raises:
        UserError: fewer environments than learners.
    """
    ends = np.cumsum([rollout.num_envs for rollout in rollouts])
    if ends[-1] < num_shards:
        raise UserError(
            f"{num_shards} learners cannot share {ends[-1]} environments: "
            "lower num_learners or raise num_envs_per_env_runner."
        )
    bounds = np.linspace(0, ends[-1], num_shards + 1).astype(int)
    shards = []
    for low, high in itertools.pairwise(bounds):
        part = []
        for rollout, end in zip(rollouts, ends, strict=True):
            first = end - rollout.num_envs
            start, stop = max(low, first) - first, min(high, end) - first
            if start < stop:
                part.append(rollout.select_envs(start, stop))
        shards.append(part)
    return shards
