"""An order and a value function from outside of the package, named by their import paths."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rllib_seqmarl.nets.orders.base import ChosenOrder, Ordering, OrderInputs
from rllib_seqmarl.nets.transformer.model import DecoderTrace
from rllib_seqmarl.nets.values.base import JointActions, NetworkSizes, ValueFunction


class ByFirstFeature(ChosenOrder):
    """The agent with the largest first feature decides first."""

    def choose(self, inputs: OrderInputs) -> Ordering:
        return Ordering(inputs.obs[..., 0].argsort(dim=1, descending=True, stable=True))


class LastActionValue(ValueFunction):
    """Reads the decoder's output, and one action of the team that it prepares itself."""

    prepares = True

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__(sizes)
        self.out = nn.Linear(sizes.width, 1)

    def prepare(self, taken: JointActions, agent_ids: Tensor | None = None) -> Tensor:
        return taken.actions[:, -1:].float()  # [B, 1]

    def forward(
        self,
        trace: DecoderTrace,
        decoder: Any,
        prepared: Tensor | None = None,
        agent_ids: Tensor | None = None,
    ) -> Tensor:
        return self.out(trace.output).squeeze(-1) + 0.1 * prepared
