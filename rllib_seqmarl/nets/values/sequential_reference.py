"""SrSv's value in its readable form: the double loop of eq. 5-6, agent by agent.

`SequentialValue` computes the same, with the same arguments, in a small part of the time. The tests
compare the two, values and gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rllib_seqmarl.nets.transformer.model import Decoder, DecoderTrace
from rllib_seqmarl.nets.values.base import JointActions
from rllib_seqmarl.nets.values.sequential import PositionValue


@torch.no_grad()
def greedy_continuations(taken: JointActions) -> Tensor:
    """Eq. 5: agents 1..i-1 act as they did, agents i..N by their policies, here greedily.

    Args:
        taken: the joint actions a [B, N(, A)], and the policy pi.

    Returns:
        For each agent i its joint action, [B, N, N(, A)].
    """
    decoder, pi, agents = taken.decoder, taken.distribution, taken.actions.shape[1]
    continuations = []
    for i in range(agents):
        joint = taken.actions.clone()
        for k in range(i, agents):
            trace = decoder(decoder.shift(joint), taken.encoded)
            joint[:, k] = pi.choose(decoder.head(trace.output), taken.mask, None)[:, k]
        continuations.append(joint)
    return torch.stack(continuations, dim=1)


def sequential_values(
    f: PositionValue, trace: DecoderTrace, decoder: Decoder, continuations: Tensor
) -> Tensor:
    """Eq. 6: V^i = sum_{j=1}^{N+1} w_{N+1,j} f(o_hat^j, e^{j-1}), with o_hat^{N+1} := o_hat^i.

    Args:
        f: f_theta.
        trace: of a pass of the decoder over o_hat; no more than that is read of it.
        decoder: of attention over all agents.
        continuations: of each agent i, from `greedy_continuations`, [B, N, N(, A)].

    Returns:
        V, [B, N].
    """
    values = []
    for i in range(trace.encoded.shape[1]):
        o_hat = torch.cat((trace.encoded, trace.encoded[:, i : i + 1]), dim=1)  # [B, N + 1, D]
        sequence = decoder(decoder.append(continuations[:, i]), o_hat)
        e = sequence.output  # [B, N + 1, D]
        last = sequence.blocks[-1]
        attention = decoder.layers()[-1].cross_attention
        w = attention.weights(last.cross_query, last.cross_key_value)[:, -1]  # [B, N + 1]
        values.append((w * f(o_hat, e)).sum(1))
    return torch.stack(values, dim=1)
