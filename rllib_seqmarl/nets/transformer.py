"""The encoder and the decoder of the Multi-Agent Transformer (MAT, Wen et al. 2022).

Shapes: B rows (one environment step of one world each), N agents in decision order, D width,
H heads, A discrete actions or action dimensions. Nothing here depends on N: masks are made when
they are needed, so that a model trained with 8 agents runs with 1,024.

There is no positional encoding and no agent embedding: who an agent is must be in its observation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rllib_seqmarl.nets.decoder_cache import DecoderCache, causal_mask

#: Gain of the orthogonal initialisation before a GELU, and everywhere else.
GAIN_BEFORE_GELU = math.sqrt(2.0)
GAIN = 0.01


@dataclass(frozen=True)
class ActionSpec:
    """What one agent may do: one of ``size`` actions, or a vector of ``size`` real numbers."""

    size: int
    discrete: bool


def linear(inputs: int, outputs: int, gain: float = GAIN, bias: bool = True) -> nn.Linear:
    """A linear layer with orthogonal weights and zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.orthogonal_(layer.weight, gain=gain)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def head(width: int, outputs: int) -> nn.Sequential:
    """Linear, GELU, LayerNorm, Linear: the shape of MAT's action and value heads."""
    return nn.Sequential(
        linear(width, width, GAIN_BEFORE_GELU),
        nn.GELU(),
        nn.LayerNorm(width),
        linear(width, outputs),
    )


def feed_forward(width: int) -> nn.Sequential:
    """MAT's feed-forward layer: the hidden layer is no wider than the model."""
    return nn.Sequential(
        linear(width, width, GAIN_BEFORE_GELU),
        nn.GELU(),
        linear(width, width),
    )


class Attention(nn.Module):
    """Multi-head scaled dot-product attention; query, key and value layers stored as one."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"embed_dim {width} is not divisible by num_heads {heads}.")
        self.heads = heads
        self.in_projection = nn.Linear(width, 3 * width)
        for part in self.in_projection.weight.split(width):  # three layers, not one wide one
            nn.init.orthogonal_(part, gain=GAIN)
        nn.init.zeros_(self.in_projection.bias)
        self.out_projection = linear(width, width)

    def split_heads(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, H, N, D / H]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def project(self, x: Tensor) -> Tensor:
        """Query, key and value of ``x``, side by side: [..., D] -> [..., 3 D]."""
        return self.in_projection(x)

    def project_query(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        width = x.shape[-1]
        return F.linear(x, self.in_projection.weight[:width], self.in_projection.bias[:width])

    def project_key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, D] -> two of [B, H, N, D / H]."""
        width = x.shape[-1]
        weight, bias = self.in_projection.weight[width:], self.in_projection.bias[width:]
        key, value = F.linear(x, weight, bias).chunk(2, dim=-1)
        return self.split_heads(key), self.split_heads(value)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        """Attention of the last L positions over all S of them, heads merged again.

        Args:
            query: [B, H, L, D / H].
            key: [B, H, S, D / H].
            value: like ``key``.
            causal: whether position m sees only positions up to m.

        Returns:
            [B, L, D].
        """
        return self.merge_heads(self.mix(query, key, value, causal))

    def mix(self, query: Tensor, key: Tensor, value: Tensor, causal: bool = True) -> Tensor:
        """`attend` before the heads are merged: [B, H, L, D / H]."""
        queries, keys = query.shape[2], key.shape[2]
        if not causal or queries == 1:
            return F.scaled_dot_product_attention(query, key, value)
        if queries == keys:
            return F.scaled_dot_product_attention(query, key, value, is_causal=True)
        mask = causal_mask(queries, keys, query.device)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    def merge_heads(self, mixed: Tensor) -> Tensor:
        """[B, H, L, D / H] -> [B, L, D], through the output layer."""
        return self.out_projection(mixed.transpose(1, 2).flatten(2))

    def weights(self, query: Tensor, key: Tensor, causal: bool) -> Tensor:
        """Attention weights of the last L positions over S, mean over heads: [B, L, S].

        Args:
            query: [B, H, L, D / H].
            key: [B, H, S, D / H].
            causal: whether position m sees only positions up to m.
        """
        queries, keys = query.shape[2], key.shape[2]
        scores = query @ key.transpose(-1, -2) / math.sqrt(key.shape[-1])  # [B, H, L, S]
        if causal and queries > 1:
            mask = causal_mask(queries, keys, query.device)
            scores = scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(-1).mean(1)

    def forward(self, x: Tensor) -> Tensor:
        """Unmasked self-attention: [B, N, D] -> [B, N, D]."""
        query, key, value = (self.split_heads(part) for part in self.project(x).chunk(3, dim=-1))
        return self.attend(query, key, value, causal=False)


