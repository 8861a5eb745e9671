"""Attention restricted to neighbours: against a plain masked computation, and what must hold."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers.masked_attention import (
    attends,
    attends_in_order,
    everyone,
    masked_decoder,
    masked_encoder,
    masked_values,
    some,
)
from helpers.policies import A, B, make_policy, observe

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.nets.decoding.decode import FIXED_METHODS, Decoding
from rllib_seqmarl.nets.networks import check_network
from rllib_seqmarl.nets.orders.base import ranks, to_order, to_slots
from rllib_seqmarl.registry import ORDERS, VALUES

GIVEN_ORDERS = [name for name in ORDERS if name != "next_agent"]
LOCAL = ["transformer", "gnn", "decoder"]


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize(("network", "blocks"), [("transformer", 2), ("gnn", 1), ("decoder", 1)])
@pytest.mark.parametrize(
    ("value", "order"), [("encoder", "plackett_luce"), *itertools.product(VALUES, ["random"])]
)
def test_all_others_as_neighbours_is_attention_over_all(
    value: str, order: str, network: str, blocks: int, discrete: bool
) -> None:
    if network == "decoder" and value == "encoder":
        return
    policy = make_policy(discrete, network=network, num_blocks=blocks, value=value, order=order)
    obs, mask = observe(5, discrete)
    found = []
    for neighbours in (None, everyone(5)):
        generator = torch.Generator().manual_seed(3)
        act = {"deterministic": False, "generator": generator, "neighbours": neighbours}
        decision = policy.act(obs, mask, **act)
        of = (obs, mask, decision.actions, decision.order)
        prepared = policy.prepare_value(*of, neighbours=neighbours)
        evaluation = policy.evaluate(*of, prepared, neighbours=neighbours)
        found.append(
            [
                decision.actions,
                decision.log_prob,
                decision.order,
                evaluation.log_prob,
                evaluation.values,
                evaluation.entropy,
                policy.values(obs, *of[2:], prepared, neighbours=neighbours),
            ]
        )
    for over_all, over_neighbours in zip(*found, strict=True):
        if over_all is None:
            assert over_neighbours is None
        else:
            close = {"atol": 1e-5, "rtol": 1e-5} if not discrete else {"atol": 1e-9, "rtol": 1e-9}
            torch.testing.assert_close(over_neighbours, over_all, **close)


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize(("blocks", "heads"), [(1, 1), (2, 2)])
@pytest.mark.parametrize("order", ["index", "random"])
@pytest.mark.parametrize("agents", [1, 6, 7])
def test_policy_and_sequential_value_are_a_masked_computation(
    agents: int, order: str, blocks: int, heads: int, discrete: bool
) -> None:
    """Also SrSv's double loop (eq. 5-6), agent by agent and action by action."""
    policy = make_policy(
        discrete, value="sequential", num_blocks=blocks, num_heads=heads, order=order
    )
    obs, mask = observe(agents, discrete)
    neighbours = some(agents)
    decision = policy.act(obs, mask, deterministic=False, neighbours=neighbours)
    of = (obs, mask, decision.actions, decision.order)
    prepared = policy.prepare_value(*of, neighbours=neighbours)
    evaluation = policy.evaluate(*of, prepared, neighbours=neighbours)

    encoded = to_order(masked_encoder(policy, obs, attends(neighbours)), decision.order)
    taken = to_order(decision.actions, decision.order)
    ordered_mask = None if mask is None else to_order(mask, decision.order)
    table = attends_in_order(neighbours, decision.order)
    decoder = policy.decoder
    decoded, _ = masked_decoder(policy, decoder.shift(taken), encoded, table)
    log_prob = policy.distribution.log_prob(decoder.head(decoded), ordered_mask, taken)
    torch.testing.assert_close(evaluation.log_prob, to_slots(log_prob, decision.order))
    naive = masked_values(policy, obs, mask, decision.actions, decision.order, neighbours)
    torch.testing.assert_close(evaluation.values, naive, atol=1e-9, rtol=0)


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("network", LOCAL)
@pytest.mark.parametrize(("order", "value"), itertools.product(GIVEN_ORDERS, VALUES))
def test_log_prob_of_acting_is_that_of_evaluating(
    order: str, value: str, network: str, discrete: bool
) -> None:
    if network == "decoder" and value == "encoder":
        return
    policy = make_policy(discrete, network=network, order=order, value=value)
    obs, mask = observe(6, discrete)
    neighbours = some(6)
    decision = policy.act(obs, mask, deterministic=False, neighbours=neighbours)
    of = (obs, mask, decision.actions, decision.order)
    prepared = policy.prepare_value(*of, neighbours=neighbours)
    evaluation = policy.evaluate(*of, prepared, neighbours=neighbours)
    torch.testing.assert_close(evaluation.log_prob, decision.log_prob, atol=1e-6, rtol=1e-6)
    values = policy.values(obs, *of[2:], prepared, neighbours=neighbours)
    torch.testing.assert_close(values, evaluation.values)


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("order", ["index", "random"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_all_ways_to_decode_agree(blocks: int, order: str, discrete: bool) -> None:
    policy = make_policy(discrete, num_blocks=blocks, order=order)
    obs, mask = observe(9, discrete)
    neighbours = some(9, 3)
    found = []
    for method in FIXED_METHODS:
        policy.decode = Decoding(method)
        generator = torch.Generator().manual_seed(4)
        act = {"generator": generator, "neighbours": neighbours}
        found.append(policy.act(obs, mask, deterministic=False, **act))
    for other in found[1:]:
        torch.testing.assert_close(other.actions, found[0].actions, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(other.log_prob, found[0].log_prob, atol=1e-3, rtol=1e-3)


def test_nothing_comes_from_beyond_the_neighbours() -> None:
    """One block: log-probs depend on what neighbours see and do, and on what these have read."""
    agents = 6
    policy = make_policy(order="random")
    obs, mask = observe(agents, True)[0], torch.ones(B, agents, A, dtype=torch.bool)
    neighbours = some(agents)
    decision = policy.act(obs, mask, deterministic=False, neighbours=neighbours)
    obs.requires_grad_()
    of = (mask, decision.actions, decision.order, None)
    log_prob = policy.evaluate(obs, *of, neighbours=neighbours).log_prob.squeeze(-1)
    table, when = attends(neighbours), ranks(decision.order)
    for i in range(agents):
        (gradient,) = torch.autograd.grad(log_prob[:, i].sum(), obs, retain_graph=True)
        assert torch.equal(gradient.abs().sum(-1) > 0, table[:, i])
    before = when.unsqueeze(1) < when.unsqueeze(2)  # [B, i, j]: j decides before i
    read = table & before
    read = read | (read.double() @ read.double() > 0) | torch.eye(agents, dtype=torch.bool)
    for j in range(agents):
        changed = decision.actions.clone()
        changed[:, j] = (changed[:, j] + 1) % A
        other = policy.evaluate(
            obs, mask, changed, *of[2:], neighbours=neighbours
        ).log_prob.squeeze(-1)
        assert torch.equal((other - log_prob).abs() > 1e-12, read[:, :, j])


def test_neighbours_may_be_more_or_fewer_than_in_training() -> None:
    policy = make_policy()
    for agents, most in ((3, 1), (8, 5), (4, 0)):
        obs, mask = observe(agents, True)
        decision = policy.act(obs, mask, deterministic=True, neighbours=some(agents, most))
        assert decision.actions.shape == (B, agents)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"network": "mlp"}, "network 'mlp' .* attention 'all'"),
        ({"network": "encoder"}, "network 'encoder' .* attention 'all'"),
        ({"network": "gru"}, "network 'gru' .* attention 'all'"),
        ({"network": "transformer", "order": "next_agent"}, "order 'next_agent'"),
    ],
)
def test_what_cannot_be_restricted_is_refused(settings: dict[str, str], line: str) -> None:
    with pytest.raises(UserError, match=line):
        check_network(value="encoder", attention="neighbours", **settings)
