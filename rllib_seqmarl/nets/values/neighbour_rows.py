"""Which rows of SrSv's N sequences have to be computed where agents attend to neighbours only.

Agent i's sequence holds the actions of its predecessors, the continuation of agents i .. N - 1
(counted from 0), and a last position that reads the value. With attention to neighbours, a position
depends on few tokens, and the last position reads few positions. So most of what the last positions
read is what the policy's own pass computed, and the rest is the same in many sequences: as a
function of i, a row is piecewise constant.

A layer's row of a position has a *break* at c if it may differ between the sequences c - 1 and c;
it breaks where one of the rows that it reads does. A break stands for a *version* of the row: that
of the sequences below c, down to the position's break before. The sequences from the last break on
have the policy's own version. From the breaks of the tokens follow those of the first layer, and so
on upwards; then, from the last positions downwards, the versions that somebody reads. These alone
are computed, each once.

Layers, from below: tokens, then self-attention and cross-attention of every block. In the first
block, position n of tokens and self-attention is where the action of agent n stands; in all others
it is where agent n decides. Positions are numbered over the batch, b N + n.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rllib_seqmarl.nets.transformer.sparse_attention import AttendedPositions, packed


class Versions(NamedTuple):
    """The versions of a layer's rows, beside the policy's own.

    Attributes:
        breaks: int64 [V], position times ``stride`` plus c, ascending.
        stride: more than any c.
    """

    breaks: Tensor
    stride: int

    def find(self, position: Tensor, sequence: Tensor) -> tuple[Tensor, Tensor]:
        """The version of a position in a sequence, int [...] each, and whether it is one of these.

        Where it is not, it is the policy's own, and the index may be anything up to V.
        """
        index = torch.searchsorted(self.breaks, position * self.stride + sequence, right=True)
        none = self.breaks.new_full((1,), torch.iinfo(torch.int64).max)
        return index, torch.cat((self.breaks, none))[index] < (position + 1) * self.stride

    def of_readers(self, readers: Tensor, read: Tensor) -> Versions:
        """Those of the next layer, where reader [P] reads position [P]."""
        begin = torch.searchsorted(self.breaks, read * self.stride)
        count = torch.searchsorted(self.breaks, (read + 1) * self.stride) - begin
        # From each pair to the breaks of the position that is read: the first .. the last of them.
        pair = torch.arange(len(read), device=read.device).repeat_interleave(count)
        within = torch.arange(len(pair), device=read.device) - (count.cumsum(0) - count)[pair]
        moved = self.breaks[begin[pair] + within] + (readers - read)[pair] * self.stride
        return Versions(moved.unique(), self.stride)

    def places(self) -> tuple[Tensor, Tensor]:
        """The position of each version, and a sequence that has it: int [V] each."""
        return self.breaks // self.stride, self.breaks % self.stride - 1


class Attended(NamedTuple):
    """What rows read of the layer below: its rows are the policy's B N, versions, last positions.

    Attributes:
        agent: whose o_hat is the query of each row, int [R] as b N + n.
        rows: [1, R, K]; the first one is the row's own, where it reads that.
    """

    agent: Tensor
    rows: AttendedPositions

    @classmethod
    def of(
        cls,
        agent: Tensor,
        rows: Tensor,
        valid: Tensor,
        before: Tensor | None = None,
        after: Tensor | None = None,
    ) -> Attended:
        """Rows [R, K] where valid, with one more to read [R, 1] before or after them."""
        if before is not None:
            rows, valid = torch.cat((before, rows), dim=1), F.pad(valid, (1, 0), value=True)
        if after is not None:
            rows, valid = torch.cat((rows, after), dim=1), F.pad(valid, (0, 1), value=True)
        return cls(agent, AttendedPositions(rows.unsqueeze(0), valid.unsqueeze(0)))

    def some(self, index: Tensor) -> Attended:
        """Some of the rows, int [R']."""
        positions, valid = self.rows
        return Attended(self.agent[index], AttendedPositions(positions[:, index], valid[:, index]))

    def first(self) -> Tensor:
        """The first row that each one reads, int [R]."""
        return self.rows.positions[0, :, 0]


class LayerRows(NamedTuple):
    """The rows of a self-attention or cross-attention, beside the policy's own.

    Attributes:
        versions: that are read.
        last: of the last positions. None in the first self-attention, where they are among the
            versions: nothing there depends on whose sequence it is but by its tokens.
    """

    versions: Attended
    last: Attended | None


class SequenceRows(NamedTuple):
    """Rows to compute for the values of I agents in B batch rows.

    Attributes:
        tokens: which of the given versions of tokens are read, bool [V].
        layers: self-attention and cross-attention of every block, from below.
        with_output: the last positions that read their own output in the last block, int [<= B I].
        scalars: which rows of the last block the last positions average f_theta of: B N of the
            policy, versions, then ``with_output``; int [B I, K] as the last cross-attention.
    """

    tokens: Tensor
    layers: list[LayerRows]
    with_output: Tensor
    scalars: Tensor


class _Layer:
    """A layer while it is found out which of its versions are read.

    Args:
        versions: all that it has.
        own: the policy's row of each position, int [B N].
    """

    def __init__(self, versions: Versions, own: Tensor) -> None:
        self.versions, self.own = versions, own
        self.is_read = torch.zeros_like(versions.breaks, dtype=torch.bool)

    def look_up(
        self, position: Tensor, valid: Tensor, sequence: Tensor
    ) -> Callable[[], tuple[Tensor, Tensor]]:
        """Marks what is read: positions and valid [R, K], in sequences [R].

        Returns:
            To be called once all that is read is marked: the rows, and ``valid``.
        """
        index, differs = self.versions.find(position, sequence.unsqueeze(1))
        differs &= valid
        self.is_read[index[differs]] = True

        def rows() -> tuple[Tensor, Tensor]:
            row = self.is_read.cumsum(0) + (len(self.own) - 1)
            own = self.own[position]
            return own.masked_scatter_(differs, row[index[differs]]), valid

        return rows

    def count(self) -> int:
        """The policy's rows and the versions that are read."""
        return len(self.own) + int(self.is_read.sum())


@torch.no_grad()
def sequence_rows(
    neighbours: Tensor, tokens: Versions, blocks: int, agent_ids: Tensor | None = None
) -> SequenceRows:
    """The rows that the values of some agents need.

    Args:
        neighbours: when those of the m-th agent decide, int [B, N, K]; -1 where there are fewer.
        tokens: the versions of the actions, beside those taken. The last agent's own action is not
            part of the policy's pass: all sequences have versions of it.
        blocks: of the decoder.
        agent_ids: the agents, int [I], ascending; None: all.
    """
    batch, agents, _ = neighbours.shape
    position = torch.arange(batch * agents, device=neighbours.device).unsqueeze(1)  # [B N, 1]
    start = position - position % agents  # position 0 of the same batch row
    slots = neighbours.flatten(0, 1)  # [B N, K]
    earlier = packed(slots + start, (slots >= 0) & (slots < position - start))
    near = packed(slots + start, slots >= 0)
    own_and_earlier, own_and_near = (
        (torch.cat((position, other), 1), F.pad(valid, (1, 0), value=True))
        for other, valid in (earlier, near)
    )

    # Upwards: where rows break. The policy's pass has the action of agent n at its position n + 1.
    by_decision, by_action = position.squeeze(1), position.squeeze(1) + 1
    layers = [_Layer(tokens, by_action)]
    for index in range(2 * blocks):
        # The query of an agent does not read its own action, but its own state.
        read, valid = earlier if index == 1 else own_and_earlier
        reader, slot = valid.nonzero(as_tuple=True)
        versions = layers[-1].versions.of_readers(reader, read[reader, slot])
        layers.append(_Layer(versions, by_action if index == 0 else by_decision))

    # Downwards: which versions are read.
    ids = by_decision[:agents] if agent_ids is None else agent_ids
    last, sequence = (start[::agents] + ids).flatten(), ids.repeat(batch)  # [B I]
    number = torch.arange(len(last), device=last.device).unsqueeze(1)
    seen, is_seen = own_and_near[0][last], own_and_near[1][last]
    top = layers[-1]
    if blocks == 1:
        # The action of agent n is the newest where agent n + 1 decides, or at the last position.
        newest = seen % agents == agents - 1
        found = top.look_up(seen + ~newest, is_seen & ~newest, sequence)
        with_output = (newest & is_seen).any(1)
        itself = (top.count() - 1 + with_output.cumsum(0)).unsqueeze(1)
        scalars = torch.cat((torch.where(newest, itself, found()[0]), start[last]), dim=1)
        with_output = with_output.nonzero().squeeze(1)
    else:
        found = top.look_up(seen, is_seen, sequence)
        scalars = torch.cat((top.count() + number, found()[0]), dim=1)
        with_output = number.squeeze(1)
    rows = []
    for index in range(2 * blocks, 0, -1):
        layer, below = layers[index], layers[index - 1]
        reader, in_sequence = Versions(layer.versions.breaks[layer.is_read], tokens.stride).places()
        read, valid = earlier if index == 2 else own_and_earlier
        of_versions = below.look_up(read[reader], valid[reader], in_sequence)
        of_last = below.look_up(seen, is_seen, sequence) if index > 1 else None
        in_first = index <= 2
        versions_read = Attended.of(
            reader, *of_versions(), after=start[reader] if in_first else None
        )
        last_read = None
        if of_last is not None:
            last_read = Attended.of(
                last,
                *of_last(),
                before=None if in_first else below.count() + number,
                after=start[last] if in_first else None,
            )
        rows.append(LayerRows(versions_read, last_read))
    return SequenceRows(layers[0].is_read, rows[::-1], with_output, scalars)
