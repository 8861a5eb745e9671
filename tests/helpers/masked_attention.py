"""Attention to neighbours as attention to all with a mask, and SrSv's double loop with it."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from helpers.policies import B
from rllib_seqmarl.nets.orders.base import to_order, to_slots
from rllib_seqmarl.nets.sequential_policy import SequentialPolicy


def everyone(agents: int) -> Tensor:
    """All others, int [B, N, N - 1]."""
    others = [[j for j in range(agents) if j != i] for i in range(agents)]
    return torch.tensor(others).expand(B, agents, agents - 1)


def some(agents: int, most: int = 2) -> Tensor:
    """Up to ``most`` others, not mutual, int [B, N, most]; some agents have none."""
    generator = torch.Generator().manual_seed(2)
    table = torch.full((B, agents, most), -1)
    for b, i in itertools.product(range(B), range(agents)):
        others = [j for j in torch.randperm(agents, generator=generator).tolist() if j != i]
        count = int(torch.randint(0, most + 1, (), generator=generator))
        for k, j in enumerate(others[:count]):
            table[b, i, k] = j
    return table


def attends(neighbours: Tensor) -> Tensor:
    """bool [B, N, N], itself included."""
    agents = neighbours.shape[1]
    same = neighbours.unsqueeze(-1) == torch.arange(agents)
    return same.any(2) | torch.eye(agents, dtype=torch.bool)


def masked_attention(layer, query: Tensor, key_value: Tensor, visible: Tensor):
    """The attention's output [B, L, D] and its weights [B, L, S], visible bool [B, L, S]."""
    split = lambda x: x.unflatten(-1, (layer.heads, -1)).transpose(1, 2)  # noqa: E731
    key, value = key_value.chunk(2, dim=-1)
    scores = split(query) @ split(key).mT / math.sqrt(key.shape[-1] // layer.heads)
    weights = scores.masked_fill(~visible.unsqueeze(1), -math.inf).softmax(-1)
    mixed = (weights @ split(value)).transpose(1, 2).flatten(2)
    return layer.out_projection(mixed), weights.mean(1)


def masked_encoder(policy: SequentialPolicy, obs: Tensor, table: Tensor) -> Tensor:
    x = policy.encoder.norm(policy.encoder.embed(obs))
    for block in policy.encoder.blocks:
        layer = block.attention
        mixed, _ = masked_attention(layer, *layer.split(layer.project(x)), table)
        x = block.norm_attention(x + mixed)
        x = block.norm_feed_forward(x + block.feed_forward(x))
    return x


def masked_decoder(policy, tokens: Tensor, encoded: Tensor, table: Tensor, last: int = 0):
    """Output and last cross-attention weights; table bool [B, N, N].

    With a position more than there are agents, whose query is that of agent ``last``.
    """
    decoder = policy.decoder
    agents, length = table.shape[1], tokens.shape[1]
    agent = [*range(agents), last][:length]  # of each position
    action, query, state = (torch.zeros(B, length, length, dtype=torch.bool) for _ in range(3))
    for m in range(length):
        action[:, m, m] = True
        state[:, m, m] = True
        action[:, m, 0] = query[:, m, 0] = True
        for n in range(m):  # the action of agent n, at position n + 1
            action[:, m, n + 1] |= table[:, m - 1, n]
            query[:, m, n + 1] |= table[:, agent[m], n]
            state[:, m, n] |= table[:, agent[m], n]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    x = decoder.embed(tokens, decoder.symbols())
    for index, block in enumerate(decoder.layers()):
        own, cross = block.self_attention, block.cross_attention
        visible = (action if index == 0 else state) & causal
        mixed, _ = masked_attention(own, *own.split(own.project(x)), visible)
        x = block.norm_self(x + mixed)
        query_of, key_value = cross.project_query(encoded), cross.project_key_value(x)
        visible = (query if index == 0 else state) & causal
        mixed, weights = masked_attention(cross, query_of, key_value, visible)
        x = block.norm_cross(encoded + mixed)
        x = block.norm_feed_forward(x + block.feed_forward(x))
    return x, weights


def attends_in_order(neighbours: Tensor, order: Tensor | None) -> Tensor:
    """`attends` in decision order."""
    table = attends(neighbours)
    if order is None:
        return table
    return to_order(to_order(table, order).mT, order).mT


def masked_values(
    policy: SequentialPolicy,
    obs: Tensor,
    mask: Tensor | None,
    actions: Tensor,
    order: Tensor | None,
    neighbours: Tensor,
    teacher_forced: bool = False,
) -> Tensor:
    """SrSv, eq. 5-6, in slots [B, N]: agent by agent and action by action."""
    encoded = to_order(masked_encoder(policy, obs, attends(neighbours)), order)
    taken = to_order(actions, order)
    mask = None if mask is None else to_order(mask, order)
    table = attends_in_order(neighbours, order)
    decoder, f, pi = policy.decoder, policy.value.position_value, policy.distribution
    x, _ = masked_decoder(policy, decoder.shift(taken), encoded, table)
    given_taken = pi.choose(decoder.head(x), mask, None)
    values = []
    for i in range(taken.shape[1]):
        joint = taken.clone()
        for k in range(i, taken.shape[1]):
            with torch.no_grad():
                x, _ = masked_decoder(policy, decoder.shift(joint), encoded, table)
                greedy = pi.choose(decoder.head(x), mask, None)
            joint[:, k] = (given_taken.detach() if teacher_forced else greedy)[:, k]
        queries = torch.cat((encoded, encoded[:, i : i + 1]), dim=1)
        e, w = masked_decoder(policy, decoder.append(joint), queries, table, last=i)
        values.append((w[:, -1] * f(queries, e)).sum(1))
    return to_slots(torch.stack(values, dim=1), order)
