"""All ways of decoding find the same actions in the same order, where the order is found too."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from rllib_seqmarl.nets.decoding import methods as decoding_methods
from rllib_seqmarl.nets.decoding.decode import METHODS, Choices, Decoding, decode
from rllib_seqmarl.nets.distributions import Categorical, DiagonalGaussian
from rllib_seqmarl.nets.orders.base import to_order
from rllib_seqmarl.nets.orders.next_agent import (
    NEXT_AGENT_HEADS,
    NextAgent,
    next_agent_log_prob,
)
from rllib_seqmarl.nets.transformer.kv_cache import DecoderCache
from rllib_seqmarl.nets.transformer.model import ActionSpec, Decoder

WIDTH, ACTIONS = 16, 5
#: Untrained; heads as large as in a policy that is sure; every layer large, so that the order
#: depends on the actions and the actions on the order.
WEIGHTS = ("untrained", "sure", "coupled")


def make(discrete: bool, weights: str, agents: int, head: str = "mlp", blocks: int = 1):
    decoder = Decoder(ActionSpec(ACTIONS, discrete), WIDTH, blocks, heads=blocks)
    next_agent = NextAgent(WIDTH, agents, head, first_agent=agents // 2)
    if weights == "coupled":
        for module in (*decoder.modules(), *next_agent.modules()):
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight)
    if weights != "untrained":
        nn.init.orthogonal_(decoder.head[-1].weight, gain=3.0)
        last = next_agent.out if head == "pointer" else next_agent.out[-1]
        nn.init.orthogonal_(last.weight, gain=3.0)
    distribution = Categorical(ACTIONS) if discrete else DiagonalGaussian(ACTIONS)
    return decoder, distribution, next_agent


def make_inputs(distribution, next_agent, batch: int, agents: int, masked: bool, greedy: bool):
    encoded = torch.randn(batch, agents, WIDTH)
    mask = None
    if masked:
        mask = (torch.rand(batch, agents, ACTIONS) < 0.6) | (torch.arange(ACTIONS) == 2)
    if greedy:
        return encoded, mask, None, Choices(next_agent, None)
    noise = distribution.noise((batch, agents), encoded.device, None)
    return encoded, mask, noise, Choices(next_agent, next_agent.noise(encoded, None))


def check(decoder, distribution, encoded, mask, noise, choices):
    inputs = (decoder, distribution, encoded, mask, noise)
    oracle = decode(*inputs, "stepwise", choices)
    for method in METHODS:
        decoded = Decoding(method)(*inputs, choices)
        assert torch.equal(decoded.order, oracle.order), method
        if decoder.action.discrete:
            assert torch.equal(decoded.actions, oracle.actions), method
        else:
            torch.testing.assert_close(decoded.actions, oracle.actions, atol=1e-4, rtol=1e-4)
        with torch.no_grad():
            output = decoder(
                decoder.shift(decoded.actions), to_order(encoded, decoded.order)
            ).output
            ordered = None if mask is None else to_order(mask, decoded.order)
            expected = distribution.log_prob(decoder.head(output), ordered, decoded.actions)
            logits = choices.next_agent.logits(output[:, :-1], encoded)
            order_log_prob, _ = next_agent_log_prob(logits, decoded.order)
        # With the coupled weights, float32 of one pass is 2e-5 from float64, in whatever way.
        torch.testing.assert_close(decoded.log_prob, expected, atol=4e-5, rtol=1e-5)
        torch.testing.assert_close(decoded.order_log_prob, order_log_prob, atol=4e-5, rtol=1e-5)


@pytest.mark.parametrize("agents", [1, 2, 3, 4, 5, 8, 13])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("discrete", [True, False])
def test_all_ways_agree_for_every_team_size(discrete, weights, agents):
    torch.manual_seed(agents)
    network = make(discrete, weights, agents)
    for batch, greedy in itertools.product((1, 9), (True, False)):
        inputs = make_inputs(network[1], network[2], batch, agents, discrete, greedy)
        check(*network[:2], *inputs)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("head", NEXT_AGENT_HEADS)
@pytest.mark.parametrize("discrete", [True, False])
def test_all_ways_agree_for_every_network(discrete, head, blocks, weights):
    torch.manual_seed(0)
    network = make(discrete, weights, 7, head, blocks)
    for masked, greedy in itertools.product((False, True), (True, False)):
        check(*network[:2], *make_inputs(network[1], network[2], 6, 7, masked, greedy))


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("overhead", [0, 1, 10, 10_000])
def test_parallel_is_right_whatever_it_takes_a_pass_to_cost(monkeypatch, overhead, discrete):
    monkeypatch.setitem(decoding_methods.PASS_OVERHEAD, "cpu", overhead)
    torch.manual_seed(1)
    for weights, batch in itertools.product(WEIGHTS, (1, 12)):
        network = make(discrete, weights, 20)
        check(*network[:2], *make_inputs(network[1], network[2], batch, 20, False, False))


def test_parallel_needs_few_passes_where_agents_hardly_depend_on_each_other(monkeypatch):
    passes = []
    extend = DecoderCache.extend

    def counting(self, tokens, start):
        passes.append(tokens.shape)
        return extend(self, tokens, start)

    monkeypatch.setattr(DecoderCache, "extend", counting)
    torch.manual_seed(2)
    network = make(True, "untrained", 60)
    inputs = make_inputs(network[1], network[2], 8, 60, False, False)
    decode(*network[:2], *inputs[:3], "parallel", inputs[3])
    assert len(passes) <= 10


def test_nobody_decides_twice_and_the_first_is_set():
    torch.manual_seed(3)
    network = make(True, "coupled", 6)
    for method in METHODS:
        inputs = make_inputs(network[1], network[2], 50, 6, True, False)
        order = Decoding(method)(*network[:2], *inputs[:3], inputs[3]).order
        assert torch.equal(order.sort(1).values, torch.arange(6).expand(50, 6))
        assert (order[:, 0] == 3).all()


@pytest.mark.parametrize("method", METHODS)
def test_orders_and_actions_come_with_their_probability(method):
    """Frequencies of (order, joint action) of three agents against exp(log-prob)."""
    torch.manual_seed(5)
    network = make(True, "sure", 3)
    samples = 40_000
    encoded, mask, noise, choices = make_inputs(network[1], network[2], samples, 3, False, False)
    encoded = encoded[:1].expand(samples, -1, -1).contiguous()
    decoded = Decoding(method)(*network[:2], encoded, mask, noise, choices)
    digits = torch.cat((decoded.order[:, 1:2] == 0, decoded.actions), 1)
    codes = (digits * torch.tensor([125, 25, 5, 1])).sum(1)
    log_prob = decoded.log_prob.sum((1, 2)) + decoded.order_log_prob.sum(1)
    seen, where, counts = codes.unique(return_inverse=True, return_counts=True)
    probability = torch.zeros(len(seen)).scatter(0, where, log_prob.exp())
    assert probability.sum() > 0.99
    assert (counts / samples - probability).abs().max() < 0.01
