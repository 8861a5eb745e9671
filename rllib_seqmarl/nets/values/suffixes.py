"""The sequences that SrSv's value reads, each as a shared prefix and rows of its own.

Agent i's sequence has N + 1 positions: the actions of its predecessors, then those of its
continuation, then the position that reads the value. Counting from 0, position p holds action
p - 1. Up to the first action that is not the one taken, all positions are those of the policy's
teacher-forced pass, the shared prefix; only the ones after it are computed for the sequence. Where
a continuation takes an agent's action as it was taken, the agent after it has the same sequence:
it leads to the same rows, and only the position that reads the value is its own.

Row-wise layers run on all rows of all sequences at once. Attention runs on windows: the last W
positions of sequences whose rows begin at the same position, side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: Sequences that begin later are begun earlier, together with others, where that costs fewer rows
#: than this: rows are cheap, and windows of another length cost calls.
ROWS_PER_WINDOW = 256

#: Rows are filled up to a multiple of this, by rows that nobody reads: oneDNN prepares itself again
#: for every number of rows, which takes longer than the product of some thousand.
ROW_STEP = 512


class Suffixes(NamedTuple):
    """The rows of the sequences of some agents: P pairs of batch row and agent, R rows.

    A row is one position of one sequence. Pairs are sorted by their windows; the rows of a pair lie
    side by side, the one that reads its value last. At the end stand rows of no window, which fill
    R up to a multiple of `ROW_STEP`.

    Attributes:
        places: int [P], which of the B x N values each is.
        windows: for each window, the number of pairs S and of positions W; sum S W <= R.
        tokens: of each row, int [R] or float [R, A].
        encoded: int [R], which of the B x N rows of o_hat is query and residual of each row.
        keys: int [P, N + 1], for every position of the pair's sequence, a row of the prefix (below
            B N) or B N plus a row of these.
    """

    places: Tensor
    windows: list[tuple[int, int]]
    tokens: Tensor
    encoded: Tensor
    keys: Tensor

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        continuations: Tensor,
        taken: Tensor,
        agent_ids: Tensor,
        rows_per_window: int = ROWS_PER_WINDOW,
    ) -> Suffixes:
        """The rows for these joint actions, all as tokens.

        Args:
            continuations: the joint action that each agent's sequence holds, int [B, I, N] or float
                [B, I, N, A].
            taken: of the shared prefix, the start symbol first, int [B, N] or float [B, N, A].
            agent_ids: which agents these are, int [I].
            rows_per_window: see `ROWS_PER_WINDOW`.
        """
        batch, count, agents = continuations.shape[:3]
        device = taken.device
        vectors = continuations.view(batch, count, agents, -1)  # of length 1 where discrete
        taken = taken.view(batch, 1, agents, -1)
        differs = (vectors[:, :, :-1] != taken[:, :, 1:]).any(-1)
        # Of each pair the last position of the shared prefix, at most N - 1.
        differs = torch.cat((differs, differs.new_ones(batch, count, 1)), dim=2)
        prefix = differs.byte().argmax(2)  # [B, I]
        same = (vectors[:, 1:] == vectors[:, :-1]).flatten(2).all(2)
        same = torch.cat((same.new_zeros(batch, 1), same), dim=1) & (prefix < agents - 1)
        pair = torch.arange(batch * count, device=device)
        leader = pair.view(batch, count).masked_fill(same, 0).cummax(1).values.flatten()  # [P]
        begin = prefix.masked_fill(same, agents - 1).flatten()
        counts = torch.bincount(begin, minlength=agents).tolist()
        begins = _begins(counts, rows_per_window)
        numbers: Counter[int] = Counter()
        for first, number in zip(begins, counts, strict=True):
            numbers[first] += number
        windows = [(number, agents - first) for first, number in sorted(numbers.items()) if number]
        begin = torch.tensor(begins, device=device)[begin]
        pairs = begin.argsort(stable=True)
        length = agents - begin[pairs]
        last = torch.empty_like(pair)
        last[pairs] = length.cumsum(0) - 1  # the row of each pair that reads its value
        # Rows: of which pair, and at which position.
        rows = sum(number * window for number, window in windows)
        of_row = pairs.repeat_interleave(length, output_size=rows)
        position = agents - last[of_row] + torch.arange(rows, device=device)
        agent = torch.where(position < agents, position, agent_ids[of_row % count])
        # Keys: the prefix up to where the leader's rows begin, these, at last one's own row.
        lead = leader[pairs].unsqueeze(1)
        positions = torch.arange(agents + 1, device=device)
        of_prefix = pairs.unsqueeze(1).div(count, rounding_mode="floor") * agents
        of_rows = batch * agents - agents + last[lead]
        keys = torch.where(positions <= begin[lead], of_prefix, of_rows) + positions
        keys[:, agents] = batch * agents + last[pairs]
        tokens = continuations.flatten(0, 2)[of_row * agents + position - 1].to(taken.dtype)
        encoded = of_row.div(count, rounding_mode="floor") * agents + agent
        more = -rows % ROW_STEP
        return cls(
            places=pairs.div(count, rounding_mode="floor") * agents + agent_ids[pairs % count],
            windows=windows,
            tokens=torch.cat((tokens, tokens.new_zeros(more, *tokens.shape[1:]))),
            encoded=F.pad(encoded, (0, more)),
            keys=keys,
        )


def _begins(counts: Sequence[int], rows_per_window: int) -> list[int]:
    """For each last position of a prefix, the one that sequences are taken to have.

    Args:
        counts: of each last position 0 .. N - 1, how many sequences have it.
        rows_per_window: see `ROWS_PER_WINDOW`.
    """
    begins = list(range(len(counts)))
    waiting: list[int] = []
    number = 0
    present = [position for position, count in enumerate(counts) if count]
    for position, earlier in zip(present[:0:-1], present[-2::-1], strict=True):
        waiting.append(position)
        number += counts[position]
        if number * (position - earlier) >= rows_per_window:
            waiting, number = [], 0
        for other in waiting:
            begins[other] = earlier
    return begins
