"""Attention restricted to neighbours: against a plain masked computation, and what must hold."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from helpers.policies import A, B, make_policy, observe
from torch import Tensor

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.nets.decoding.decode import FIXED_METHODS, Decoding
from rllib_seqmarl.nets.networks import check_network
from rllib_seqmarl.nets.orders.base import ranks, to_order, to_slots
from rllib_seqmarl.nets.sequential_policy import SequentialPolicy
from rllib_seqmarl.registry import ORDERS, VALUES

GIVEN_ORDERS = [name for name in ORDERS if name != "next_agent"]
LOCAL = ["transformer", "gnn", "decoder"]


def everyone(agents: int) -> Tensor:
    """All others, int [B, N, N - 1]."""
    others = [[j for j in range(agents) if j != i] for i in range(agents)]
    return torch.tensor(others).expand(B, agents, agents - 1)


def some(agents: int, most: int = 2) -> Tensor:
    """Up to ``most`` others, not mutual, int [B, N, most]; some agents have none."""
    generator = torch.Generator().manual_seed(2)
    table = torch.full((B, agents, most), -1)
    for b, i in itertools.product(range(B), range(agents)):
        others = [j for j in torch.randperm(agents, generator=generator).tolist() if j != i]
        count = int(torch.randint(0, most + 1, (), generator=generator))
        for k, j in enumerate(others[:count]):
            table[b, i, k] = j
    return table


def attends(neighbours: Tensor) -> Tensor:
    """bool [B, N, N], itself included."""
    agents = neighbours.shape[1]
    same = neighbours.unsqueeze(-1) == torch.arange(agents)
    return same.any(2) | torch.eye(agents, dtype=torch.bool)


def masked_attention(layer, query: Tensor, key_value: Tensor, visible: Tensor):
    """The attention's output [B, L, D] and its weights [B, L, S], visible bool [B, L, S]."""
    split = lambda x: x.unflatten(-1, (layer.heads, -1)).transpose(1, 2)  # noqa: E731
    key, value = key_value.chunk(2, dim=-1)
    scores = split(query) @ split(key).mT / math.sqrt(key.shape[-1] // layer.heads)
    weights = scores.masked_fill(~visible.unsqueeze(1), -math.inf).softmax(-1)
    mixed = (weights @ split(value)).transpose(1, 2).flatten(2)
    return layer.out_projection(mixed), weights.mean(1)


def masked_encoder(policy: SequentialPolicy, obs: Tensor, table: Tensor) -> Tensor:
    x = policy.encoder.norm(policy.encoder.embed(obs))
    for block in policy.encoder.blocks:
        layer = block.attention
        mixed, _ = masked_attention(layer, *layer.split(layer.project(x)), table)
        x = block.norm_attention(x + mixed)
        x = block.norm_feed_forward(x + block.feed_forward(x))
    return x


def masked_decoder(policy, tokens: Tensor, encoded: Tensor, table: Tensor, last: int = 0):
    """Output and last cross-attention weights; table bool [B, N, N].

    With a position more than there are agents, whose query is that of agent ``last``.
    """
    decoder = policy.decoder
    agents, length = table.shape[1], tokens.shape[1]
    agent = [*range(agents), last][:length]  # of each position
    action, query, state = (torch.zeros(B, length, length, dtype=torch.bool) for _ in range(3))
    for m in range(length):
        action[:, m, m] = True
        state[:, m, m] = True
        action[:, m, 0] = query[:, m, 0] = True
        for n in range(m):  # the action of agent n, at position n + 1
            action[:, m, n + 1] |= table[:, m - 1, n]
            query[:, m, n + 1] |= table[:, agent[m], n]
            state[:, m, n] |= table[:, agent[m], n]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    x = decoder.embed(tokens, decoder.symbols())
    for index, block in enumerate(decoder.layers()):
        own, cross = block.self_attention, block.cross_attention
        visible = (action if index == 0 else state) & causal
        mixed, _ = masked_attention(own, *own.split(own.project(x)), visible)
        x = block.norm_self(x + mixed)
        query_of, key_value = cross.project_query(encoded), cross.project_key_value(x)
        visible = (query if index == 0 else state) & causal
        mixed, weights = masked_attention(cross, query_of, key_value, visible)
        x = block.norm_cross(encoded + mixed)
        x = block.norm_feed_forward(x + block.feed_forward(x))
    return x, weights


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
    table = attends(neighbours)
    if decision.order is not None:
        table = to_order(table, decision.order)
        table = to_order(table.mT, decision.order).mT
    decoder, f = policy.decoder, policy.value.position_value
    decoded, _ = masked_decoder(policy, decoder.shift(taken), encoded, table)
    log_prob = policy.distribution.log_prob(decoder.head(decoded), ordered_mask, taken)
    torch.testing.assert_close(evaluation.log_prob, to_slots(log_prob, decision.order))
    naive = torch.empty(B, agents, dtype=torch.float64)
    for i in range(agents):
        joint = taken.clone()
        for k in range(i, agents):
            x, _ = masked_decoder(policy, decoder.shift(joint), encoded, table)
            chosen = policy.distribution.choose(decoder.head(x), ordered_mask, None)
            joint[:, k] = chosen[:, k]
        queries = torch.cat((encoded, encoded[:, i : i + 1]), dim=1)
        e, w = masked_decoder(policy, decoder.append(joint), queries, table, last=i)
        scalars = f(queries, e)
        naive[:, i] = (w[:, -1] * scalars).sum(1)
    torch.testing.assert_close(
        evaluation.values, to_slots(naive, decision.order), atol=1e-9, rtol=0
    )


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
