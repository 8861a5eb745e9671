"""MAT with recurrent layers over the agents in place of attention (`mat_gru` of the official code).

Both halves run from the first agent to the last, so that o_hat of an agent knows the observations
of its predecessors only. The official code has two layers whatever its number of blocks; here
every block is two, which is the same with one block.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from rllib_seqmarl.nets.transformer.kv_cache import ActionCache, action_cache
from rllib_seqmarl.nets.transformer.model import (
    ActionDecoder,
    ActionSpec,
    DecoderTrace,
    embedding,
)
from rllib_seqmarl.nets.transformer.sparse_attention import OrderedNeighbours


class Recurrence(nn.Module):
    """GRU layers over the positions of a sequence, one after another.

    Args:
        width: D, of input and state.
        layers: how many.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.GRU(width, width, batch_first=True) for _ in range(layers))

    def forward(self, x: Tensor, states: list[Tensor] | None = None) -> list[Tensor]:
        """The states of every layer at every position; the last layer's are the output.

        Args:
            x: [B, L, D].
            states: of each layer before the first of these positions, [B, D]; None: zeros.

        Returns:
            For each layer, [B, L, D].
        """
        outputs = []
        for index, layer in enumerate(self.layers):
            state = None if states is None else states[index].unsqueeze(0).contiguous()
            x, _ = layer(x, state)
            outputs.append(x)
        return outputs


class GRUEncoder(nn.Module):
    """Observations -> o_hat, agent by agent.

    Args:
        obs_dim: length of one agent's observation.
        width: D.
        blocks: two layers each.
    """

    def __init__(self, obs_dim: int, width: int, blocks: int) -> None:
        super().__init__()
        self.embed = embedding(obs_dim, width)
        self.norm = nn.LayerNorm(width)
        self.recurrence = Recurrence(width, 2 * blocks)

    def forward(self, obs: Tensor) -> Tensor:
        """obs [B, N, obs_dim] -> o_hat [B, N, D]."""
        return self.recurrence(self.norm(self.embed(obs)))[-1]


class GRUDecoder(ActionDecoder):
    """Position m reads the sum of o_hat of agent m and of the action before it.

    Args:
        action: what one agent may do.
        width: D.
        blocks: two layers each.
    """

    def __init__(self, action: ActionSpec, width: int, blocks: int) -> None:
        super().__init__(action, width)
        self.recurrence = Recurrence(width, 2 * blocks)

    def embed(self, tokens: Tensor, encoded: Tensor) -> Tensor:
        """What the first layer reads: tokens as in `forward` and o_hat -> [B, L, D]."""
        return self.norm(F.gelu(self.token(self.token_input(tokens))) + encoded)

    def forward(
        self, tokens: Tensor, encoded: Tensor, neighbours: OrderedNeighbours | None = None
    ) -> DecoderTrace:
        """See `ActionDecoder.forward`; there is no attention to restrict to neighbours."""
        output = self.recurrence(self.embed(tokens, encoded))[-1]
        return DecoderTrace(encoded, tokens, output)


class GRUCache(ActionCache):
    """The states of all layers at the positions decided so far."""

    def __init__(
        self, decoder: GRUDecoder, encoded: Tensor, neighbours: OrderedNeighbours | None = None
    ) -> None:
        super().__init__(encoded)
        self.decoder = decoder
        batch, agents, width = encoded.shape
        #: For each layer, the state before each position, [B, N + 1, D].
        self.states = [
            encoded.new_zeros(batch, agents + 1, width) for _ in decoder.recurrence.layers
        ]

    def extend(self, tokens: Tensor, start: int) -> Tensor:
        """See `ActionCache.extend`."""
        stop = start + tokens.shape[1]
        x = self.decoder.embed(tokens, self.encoded[:, start:stop])
        outputs = self.decoder.recurrence(x, [state[:, start] for state in self.states])
        for state, output in zip(self.states, outputs, strict=True):
            state[:, start + 1 : stop + 1] = output
        return outputs[-1]

    def head(self, x: Tensor) -> Tensor:
        """See `ActionCache.head`."""
        return self.decoder.head(x)

    def as_first(self, start_token: Tensor) -> Tensor:
        """See `ActionCache.as_first`."""
        x = self.decoder.embed(start_token, self.encoded)
        alone = self.decoder.recurrence(x.flatten(0, 1).unsqueeze(1))[-1]  # [B N, 1, D]
        return alone.view_as(x)

    def keep(self, rows: Tensor) -> None:
        """See `ActionCache.keep`."""
        super().keep(rows)
        self.states = [state[rows] for state in self.states]


action_cache.register(GRUDecoder, GRUCache)
