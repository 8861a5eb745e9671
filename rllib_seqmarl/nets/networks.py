"""The networks that a team can be, and which values go with each.

``transformer`` is MAT's and SrSv's. The others are ablations, which change one part of it:

| network | what is different | name in the literature |
|---|---|---|
| ``mlp`` | a learned matrix over positions mixes them | SrSv-mlp |
| ``gnn`` | all positions are heard alike | SrSv-gnn |
| ``encoder`` | no decoder: all agents decide at once, from o_hat | SrSv-enc, `mat_encoder` |
| ``decoder`` | no encoder: agents see their own observation only | SrSv-dec, `mat_decoder` |
| ``gru`` | recurrent layers over the agents | `mat_gru` |
| ``decentralised`` | agents act on their own observation | MAT-Dec, `mat_dec` |

SrSv-mlp to SrSv-dec are Fig. 6 of the SrSv paper, MAT-Dec is an ablation of the MAT paper.
Names in backquotes are those of the official MAT code. The embedding of an observation ends with a
LayerNorm in every network; that of `mat_decoder` does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.nets.transformer.gru import GRUDecoder, GRUEncoder
from rllib_seqmarl.nets.transformer.layers import GAIN_BEFORE_GELU, embedding, head, linear
from rllib_seqmarl.nets.transformer.model import (
    ActionDecoder,
    ActionSpec,
    Decoder,
    Encoder,
    EncoderBlock,
    TokenMixerClass,
)
from rllib_seqmarl.nets.transformer.token_mixers import (
    Attention,
    MeanTokenMixer,
    StaticTokenMixer,
    TokenMixer,
)
from rllib_seqmarl.nets.values.values import (
    VALUES,
    DecoderValue,
    EncoderValue,
    GreedyContinuations,
    ValueFunction,
)


class Sizes(NamedTuple):
    """What networks are built from."""

    obs_dim: int
    action: ActionSpec
    agents: int | None  # None where any number may come
    width: int
    blocks: int
    heads: int


# -- networks whose agents all decide at once ----------------------------------------------------


class SimultaneousActor(nn.Module):
    """What stands in a decoder's place where nobody reads an action: tokens play no part."""

    head: nn.Module

    def shift(self, actions: Tensor | None) -> Tensor | None:
        """Nothing to do, since no action is read."""
        return actions


