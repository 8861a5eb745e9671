"""Orders that are given: there is nothing to learn."""

from __future__ import annotations

from typing import ClassVar

import torch

from rllib_seqmarl.nets.orders.base import ChosenOrder, Ordering, OrderInputs

#: How often `RandomOrder` draws a new order.
GRANULARITIES = ("step", "episode")


class ReverseOrder(ChosenOrder):
    """The last slot decides first ("inverse" in the AOAD-MAT paper, Fig. 8)."""

    def choose(self, inputs: OrderInputs) -> Ordering:
        """See `ChosenOrder`."""
        batch, agents, _ = inputs.encoded.shape
        order = torch.arange(agents - 1, -1, -1, device=inputs.encoded.device)
        return Ordering(order.expand(batch, agents))


class RandomOrder(ChosenOrder):
    """A uniform order (rMAT); its probability is constant and cancels.

    Args:
        width: see `DecisionOrder`.
        num_agents: likewise.
        granularity: a new order at every ``step`` (rMAT of the PMAT paper, "St Shuffle" of the
            AOAD-MAT paper), or one for each ``episode`` (MAT's code, "Ep Shuffle").
    """

    settings: ClassVar = {"order_granularity": "granularity"}

    def __init__(
        self, width: int, num_agents: int | None = None, granularity: str = "step"
    ) -> None:
        super().__init__(width, num_agents)
        self.kept_for_episode = granularity == "episode"

    def choose(self, inputs: OrderInputs) -> Ordering:
        """See `ChosenOrder`; random in evaluation too, as there is no best order."""
        device, generator = inputs.encoded.device, inputs.generator
        source = device if generator is None else generator.device
        keys = torch.rand(inputs.encoded.shape[:2], generator=generator, device=source)
        order = keys.argsort(dim=1).to(device)
        if self.kept_for_episode and inputs.previous is not None:
            order = torch.where(inputs.previous >= 0, inputs.previous, order)
        return Ordering(order)
