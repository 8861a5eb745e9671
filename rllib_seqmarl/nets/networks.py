"""The networks that a team can be, and which values go with each.

``transformer`` is MAT's and SrSv's. The others are ablations, which change one part of it:

| network | what is different | name in the literature |
|---|---|---|
| ``mlp`` | a learned matrix over positions mixes them | SrSv-mlp |
| ``gnn`` | all positions are weighted alike | SrSv-gnn |
| ``encoder`` | no decoder: all agents decide at once, from o_hat | SrSv-enc, `mat_encoder` |
| ``decoder`` | no encoder: agents see their own observation only | SrSv-dec, `mat_decoder` |
| ``gru`` | recurrent layers over the agents | `mat_gru` |
| ``mat_dec`` | agents act on their own observation | MAT-Dec, `mat_dec` |

SrSv-mlp to SrSv-dec are Fig. 6 of the SrSv paper, MAT-Dec is an ablation of the MAT paper.
Names in backquotes are those of the official MAT code. The embedding of an observation ends with a
LayerNorm in every network; that of `mat_decoder` does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.nets.orders.base import ChosenOrder
from rllib_seqmarl.nets.transformer.ablations import (
    EncoderOnly,
    MeanTokenMixer,
    OwnObservation,
    SimultaneousActor,
    StaticTokenMixer,
)
from rllib_seqmarl.nets.transformer.gru import GRUDecoder, GRUEncoder
from rllib_seqmarl.nets.transformer.model import (
    ActionDecoder,
    Attention,
    Decoder,
    Encoder,
    TokenMixerClass,
)
from rllib_seqmarl.nets.values.base import NetworkSizes, ValueFunction
from rllib_seqmarl.nets.values.decoder import (
    DecoderValue,
    EncoderAttentionValue,
    EncoderOnlyValue,
)
from rllib_seqmarl.nets.values.encoder import CentralValue, EncoderValue
from rllib_seqmarl.nets.values.sequential import SequentialValue
from rllib_seqmarl.nets.values.sequential_without_policy import SequentialValueWithoutPolicy
from rllib_seqmarl.registry import NETWORKS, ORDERS, VALUES


@dataclass(frozen=True)
class Network:
    """How a policy's parts are built.

    Attributes:
        encoder: makes o_hat, or what else the decoder reads, of observations.
        decoder: turns it into the actions, an `ActionDecoder` or a `SimultaneousActor`.
        values: name in the config -> the value function, of this package's own names. Values from
            outside go with every network whose agents decide one after another.
        sequential: whether the agents decide one after another.
        has_heads: whether there are attention heads.
        sparse: whether attention may be to neighbours only (see `sparse_attention`).
    """

    encoder: Callable[[NetworkSizes], nn.Module]
    decoder: Callable[[NetworkSizes], ActionDecoder | SimultaneousActor]
    values: Mapping[str, type[ValueFunction]]
    sequential: bool = True
    has_heads: bool = True
    sparse: bool = False


VALUES_OF_A_DECODER: dict[str, type[ValueFunction]] = {
    "decoder": DecoderValue,
    "sequential": SequentialValue,
    "sequential_without_policy": SequentialValueWithoutPolicy,
}
VALUES_OF_A_TRANSFORMER: dict[str, type[ValueFunction]] = {
    "encoder": EncoderValue,
    **VALUES_OF_A_DECODER,
}


def _transformer(mixer: TokenMixerClass, has_heads: bool, sparse: bool) -> Network:
    """MAT's network, with a mixer of tokens in the place of attention."""

    def encoder(sizes: NetworkSizes) -> Encoder:
        return Encoder(sizes.obs_dim, sizes.width, sizes.blocks, sizes.heads, mixer, sizes.agents)

    return Network(
        encoder, partial(_decoder, mixer=mixer), VALUES_OF_A_TRANSFORMER, True, has_heads, sparse
    )


