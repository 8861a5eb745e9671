"""Blocks of columns: what a rollout hands to the learner, without an object per step or agent."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.errors import UserError

OBS = "obs"
ACTION_MASK = "action_mask"
ALIVE = "alive"
STATE = "state"
NEIGHBOURS = "neighbours"
ACTIONS = "actions"
LOG_PROB = "log_prob"
ORDER = "order"
ORDER_LOG_PROB = "order_log_prob"
REWARD = "reward"
TERMINATED = "terminated"
TRUNCATED = "truncated"
IS_FIRST = "is_first"

#: Columns with a row T + 1: the observation that follows the last step.
OBSERVATION_COLUMNS = (OBS, ACTION_MASK, ALIVE, STATE, NEIGHBOURS)


@dataclass
class FinalObservations:
    """The last observations of the episodes that were truncated inside a block.

    Attributes:
        step: int64 [K], row t of the step that ended the episode.
        world: int64 [K], its world e.
        columns: `OBSERVATION_COLUMNS`, each [K, ...].
    """

    step: NDArray[np.int64]
    world: NDArray[np.int64]
    columns: dict[str, NDArray[Any]]


@dataclass
class RolloutBatch:
    """T steps of E worlds, time first.

    Attributes:
        columns: observation columns [T + 1, E, N, ...]; ``actions`` [T, E, N(, A)]; ``log_prob``
            [T, E, N, K]; ``order`` [T, E, N] where it is not the index; ``order_log_prob`` [T, E]
            or [T, E, N] where it is learned; ``reward`` [T, E];
            ``terminated``, ``truncated``, ``is_first`` bool [T, E].
        memory: what a recurrent policy carried into row 0, by name, each [E, N, ...]; to be
            forgotten by worlds in which row 0 is the first of an episode. Empty for others.
        final: for the bootstrap at truncation.
        num_env_steps: steps of single worlds.
        num_agents: N.
        error: what went wrong in a runner of another process, which cannot raise it here.
    """

    num_env_steps: int
    num_agents: int
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    final: FinalObservations | None = None
    memory: dict[str, NDArray[Any]] = field(default_factory=dict)
    error: str | None = None

    def __len__(self) -> int:
        return self.num_env_steps

    def env_steps(self) -> int:
        """Steps of single worlds, as RLlib counts them."""
        return self.num_env_steps

    def agent_steps(self) -> int:
        """The team is one agent to RLlib."""
        return self.num_env_steps

    @property
    def num_worlds(self) -> int:
        """E."""
        return int(self.columns[REWARD].shape[1])

    def worlds(self, start: int, stop: int) -> RolloutBatch:
        """The same steps of worlds ``start`` to ``stop``; the block itself where these are all."""
        if (start, stop) == (0, self.num_worlds):
            return self
        # Contiguous, since Ray sends only such arrays as they are; others it pickles.
        columns = {
            name: np.ascontiguousarray(column[:, start:stop])
            for name, column in self.columns.items()
        }
        final = None
        if self.final is not None:
            inside = (self.final.world >= start) & (self.final.world < stop)
            final = FinalObservations(
                self.final.step[inside],
                self.final.world[inside] - start,
                {name: column[inside] for name, column in self.final.columns.items()},
            )
        memory = {name: value[start:stop] for name, value in self.memory.items()}
        steps = len(self.columns[REWARD])
        return RolloutBatch(steps * (stop - start), self.num_agents, columns, final, memory)

    def check(self, simulator: str) -> None:
        """Refuses observations and rewards that are not finite, and neighbours that do not exist.

        Raises:
            UserError: names the first bad column, step, world and agent.
        """
        for name in (OBS, STATE, REWARD):
            column = self.columns.get(name)
            # One sum is enough to see that all is well; only then look for the culprit.
            if column is None or np.isfinite(column.sum(dtype=np.float64)):
                continue
            bad = np.argwhere(~np.isfinite(column))
            if len(bad):
                axes = ("step", "world", "agent") if name == OBS else ("step", "world")
                where = ", ".join(f"{axis} {i}" for axis, i in zip(axes, bad[0], strict=False))
                value = column[tuple(bad[0])]
                raise UserError(
                    f"the environment ({simulator}) gave {value} in {name!r} at {where} of this "
                    "rollout: mend the environment; nothing was learned from this rollout."
                )
        neighbours = self.columns.get(NEIGHBOURS)
        if neighbours is None or not neighbours.size:
            return
        agents = neighbours.shape[2]
        if neighbours.min() < -1 or neighbours.max() >= agents:
            bad = np.argwhere((neighbours < -1) | (neighbours >= agents))[0]
            raise UserError(
                f"the environment ({simulator}) gave {neighbours[tuple(bad)]} among the neighbours "
                f"of agent {bad[2]} of world {bad[1]}: give slots from 0 to {agents - 1}, or -1."
            )


def concatenate(blocks: Sequence[RolloutBatch]) -> RolloutBatch:
    """Blocks of equally many steps side by side, as one block of all their worlds."""
    if len(blocks) == 1:
        return blocks[0]
    columns = {
        name: np.concatenate([block.columns[name] for block in blocks], axis=1)
        for name in blocks[0].columns
    }
    finals, first_world = [], 0
    for block in blocks:
        if block.final is not None:
            finals.append((block.final, first_world))
        first_world += block.num_worlds
    final = None
    if finals:
        final = FinalObservations(
            np.concatenate([one.step for one, _ in finals]),
            np.concatenate([one.world + offset for one, offset in finals]),
            {
                name: np.concatenate([one.columns[name] for one, _ in finals])
                for name in finals[0][0].columns
            },
        )
    memory = {
        name: np.concatenate([block.memory[name] for block in blocks]) for name in blocks[0].memory
    }
    num_env_steps = sum(block.num_env_steps for block in blocks)
    return RolloutBatch(num_env_steps, blocks[0].num_agents, columns, final, memory)


def deal(blocks: Sequence[RolloutBatch], parts: int) -> list[list[RolloutBatch]]:
    """All worlds of ``blocks``, dealt out to ``parts`` learners as evenly as worlds allow.

    What is dealt out whole is not copied; a learner puts its share together itself.

    Raises:
        UserError: fewer worlds than learners.
    """
    ends = np.cumsum([block.num_worlds for block in blocks])
    if ends[-1] < parts:
        raise UserError(
            f"{parts} learners cannot share {ends[-1]} worlds: "
            "lower num_learners or raise num_envs_per_env_runner."
        )
    bounds = np.linspace(0, ends[-1], parts + 1).astype(int)
    shares = []
    for low, high in itertools.pairwise(bounds):
        share = []
        for block, end in zip(blocks, ends, strict=True):
            first = end - block.num_worlds
            start, stop = max(low, first) - first, min(high, end) - first
            if start < stop:
                share.append(block.worlds(start, stop))
        shares.append(share)
    return shares
