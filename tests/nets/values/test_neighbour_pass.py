"""SrSv's value with attention to neighbours: the rows that differ, against the double loop."""

from __future__ import annotations

import pytest
import torch
from helpers.masked_attention import everyone, masked_values, some
from helpers.policies import B, make_policy, observe
from torch import Tensor

from rllib_seqmarl.nets.orders.base import to_slots

NEIGHBOURS = {
    "all": everyone,
    "none": lambda agents: torch.full((B, agents, 2), -1),
    "up to one": lambda agents: some(agents, 1),
    "up to three": lambda agents: some(agents, 3),
}


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("successors", ["greedy", "teacher_forced"])
@pytest.mark.parametrize("order", ["index", "random"])
@pytest.mark.parametrize("of", NEIGHBOURS)
@pytest.mark.parametrize(
    ("agents", "blocks", "heads", "network"),
    [
        (1, 1, 1, "transformer"),
        (7, 1, 2, "transformer"),
        (6, 2, 1, "transformer"),
        (5, 3, 2, "transformer"),
        (6, 1, 1, "decoder"),
    ],
)
def test_values_and_gradients_are_those_of_the_double_loop(
    agents: int,
    blocks: int,
    heads: int,
    network: str,
    of: str,
    order: str,
    successors: str,
    discrete: bool,
) -> None:
    """Of all agents, and of some by their position in the order."""
    policy = make_policy(
        discrete,
        network=network,
        value="sequential",
        value_settings={"successors": successors},
        num_blocks=blocks,
        num_heads=heads,
        order=order,
    )
    obs, mask = observe(agents, discrete)
    neighbours = NEIGHBOURS[of](agents)
    decision = policy.act(obs, mask, deterministic=False, neighbours=neighbours)
    taken = obs, mask, decision.actions, decision.order
    expected = masked_values(policy, *taken, neighbours, successors == "teacher_forced")
    weight = torch.randn(expected.shape, dtype=expected.dtype)
    for agent_ids in (None, torch.arange(agents)[::2], torch.tensor([agents - 1])):
        prepared = policy.prepare_value(*taken, agent_ids=agent_ids, neighbours=neighbours)
        values = policy.evaluate(
            *taken, prepared, agent_ids=agent_ids, neighbours=neighbours
        ).values
        chosen = torch.ones(agents, dtype=torch.bool)
        if agent_ids is not None:
            chosen = torch.isin(torch.arange(agents), agent_ids)
        has_value = to_slots(chosen.expand(B, agents), decision.order)
        right = torch.where(has_value, expected, 0.0)
        torch.testing.assert_close(values, right, atol=1e-9, rtol=0)
        assert_same_gradients(policy, (weight * values).sum(), (weight * right).sum())


def assert_same_gradients(policy: torch.nn.Module, one: Tensor, other: Tensor) -> None:
    parameters = [p for name, p in policy.named_parameters() if not name.startswith("decoder.head")]
    gradients = [
        torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
        for loss in (one, other)
    ]
    for parameter, *both in zip(parameters, *gradients, strict=True):
        # What cancels out may have no gradient in one of the two forms.
        found, right = (torch.zeros_like(parameter) if g is None else g for g in both)
        torch.testing.assert_close(found, right, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("successors", ["greedy", "teacher_forced"])
def test_parts_of_a_batch_are_joined(successors: str, discrete: bool) -> None:
    """Rows differ in how many actions differ from those taken, and minibatches take rows."""
    policy = make_policy(discrete, value="sequential", value_settings={"successors": successors})
    obs, mask = observe(7, discrete)
    neighbours = some(7, 2)
    actions = policy.act(obs, mask, deterministic=False, neighbours=neighbours).actions

    def prepared(rows: slice) -> Tensor:
        part = None if mask is None else mask[rows]
        found = policy.prepare_value(obs[rows], part, actions[rows], neighbours=neighbours[rows])
        assert found is not None
        return found

    whole = prepared(slice(None))
    joined = policy.value.join(
        [prepared(slice(0, 1)), prepared(slice(1, 3)), prepared(slice(3, B))]
    )
    values = policy.values(obs, actions, None, whole, neighbours=neighbours)
    of_joined = policy.values(obs, actions, None, joined, neighbours=neighbours)
    torch.testing.assert_close(of_joined, values)
    rows = torch.tensor([4, 1, 0])
    of_rows = policy.values(
        obs[rows], actions[rows], None, joined[rows], neighbours=neighbours[rows]
    )
    torch.testing.assert_close(of_rows, values[rows])
