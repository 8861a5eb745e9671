"""A decision order: agents decide by a column of their observations, the smallest first."""

from typing import ClassVar

from rllib_seqmarl.nets.orders.base import ChosenOrder, Ordering, OrderInputs


class ByDistance(ChosenOrder):
    """Whoever is nearest decides first; equal distances go by slot.

    Attributes:
        column: of the observation, with the distance. A subclass may name another one.
    """

    column: ClassVar[int] = 0

    def choose(self, inputs: OrderInputs) -> Ordering:
        """The order of one env step, from ``inputs.obs`` [B, N, D]."""
        distance = inputs.obs[..., self.column]  # [B, N]
        return Ordering(distance.argsort(dim=1, stable=True))
