"""Values of o_hat, which sees all observations and no action."""

from __future__ import annotations

from torch import Tensor, nn

from rllib_seqmarl.nets.transformer.model import DecoderTrace, Encoder, head
from rllib_seqmarl.nets.values.base import NetworkSizes, ValueFunction


class EncoderValue(ValueFunction):
    """MAT: V^i = f(o_hat^i), one value per agent."""

    reads_actions = False
    reads_decoder = False

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__(sizes)
        self.head = head(sizes.width, 1)

    def forward(
        self,
        trace: DecoderTrace,
        decoder: nn.Module,
        prepared: Tensor | None = None,
        agent_ids: Tensor | None = None,
    ) -> Tensor:
        """See `ValueFunction.forward`."""
        return self.head(trace.encoded).squeeze(-1)  # [B, N, 1] -> [B, N]


class CentralValue(EncoderValue):
    """MAT-Dec's critic: MAT's, in a network of its own, which acting does not need."""

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__(sizes)
        self.encoder = Encoder(sizes.obs_dim, sizes.width, sizes.blocks, sizes.heads)

    def forward(
        self,
        trace: DecoderTrace,
        decoder: nn.Module,
        prepared: Tensor | None = None,
        agent_ids: Tensor | None = None,
    ) -> Tensor:
        """See `ValueFunction.forward`; what the actor reads, ``trace.encoded``, is the obs."""
        return self.head(self.encoder(trace.encoded)).squeeze(-1)
