"""What an algorithm can say of an episode that its policy has played."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

#: Columns of an episode, each [T, ...].
Columns = dict[str, Tensor]


class Quantity(NamedTuple):
    """A number of each agent at each step."""

    title: str
    values: Tensor  # [T, N], or [T, 1] of the team
    signed: bool = False  # whether it is about being more or less than 0


class Attention(NamedTuple):
    """How much each agent attends to what, mean over the episode."""

    title: str
    weights: Tensor  # [N, C], a row per agent that attends
    columns: tuple[str, ...]  # what is attended to


@dataclass
class Explanation:
    """T steps of one episode of N agents; what is empty has its reason in ``missing``.

    Attributes:
        order: slots of the agents by when they decide, or are evaluated, int [T, N].
        order_title: which order that is.
        quantities: values and credits.
        attention: a matrix per kind of layer.
        missing: a line for each thing that the algorithm, or the file, does not have.
    """

    order: Tensor | None = None
    order_title: str = "decision order"
    quantities: list[Quantity] = field(default_factory=list)
    attention: list[Attention] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


#: Lines of what is missing that several modules need.
NO_ORDER = "decision order: all agents decide at once"
NO_ATTENTION = "attention: the network has none between agents"
NO_VALUES = "values: the algorithm has none of agents"
NO_CRITIC = "values: the file holds no critic; give the checkpoint"
