"""MAT's networks on one page: an encoder over observations, a causal decoder over actions.

The Multi-Agent Transformer (Wen et al. 2022) reads the observations of all agents and decides for
one agent after another:

    o_hat^{1:N} = encoder(o^{1:N})
    pi(a^m | o_hat^{1:N}, a^{1:m-1}) = head(decoder(start, a^{1:m-1}; o_hat))

Shapes: B batch rows (an env step each), N agents in decision order, D width, H heads, A discrete
actions or action dimensions; L query positions, S key positions. Nothing depends on N: masks are
made when they are needed, so that a model trained with 8 agents runs with 1,024. There is no
positional encoding and no agent embedding: who an agent is must be in its observation.

Beside this page: `kv_cache` (decoding position by position), `sparse_attention` (attention to
neighbours), `ablations` and `gru` (other networks of the MAT and SrSv papers).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rllib_seqmarl.nets.transformer.attention import attention, causal_mask
from rllib_seqmarl.nets.transformer.sparse_attention import (
    AttendedPositions,
    BlockNeighbours,
    OrderedNeighbours,
    sparse_attention_weights,
)

#: Gain of the orthogonal initialisation before a GELU, and everywhere else.
GAIN_BEFORE_GELU = math.sqrt(2.0)
GAIN = 0.01


# -- layers, initialised as in the official code ---------------------------------------------------


def linear(inputs: int, outputs: int, gain: float = GAIN, bias: bool = True) -> nn.Linear:
    """With orthogonal weights and zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.orthogonal_(layer.weight, gain=gain)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def embedding(inputs: int, width: int) -> nn.Sequential:
    """LayerNorm, Linear, GELU: the embedding of an observation."""
    return nn.Sequential(nn.LayerNorm(inputs), linear(inputs, width, GAIN_BEFORE_GELU), nn.GELU())


def feed_forward(width: int) -> nn.Sequential:
    """Linear, GELU, Linear; the hidden layer is no wider than the model."""
    return nn.Sequential(linear(width, width, GAIN_BEFORE_GELU), nn.GELU(), linear(width, width))


def head(width: int, outputs: int) -> nn.Sequential:
    """Linear, GELU, LayerNorm, Linear: the action head and the value head."""
    hidden = linear(width, width, GAIN_BEFORE_GELU)
    return nn.Sequential(hidden, nn.GELU(), nn.LayerNorm(width), linear(width, outputs))


# -- attention -------------------------------------------------------------------------------------


