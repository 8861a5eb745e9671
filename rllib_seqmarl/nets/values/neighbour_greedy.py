"""Greedy continuations of all sequences where agents attend to neighbours only.

In sequence i, agents i .. N - 1 act greedily, each given what those before it do there. With
attention to neighbours, what an agent does is piecewise constant in i (see `neighbour_rows`), so
each version is decided once. Agents that do not depend on each other decide at once: level by
level, where an agent is one level above the highest of the neighbours that decide before it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rllib_seqmarl.nets.transformer.model import Decoder, DecoderBlock
from rllib_seqmarl.nets.transformer.sparse_attention import AttendedPositions, packed
from rllib_seqmarl.nets.values.base import JointActions
from rllib_seqmarl.nets.values.neighbour_rows import Versions


class _Layer:
    """The rows of a layer: the policy's own, then versions, level by level.

    Args:
        rows: the policy's own, [B N, ...].
        own: which of them is that of each position, int [B N].
        stride: see `Versions`.
    """

    def __init__(self, rows: Tensor, own: Tensor, stride: int) -> None:
        self.rows, self.own = rows, own
        self.versions = Versions(own.new_empty(0), stride)

    def add(self, versions: Versions, rows: Tensor) -> None:
        """Puts those of the next level behind all others."""
        breaks = torch.cat((self.versions.breaks, versions.breaks))
        self.versions = Versions(breaks, versions.stride)
        self.rows = torch.cat((self.rows, rows))

    def read(self, position: Tensor, sequence: Tensor) -> Tensor:
        """The row of positions [R, K] in sequences [R]."""
        index, differs = self.versions.find(position, sequence.unsqueeze(1))
        return torch.where(differs, index + len(self.own), self.own[position])


def levels(earlier: Tensor, valid: Tensor) -> Tensor:
    """How many others must decide before each position at least, one after another: int [P].

    Args:
        earlier: positions that each one depends on, int [P, K].
        valid: bool [P, K].
    """
    level = torch.zeros(len(earlier), dtype=torch.long, device=earlier.device)
    while True:
        above = (level[earlier] + 1).masked_fill(~valid, 0)
        higher = F.pad(above, (1, 0)).amax(1)
        if torch.equal(higher, level):
            return level
        level = higher


@torch.no_grad()
def greedy_versions(
    taken: JointActions, agent_ids: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The versions of actions in greedy continuations.

    Args:
        taken: the joint actions, and the policy.
        agent_ids: the agents i whose sequences there are, int [I], ascending; None: all.

    Returns:
        Whose action each version is, int [V] as b N + n, its break, int [V], in this order; and the
        action, [V, A], A = 1 where actions are discrete.
    """
    assert taken.neighbours is not None
    assert isinstance(taken.decoder, Decoder)
    decoder, discrete = taken.decoder, taken.decoder.action.discrete
    batch, agents, _ = taken.encoded.shape
    stride, total = agents + 2, batch * agents
    slots = taken.neighbours.neighbours.flatten(0, 1)
    by_slot = torch.arange(total, device=slots.device)
    start = by_slot - by_slot % agents  # position 0 of the same batch row
    valid = (slots >= 0) & (slots < (by_slot - start).unsqueeze(1))
    near, valid = packed(slots + start.unsqueeze(1), valid)

    # Positions are numbered level by level, so that versions stay sorted when some are added.
    level = levels(near, valid)
    order = level.argsort(stable=True)
    number = torch.empty_like(order).index_copy_(0, order, by_slot)
    near, valid = number[near[order]], valid[order]
    # A break is told by the sequences that there are: right behind the last one below it.
    behind = torch.arange(stride, device=slots.device)
    if agent_ids is not None:
        below = torch.searchsorted(agent_ids.contiguous(), behind)
        behind = F.pad(agent_ids + 1, (1, 0))[below]

    trace = decoder(decoder.shift(taken.actions), taken.encoded, taken.neighbours)
    assert trace.output is not None
    encoded = taken.encoded.flatten(0, 1)
    mask = None if taken.mask is None else taken.mask.flatten(0, 1)
    actions = taken.actions.flatten(0, 1)
    own_greedy = taken.distribution.choose(decoder.head(trace.output.flatten(0, 1)), mask, None)
    if discrete:
        actions, own_greedy = actions.unsqueeze(1), own_greedy.unsqueeze(1)
    blocks, symbols = decoder.layers(), decoder.symbols()

    def token_rows(actions: Tensor) -> Tensor:
        """[R, A] -> what the first self-attention reads, [R, D + query + key-value]."""
        tokens = decoder.as_tokens(actions.squeeze(1) if discrete else actions).unsqueeze(0)
        return _projected(blocks[0], decoder.embed(tokens, symbols)[0])

    # The policy's pass has the action of agent n at its position n + 1.
    layers = [
        layer
        for index, (block, seen) in enumerate(zip(blocks, trace.blocks, strict=True))
        for layer in (
            _Layer(_projected(block, seen.self_input.flatten(0, 1)), order + (index == 0), stride),
            _Layer(seen.cross_key_value.flatten(0, 1), order + (index == 0), stride),
        )
    ]
    layers.append(_Layer(trace.output.flatten(0, 1), order, stride))
    queries = [seen.cross_query.flatten(0, 1) for seen in trace.blocks]
    found = []

    def extend(index: int, position: Tensor) -> None:
        """Adds to a layer what it has at some positions, of what the layer below has."""
        below, block = layers[index - 1], blocks[(index - 1) // 2]
        read, is_read = near[position], valid[position]
        if index != 2:  # the query of an agent does not read its own action, but its own state
            read = torch.cat((position.unsqueeze(1), read), dim=1)
            is_read = F.pad(is_read, (1, 0), value=True)
        reader, column = is_read.nonzero(as_tuple=True)
        versions = below.versions.of_readers(position[reader], read[reader, column])
        at, sequence = versions.places()
        within = at - position[0]
        rows, is_read = below.read(read[within], sequence), is_read[within]
        if index <= 2:
            rows = torch.cat((rows, start[order[at]].unsqueeze(1)), dim=1)
            is_read = F.pad(is_read, (0, 1), value=True)
        attended = AttendedPositions(rows.unsqueeze(0), is_read.unsqueeze(0))
        if index % 2:
            added = _self_rows(block, below.rows, attended)
            layers[index].add(versions, block.cross_attention.project_key_value(added))
            return
        slot = order[at]
        query = queries[(index - 1) // 2][slot].unsqueeze(0)
        mixed = block.cross_attention(query, below.rows.unsqueeze(0), True, attended)[0]
        x = block.norm_cross(encoded[slot] + mixed)
        x = block.norm_feed_forward(x + block.feed_forward(x))
        if index < len(layers) - 1:
            x = _projected(blocks[index // 2], x)
        layers[index].add(versions, x)

    for position in by_slot.split(torch.bincount(level).tolist()):
        top = layers[-1]
        count = len(top.rows)
        for index in range(2, len(layers)):
            extend(index, position)
        versions = Versions(top.versions.breaks[count - total :], stride)
        at, _ = versions.places()
        parameters = decoder.head(top.rows[count:])
        greedy = taken.distribution.choose(
            parameters, None if mask is None else mask[order[at]], None
        )
        greedy = greedy.unsqueeze(1) if discrete else greedy
        # Up to the agent itself, from its last break on, it decides as in the policy's pass.
        agent = order[position] % agents
        breaks = torch.cat((versions.breaks, position * stride + behind[agent + 1]))
        breaks, sorting = breaks.sort(stable=True)
        greedy = torch.cat((greedy, own_greedy[order[position]]))[sorting]
        # No sequence lies between a break and the same again, or below a break at 0.
        exists = F.pad(breaks[1:] != breaks[:-1], (1, 0), value=True) & (breaks % stride > 0)
        breaks, greedy = breaks[exists], greedy[exists]
        of = breaks // stride
        is_last = F.pad(of[1:] != of[:-1], (0, 1), value=True)[: len(of)]
        following = torch.where(is_last.unsqueeze(1), actions[order[of]], greedy.roll(-1, 0))
        differs = (greedy != following).any(1) | (is_last & (order[of] % agents == agents - 1))
        breaks, greedy = breaks[differs], greedy[differs]
        found.append(greedy)
        layers[0].add(Versions(breaks, stride), token_rows(greedy))
        extend(1, position)
    breaks, by_slot_and_break = _in_slots(layers[0].versions, order)
    return breaks // stride, breaks % stride, torch.cat(found)[by_slot_and_break]


def _in_slots(versions: Versions, order: Tensor) -> tuple[Tensor, Tensor]:
    """The breaks with positions as they were before they were put in ``order``, ascending."""
    position = order[versions.breaks // versions.stride]
    return (position * versions.stride + versions.breaks % versions.stride).sort()


def _projected(block: DecoderBlock, x: Tensor) -> Tensor:
    """x, its query and its key-value for the self-attention, side by side."""
    return torch.cat((x, block.self_attention.project(x)), dim=-1)


def _self_rows(block: DecoderBlock, rows: Tensor, attended: AttendedPositions) -> Tensor:
    """The output of the self-attention, of rows from `_projected`: [R, D].

    The first row that each one attends to is its own.
    """
    own, width = block.self_attention, block.self_attention.width
    first = rows[attended.positions[0, :, 0]]
    query = first[:, width : width + own.query_size].unsqueeze(0)
    key_value = rows[:, width + own.query_size :].unsqueeze(0)
    return block.norm_self(first[:, :width] + own(query, key_value, True, attended)[0])
