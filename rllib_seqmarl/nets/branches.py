"""The sequences that SrSv's value reads, as branches of the policy's own sequence.

Agent i's sequence has N + 1 positions: the actions of its predecessors, then the completion from
i on, then the row that reads the value. Counting from 0, its positions 0 .. i are those of the
policy's teacher-forced pass, the trunk; only the N - i positions after them are its own, branch i.
So N + N (N + 1) / 2 positions are computed and not N + N (N + 1).

The branches of N - i and of i + 1 positions are put together into groups of equal size, so that
all groups are computed at once and nothing is padded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Branches:
    """Some of the groups of branches of N agents: C groups of G rows, R = C G.

    Attributes:
        shape: C and G.
        agents: int [I], the branches in here; branch i belongs to agent i.
        branch: int [R], which branch each row is of.
        start: int [R], the first row of that branch.
        agent: int [R], whose o_hat is the query and the residual of each row.
        token: int [R], which of the N x N completed actions each row reads.
        last: int [I], the row that reads the value of each branch.
        group: int [I], the group that each branch is in.
        position: int [C, G], where in its sequence each row stands, from 0.
        key_position: int [C, N + G], likewise of the positions a group sees: trunk, then group.
        visible: bool [C, G, N + G], which of them each row may see.
    """

    shape: tuple[int, int]
    agents: Tensor
    branch: Tensor
    start: Tensor
    agent: Tensor
    token: Tensor
    last: Tensor
    group: Tensor
    position: Tensor
    key_position: Tensor
    visible: Tensor

    @staticmethod
    @lru_cache(maxsize=256)
    def of(agents: int, groups: tuple[int, int], device: torch.device) -> Branches:
        """The groups from ``groups[0]`` to before ``groups[1]`` of all that N agents have."""
        members = _groups(agents)[slice(*groups)]
        rows = [
            [(i, p) for i in group for p in range(i + 1, agents + 1)] for group in members
        ]  # branch and position of each row
        branch, position = torch.tensor(rows).unbind(-1)  # [C, G] each
        flat = [row for group in rows for row in group]
        trunk = torch.arange(agents).expand(len(rows), agents)
        of_trunk = trunk.unsqueeze(1) <= branch.unsqueeze(2)  # [C, G, N]
        same = branch.unsqueeze(2) == branch.unsqueeze(1)
        of_group = same & (position.unsqueeze(1) <= position.unsqueeze(2))  # [C, G, G]
        visible = torch.cat((of_trunk, of_group), dim=-1)
        last = [index for index, (_, p) in enumerate(flat) if p == agents]
        size = len(rows[0])
        first = {i: index for index, (i, p) in enumerate(flat) if p == i + 1}
        return Branches(
            shape=(len(rows), size),
            agents=torch.tensor([flat[index][0] for index in last], device=device),
            branch=branch.flatten().to(device),
            start=torch.tensor([first[i] for i, _ in flat], device=device),
            agent=torch.tensor([p if p < agents else i for i, p in flat], device=device),
            token=torch.tensor([i * agents + p - 1 for i, p in flat], device=device),
            last=torch.tensor(last, device=device),
            group=torch.tensor([index // size for index in last], device=device),
            position=position.to(device),
            key_position=torch.cat((trunk, position), dim=1).to(device),
            visible=visible.to(device),
        )

    @staticmethod
    def chunks(
        agents: int, batch: int, positions: int | None, device: torch.device
    ) -> Iterator[Branches]:
        """All branches of N agents, as many groups at once as have this many positions.

        Args:
            agents: N.
            batch: rows B, each of which has all of these branches.
            positions: of all rows together; at least one group is taken. None takes all.
            device: where the indices are needed.
        """
        groups = _groups(agents)
        size = agents * (agents + 1) // 2 // len(groups)
        step = len(groups) if positions is None else max(1, positions // (batch * size))
        for start in range(0, len(groups), step):
            yield Branches.of(agents, (start, min(start + step, len(groups))), device)

    def hear(self, x: Tensor, weights: Tensor, trunk: Tensor, own: Tensor) -> Tensor:
        """``x`` plus what each row hears.

        Args:
            x: [B, R, D].
            weights: as from `Mixing.branch_weights`.
            trunk: folded values of the trunk, [B, N, H D].
            own: of the rows, [B, R, H D].

        Returns:
            [B, R, D].
        """
        batch, agents, _ = trunk.shape
        groups, size = self.shape
        heads = weights.shape[-1]
        of_trunk, of_group = weights.expand(batch, -1, -1, -1, -1).split((agents, size), dim=-2)
        of_trunk = of_trunk.reshape(batch, groups * size, agents * heads)
        of_group = of_group.reshape(batch * groups, size, size * heads)
        x = torch.baddbmm(x, of_trunk, trunk.view(batch, agents * heads, -1))
        own = own.view(batch * groups, size * heads, -1)
        x = torch.baddbmm(x.view(batch * groups, size, -1), of_group, own)
        return x.view(batch, groups * size, -1)

    def read(self, weights: Tensor, trunk: Tensor, own: Tensor) -> Tensor:
        """The mean of scalars [B, N] and [B, R] that the last row of each branch reads: [B, I].

        With weights averaged over heads.
        """
        agents = trunk.shape[1]
        last = weights.flatten(1, 2).index_select(1, self.last).mean(-1)  # [B, I, N + G]
        of_trunk, of_group = last.split((agents, self.shape[1]), dim=-1)
        own = own.view(-1, *self.shape).index_select(1, self.group)  # [B, I, G]
        return (of_trunk * trunk.unsqueeze(1)).sum(-1) + (of_group * own).sum(-1)


def _groups(agents: int) -> list[tuple[int, ...]]:
    """Branches that together have N + 1 positions (N even) or N (N odd)."""
    if agents % 2 == 0:
        return [(i, agents - 1 - i) for i in range(agents // 2)]
    return [(0,), *((i, agents - i) for i in range(1, (agents + 1) // 2))]
