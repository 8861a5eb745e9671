"""The sequences that SrSv's value reads, each as a shared prefix and a suffix of its own.

Agent i's sequence has N + 1 positions: the actions of its predecessors, then the greedy
continuation from i on, then the position that reads the value. Counting from 0, its positions
0 .. i are those of the policy's teacher-forced pass, the shared prefix; only the N - i positions
after them are its own, suffix i. So N + N (N + 1) / 2 positions are computed and not N + N (N + 1).

The suffixes of N - i and of i + 1 positions are put together into groups of equal size, so that
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
    """Some of the groups of suffixes of N agents: C groups of G rows, R = C G.

    A row is one position of one suffix.

    Attributes:
        shape: C and G.
        agents: int [I], the suffixes in here; suffix i belongs to agent i.
        suffix: int [R], which suffix each row is of.
        start: int [R], the first row of that suffix.
        agent: int [R], whose o_hat is the query and the residual of each row.
        token: int [R], which of the I' x N actions of continuations each row reads, of the I'
            agents that have a suffix in these groups or in others.
        last: int [I], the row that reads the value of each suffix.
        group: int [I], the group that each suffix is in.
        position: int [1, C, G], where in its sequence each row stands, from 0.
        key_position: int [1, C, N + G], likewise of what a group attends to: prefix, then group.
        visible: bool [1, C, G, N + G], which of them each row may attend to; [B, ...] after
            `with_neighbours`.
    """

    shape: tuple[int, int]
    agents: Tensor
    suffix: Tensor
    start: Tensor
    agent: Tensor
    token: Tensor
    last: Tensor
    group: Tensor
    position: Tensor
    key_position: Tensor
    visible: Tensor

    @staticmethod
    @lru_cache(maxsize=64)
    def of(
        agents: int,
        groups: tuple[tuple[int, ...], ...],
        chosen: tuple[int, ...] | None,
        device: torch.device,
    ) -> Suffixes:
        """Some groups of the suffixes of N agents.

        Args:
            agents: N.
            groups: the agents whose suffixes each group holds.
            chosen: all agents that have a suffix, in these groups or in others; None: all N.
            device: where the indices are needed.
        """
        # Where N is odd, agent 0 is alone in its group: agent N, put beside it, has no positions.
        group = torch.tensor([(*members, agents)[:2] for members in groups])  # [C, 2]
        size = sum(agents - i for i in groups[0])
        lengths = agents - group
        within = torch.arange(size).expand(len(groups), size)  # [C, G]
        in_second = (within >= lengths[:, :1]).long()
        suffix = group.gather(1, in_second)
        start = in_second * lengths[:, :1]
        position = within - start + suffix + 1
        prefix = torch.arange(agents).expand(len(groups), agents)
        of_prefix = prefix.unsqueeze(1) <= suffix.unsqueeze(2)  # [C, G, N]
        same = suffix.unsqueeze(2) == suffix.unsqueeze(1)
        of_group = same & (position.unsqueeze(1) <= position.unsqueeze(2))  # [C, G, G]
        visible = torch.cat((of_prefix, of_group), dim=-1)
        first_row = torch.arange(len(groups)).unsqueeze(1) * size
        suffix, flat_position = suffix.flatten(), position.flatten()
        last = (flat_position == agents).nonzero().squeeze(1)
        continuation = torch.arange(agents)
        if chosen is not None:
            continuation[torch.tensor(chosen)] = torch.arange(len(chosen))
        return Suffixes(
            shape=(len(groups), size),
            agents=suffix[last].to(device),
            suffix=suffix.to(device),
            start=(start + first_row).flatten().to(device),
            agent=torch.where(flat_position < agents, flat_position, suffix).to(device),
            token=(continuation[suffix] * agents + flat_position - 1).to(device),
            last=last.to(device),
            group=last.div(size, rounding_mode="floor").to(device),
            position=position.unsqueeze(0).to(device),
            key_position=torch.cat((prefix, position), dim=1).unsqueeze(0).to(device),
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
        """The suffixes of N agents, as many groups at once as have this many positions.

        Args:
            agents: N.
            batch: rows B, each of which has all of these suffixes.
            positions: of all rows together; at least one group is taken. None takes all.
            device: where the indices are needed.
            chosen: the agents whose suffixes are computed; None: all. Where they fill no groups,
                each is computed by itself.
        """
        groups = _groups(agents)
        size = sum(agents - i for i in groups[0])
        all_chosen = None if chosen is None else tuple(chosen)
        if chosen is not None:
            groups = [group for group in groups if set(chosen).issuperset(group)]
            if sum(map(len, groups)) != len(chosen):
                for i in chosen:
                    yield Suffixes.of(agents, ((i,),), all_chosen, device)
                return
        step = len(groups) if positions is None else max(1, positions // (batch * size))
        for start in range(0, len(groups), step):
            yield Suffixes.of(agents, tuple(groups[start : start + step]), all_chosen, device)

    def with_neighbours(self, table: Tensor, count: int) -> list[tuple[Suffixes, Suffixes]]:
        """The same, with every agent attending to its neighbours alone (see `sparse_attention`).

        The query of the last row of a suffix is that of its agent.

        Args:
            table: bool [B, N, N], whether the m-th agent attends to the n-th, itself included.
            count: blocks of the decoder.

        Returns:
            As the rows attend in the self-attention and in the cross-attention of each block.
        """
        agent = self.agent.view(self.shape)  # [C, G]
        # A position's newest token is the action of the agent before it, at 0 the start symbol.
        newest, newest_key = self.position[0] - 1, self.key_position[0] - 1
        start = newest_key < 0

        def visible(queries: Tensor, keys: Tensor) -> Tensor:
            """bool [B, C, G, N + G], by the agents of queries [C, G] and of keys [C, N + G]."""
            return table[:, queries.unsqueeze(-1), keys.unsqueeze(-2)]

        actions = newest_key.clamp(min=0)
        tokens = self._restricted(visible(newest, actions) | start.unsqueeze(1))
        first = tokens, self._restricted(visible(agent, actions) | start.unsqueeze(1))
        if count == 1:
            return [first]
        of_prefix = torch.arange(table.shape[1], device=agent.device).expand(len(agent), -1)
        states = self._restricted(visible(agent, torch.cat((of_prefix, agent), dim=1)))
        return [first, *[(states, states)] * (count - 1)]

    def _restricted(self, visible: Tensor) -> Suffixes:
        return replace(self, visible=self.visible & visible)

    def add_weighted(self, x: Tensor, weights: Tensor, prefix: Tensor, own: Tensor) -> Tensor:
        """``x`` plus the weighted values of what each row attends to.

        Args:
            x: [B, R, D].
            weights: as from `suffix_weights`.
            prefix: absorbed values of the prefix, [B, N, H D].
            own: of the rows, [B, R, H D].

        Returns:
            [B, R, D].
        """
        batch, agents, _ = prefix.shape
        groups, size = self.shape
        heads = weights.shape[-1]
        of_prefix, of_group = weights.expand(batch, -1, -1, -1, -1).split((agents, size), dim=-2)
        of_prefix = of_prefix.reshape(batch, groups * size, agents * heads)
        of_group = of_group.reshape(batch * groups, size, size * heads)
        x = torch.baddbmm(x, of_prefix, prefix.view(batch, agents * heads, -1))
        own = own.view(batch * groups, size * heads, -1)
        x = torch.baddbmm(x.view(batch * groups, size, -1), of_group, own)
        return x.view(batch, groups * size, -1)

    def read(self, weights: Tensor, prefix: Tensor, own: Tensor) -> Tensor:
        """The mean of scalars [B, N] and [B, R] that the last row of each suffix reads: [B, I].

        With weights averaged over heads.
        """
        agents = prefix.shape[1]
        last = weights.flatten(1, 2).index_select(1, self.last).mean(-1)  # [B, I, N + G]
        of_prefix, of_group = last.split((agents, self.shape[1]), dim=-1)
        own = own.view(-1, *self.shape).index_select(1, self.group)  # [B, I, G]
        return (of_prefix * prefix.unsqueeze(1)).sum(-1) + (of_group * own).sum(-1)


def sample_agents(agents: int, count: int, generator: torch.Generator) -> Tensor:
    """Some agents whose suffixes fill groups, each as likely to be among them as every other.

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
