"""What the policy of a team that decides in sequence says of an episode."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rllib_seqmarl.learning.base.explanation import (
    NO_ATTENTION,
    NO_CRITIC,
    NO_ORDER,
    Attention,
    Columns,
    Explanation,
    Quantity,
)
from rllib_seqmarl.nets.sequential_policy import SequentialPolicy
from rllib_seqmarl.nets.transformer.attention_weights import ENCODER
from rllib_seqmarl.nets.transformer.model import ActionDecoder
from rllib_seqmarl.returns import ValueNorm
from rllib_seqmarl.rollout.rollout_batch import ACTION_MASK, ACTIONS, NEIGHBOURS, OBS, ORDER

#: Steps of an episode in one pass, which bounds memory.
STEPS_AT_ONCE = 64


@torch.no_grad()
def explain_policy(
    policy: SequentialPolicy, value_norm: ValueNorm | None, columns: Columns
) -> Explanation:
    """Decision order, values and attention.

    Args:
        policy: that has played.
        value_norm: of its values; None where there are none.
        columns: see `TeamModule.explain`; neighbours only where agents attend to them alone.
    """
    sequential = isinstance(policy.decoder, ActionDecoder) and policy.autoregressive
    said = Explanation(order=columns.get(ORDER))
    if said.order is None:
        said.missing.append("decision order: by slot in every step" if sequential else NO_ORDER)
    if value_norm is None:
        said.missing.append(NO_CRITIC)
    else:
        values = torch.cat([_values(policy, some) for some in _parts(columns)])
        said.quantities.append(
            Quantity("value of each agent (reward units)", value_norm.denormalize(values))
        )
    said.attention = _attention(policy, columns)
    if not said.attention:
        said.missing.append(NO_ATTENTION)
    return said


def _parts(columns: Columns) -> Iterator[Columns]:
    """The columns of some steps after the other."""
    for start in range(0, len(columns[OBS]), STEPS_AT_ONCE):
        yield {name: x[start : start + STEPS_AT_ONCE] for name, x in columns.items()}


def _values(policy: SequentialPolicy, columns: Columns) -> Tensor:
    """Normalised values given what was done, [T, N]."""
    obs, actions, order = columns[OBS], columns[ACTIONS], columns.get(ORDER)
    near = columns.get(NEIGHBOURS)
    mask = columns.get(ACTION_MASK)
    prepared = policy.prepare_value(obs, mask, actions, order, neighbours=near)
    return policy.values(obs, actions, order, prepared, neighbours=near)


def _attention(policy: SequentialPolicy, columns: Columns) -> list[Attention]:
    """Mean weights of the steps, by kind of layer."""
    found = [
        policy.attention_weights(
            some[OBS], some[ACTIONS], some.get(ORDER), neighbours=some.get(NEIGHBOURS)
        )
        for some in _parts(columns)
    ]
    slots = tuple(str(agent) for agent in range(columns[OBS].shape[1]))
    return [
        Attention(
            kind,
            torch.cat([part[kind] for part in found]).mean(0),
            slots if kind == ENCODER else ("start", *slots),
        )
        for kind in found[0]
    ]
