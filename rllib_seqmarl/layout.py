"""What an agent's observation consists of: named arrays, side by side in a row of numbers.

Environments hand out one array [N, D] for all agents, so that a rollout is one column. A layout
says which of the D numbers are an image, a vector or the agent's slot, so that an encoder can read
them as what they are. Imports nothing heavy: environments and networks both need it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rllib_seqmarl.errors import UserError


class Entry(NamedTuple):
    """One array of an observation."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its numbers."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.name} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Layout:
    """The arrays of an observation in the order in which they stand.

    Attributes:
        entries: what the game gives.
        agent_id: numbers of the agent's slot or type, a one-hot vector behind them; 0: none.
    """

    entries: tuple[Entry, ...]
    agent_id: int = 0

    @classmethod
    def vector(cls, size: int) -> Layout:
        """That of an observation of which no more is known than its size."""
        return cls((Entry("obs", (size,)),))

    @classmethod
    def of(cls, entries: Mapping[str, Sequence[int]], agent_id: int = 0) -> Layout:
        """That of named shapes."""
        return cls(
            tuple(Entry(name, tuple(shape)) for name, shape in entries.items()), int(agent_id)
        )

    @property
    def size(self) -> int:
        """D, all numbers."""
        return sum(entry.size for entry in self.entries) + self.agent_id

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the entries."""
        return {entry.name: entry.shape for entry in self.entries}

    def get_state(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "entries": {entry.name: list(entry.shape) for entry in self.entries},
            "agent_id": self.agent_id,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Layout:
        """What `get_state` gave."""
        return cls.of(state["entries"], state["agent_id"])

    def __str__(self) -> str:
        return ", ".join(map(str, self.entries))

    def require_flat(self, where: str, remedy: str) -> None:
        """Refuses images and tables where a network reads numbers side by side.

        Raises:
            UserError: names the first of them and what to do.
        """
        for entry in self.entries:
            if len(entry.shape) > 1:
                raise UserError(
                    f"{where} is not a vector: it has {entry}. {remedy}; side by side these are "
                    f"{self.size - self.agent_id:,} numbers."
                )


#: What to do where a network cannot read an observation.
REMEDIES = (
    "Set the config key observation_encoder to 'cnn', 'mlp' or an encoder of your own, or "
    "env_config 'flatten: true' where the environment has it"
)