def _decoder(sizes: NetworkSizes, mixer: TokenMixerClass = Attention) -> Decoder:
    return Decoder(sizes.action, sizes.width, sizes.blocks, sizes.heads, mixer, sizes.agents)


def _embedding_only(sizes: NetworkSizes) -> Encoder:
    return Encoder(sizes.obs_dim, sizes.width, 0, sizes.heads)


TRANSFORMER = _transformer(Attention, has_heads=True, sparse=True)
MLP = _transformer(StaticTokenMixer, has_heads=True, sparse=False)
GNN = _transformer(MeanTokenMixer, has_heads=False, sparse=True)
ENCODER = Network(
    _embedding_only,
    lambda sizes: EncoderOnly(sizes.action, sizes.width, sizes.blocks, sizes.heads),
    {"encoder": EncoderOnlyValue, "sequential": EncoderAttentionValue},
    sequential=False,
)
DECODER = Network(_embedding_only, _decoder, VALUES_OF_A_DECODER, sparse=True)
GRU = Network(
    lambda sizes: GRUEncoder(sizes.obs_dim, sizes.width, sizes.blocks),
    lambda sizes: GRUDecoder(sizes.action, sizes.width, sizes.blocks),
    {"encoder": EncoderValue, "decoder": DecoderValue},
    has_heads=False,
)
MAT_DEC = Network(
    lambda sizes: nn.Identity(),
    lambda sizes: OwnObservation(sizes.obs_dim, sizes.action, sizes.width),
    {"encoder": CentralValue},
    sequential=False,
)


def value_class(network: str, value: str) -> type[ValueFunction]:
    """The value function of that name, or import path, for a network.

    Raises:
        UserError: the network cannot have it; the line says what goes together.
    """
    parts: Network = NETWORKS.resolve(network)
    if value in parts.values:
        return parts.values[value]
    if not VALUES.is_own(value) and parts.sequential:
        found: type[ValueFunction] = VALUES.resolve(value)
        return found
    fitting = [
        name
        for name in NETWORKS
        if value in (other := NETWORKS.resolve(name)).values
        or (other.sequential and not VALUES.is_own(value))
    ]
    raise UserError(
        f"network {network!r} has no value {value!r}: use value "
        f"{' or '.join(parts.values)}, or one of the networks {', '.join(fitting)}."
    )


def check_network(
    network: str,
    *,
    value: str | None,
    order: str = "index",
    autoregressive: bool = True,
    decode: str = "auto",
    num_heads: int = 1,
    attention: str = "all",
) -> None:
    """Refuses settings that a network has no use for.

    Args:
        network: a name of `registry.NETWORKS`, or an import path.
        value: what each agent's baseline sees; None where there is none.
        order: who decides when.
        autoregressive: False where the decoder shall not see actions.
        decode: how actions are decoded.
        num_heads: attention heads.
        attention: whom agents attend to, ``all`` or ``neighbours``.

    Raises:
        UserError: one line that says which setting, and what to use instead.
    """
    network = NETWORKS.name(network)
    parts: Network = NETWORKS.resolve(network)
    if value is not None:
        value_class(network, value)
    if num_heads != 1 and not parts.has_heads:
        raise UserError(f"network {network!r} has no attention heads: leave num_heads at 1.")
    if attention == "neighbours" and not parts.sparse:
        others = ", ".join(name for name in NETWORKS if NETWORKS.resolve(name).sparse)
        raise UserError(
            f"network {network!r} cannot be restricted to neighbours: set attention 'all', "
            f"or use one of the networks {others}."
        )
    known_before = issubclass(ORDERS.resolve(order), ChosenOrder)
    if attention == "neighbours" and not known_before:
        raise UserError(
            f"order {order!r} is found while agents decide, too late to say who attends to whom: "
            "leave attention at 'all', or use another order."
        )
    if not autoregressive and not known_before:
        raise UserError(
            f"order {order!r} needs autoregressive: true: agents who see no actions cannot "
            "say who decides next."
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
