"""A value function: one value for the whole team, from the mean of what the agents encode."""

from typing import Any

from torch import Tensor

from rllib_seqmarl.nets.transformer.model import DecoderTrace, head
from rllib_seqmarl.nets.values.base import NetworkSizes, ValueFunction


class TeamValue(ValueFunction):
    """V = f(1/N sum_j o_hat^j), the same for every agent.

    It reads observations only. One that reads the actions that were taken leaves both flags true
    and reads ``trace.output``, the decoder's output; ``prepare`` makes what it needs beside.
    """

    reads_actions = False
    reads_decoder = False

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__(sizes)
        self.head = head(sizes.width, 1)

    def forward(
        self,
        trace: DecoderTrace,
        decoder: Any,
        prepared: Tensor | None = None,
        agent_ids: Tensor | None = None,
    ) -> Tensor:
        """Normalised values [B, N], from o_hat [B, N, D]."""
        team = self.head(trace.encoded.mean(dim=1))  # [B, D] -> [B, 1]
        return team.expand(trace.encoded.shape[:2])
