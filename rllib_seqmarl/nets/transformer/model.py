"""The encoder and the decoder of the Multi-Agent Transformer (MAT, Wen et al. 2022).

Shapes: B rows (one environment step of one world each), N agents in decision order, D width,
H heads, A discrete actions or action dimensions. Nothing here depends on N: masks are made when
they are needed, so that a model trained with 8 agents runs with 1,024.

There is no positional encoding and no agent embedding: who an agent is must be in its observation.
What stands in place of attention in the ablations of the SrSv paper is in `mixing`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from rllib_seqmarl.nets.transformer.kv_cache import ActionCache, DecoderCache
from rllib_seqmarl.nets.transformer.layers import (
    GAIN_BEFORE_GELU,
    embedding,
    feed_forward,
    head,
    linear,
)
from rllib_seqmarl.nets.transformer.sparse_attention import BlockHeard, Heard, OrderedNeighbours
from rllib_seqmarl.nets.transformer.token_mixers import Attention, TokenMixer

#: width, heads and number of positions -> how positions hear of each other.
TokenMixerClass = Callable[[int, int, int | None], TokenMixer]


@dataclass(frozen=True)
class ActionSpec:
    """What one agent may do: one of ``size`` actions, or a vector of ``size`` real numbers."""

    size: int
    discrete: bool


class EncoderBlock(nn.Module):
    """All agents hear of each other, then a feed-forward layer, both post-norm."""

    def __init__(self, width: int, mixing: TokenMixer) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.attention = mixing
        self.feed_forward = feed_forward(width)

    def forward(self, x: Tensor, heard: Heard | None = None) -> Tensor:
        """[B, N, D] -> [B, N, D]; ``heard``: whom each agent hears, None: all."""
        return self.after(x, *self.attention.split(self.attention.project(x)), heard)

    def after(
        self, x: Tensor, query: Tensor, message: Tensor, heard: Heard | None = None
    ) -> Tensor:
        """`forward`, where query and message of ``x`` [B, N, D] are known."""
        x = self.norm_attention(x + self.attention.attend(query, message, False, heard))
        return self.norm_feed_forward(x + self.feed_forward(x))


class Encoder(nn.Module):
    """Observations of all agents -> o_hat, equivariant under permutations of the agents.

    Args:
        obs_dim: length of one agent's observation.
        width: D.
        blocks: how many; with none, o_hat is an embedding of the agent's own observation.
        heads: H.
        mixing: how agents hear of each other.
        agents: N, where the mixing needs it.
    """

    def __init__(
        self,
        obs_dim: int,
        width: int,
        blocks: int,
        heads: int,
        mixing: TokenMixerClass = Attention,
        agents: int | None = None,
    ) -> None:
        super().__init__()
        self.embed = embedding(obs_dim, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            EncoderBlock(width, mixing(width, heads, agents)) for _ in range(blocks)
        )

    def forward(self, obs: Tensor, heard: Heard | None = None) -> Tensor:
        """obs [B, N, obs_dim] -> o_hat [B, N, D]; ``heard``: whom each agent hears, None: all."""
        x = self.norm(self.embed(obs))
        for block in self.blocks:
            x = block(x, heard)
        return x


class ActionDecoder(nn.Module, ABC):
    """What turns o_hat and the actions of the agents before into each agent's action.

    Position m reads the action of agent m - 1; position 1 reads the start symbol.
    """

    def __init__(self, action: ActionSpec, width: int) -> None:
        super().__init__()
        self.action = action
        self.token: nn.Module
        if action.discrete:
            # Row 0 is the start symbol, rows 1..A the actions: a linear layer on a one-hot vector.
            table = nn.Embedding(action.size + 1, width)
            nn.init.orthogonal_(table.weight, gain=GAIN_BEFORE_GELU)
            self.token = table
        else:
            self.token = linear(action.size, width, GAIN_BEFORE_GELU)
        self.norm = nn.LayerNorm(width)
        self.head = head(width, action.size)

    @abstractmethod
    def forward(self, tokens: Tensor, encoded: Tensor) -> Tensor:
        """All positions at once (teacher forcing).

        Args:
            tokens: int [B, M] or float [B, M, A], see `shift`.
            encoded: o_hat in decision order, [B, M, D].

        Returns:
            What the head reads, [B, M, D]; `head` turns it into logits or means.
        """

    @abstractmethod
    def cache(self, encoded: Tensor) -> ActionCache:
        """For incremental passes over o_hat [B, N, D]."""

    # -- tokens ------------------------------------------------------------------------------

    def shift(self, actions: Tensor) -> Tensor:
        """Actions in decision order -> tokens: the start symbol, then all but the last action.

        Args:
            actions: int [B, N] or float [B, N, A].

        Returns:
            int [B, N] (0 is the start symbol, action a is a + 1), or float [B, N, A] (zeros).
        """
        if self.action.discrete:
            return F.pad(actions[:, :-1] + 1, (1, 0))
        return F.pad(actions[:, :-1], (0, 0, 1, 0))

    def append(self, actions: Tensor) -> Tensor:
        """Like `shift`, but keeps the last action: N actions -> N + 1 tokens."""
        if self.action.discrete:
            return F.pad(actions + 1, (1, 0))
        return F.pad(actions, (0, 0, 1, 0))

    def start_token(self, batch: int) -> Tensor:
        """The start symbol of ``batch`` rows: int [B, 1] or float [B, 1, A]."""
        weight = self.norm.weight
        if self.action.discrete:
            return torch.zeros(batch, 1, dtype=torch.long, device=weight.device)
        return torch.zeros(batch, 1, self.action.size, dtype=weight.dtype, device=weight.device)

    def as_tokens(self, actions: Tensor) -> Tensor:
        """Actions as their successors read them: int [B, L] or float [B, L, A], likewise."""
        return actions + 1 if self.action.discrete else actions


class DecoderBlock(nn.Module):
    """Causal self-attention over the actions, then causal attention of o_hat over them."""

    def __init__(self, width: int, self_mixing: TokenMixer, cross_mixing: TokenMixer) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(width)
        self.norm_cross = nn.LayerNorm(width)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.self_attention = self_mixing
        self.cross_attention = cross_mixing
        self.feed_forward = feed_forward(width)


class BlockTrace(NamedTuple):
    """What a block saw in a pass over all positions."""

    self_input: Tensor  # [B, M, D]: x, whose positions hear of each other
    cross_input: Tensor  # [B, M, D]: x, of which o_hat hears
    cross_query: Tensor  # [B, M, query_size]
    cross_message: Tensor  # [B, M, message_size]


class Decoder(ActionDecoder):
    """The causal decoder: position m sees o_hat of agent m and the actions of agents before m.

    In every block the cross-attention takes its queries and its residual from o_hat, as in the
    official code.

    Args:
        action: what one agent may do.
        width: D.
        blocks: how many.
        heads: H.
        mixing: how positions hear of each other.
        agents: N, where the mixing needs it.
    """

    def __init__(
        self,
        action: ActionSpec,
        width: int,
        blocks: int,
        heads: int,
        mixing: TokenMixerClass = Attention,
        agents: int | None = None,
    ) -> None:
        super().__init__(action, width)
        self.heads = heads
        self.neighbours: OrderedNeighbours | None = None
        self.heard: list[BlockHeard] | None = None
        # SrSv's value is read at one position more than there are agents.
        positions = None if agents is None else agents + 1
        self.blocks = nn.ModuleList(
            DecoderBlock(width, mixing(width, heads, positions), mixing(width, heads, positions))
            for _ in range(blocks)
        )

    def among(self, neighbours: OrderedNeighbours) -> Self:
        """This decoder for rows in which agents hear the actions of their neighbours alone."""
        restricted = copy.copy(self)  # the parameters stay the same
        restricted.neighbours = neighbours
        restricted.heard = neighbours.blocks(len(self.blocks))
        return restricted

    def layers(self) -> list[DecoderBlock]:
        """The blocks, first to last."""
        return [block for block in self.blocks if isinstance(block, DecoderBlock)]

    def symbols(self) -> Tensor | None:
        """The embedding of all A + 1 symbols, [A + 1, D]; None for continuous actions.

        A discrete token is one of A + 1 symbols wherever it stands, so the layers before the
        first attention run on A + 1 rows and not on B x N.
        """
        if not isinstance(self.token, nn.Embedding):
            return None
        return self.norm(F.gelu(self.token.weight))

    def token_table(self) -> tuple[Tensor, Tensor] | None:
        """`symbols`, and their query and message in the first block, side by side."""
        table = self.symbols()
        return None if table is None else (table, self.layers()[0].self_attention.project(table))

    def embed(self, tokens: Tensor, table: Tensor | None) -> Tensor:
        """Tokens -> x [B, L, D]; ``table`` is that of `symbols`."""
        if table is not None:
            return F.embedding(tokens, table)
        return self.norm(F.gelu(self.token(tokens)))

    # -- passes ------------------------------------------------------------------------------

    def forward(self, tokens: Tensor, encoded: Tensor) -> Tensor:
        """See `ActionDecoder.forward`."""
        return self.trace(tokens, encoded)[0]

    def trace(self, tokens: Tensor, encoded: Tensor) -> tuple[Tensor, list[BlockTrace]]:
        """`forward`, and what each block saw."""
        table, trace = self.symbols(), []
        x = self.embed(tokens, table)
        for index, block in enumerate(self.layers()):
            attention, cross = block.self_attention, block.cross_attention
            self_input = x
            if index == 0 and table is not None:
                projected = F.embedding(tokens, attention.project(table))
            else:
                projected = attention.project(x)
            own, others = (None, None) if self.heard is None else self.heard[index]
            x = block.norm_self(x + attention.attend(*attention.split(projected), True, own))
            query, message = cross.project_query(encoded), cross.project_message(x)
            trace.append(BlockTrace(self_input, x, query, message))
            x = block.norm_cross(encoded + cross.attend(query, message, True, others))
            x = block.norm_feed_forward(x + block.feed_forward(x))
        return x, trace

    @property
    def last_cross_attention(self) -> TokenMixer:
        """The cross-attention of the last block."""
        return self.layers()[-1].cross_attention

    def cache(self, encoded: Tensor) -> DecoderCache:
        """See `ActionDecoder.cache`."""
        return DecoderCache(self, encoded)
