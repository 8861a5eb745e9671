"""All ways of decoding find the same joint action, and their log-probs are those of a full pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rllib_seqmarl.nets import distributions
from rllib_seqmarl.nets.decoding import decode as decoding
from rllib_seqmarl.nets.decoding import methods as decoding_methods
from rllib_seqmarl.nets.decoding.decode import METHODS, Decoding, decode
from rllib_seqmarl.nets.distributions import Categorical, DiagonalGaussian
from rllib_seqmarl.nets.transformer.kv_cache import DecoderCache
from rllib_seqmarl.nets.transformer.model import ActionSpec, Decoder

WIDTH, ACTIONS = 16, 5
#: Untrained; last layer as large as in a policy that is sure; every layer large: agents depend so
#: much on each other that a pass settles one or two of them.
WEIGHTS = ("untrained", "sure", "coupled")


def make(discrete: bool, weights: str, blocks: int = 1, heads: int = 1):
    decoder = Decoder(ActionSpec(ACTIONS, discrete), WIDTH, blocks, heads)
    if weights == "coupled":
        for module in decoder.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight)
    if weights != "untrained":
        nn.init.orthogonal_(decoder.head[-1].weight, gain=3.0)
    distribution = Categorical(ACTIONS) if discrete else DiagonalGaussian(ACTIONS)
    return decoder, distribution


def make_inputs(distribution, batch: int, agents: int, masked: bool, greedy: bool):
    encoded = torch.randn(batch, agents, WIDTH)
    mask = None
    if masked:
        mask = (torch.rand(batch, agents, ACTIONS) < 0.6) | (torch.arange(ACTIONS) == 2)
    noise = None if greedy else distribution.noise((batch, agents), encoded.device, None)
    return encoded, mask, noise


def teacher_forced(decoder, distribution, encoded, mask, actions):
    with torch.no_grad():
        parameters = decoder.head(decoder(decoder.shift(actions), encoded).output)
        return distribution.log_prob(parameters, mask, actions)


def check(decoder, distribution, encoded, mask, noise):
    oracle = decode(decoder, distribution, encoded, mask, noise, "stepwise")
    for method in METHODS:
        decoded = Decoding(method)(decoder, distribution, encoded, mask, noise)
        if decoder.action.discrete:
            assert torch.equal(decoded.actions, oracle.actions), method
        else:
            torch.testing.assert_close(decoded.actions, oracle.actions, atol=1e-4, rtol=1e-4)
        expected = teacher_forced(decoder, distribution, encoded, mask, decoded.actions)
        # With the coupled weights, float32 of one pass is 2e-5 from float64, in whatever way.
        torch.testing.assert_close(decoded.log_prob, expected, atol=4e-5, rtol=1e-5)


@pytest.mark.parametrize("agents", range(1, 18))
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("discrete", [True, False])
def test_all_ways_agree_for_every_team_size(discrete, weights, agents):
    torch.manual_seed(agents)
    decoder, distribution = make(discrete, weights)
    for batch in (1, 9):
        for greedy in (True, False):
            check(
                decoder, distribution, *make_inputs(distribution, batch, agents, discrete, greedy)
            )


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("discrete", [True, False])
def test_all_ways_agree_for_every_network(discrete, heads, blocks, weights):
    torch.manual_seed(0)
    decoder, distribution = make(discrete, weights, blocks, heads)
    for masked in (False, True):
        for greedy in (True, False):
            check(decoder, distribution, *make_inputs(distribution, 7, 11, masked, greedy))


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("overhead", [0, 1, 10, 10_000])
def test_parallel_is_right_whatever_it_takes_a_pass_to_cost(monkeypatch, overhead, discrete):
    """Full passes to the end, narrow ones, one position at a time: the same actions."""
    monkeypatch.setitem(decoding_methods.PASS_OVERHEAD, "cpu", overhead)
    torch.manual_seed(1)
    for weights in WEIGHTS:
        decoder, distribution = make(discrete, weights)
        for batch in (1, 3, 40):
            check(decoder, distribution, *make_inputs(distribution, batch, 40, False, False))


def test_log_prob_is_that_of_the_returned_actions_however_coarse_the_tolerance(monkeypatch):
    monkeypatch.setattr(distributions, "TOLERANCE", 0.05)
    torch.manual_seed(7)
    decoder, distribution = make(False, "coupled")
    encoded, mask, noise = make_inputs(distribution, 9, 12, False, False)
    decoded = decode(decoder, distribution, encoded, mask, noise, "parallel")
    exact = decode(decoder, distribution, encoded, mask, noise, "cached")
    assert (decoded.actions - exact.actions).abs().max() > 1e-3
    expected = teacher_forced(decoder, distribution, encoded, mask, decoded.actions)
    torch.testing.assert_close(decoded.log_prob, expected, atol=1e-5, rtol=1e-5)


def test_parallel_needs_few_passes_where_agents_hardly_depend_on_each_other(monkeypatch):
    passes = []
    extend = DecoderCache.extend

    def counting(self, tokens, start):
        passes.append(tokens.shape)
        return extend(self, tokens, start)

    monkeypatch.setattr(DecoderCache, "extend", counting)
    torch.manual_seed(2)
    decoder, distribution = make(True, "untrained")
    encoded, mask, noise = make_inputs(distribution, 8, 200, False, False)
    decode(decoder, distribution, encoded, mask, noise, "parallel")
    assert len(passes) <= 5


def test_a_thousand_agents():
    torch.manual_seed(3)
    for discrete in (True, False):
        decoder, distribution = make(discrete, "coupled")
        encoded, _, noise = make_inputs(distribution, 1, 1024, False, False)
        parallel = decode(decoder, distribution, encoded, None, noise, "parallel")
        cached = decode(decoder, distribution, encoded, None, noise, "cached")
        torch.testing.assert_close(parallel.actions, cached.actions, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_unavailable_actions_are_never_chosen(method):
    torch.manual_seed(4)
    decoder, distribution = make(True, "coupled")
    rounds = 3 if method == "stepwise" else 10
    for _ in range(rounds):
        encoded, mask, noise = make_inputs(distribution, 1000, 10, True, False)
        actions = Decoding(method)(decoder, distribution, encoded, mask, noise).actions
        assert mask.gather(-1, actions.unsqueeze(-1)).all()


@pytest.mark.parametrize("method", METHODS)
def test_joint_actions_come_with_their_probability(method):
    """Frequencies of the joint actions of two agents against exp(log-prob)."""
    torch.manual_seed(5)
    decoder, distribution = make(True, "sure")
    samples = 40_000
    encoded = torch.randn(1, 2, WIDTH).expand(samples, -1, -1).contiguous()
    noise = distribution.noise((samples, 2), encoded.device, None)
    actions = Decoding(method)(decoder, distribution, encoded, None, noise).actions
    frequencies = (actions[:, 0] * ACTIONS + actions[:, 1]).bincount(minlength=ACTIONS**2) / samples
    joint = torch.cartesian_prod(torch.arange(ACTIONS), torch.arange(ACTIONS))
    log_prob = teacher_forced(decoder, distribution, encoded[: ACTIONS**2], None, joint)
    assert (frequencies - log_prob.sum((1, 2)).exp()).abs().max() < 0.01


@pytest.mark.parametrize("method", METHODS)
def test_results_may_be_used_in_training(method):
    """No tensor of `torch.inference_mode` gets out."""
    decoder, distribution = make(False, "untrained")
    encoded, mask, noise = make_inputs(distribution, 2, 3, False, False)
    actions, log_prob, _, _ = Decoding(method)(decoder, distribution, encoded, mask, noise)
    parameters = decoder.head(decoder(decoder.shift(actions), encoded).output)
    ratio = (distribution.log_prob(parameters, mask, actions) - log_prob).exp()
    ratio.sum().backward()
    torch.testing.assert_close(ratio.detach(), torch.ones_like(ratio), atol=1e-5, rtol=0)


def test_inputs_are_left_alone():
    torch.manual_seed(6)
    for method in METHODS:
        decoder, distribution = make(True, "coupled")
        inputs = make_inputs(distribution, 9, 8, True, False)
        before = [tensor.clone() for tensor in inputs]
        Decoding(method)(decoder, distribution, *inputs)
        for tensor, copy in zip(inputs, before, strict=True):
            assert torch.equal(tensor, copy)


def test_unknown_method_is_refused():
    decoder, distribution = make(True, "untrained")
    inputs = make_inputs(distribution, 1, 2, False, True)
    with pytest.raises(ValueError, match="not 'fastest'"):
        decode(decoder, distribution, *inputs, "fastest")
    with pytest.raises(ValueError, match="not 'fastest'"):
        Decoding("fastest")


class Clock:
    """A clock that stands still but for what the methods are said to take."""

    def __init__(self) -> None:
        self.now = 0.0

    def thread_time(self) -> float:
        return self.now


@pytest.fixture
def timed(monkeypatch):
    """`Decoding` on a clock by which each method takes a given time; and the calls it made."""
    clock, seconds, calls = Clock(), {"parallel": 1.0, "cached": 2.0}, []

    def slow(*arguments):
        *_, method, _, _ = arguments
        calls.append(method)
        clock.now += seconds[method]
        return method

    monkeypatch.setattr(decoding, "time", clock)
    monkeypatch.setattr(decoding, "decode", slow)
    return seconds, calls


def test_auto_takes_the_faster_way(timed):
    seconds, calls = timed
    encoded, network = torch.zeros(4, 3, WIDTH), make(True, "untrained")
    for faster, slower in (("parallel", "cached"), ("cached", "parallel")):
        seconds.update({faster: 1.0, slower: 2.0})
        auto = Decoding("auto")
        assert auto.chosen(4, 3) == "auto"
        for _ in range(1000):
            auto(*network, encoded, None, encoded)
        assert auto.chosen(4, 3) == faster
        assert auto.chosen(4, 3, greedy=True) == "auto"  # shapes are timed on their own
        assert calls[-1000:].count(slower) < 25
        calls.clear()


def test_auto_does_not_insist_on_a_hopeless_way(timed):
    seconds, calls = timed
    seconds["cached"] = 100.0
    auto = Decoding("auto")
    encoded, network = torch.zeros(1, 1024, WIDTH), make(True, "untrained")
    for _ in range(100):
        auto(*network, encoded, None, None)
    assert calls.count("cached") == 1


def test_auto_notices_that_the_policy_has_become_coupled(timed):
    seconds, _ = timed
    auto = Decoding("auto")
    arguments = (*make(True, "untrained"), torch.zeros(4, 3, WIDTH), None, None)
    for _ in range(200):
        auto(*arguments)
    assert auto.chosen(4, 3, greedy=True) == "parallel"
    seconds["parallel"] = 6.0
    for _ in range(200):
        auto(*arguments)
    assert auto.chosen(4, 3, greedy=True) == "cached"
    seconds["parallel"] = 0.5
    for _ in range(1500):
        auto(*arguments)
    assert auto.chosen(4, 3, greedy=True) == "parallel"
