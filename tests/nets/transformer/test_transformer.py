"""The networks: what may depend on what, and that nothing is left without a gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rllib_seqmarl.nets.orders.base import to_order
from rllib_seqmarl.nets.transformer.kv_cache import DecoderCache, PrefixCache
from rllib_seqmarl.nets.transformer.model import ActionSpec, Decoder, Encoder

WIDTH, AGENTS, ACTIONS = 16, 6, 5


def make_decoder(discrete: bool, blocks: int, heads: int = 2, gain: float = 1.0) -> Decoder:
    """A decoder whose weights are large enough for every dependence to be seen."""
    decoder = Decoder(ActionSpec(ACTIONS, discrete), WIDTH, blocks, heads)
    for module in decoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight, gain=gain)
            nn.init.normal_(module.bias, std=0.1)
    return decoder


def make_actions(discrete: bool, batch: int, agents: int = AGENTS) -> Tensor:
    if discrete:
        return torch.randint(ACTIONS, (batch, agents))
    return torch.randn(batch, agents, ACTIONS)


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("blocks", [1, 2])
def test_every_parameter_gets_a_gradient(discrete, blocks):
    torch.manual_seed(0)
    encoder = Encoder(7, WIDTH, blocks, 2)
    decoder = make_decoder(discrete, blocks)
    encoded = encoder(torch.randn(3, AGENTS, 7))
    actions = make_actions(discrete, 3)
    decoder.head(decoder(decoder.shift(actions), encoded).output).square().sum().backward()
    for network in (encoder, decoder):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("agent", [0, 2, AGENTS - 1])
def test_logits_depend_on_the_right_encodings_only(discrete, blocks, agent):
    """One block: on the agent's own o_hat. More: on those up to it. Never on later ones."""
    torch.manual_seed(1)
    decoder = make_decoder(discrete, blocks)
    encoded = torch.randn(2, AGENTS, WIDTH, requires_grad=True)
    logits = decoder.head(decoder(decoder.shift(make_actions(discrete, 2)), encoded).output)
    (gradient,) = torch.autograd.grad(logits[:, agent].square().sum(), encoded)
    depends = (gradient != 0).any(-1).any(0)  # [N]
    positions = torch.arange(AGENTS)
    expected = positions == agent if blocks == 1 else positions <= agent
    assert torch.equal(depends, expected)


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("blocks", [1, 2])
def test_logits_depend_on_the_actions_before_only(discrete, blocks):
    torch.manual_seed(2)
    decoder = make_decoder(discrete, blocks)
    encoded = torch.randn(1, AGENTS, WIDTH)
    actions = make_actions(discrete, 1)
    before = decoder.head(decoder(decoder.shift(actions), encoded).output)
    for changed in range(AGENTS):
        others = actions.clone()
        others[:, changed] = (others[:, changed] + 1) % ACTIONS
        after = decoder.head(decoder(decoder.shift(others), encoded).output)
        same = (before == after).all(-1).squeeze(0)  # [N]
        assert torch.equal(same, torch.arange(AGENTS) <= changed)