class OwnObservation(SimultaneousActor):
    """MAT-Dec: layers that all agents share, each on its own observation."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        self.body = nn.Sequential(
            *embedding(sizes.obs_dim, width),
            nn.LayerNorm(width),
            linear(width, width, GAIN_BEFORE_GELU),
            nn.GELU(),
            nn.LayerNorm(width),
        )
        self.head = linear(width, sizes.action.size)

    def forward(self, tokens: Tensor | None, obs: Tensor) -> Tensor:
        """Observations [B, N, obs_dim] -> what the head reads, [B, N, D]."""
        return self.body(obs)


class EncoderOnly(SimultaneousActor):
    """The encoder's blocks, with the action head on o_hat."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            EncoderBlock(sizes.width, Attention(sizes.width, sizes.heads))
            for _ in range(sizes.blocks)
        )
        self.head = head(sizes.width, sizes.action.size)

    def forward(self, tokens: Tensor | None, embedded: Tensor) -> Tensor:
        """Embedded observations [B, N, D] -> o_hat [B, N, D]."""
        return self.with_weights(embedded)[0]

    def with_weights(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """o_hat, and the last block's attention weights, mean over heads: [B, N, N]."""
        x = embedded
        for block in self.blocks:
            assert isinstance(block, EncoderBlock)
            attention = block.attention
            query, message = attention.split(attention.project(x))
            x = block.after(x, query, message)
        return x, attention.weights(query, message, causal=False)


class CentralValue(EncoderValue):
    """MAT-Dec's critic: MAT's, in a network of its own, which acting does not need."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes.width)
        self.encoder = Encoder(sizes.obs_dim, sizes.width, sizes.blocks, sizes.heads)

    def values(
        self,
        decoder: Any,
        encoded: Tensor,
        actions: Tensor | None,
        completions: GreedyContinuations | None,
    ) -> Tensor:
        """Observations [B, N, obs_dim] -> [B, N]; actions play no part."""
        return super().values(decoder, self.encoder(encoded), actions, completions)


class EncoderOnlyValue(DecoderValue):
    """MAT's value where the encoder is all there is: one per agent, from its o_hat."""

    reads_actions = False

    def values(
        self,
        decoder: Any,
        encoded: Tensor,
        actions: Tensor | None,
        completions: GreedyContinuations | None,
    ) -> Tensor:
        """Embedded observations [B, N, D] -> [B, N]; actions play no part."""
        return self.head(decoder(None, encoded)).squeeze(-1)


class EncoderAttentionValue(ValueFunction):
    """SrSv-enc: V^i = sum_j w_{i,j} f_theta(o_hat^j), w the last attention of the encoder.

    The paper does not say how eq. 6 is read without a decoder; there are no actions to read.
    """

    reads_actions = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.position_value = head(width, 1)

    def forward(
        self,
        decoder: Any,
        encoded: Tensor,
        actions: Tensor | None,
        completions: GreedyContinuations | None,
    ) -> tuple[Tensor, Tensor]:
        """See `ValueFunction`."""
        decoded, weights = decoder.with_weights(encoded)
        return decoded, (weights @ self.position_value(decoded)).squeeze(-1)

    def values(
        self,
        decoder: Any,
        encoded: Tensor,
        actions: Tensor | None,
        completions: GreedyContinuations | None,
    ) -> Tensor:
        """Embedded observations [B, N, D] -> [B, N]; actions play no part."""
        return self(decoder, encoded, actions, completions)[1]


# -- all of them ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """How a policy's parts are built.

    Attributes:
        encoder: makes o_hat, or what else the decoder reads, of observations.
        decoder: turns it into the actions, an `ActionDecoder` or a `SimultaneousActor`.
        values: name in the config -> the value function.
        sequential: whether the agents decide one after another.
        has_heads: whether there are attention heads.
        local: whether agents can hear their neighbours only (see `neighbours`).
    """

    encoder: Callable[[Sizes], nn.Module]
    decoder: Callable[[Sizes], ActionDecoder | SimultaneousActor]
    values: Mapping[str, Callable[[Sizes], ValueFunction]]
    sequential: bool = True
    has_heads: bool = True
    local: bool = False


def _encoder(sizes: Sizes, mixing: TokenMixerClass = Attention) -> Encoder:
    return Encoder(sizes.obs_dim, sizes.width, sizes.blocks, sizes.heads, mixing, sizes.agents)


def _decoder(sizes: Sizes, mixing: TokenMixerClass = Attention) -> Decoder:
    return Decoder(sizes.action, sizes.width, sizes.blocks, sizes.heads, mixing, sizes.agents)


def _by_width(make: Callable[[int], ValueFunction], sizes: Sizes) -> ValueFunction:
    return make(sizes.width)


_VALUES = {name: partial(_by_width, value) for name, value in VALUES.items()}


def _mixed_by(mixing: type[TokenMixer], has_heads: bool, local: bool) -> Network:
    """MAT's network with another layer in the place of attention."""
    return Network(
        partial(_encoder, mixing=mixing),
        partial(_decoder, mixing=mixing),
        _VALUES,
        has_heads=has_heads,
        local=local,
    )


#: Name -> network.
NETWORKS: dict[str, Network] = {
    "transformer": _mixed_by(Attention, has_heads=True, local=True),
    "mlp": _mixed_by(StaticTokenMixer, has_heads=True, local=False),
    "gnn": _mixed_by(MeanTokenMixer, has_heads=False, local=True),
    "encoder": Network(
        lambda sizes: Encoder(sizes.obs_dim, sizes.width, 0, sizes.heads),
        EncoderOnly,
        {
            "encoder": partial(_by_width, EncoderOnlyValue),
            "sequential": partial(_by_width, EncoderAttentionValue),
        },
        sequential=False,
    ),
    "decoder": Network(
        lambda sizes: Encoder(sizes.obs_dim, sizes.width, 0, sizes.heads),
        _decoder,
        {name: value for name, value in _VALUES.items() if name != "encoder"},
        local=True,
    ),
    "gru": Network(
        lambda sizes: GRUEncoder(sizes.obs_dim, sizes.width, sizes.blocks),
        lambda sizes: GRUDecoder(sizes.action, sizes.width, sizes.blocks),
        {name: _VALUES[name] for name in ("encoder", "decoder")},
        has_heads=False,
    ),
    "decentralised": Network(
        lambda sizes: nn.Identity(), OwnObservation, {"encoder": CentralValue}, sequential=False
    ),
}


#: Whom agents hear: all, or those that the environment names (see `neighbours`).
ATTENTIONS = ("all", "neighbours")


def check_network(
    network: str,
    *,
    value: str,
    order: str = "index",
    autoregressive: bool = True,
    decode: str = "auto",
    num_heads: int = 1,
    attention: str = "all",
    value_agents: int | None = None,
) -> None:
    """Refuses settings that a network has no use for.

    Args:
        network: a name in `NETWORKS`.
        value: what each agent's baseline sees.
        order: who decides when.
        autoregressive: False where the decoder shall not see actions.
        decode: how actions are decoded.
        num_heads: attention heads.
        attention: whom agents hear, one of `ATTENTIONS`.
        value_agents: how many agents' sequential values are computed; None: all.

    Raises:
        UserError: one line that says which setting, and what to use instead.
    """
    parts = NETWORKS[network]
    if value not in parts.values:
        fitting = ", ".join(name for name, other in NETWORKS.items() if value in other.values)
        raise UserError(
            f"network {network!r} has no value {value!r}: use value "
            f"{' or '.join(parts.values)}, or one of the networks {fitting}."
        )
    if num_heads != 1 and not parts.has_heads:
        raise UserError(f"network {network!r} has no attention heads: leave num_heads at 1.")
    if attention == "neighbours" and not parts.local:
        raise UserError(
            f"network {network!r} cannot be restricted to neighbours: set attention 'all', "
            f"or use one of the networks {', '.join(n for n, p in NETWORKS.items() if p.local)}."
        )
    if attention == "neighbours" and order == "next_agent":
        raise UserError(
            "order 'next_agent' is found while agents decide, too late to say who hears whom: "
            "leave attention at 'all', or use another order."
        )
    if value_agents is not None and not (parts.sequential and value == "sequential"):
        raise UserError(
            f"value_agents bounds what the value 'sequential' costs; with network {network!r} and "
            f"value {value!r} leave it at null."
        )
    if value_agents is not None and order != "index":
        raise UserError(
            f"value_agents needs every agent to keep its place: with order {order!r} leave it at "
            "null, or use order 'index'."
        )
    if parts.sequential:
        return
    for name, given, default in (
        ("order", order, "index"),
        ("autoregressive", autoregressive, True),
        ("decode", decode, "auto"),
    ):
        if given != default:
            raise UserError(
                f"network {network!r} decides for all agents at once: leave {name} at "
                f"{str(default).lower()}."
            )
