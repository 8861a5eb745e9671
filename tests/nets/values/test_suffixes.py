"""Which agents' suffixes are computed together, and which are drawn."""

from __future__ import annotations

import pytest
import torch

from rllib_seqmarl.nets.values.suffixes import Suffixes, _groups, sample_agents


@pytest.mark.parametrize("agents", [1, 5, 6])
def test_every_agent_is_sampled_equally_often(agents: int) -> None:
    generator = torch.Generator().manual_seed(1)
    draws = 3000
    counts = torch.zeros(agents)
    for _ in range(draws):
        counts[sample_agents(agents, 2, generator)] += 1
    share = 1 / len(_groups(agents))
    assert (counts / draws - share).abs().max() <= 4 * (share * (1 - share) / draws) ** 0.5
    assert sample_agents(agents, agents, generator).tolist() == list(range(agents))
    assert sample_agents(agents, 10**6, generator).tolist() == list(range(agents))


def test_agents_who_fill_no_groups_are_by_themselves() -> None:
    alone = list(Suffixes.chunks(6, 1, None, torch.device("cpu"), [0, 1]))
    assert [suffixes.agents.tolist() for suffixes in alone] == [[0], [1]]
    assert [suffixes.shape for suffixes in alone] == [(1, 6), (1, 5)]