@pytest.mark.parametrize("blocks", [1, 2])
def test_encoder_is_equivariant_under_permutations(blocks):
    torch.manual_seed(3)
    encoder = Encoder(7, WIDTH, blocks, 2)
    obs = torch.randn(3, AGENTS, 7)
    permutation = torch.randperm(AGENTS)
    torch.testing.assert_close(encoder(obs[:, permutation]), encoder(obs)[:, permutation])


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("cache_class", [DecoderCache, PrefixCache])
@pytest.mark.parametrize("lengths", [(6,), (1, 1, 1, 1, 1, 1), (2, 1, 3), (4, 2)])
def test_extend_equals_forward(discrete, blocks, heads, lengths, cache_class):
    torch.manual_seed(4)
    decoder = make_decoder(discrete, blocks, heads)
    encoded = torch.randn(3, AGENTS, WIDTH)
    tokens = decoder.shift(make_actions(discrete, 3))
    with torch.no_grad():
        expected = decoder(tokens, encoded).output
        cache = cache_class(decoder, encoded)
        start, parts = 0, []
        for some in tokens.split(lengths, dim=1):
            parts.append(cache.extend(some, start))
            start += some.shape[1]
        extended = torch.cat(parts, dim=1)
        torch.testing.assert_close(extended, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(cache.head(extended), decoder.head(extended))


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("cache_class", [DecoderCache, PrefixCache])
def test_cache_without_some_rows_is_that_of_the_others(discrete, blocks, cache_class):
    torch.manual_seed(5)
    decoder = make_decoder(discrete, blocks)
    encoded = torch.randn(4, AGENTS, WIDTH)
    tokens = decoder.shift(make_actions(discrete, 4))
    rows = torch.tensor([3, 1])
    with torch.no_grad():
        cache = cache_class(decoder, encoded)
        cache.extend(tokens[:, :2], 0)
        cache.keep(rows)
        kept = cache.extend(tokens[rows, 2:], 2)
        torch.testing.assert_close(
            kept, decoder(tokens, encoded).output[rows, 2:], atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("cache_class", [DecoderCache, PrefixCache])
def test_every_agent_as_the_first_is_that_of_an_agent_alone(discrete, blocks, cache_class):
    torch.manual_seed(6)
    decoder = make_decoder(discrete, blocks)
    encoded = torch.randn(3, AGENTS, WIDTH)
    with torch.no_grad():
        guess = cache_class(decoder, encoded).as_first(decoder.start_tokens(1))
        for agent in range(AGENTS):
            alone = decoder(decoder.start_tokens(3), encoded[:, agent : agent + 1]).output
            torch.testing.assert_close(guess[:, agent : agent + 1], alone)


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("blocks", [1, 2])
def test_agents_placed_on_the_way_are_those_of_a_known_order(discrete, blocks):
    torch.manual_seed(7)
    decoder = make_decoder(discrete, blocks)
    encoded = torch.randn(3, AGENTS, WIDTH)
    tokens = decoder.shift(make_actions(discrete, 3))
    order = torch.rand(3, AGENTS).argsort(1)
    with torch.no_grad():
        cache, before = DecoderCache(decoder, encoded), encoded.clone()
        cache.place(order[:, :2], 0)
        first = cache.extend(tokens[:, :2], 0)
        cache.place(order[:, 2:], 2)
        rest = cache.extend(tokens[:, 2:], 2)
        expected = decoder(tokens, to_order(encoded, order)).output
    torch.testing.assert_close(torch.cat((first, rest), 1), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(encoded, before)


@pytest.mark.parametrize("discrete", [True, False])
def test_tokens_are_the_actions_shifted_by_one(discrete):
    decoder = make_decoder(discrete, 1)
    actions = make_actions(discrete, 2, agents=3)
    tokens = decoder.append(actions)
    assert torch.equal(tokens[:, :1], decoder.start_tokens(2))
    assert torch.equal(tokens[:, 1:], decoder.as_tokens(actions))
    assert torch.equal(decoder.shift(actions), tokens[:, :-1])
    if discrete:
        assert tokens.min() == 0  # the start symbol is no action
        assert tokens[:, 1:].min() >= 1


def test_width_must_be_divisible_by_heads():
    with pytest.raises(ValueError, match="not divisible by num_heads"):
        Encoder(7, 10, 1, 3)


def test_a_model_runs_with_any_number_of_agents():
    encoder, decoder = Encoder(7, WIDTH, 1, 1), make_decoder(True, 1)
    for agents in (1, 8, 1024):
        with torch.no_grad():
            encoded = encoder(torch.randn(1, agents, 7))
            actions = torch.zeros(1, agents, dtype=torch.long)
            assert decoder(decoder.shift(actions), encoded).output.shape == (1, agents, WIDTH)
