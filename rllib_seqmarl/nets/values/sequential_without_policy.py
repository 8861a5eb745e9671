"""SrSv's value without its successors' policies."""

from __future__ import annotations

from torch import Tensor

from rllib_seqmarl.nets.transformer.model import Decoder, DecoderTrace
from rllib_seqmarl.nets.values.base import NetworkSizes, ValueFunction
from rllib_seqmarl.nets.values.sequential import PositionValue


class SequentialValueWithoutPolicy(ValueFunction):
    """SrSv "w/o pi", eq. 13: agent i's value knows its predecessors' actions only.

    V^i = sum_{j=1}^{i} w_{i,j} f_theta(o_hat^j, e^{j-1})
    """

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__(sizes)
        self.position_value = PositionValue(sizes.width)

    def forward(
        self,
        trace: DecoderTrace,
        decoder: Decoder,
        prepared: Tensor | None = None,
        agent_ids: Tensor | None = None,
    ) -> Tensor:
        """See `ValueFunction.forward`."""
        assert trace.output is not None
        query, key_value = trace.blocks[-1].cross_query, trace.blocks[-1].cross_key_value
        attention = decoder.layers()[-1].cross_attention
        scalars = self.position_value(trace.encoded, trace.output).unsqueeze(-1)  # [B, N, 1]
        if trace.neighbours is None:
            return (attention.weights(query, key_value) @ scalars).squeeze(-1)
        attended = trace.neighbours.of_block(len(trace.blocks) - 1).cross_attention
        w = attention.sparse_weights(query, key_value, attended)
        return (w.mean(-1) * attended.gather(scalars).squeeze(-1)).sum(-1)  # [B, N, K, H] -> [B, N]
