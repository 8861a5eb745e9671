"""Values of the decoder's output."""

from __future__ import annotations

from torch import Tensor, nn

from rllib_seqmarl.nets.transformer.ablations import EncoderOnly
from rllib_seqmarl.nets.transformer.model import DecoderTrace, head
from rllib_seqmarl.nets.values.base import NetworkSizes, ValueFunction


class DecoderValue(ValueFunction):
    """One value per agent from the decoder's output: it knows the predecessors' actions.

    The value of the decoder-only MAT (`mat_decoder` of the official code).
    """

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
        return self.head(trace.output).squeeze(-1)  # [B, N, 1] -> [B, N]


class EncoderOnlyValue(DecoderValue):
    """MAT's value where the encoder is all there is (`EncoderOnly`): its output is o_hat."""

    reads_actions = False


class EncoderAttentionValue(ValueFunction):
    """SrSv-enc: V^i = sum_j w_{i,j} f_theta(o_hat^j), w the last attention of the encoder.

    The paper does not say how eq. 6 is read without a decoder; there are no actions to read.
    """

    reads_actions = False

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__(sizes)
        self.position_value = head(sizes.width, 1)

    def forward(
        self,
        trace: DecoderTrace,
        decoder: EncoderOnly,
        prepared: Tensor | None = None,
        agent_ids: Tensor | None = None,
    ) -> Tensor:
        """See `ValueFunction.forward`."""
        query, key_value = trace.blocks[-1].cross_query, trace.blocks[-1].cross_key_value
        w = decoder.last_attention.weights(query, key_value, causal=False)  # [B, N, N]
        return (w @ self.position_value(trace.output)).squeeze(-1)  # [B, N, 1] -> [B, N]