class EncoderBlock(nn.Module):
    """Self-attention over all agents, then a feed-forward layer, both post-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feed_forward = feed_forward(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        x = self.norm_attention(x + self.attention(x))
        return self.norm_feed_forward(x + self.feed_forward(x))


class Encoder(nn.Module):
    """Observations of all agents -> o_hat, equivariant under permutations of the agents."""

    def __init__(self, obs_dim: int, width: int, blocks: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(
            nn.LayerNorm(obs_dim), linear(obs_dim, width, GAIN_BEFORE_GELU), nn.GELU()
        )
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads) for _ in range(blocks)))

    def forward(self, obs: Tensor) -> Tensor:
        """obs [B, N, obs_dim] -> o_hat [B, N, D]."""
        return self.blocks(self.norm(self.embed(obs)))


class DecoderBlock(nn.Module):
    """Causal self-attention over the actions, then causal attention of o_hat over them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(width)
        self.norm_cross = nn.LayerNorm(width)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
        self.cross_attention = Attention(width, heads)
        self.feed_forward = feed_forward(width)


class Decoder(nn.Module):
    """The causal decoder: position m sees o_hat of agent m and the actions of agents before m.

    Position m reads the action of agent m - 1; position 1 reads the start symbol. In every block
    the cross-attention takes its queries and its residual from o_hat, as in the official code.
    """

    def __init__(self, action: ActionSpec, width: int, blocks: int, heads: int) -> None:
        super().__init__()
        self.action = action
        self.heads = heads
        self.token: nn.Module
        if action.discrete:
            # Row 0 is the start symbol, rows 1..A the actions: a linear layer on a one-hot vector.
            embedding = nn.Embedding(action.size + 1, width)
            nn.init.orthogonal_(embedding.weight, gain=GAIN_BEFORE_GELU)
            self.token = embedding
        else:
            self.token = linear(action.size, width, GAIN_BEFORE_GELU)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(DecoderBlock(width, heads) for _ in range(blocks))
        self.head = head(width, action.size)

    def layers(self) -> list[DecoderBlock]:
        """The blocks, first to last."""
        return [block for block in self.blocks if isinstance(block, DecoderBlock)]

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

    def token_table(self) -> tuple[Tensor, Tensor] | None:
        """Embedding, and its query, key and value in the first block, of all A + 1 symbols.

        A discrete token is one of A + 1 symbols wherever it stands, so the layers before the
        first attention run on A + 1 rows and not on B x N.

        Returns:
            [A + 1, D] and [A + 1, 3 D]; None for continuous actions.
        """
        if not isinstance(self.token, nn.Embedding):
            return None
        table = self.norm(F.gelu(self.token.weight))
        return table, self.layers()[0].self_attention.project(table)

    def embed(self, tokens: Tensor, table: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Tokens -> x [B, L, D], and its query, key and value [B, L, 3 D] in the first block."""
        if table is not None:
            return F.embedding(tokens, table[0]), F.embedding(tokens, table[1])
        x = self.norm(F.gelu(self.token(tokens)))
        return x, self.layers()[0].self_attention.project(x)

    # -- passes ------------------------------------------------------------------------------

    def forward(self, tokens: Tensor, encoded: Tensor) -> Tensor:
        """All positions at once (teacher forcing).

        Args:
            tokens: int [B, M] or float [B, M, A], see `shift`.
            encoded: o_hat in decision order, [B, M, D].

        Returns:
            The output of the last block, [B, M, D]; `head` turns it into logits or means.
        """
        return self.forward_with_attention(tokens, encoded)[0]

    def forward_with_attention(
        self, tokens: Tensor, encoded: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Like `forward`, with what the last block's cross-attention weights are made of.

        Returns:
            [B, M, D]; query [B, H, M, D / H] and key, likewise, for `Attention.weights` of
            ``last_cross_attention``.
        """
        x, projected = self.embed(tokens, self.token_table())
        for index, block in enumerate(self.layers()):
            attention, cross = block.self_attention, block.cross_attention
            if index:
                projected = attention.project(x)
            query, key, value = (attention.split_heads(p) for p in projected.chunk(3, dim=-1))
            x = block.norm_self(x + attention.attend(query, key, value, causal=True))
            query = cross.split_heads(cross.project_query(encoded))
            key, value = cross.project_key_value(x)
            x = block.norm_cross(encoded + cross.attend(query, key, value, causal=True))
            x = block.norm_feed_forward(x + block.feed_forward(x))
        return x, query, key

    @property
    def last_cross_attention(self) -> Attention:
        """The cross-attention of the last block."""
        return self.layers()[-1].cross_attention

    def extend(self, cache: DecoderCache, tokens: Tensor, start: int) -> Tensor:
        """Positions ``start`` .. ``start`` + L, given that all before are in the cache.

        Writes their keys and values into the cache, over whatever stood there; for decoding,
        under `torch.no_grad`.

        Args:
            cache: made from the same o_hat.
            tokens: int [B, L] or float [B, L, A].
            start: the first position to compute, from 0.

        Returns:
            The output of the last block at these positions, [B, L, D].
        """
        return cache.extend(tokens, start)
