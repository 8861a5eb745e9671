"""The sequences that SrSv's value reads, as branches of the policy's own sequence.

Agent i's sequence has N + 1 positions: the actions of its predecessors, then the completion from
i on, then the row that reads the value. Counting from 0, its positions 0 .. i are those of the
policy's teacher-forced pass, the trunk; only the N - i positions after them are its own, branch i.
So N + N (N + 1) / 2 positions are computed and not N + N (N + 1).

The branches of N - i and of i + 1 positions are put together into groups of equal size, so that
all groups are computed at once and nothing is padded. Where agents are many, some of the groups
may stand for all (`sample_agents`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Suffixes:
    """Some of the groups of branches of N agents: C groups of G rows, R = C G.

    Attributes:
        shape: C and G.
        agents: int [I], the branches in here; branch i belongs to agent i.
        branch: int [R], which branch each row is of.
        start: int [R], the first row of that branch.
        agent: int [R], whose o_hat is the query and the residual of each row.
        token: int [R], which of the I' x N completed actions each row reads, of the I' agents that
            have a branch in these groups or in others.
        last: int [I], the row that reads the value of each branch.
        group: int [I], the group that each branch is in.
        position: int [1, C, G], where in its sequence each row stands, from 0.
        key_position: int [1, C, N + G], likewise of what a group sees: trunk, then group.
        visible: bool [1, C, G, N + G], which of them each row may see; [B, ...] after `among`.
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
    @lru_cache(maxsize=4)  # one entry of 1,024 agents takes up to 270 MB
    def of(
        agents: int,
        groups: tuple[tuple[int, ...], ...],
        chosen: tuple[int, ...] | None,
        device: torch.device,
    ) -> Suffixes:
        """Some groups of the branches of N agents.

        Args:
            agents: N.
            groups: the agents whose branches each group holds.
            chosen: all agents that have a branch, in these groups or in others; None: all N.
            device: where the indices are needed.
        """
        # Where N is odd, agent 0 is alone in its group: agent N, put beside it, has no positions.
        group = torch.tensor([(*members, agents)[:2] for members in groups])  # [C, 2]
        size = sum(agents - i for i in groups[0])
        lengths = agents - group
        within = torch.arange(size).expand(len(groups), size)  # [C, G]
        in_second = (within >= lengths[:, :1]).long()
        branch = group.gather(1, in_second)
        start = in_second * lengths[:, :1]
        position = within - start + branch + 1
        trunk = torch.arange(agents).expand(len(groups), agents)
        of_trunk = trunk.unsqueeze(1) <= branch.unsqueeze(2)  # [C, G, N]
        same = branch.unsqueeze(2) == branch.unsqueeze(1)
        of_group = same & (position.unsqueeze(1) <= position.unsqueeze(2))  # [C, G, G]
        visible = torch.cat((of_trunk, of_group), dim=-1)
        first_row = torch.arange(len(groups)).unsqueeze(1) * size
        branch, flat_position = branch.flatten(), position.flatten()
        last = (flat_position == agents).nonzero().squeeze(1)
        completion = torch.arange(agents)
        if chosen is not None:
            completion[torch.tensor(chosen)] = torch.arange(len(chosen))
        return Suffixes(
            shape=(len(groups), size),
            agents=branch[last].to(device),
            branch=branch.to(device),
            start=(start + first_row).flatten().to(device),
            agent=torch.where(flat_position < agents, flat_position, branch).to(device),
            token=(completion[branch] * agents + flat_position - 1).to(device),
            last=last.to(device),
            group=last.div(size, rounding_mode="floor").to(device),
            position=position.unsqueeze(0).to(device),
            key_position=torch.cat((trunk, position), dim=1).unsqueeze(0).to(device),
            visible=visible.unsqueeze(0).to(device),
        )

    @staticmethod
    def chunks(
        agents: int,
        batch: int,
        positions: int | None,
        device: torch.device,
        chosen: Sequence[int] | None = None,
    ) -> Iterator[Suffixes]:
        """The branches of N agents, as many groups at once as have this many positions.

        Args:
            agents: N.
            batch: rows B, each of which has all of these branches.
            positions: of all rows together; at least one group is taken. None takes all.
            device: where the indices are needed.
            chosen: the agents whose branches are wanted, from `sample_agents`; None: all.
        """
        groups = _groups(agents)
        size = sum(agents - i for i in groups[0])
        if chosen is not None:
            wanted = set(chosen)
            groups = [group for group in groups if wanted.issuperset(group)]
            if sum(map(len, groups)) != len(wanted):
                raise ValueError(f"The agents {sorted(wanted)} do not fill groups of branches.")
        whose = None if chosen is None else tuple(chosen)
        step = len(groups) if positions is None else max(1, positions // (batch * size))
        for start in range(0, len(groups), step):
            yield Suffixes.of(agents, tuple(groups[start : start + step]), whose, device)

    def among(self, table: Tensor, count: int) -> list[tuple[Suffixes, Suffixes]]:
        """The same, with every agent hearing its neighbours alone (see `neighbours`).

        The last row of a branch asks for its agent.

        Args:
            table: bool [B, N, N], whether the m-th agent hears the n-th, itself included.
            count: blocks of the decoder.

        Returns:
            As the rows hear in the self-attention and in the cross-attention of each block.
        """
        whose = self.agent.view(self.shape)  # [C, G]
        # A position's newest token is the action of the agent before it, at 0 the start symbol.
        newest, newest_key = self.position[0] - 1, self.key_position[0] - 1
        start = newest_key < 0

        def visible(rows: Tensor, heard: Tensor) -> Tensor:
            """bool [B, C, G, N + G], by the agents of rows [C, G] and of what they hear."""
            return table[:, rows.unsqueeze(-1), heard.unsqueeze(-2)]

        actions = newest_key.clamp(min=0)
        tokens = self._seeing(visible(newest, actions) | start.unsqueeze(1))
        first = tokens, self._seeing(visible(whose, actions) | start.unsqueeze(1))
        if count == 1:
            return [first]
        of_trunk = torch.arange(table.shape[1], device=whose.device).expand(len(whose), -1)
        states = self._seeing(visible(whose, torch.cat((of_trunk, whose), dim=1)))
        return [first, *[(states, states)] * (count - 1)]

    def _seeing(self, visible: Tensor) -> Suffixes:
        return replace(self, visible=self.visible & visible)

    def hear(self, x: Tensor, weights: Tensor, trunk: Tensor, own: Tensor) -> Tensor:
        """``x`` plus what each row hears.

        Args:
            x: [B, R, D].
            weights: as from `TokenMixer.branch_weights`.
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


def sample_agents(agents: int, count: int, generator: torch.Generator) -> Tensor:
    """Some agents whose branches fill groups, each as likely to be among them as every other.

    Args:
        agents: N.
        count: about how many: the number of their groups is half of it, rounded up.
        generator: source of the draw, on the CPU.

    Returns:
        int [I], ascending, on the CPU.
    """
    groups = _groups(agents)
    drawn = torch.randperm(len(groups), generator=generator)[: -(-count // 2)]
    return torch.tensor(sorted(agent for index in drawn.tolist() for agent in groups[index]))


def _groups(agents: int) -> list[tuple[int, ...]]:
    """Suffixes that together have N + 1 positions (N even) or N (N odd)."""
    if agents % 2 == 0:
        return [(i, agents - 1 - i) for i in range(agents // 2)]
    return [(0,), *((i, agents - i) for i in range(1, (agents + 1) // 2))]
