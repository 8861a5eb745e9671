"""SrSv's value where agents attend to neighbours only; `neighbour_rows` says what is computed."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rllib_seqmarl.nets.transformer.model import Decoder, DecoderTrace
from rllib_seqmarl.nets.values.base import JointActions
from rllib_seqmarl.nets.values.neighbour_greedy import greedy_versions
from rllib_seqmarl.nets.values.neighbour_rows import Versions, sequence_rows


def neighbour_values(
    f: Callable[[Tensor, Tensor], Tensor],
    trace: DecoderTrace,
    decoder: Decoder,
    continuations: Tensor,
    agent_ids: Tensor | None = None,
) -> Tensor:
    """Normalised values, [B, N]; 0 for agents without one.

    Args:
        f: f_theta, o_hat and e of positions, [1, M, D] each -> [1, M].
        trace: the policy's pass over the actions that were taken.
        decoder: which made it.
        continuations: from `versions_of_actions`.
        agent_ids: positions of the agents that get a value, int [I], ascending; None: all.
    """
    assert trace.neighbours is not None
    assert trace.tokens is not None
    assert trace.output is not None
    batch, agents, _ = trace.encoded.shape
    versions, actions = token_versions(continuations, agents)
    blocks = decoder.layers()
    rows = sequence_rows(trace.neighbours.neighbours, versions, len(blocks), agent_ids)

    # [1, rows, D] from here on: those of the policy's pass, then versions, then last positions.
    encoded = _flat(trace.encoded)
    actions = actions[rows.tokens]
    if decoder.action.discrete:
        actions = actions.squeeze(1)
    tokens, symbols = decoder.as_tokens(actions).unsqueeze(0), decoder.symbols()
    x = torch.cat((_flat(trace.blocks[0].self_input), decoder.embed(tokens, symbols)), dim=1)
    for index, (block, seen) in enumerate(zip(blocks, trace.blocks, strict=True)):
        to_self, to_cross = rows.layers[2 * index : 2 * index + 2]
        own, cross = block.self_attention, block.cross_attention
        if index == 0 and symbols is not None:
            all_tokens = torch.cat((_flat(trace.tokens), tokens), dim=1)
            projected = F.embedding(all_tokens, own.project(symbols))
        else:
            projected = own.project(x)
        queries, key_values = own.split(projected)
        y = [
            block.norm_self(
                _rows(x, read.first())
                + own(_rows(queries, read.first()), key_values, True, read.rows)
            )
            for read in to_self
            if read is not None
        ]
        key_values = torch.cat((_flat(seen.cross_key_value), *map(cross.project_key_value, y)), 1)
        queries = _flat(seen.cross_query)
        last = to_cross.last
        assert last is not None
        readers = [to_cross.versions, last]
        if index + 1 == len(blocks):
            readers[1] = last.some(rows.with_output)
        e = []
        for read in readers:
            mixed = cross(_rows(queries, read.agent), key_values, True, read.rows)
            z = block.norm_cross(_rows(encoded, read.agent) + mixed)
            e.append(block.norm_feed_forward(z + block.feed_forward(z)))
        if index + 1 < len(blocks):
            x = torch.cat((_flat(trace.blocks[index + 1].self_input), *e), dim=1)

    assert last is not None
    query = _rows(queries, last.agent)
    weights = cross.sparse_weights(query, key_values, last.rows).mean(-1)  # [1, B I, K]
    agent = torch.cat([read.agent for read in readers])
    o_hat = torch.cat((encoded, _rows(encoded, agent)), dim=1)
    scalars = f(o_hat, torch.cat((_flat(trace.output), *e), dim=1))  # [1, rows]
    values = (weights * F.embedding(rows.scalars, scalars.view(-1, 1)).squeeze(-1)).sum(-1)
    if agent_ids is None:
        return values.view(batch, agents)
    return values.new_zeros(batch, agents).index_copy(1, agent_ids, values.view(batch, -1))


def _flat(x: Tensor) -> Tensor:
    """[B, N, ...] -> [1, B N, ...]."""
    return x.flatten(0, 1).unsqueeze(0)


def _rows(x: Tensor, rows: Tensor) -> Tensor:
    """Rows [R] of x [1, S, D]: [1, R, D]."""
    return F.embedding(rows, x[0]).unsqueeze(0)


@torch.no_grad()
def prepare_neighbours(
    taken: JointActions, greedy: bool, agent_ids: Tensor | None = None
) -> Tensor:
    """How the sequences go on after their agents' predecessors, as versions of tokens.

    Args:
        taken: the joint actions, and the policy.
        greedy: each successor's most likely action given those before it in the same sequence;
            otherwise given the actions that were taken.
        agent_ids: whose sequences there are, int [I], ascending; None: all.

    Returns:
        [B, W, 2 + A], A = 1 where actions are discrete. An entry is whose action it is, n, its
        break c, and the action: n takes it in the sequences below c, down to the entry before
        of n. In order of n, then c; entries with c = 0 are empty.
    """
    batch, agents = taken.actions.shape[:2]
    if greedy:
        position, breaks, actions = greedy_versions(taken, agent_ids)
    else:
        actions = taken.distribution.choose(taken.parameters(), taken.mask, None)
        differs = actions != taken.actions
        if not taken.decoder.action.discrete:
            differs = differs.any(-1)
        differs[:, -1] = True  # the last agent's own action is in no sequence
        position = differs.flatten().nonzero().squeeze(1)
        breaks, actions = position % agents + 1, actions.flatten(0, 1)[position]
        if taken.decoder.action.discrete:
            actions = actions.unsqueeze(1)
    row = position // agents
    count = row.bincount(minlength=batch)
    slot = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    where = torch.stack((position % agents, breaks), dim=1).to(actions.dtype)
    entries = actions.new_zeros(batch, int(count.max()), 2 + actions.shape[1])
    entries[row, slot] = torch.cat((where, actions), dim=1)
    return entries


def pad_entries(entries: Tensor, count: int) -> Tensor:
    """Of what `prepare_neighbours` returned: as many entries, by empty ones: [B, W', ...]."""
    empty = entries.new_zeros(len(entries), count - entries.shape[1], *entries.shape[2:])
    return torch.cat((entries, empty), dim=1)


def token_versions(entries: Tensor, agents: int) -> tuple[Versions, Tensor]:
    """Of what `prepare_neighbours` returned: the versions, and their actions [V, A]."""
    row, slot = (entries[..., 1] > 0).nonzero(as_tuple=True)
    present = entries[row, slot]
    n, c = present[:, 0].long(), present[:, 1].long()
    stride = agents + 2
    return Versions((row * agents + n) * stride + c, stride), present[:, 2:]
