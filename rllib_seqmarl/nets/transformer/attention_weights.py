"""How much agents attend to each other, read off a pass that is made for the purpose.

Nothing of it is in the passes of training and playing: hooks note what goes into every attention,
and its readable form, `TokenMixer.weights`, is computed from that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rllib_seqmarl.nets.transformer.model import DecoderBlock, EncoderBlock, TokenMixer
from rllib_seqmarl.nets.transformer.sparse_attention import AttendedPositions

#: Kinds of layers, and what their weights are about.
ENCODER = "encoder: agents attend to agents"
SELF_ATTENTION = "decoder: actions attend to actions"
CROSS_ATTENTION = "decoder: agents attend to actions"


def mixers_by_kind(network: nn.Module) -> dict[str, list[TokenMixer]]:
    """The attentions of a network, those of one kind of layer together; no entry where no such."""
    found: dict[str, list[TokenMixer]] = {}
    for layer in network.modules():
        if isinstance(layer, EncoderBlock):
            found.setdefault(ENCODER, []).append(layer.attention)
        if isinstance(layer, DecoderBlock):
            found.setdefault(SELF_ATTENTION, []).append(layer.self_attention)
            found.setdefault(CROSS_ATTENTION, []).append(layer.cross_attention)
    return found


@contextmanager
def recorded_weights(mixers: Mapping[str, list[TokenMixer]]) -> Iterator[dict[str, Tensor]]:
    """What is attended to in the pass that is made inside, by kind: [B, L, S].

    The mean over the heads and over the layers of a kind; L = S positions.
    """
    noted: dict[str, list[Tensor]] = {kind: [] for kind in mixers}
    mean: dict[str, Tensor] = {}
    handles = []
    for kind, layers in mixers.items():
        for mixer in layers:

            def note(
                mixer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], kind: str = kind
            ) -> None:
                assert isinstance(mixer, TokenMixer)
                noted[kind].append(_weights(mixer, *args, **kwargs))

            handles.append(mixer.register_forward_pre_hook(note, with_kwargs=True))
    try:
        yield mean
    finally:
        for handle in handles:
            handle.remove()
    mean.update({kind: torch.stack(passes).mean(0) for kind, passes in noted.items() if passes})


def _weights(
    mixer: TokenMixer,
    query: Tensor,
    key_value: Tensor,
    causal: bool,
    attended: AttendedPositions | None = None,
) -> Tensor:
    """w [B, L, S], mean over heads; arguments as of `TokenMixer.forward`."""
    if attended is None:
        return mixer.weights(query, key_value, causal)
    weights = mixer.sparse_weights(query, key_value, attended).mean(-1)  # [B, L, K]
    everywhere = weights.new_zeros(*weights.shape[:2], key_value.shape[1])
    weights = weights * attended.valid
    return everywhere.scatter_add(2, attended.positions, weights)


def to_agents(weights: Tensor, order: Tensor) -> Tensor:
    """Weights of a decoder by agent slots: [B, N, N] in decision order -> [B, N, 1 + N].

    Position m of a decoder reads the action of the agent before, and position 0 the start symbol.

    Args:
        weights: row m is of the agent that decides m-th, column m of the position that it reads.
        order: int [B, N].

    Returns:
        A row per agent; column 0 is the start symbol, column 1 + i the action of agent i.
    """
    batch, agents, _ = weights.shape
    columns = torch.cat((torch.zeros_like(order[:, :1]), 1 + order[:, :-1]), dim=1)  # [B, N]
    wide = weights.new_zeros(batch, agents, agents + 1)
    wide = wide.scatter(2, columns.unsqueeze(1).expand(-1, agents, -1), weights)
    rows = order.unsqueeze(-1).expand_as(wide)
    return torch.empty_like(wide).scatter(1, rows, wide)