class TokenMixer(nn.Module, ABC):
    """What lets the positions of a sequence read each other: `Attention`, or one of `ablations`.

    Position m takes in sum_j w[m, j] v_j through an output layer; the weights w[m, .] sum up to 1
    over the positions that m attends to. Each of H heads mixes D / H columns of the value v, which
    is the last D columns of a key-value.
    """

    def __init__(self, width: int, heads: int, query_size: int, key_value_size: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"embed_dim {width} is not divisible by num_heads {heads}.")
        self.width, self.heads = width, heads
        self.query_size, self.key_value_size = query_size, key_value_size
        # Query, key and value layers, stored as one and initialised one by one.
        self.in_projection = nn.Linear(width, query_size + key_value_size)
        for part in self.in_projection.weight.split(width):
            nn.init.orthogonal_(part, gain=GAIN)
        nn.init.zeros_(self.in_projection.bias)
        self.out_projection = linear(width, width)

    @abstractmethod
    def mix(self, query: Tensor, key_value: Tensor, causal: bool = True) -> Tensor:
        """sum_j w[m, j] v_j for the last L of S positions, before the output layer.

        Args:
            query: [B, L, query_size].
            key_value: [B, S, key_value_size].
            causal: whether position m attends only to positions up to m.

        Returns:
            [B, L, D].
        """

    @abstractmethod
    def weights(self, query: Tensor, key_value: Tensor, causal: bool = True) -> Tensor:
        """w of the last L of S positions, mean over heads: [B, L, S]; arguments as in `mix`."""

    def sparse_weights(
        self, query: Tensor, key_value: Tensor, attended: AttendedPositions
    ) -> Tensor:
        """w [B, L, K, H] of L positions that attend to K of S positions each."""
        raise NotImplementedError(f"{type(self).__name__} mixes all positions.")

    def forward(
        self,
        query: Tensor,
        key_value: Tensor,
        causal: bool,
        attended: AttendedPositions | None = None,
    ) -> Tensor:
        """`mix` through the output layer, [B, L, D]; ``attended``: to some positions only."""
        if attended is None:
            return self.out_projection(self.mix(query, key_value, causal))
        return self.out_projection(self.mix_sparsely(query, key_value, attended))

    def mix_sparsely(self, query: Tensor, key_value: Tensor, attended: AttendedPositions) -> Tensor:
        """As `mix`, where each position attends to K of S positions."""
        weights = self.sparse_weights(query, key_value, attended)  # [B, L, K, H]
        return attended.weighted_sum(weights, key_value[..., -self.width :])

    # -- the input layer, in parts -----------------------------------------------------------------

    def project(self, x: Tensor) -> Tensor:
        """Query and key-value of ``x``, side by side: [..., D] -> [..., query + key-value]."""
        return self.in_projection(x)

    def split(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """What `project` put side by side: query and key-value."""
        query, key_value = projected.split((self.query_size, self.key_value_size), dim=-1)
        return query, key_value

    def project_query(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., query_size]."""
        weight, bias, size = self.in_projection.weight, self.in_projection.bias, self.query_size
        return F.linear(x, weight[:size], bias[:size])

    def project_key_value(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., key_value_size]."""
        weight, bias, size = self.in_projection.weight, self.in_projection.bias, self.query_size
        return F.linear(x, weight[size:], bias[size:])


#: Width, heads and number of positions -> the layer that mixes positions.
TokenMixerClass = Callable[[int, int, int | None], TokenMixer]


class Attention(TokenMixer):
    """Multi-head scaled dot-product attention: w[m, .] = softmax(q_m k / sqrt(D / H))."""

    def __init__(self, width: int, heads: int, positions: int | None = None) -> None:
        super().__init__(width, heads, query_size=width, key_value_size=2 * width)

    def mix(self, query: Tensor, key_value: Tensor, causal: bool = True) -> Tensor:
        """See `TokenMixer.mix`."""
        key, value = (self._heads(part) for part in key_value.chunk(2, dim=-1))
        mixed = attention(self._heads(query), key, value, causal)  # [B, H, L, D / H]
        return mixed.transpose(1, 2).flatten(2)  # [B, H, L, D / H] -> [B, L, D]

    def weights(self, query: Tensor, key_value: Tensor, causal: bool = True) -> Tensor:
        """See `TokenMixer.weights`."""
        key = self._heads(key_value[..., : self.width])  # [B, H, S, D / H]
        scores = self._heads(query) @ key.transpose(-1, -2) / math.sqrt(key.shape[-1])
        if causal and query.shape[1] > 1:
            mask = causal_mask(query.shape[1], key_value.shape[1], query.device)
            scores = scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(-1).mean(1)  # [B, H, L, S] -> [B, L, S]

    def sparse_weights(
        self, query: Tensor, key_value: Tensor, attended: AttendedPositions
    ) -> Tensor:
        """See `TokenMixer.sparse_weights`."""
        keys = attended.gather(key_value[..., : self.width])  # [B, L, K, D]
        return sparse_attention_weights(query, keys, attended.valid, self.heads)

    def _heads(self, x: Tensor) -> Tensor:
        """[B, S, D] -> [B, H, S, D / H]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


# -- encoder ---------------------------------------------------------------------------------------


class EncoderBlock(nn.Module):
    """Attention over all agents, then a feed-forward layer, both post-norm."""

    def __init__(self, width: int, mixer: TokenMixer) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.attention = mixer
        self.feed_forward = feed_forward(width)

    def forward(self, x: Tensor, attended: AttendedPositions | None = None) -> Tensor:
        """[B, N, D] -> [B, N, D]; ``attended``: whom each agent attends to, None: all."""
        query, key_value = self.attention.split(self.attention.project(x))
        x = self.norm_attention(x + self.attention(query, key_value, False, attended))
        return self.norm_feed_forward(x + self.feed_forward(x))


class Encoder(nn.Module):
    """Observations of all agents -> o_hat, equivariant under permutations of the agents.

    Without ``blocks``, o_hat is an embedding of the agent's own observation. ``agents``, N, is for
    a mixer that needs it.
    """

    def __init__(
        self,
        obs_dim: int,
        width: int,
        blocks: int,
        heads: int,
        mixer: TokenMixerClass = Attention,
        agents: int | None = None,
    ) -> None:
        super().__init__()
        self.embed = embedding(obs_dim, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            EncoderBlock(width, mixer(width, heads, agents)) for _ in range(blocks)
        )

    def forward(self, obs: Tensor, attended: AttendedPositions | None = None) -> Tensor:
        """obs [B, N, obs_dim] -> o_hat [B, N, D]; ``attended``: as in `EncoderBlock.forward`."""
        x = self.norm(self.embed(obs))
        for block in self.blocks:
            x = block(x, attended)
        return x


# -- decoder ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ActionSpec:
    """What one agent may do: one of ``size`` actions, or a vector of ``size`` real numbers.

    Or, where there are ``parts``, several things at once: choices among so many actions each, then
    ``size`` - sum(``parts``) real numbers. ``discrete`` is False then.
    """

    size: int
    discrete: bool
    parts: tuple[int, ...] = ()

    @property
    def num_real(self) -> int:
        """C, how many real numbers an action holds."""
        return 0 if self.discrete else self.size - sum(self.parts)

    def component_mask(self, mask: Tensor | None) -> Tensor | None:
        """Which components of a log-prob an agent has; None: all.

        Args:
            mask: bool [..., A]; None: everything is available.

        Returns:
            bool [..., K], see `distributions`.
        """
        if mask is None or self.discrete:
            return None
        if not self.parts:
            return mask
        choices = mask[..., : sum(self.parts)].split(list(self.parts), dim=-1)
        has = [choice.any(-1, keepdim=True) for choice in choices]
        return torch.cat((*has, mask[..., sum(self.parts) :]), dim=-1)


class BlockTrace(NamedTuple):
    """What a decoder block computed in a pass over all positions."""

    self_input: Tensor  # [B, N, D], input of the self-attention
    cross_input: Tensor  # [B, N, D], of which the cross-attention makes keys and values
    cross_query: Tensor  # [B, N, query_size]
    cross_key_value: Tensor  # [B, N, key_value_size]


@dataclass(frozen=True)
class DecoderTrace:
    """A pass of a decoder over all positions, and what a value function may read of it.

    Attributes:
        encoded: o_hat in decision order, [B, N, D].
        tokens: what the decoder read, int [B, N] or float [B, N, A]; None where it read none.
        output: what the action head reads, [B, N, D]; None of a pass that was not needed, see
            `ValueFunction.reads_decoder`.
        blocks: of each block, where the decoder has such.
        neighbours: whom agents attended to; None: all.
    """

    encoded: Tensor
    tokens: Tensor | None = None
    output: Tensor | None = None
    blocks: tuple[BlockTrace, ...] = ()
    neighbours: OrderedNeighbours | None = None


class DecoderBlock(nn.Module):
    """Causal self-attention over the actions, then causal attention of o_hat over them.

    The cross-attention takes its queries and its residual from o_hat, as in the official code.
    """

    def __init__(self, width: int, self_mixer: TokenMixer, cross_mixer: TokenMixer) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(width)
        self.norm_cross = nn.LayerNorm(width)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.self_attention = self_mixer
        self.cross_attention = cross_mixer
        self.feed_forward = feed_forward(width)

    def forward(
        self,
        x: Tensor,
        projected: Tensor,
        encoded: Tensor,
        attended: BlockNeighbours | None = None,
    ) -> tuple[Tensor, BlockTrace]:
        """One block over all positions: x [B, N, D] -> [B, N, D], and what was computed on the way.

        ``projected`` is ``self_attention.project(x)``, ``encoded`` o_hat in decision order,
        [B, N, D]; ``attended``: what each position attends to, None: all up to its own.
        """
        to_self, to_cross = (None, None) if attended is None else attended
        query, key_value = self.self_attention.split(projected)
        y = self.norm_self(x + self.self_attention(query, key_value, True, to_self))
        query = self.cross_attention.project_query(encoded)
        key_value = self.cross_attention.project_key_value(y)
        z = self.norm_cross(encoded + self.cross_attention(query, key_value, True, to_cross))
        return self.norm_feed_forward(z + self.feed_forward(z)), BlockTrace(x, y, query, key_value)


class ActionDecoder(nn.Module, ABC):
    """Turns o_hat and the actions of the agents before into each agent's action.

    Position m reads the action of agent m - 1; position 1 reads the start symbol.
    """

    def __init__(self, action: ActionSpec, width: int) -> None:
        super().__init__()
        self.action = action
        self.token: nn.Module
        self._choice: Tensor
        self._one: Tensor
        if action.discrete:
            # Row 0 is the start symbol, rows 1..A the actions: a linear layer on a one-hot vector.
            table = nn.Embedding(action.size + 1, width)
            nn.init.orthogonal_(table.weight, gain=GAIN_BEFORE_GELU)
            self.token = table
        else:
            self.token = linear(action.size, width, GAIN_BEFORE_GELU)
        if action.parts:
            # Of each entry of the one-hot vectors: the choice, and the action counted from 1.
            choice = [part for part, size in enumerate(action.parts) for _ in range(size)]
            one = [float(a + 1) for size in action.parts for a in range(size)]
            self.register_buffer("_choice", torch.tensor(choice), persistent=False)
            self.register_buffer("_one", torch.tensor(one), persistent=False)
        self.norm = nn.LayerNorm(width)
        self.head = head(width, action.size)

    @abstractmethod
    def forward(
        self, tokens: Tensor, encoded: Tensor, neighbours: OrderedNeighbours | None = None
    ) -> DecoderTrace:
        """All positions at once (teacher forcing).

        Args:
            tokens: int [B, N] or float [B, N, A], see `shift`.
            encoded: o_hat in decision order, [B, N, D].
            neighbours: whom each agent attends to; None: all.

        Returns:
            The pass; ``head(trace.output)`` are logits or means, [B, N, A].
        """

    def shift(self, actions: Tensor) -> Tensor:
        """Actions in decision order -> tokens: the start symbol, then all but the last action.

        int [B, N] -> int [B, N], where 0 is the start symbol and a + 1 is action a; or float
        [B, N, A] -> float [B, N, A], where the start symbol is zeros. An action of several parts
        has both: float [B, N, P + C], of which the first P are a + 1, likewise.
        """
        return self.append(actions[:, :-1])

    def append(self, actions: Tensor) -> Tensor:
        """`shift` that keeps the last action: N actions -> N + 1 tokens."""
        if self.action.discrete:
            return F.pad(actions + 1, (1, 0))
        return F.pad(self.as_tokens(actions), (0, 0, 1, 0))

    def start_tokens(self, batch: int, positions: int = 1) -> Tensor:
        """The start symbol at every position: int [B, L] or float [B, L, A] (see `shift`)."""
        if self.action.discrete:
            return self.norm.weight.new_zeros(batch, positions, dtype=torch.long)
        length = len(self.action.parts) + self.action.num_real
        return self.norm.weight.new_zeros(batch, positions, length)

    def as_tokens(self, actions: Tensor) -> Tensor:
        """Actions as their successors read them: int [B, L] or float [B, L, A], likewise."""
        if self.action.discrete:
            return actions + 1
        if not self.action.parts:
            return actions
        parts = len(self.action.parts)
        return torch.cat((actions[..., :parts] + 1, actions[..., parts:]), dim=-1)

    def token_input(self, tokens: Tensor) -> Tensor:
        """What the first layer reads of tokens: themselves, or, of several parts, [..., A].

        A choice becomes a one-hot vector, all zero in the start symbol.
        """
        if not self.action.parts:
            return tokens
        one_hot = tokens[..., self._choice] == self._one
        return torch.cat((one_hot.to(tokens.dtype), tokens[..., len(self.action.parts) :]), dim=-1)


class Decoder(ActionDecoder):
    """The causal decoder: position m reads o_hat of agent m and the actions of agents before m."""

    def __init__(
        self,
        action: ActionSpec,
        width: int,
        blocks: int,
        heads: int,
        mixer: TokenMixerClass = Attention,
        agents: int | None = None,
    ) -> None:
        super().__init__(action, width)
        # SrSv's value is read at one position more than there are agents.
        positions = None if agents is None else agents + 1
        self.blocks = nn.ModuleList(
            DecoderBlock(width, mixer(width, heads, positions), mixer(width, heads, positions))
            for _ in range(blocks)
        )

    def layers(self) -> list[DecoderBlock]:
        """The blocks, first to last."""
        return cast("list[DecoderBlock]", list(self.blocks))

    def symbols(self) -> Tensor | None:
        """The embedding of all A + 1 symbols, [A + 1, D]; None for other actions than discrete.

        A discrete token is one of A + 1 symbols wherever it stands, so the layers before the
        first attention run on A + 1 rows and not on B x N.
        """
        if not isinstance(self.token, nn.Embedding):
            return None
        return self.norm(F.gelu(self.token.weight))

    def embed(self, tokens: Tensor, symbols: Tensor | None) -> Tensor:
        """Tokens -> x [B, L, D]; ``symbols`` are those of `symbols`."""
        if symbols is not None:
            return F.embedding(tokens, symbols)
        return self.norm(F.gelu(self.token(self.token_input(tokens))))

    def forward(
        self, tokens: Tensor, encoded: Tensor, neighbours: OrderedNeighbours | None = None
    ) -> DecoderTrace:
        """See `ActionDecoder.forward`."""
        symbols, traces = self.symbols(), []
        x = self.embed(tokens, symbols)
        for index, block in enumerate(self.layers()):
            if index == 0 and symbols is not None:
                projected = F.embedding(tokens, block.self_attention.project(symbols))
            else:
                projected = block.self_attention.project(x)
            attended = None if neighbours is None else neighbours.of_block(index)
            x, trace = block(x, projected, encoded, attended)
            traces.append(trace)
        return DecoderTrace(encoded, tokens, x, tuple(traces), neighbours)
