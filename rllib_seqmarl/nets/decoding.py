"""Decoding N actions, each given those before it: three ways, one signature, the same actions.

The noise is drawn first (see `distributions`), which makes every action a deterministic function
of the actions before it. All ways therefore find the same joint action, the one that
deciding strictly one after another would sample.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rllib_seqmarl.nets.distributions import ActionDistribution
from rllib_seqmarl.nets.transformer import Decoder, DecoderCache

METHODS = ("auto", "parallel", "cached", "stepwise")


class Decoded(NamedTuple):
    """A joint action in decision order."""

    actions: Tensor  # int [B, N] or float [B, N, A]
    log_prob: Tensor  # [B, N, K]


@torch.no_grad()
def decode(
    decoder: Decoder,
    distribution: ActionDistribution,
    encoded: Tensor,
    mask: Tensor | None,
    noise: Tensor | None,
    method: str = "parallel",
) -> Decoded:
    """The joint action of N agents that decide one after another.

    Args:
        decoder: the causal decoder.
        distribution: what turns the head's output and noise into an action.
        encoded: o_hat in decision order, [B, N, D].
        mask: available actions in decision order, bool [B, N, A]; None for continuous actions.
        noise: [B, N, A] from ``distribution.noise``; None for the greedy joint action.
        method: one of `METHODS`.
    """
    if method == "stepwise":
        return _stepwise(decoder, distribution, encoded, mask, noise)
    if method == "cached":
        return _cached(decoder, distribution, encoded, mask, noise)
    return _parallel(decoder, distribution, encoded, mask, noise)


def _empty_actions(decoder: Decoder, encoded: Tensor) -> Tensor:
    batch, agents, _ = encoded.shape
    if decoder.action.discrete:
        return torch.zeros(batch, agents, dtype=torch.long, device=encoded.device)
    return encoded.new_zeros(batch, agents, decoder.action.size)


def _stepwise(
    decoder: Decoder,
    distribution: ActionDistribution,
    encoded: Tensor,
    mask: Tensor | None,
    noise: Tensor | None,
) -> Decoded:
    """N full passes, as in the reference implementation: the oracle for tests."""
    actions = _empty_actions(decoder, encoded)
    for m in range(encoded.shape[1]):
        parameters = decoder.head(decoder(decoder.shift(actions), encoded))
        chosen = distribution.choose(parameters, mask, noise)
        actions[:, m] = chosen[:, m]
    parameters = decoder.head(decoder(decoder.shift(actions), encoded))
    return Decoded(actions, distribution.log_prob(parameters, mask, actions))


def _cached(
    decoder: Decoder,
    distribution: ActionDistribution,
    encoded: Tensor,
    mask: Tensor | None,
    noise: Tensor | None,
) -> Decoded:
    """N passes over one position each, with the keys and values of the others kept."""
    actions = _empty_actions(decoder, encoded)
    tokens = decoder.append(actions)
    cache = DecoderCache(decoder, encoded)
    parameters = []
    for m in range(encoded.shape[1]):
        row = decoder.head(decoder.extend(cache, tokens[:, m : m + 1], m))
        chosen = distribution.choose(
            row,
            None if mask is None else mask[:, m : m + 1],
            None if noise is None else noise[:, m : m + 1],
        )
        actions[:, m : m + 1] = chosen
        tokens[:, m + 1 : m + 2] = chosen + 1 if decoder.action.discrete else chosen
        parameters.append(row)
    return Decoded(actions, distribution.log_prob(torch.cat(parameters, 1), mask, actions))


def _parallel(
    decoder: Decoder,
    distribution: ActionDistribution,
    encoded: Tensor,
    mask: Tensor | None,
    noise: Tensor | None,
) -> Decoded:
    """The fixed point of the teacher-forced pass: after k passes the first k agents are final."""
    actions = _empty_actions(decoder, encoded)
    while True:
        parameters = decoder.head(decoder(decoder.shift(actions), encoded))
        chosen = distribution.choose(parameters, mask, noise)
        if torch.equal(chosen, actions):
            return Decoded(actions, distribution.log_prob(parameters, mask, actions))
        actions = chosen
