"""The ablations: who may depend on what, and that every part of the package works with them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.nets.decoding.decode import FIXED_METHODS, decode
from rllib_seqmarl.nets.networks import check_network
from rllib_seqmarl.nets.sequential_policy import SequentialPolicy
from rllib_seqmarl.nets.transformer.ablations import MeanTokenMixer, StaticTokenMixer
from rllib_seqmarl.nets.transformer.kv_cache import action_cache
from rllib_seqmarl.nets.transformer.model import ActionDecoder, ActionSpec, Attention
from rllib_seqmarl.registry import NETWORKS

B, N, OBS, A, WIDTH = 4, 5, 7, 6, 16
PARTS = {name: NETWORKS.resolve(name) for name in NETWORKS}
PAIRS = [(network, value) for network, parts in PARTS.items() for value in parts.values]
SEQUENTIAL = [name for name, parts in PARTS.items() if parts.sequential]


def make_policy(network: str, discrete: bool = True, **settings: object) -> SequentialPolicy:
    """A small policy in float64 with weights far from their gentle initialisation."""
    torch.manual_seed(0)
    settings = {"value": next(iter(PARTS[network].values)), **settings}
    policy = SequentialPolicy(
        obs_dim=OBS,
        action=ActionSpec(A, discrete),
        num_agents=N,
        network=network,
        embed_dim=WIDTH,
        **settings,  # type: ignore[arg-type]
    ).double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return policy


def observe(discrete: bool = True) -> tuple[Tensor, Tensor | None]:
    obs = torch.randn(B, N, OBS, dtype=torch.float64)
    if not discrete:
        return obs, None
    return obs, (torch.rand(B, N, A) > 0.4) | (torch.arange(A) == 0)


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize(("network", "value"), PAIRS)
def test_acting_is_evaluating_and_no_parameter_is_idle(
    network: str, value: str, discrete: bool, blocks: int
) -> None:
    """Ratio 1 before the first update, and a gradient for all that learners exchange."""
    policy = make_policy(network, discrete, value=value, num_blocks=blocks)
    obs, mask = observe(discrete)
    decision = policy.act(obs, mask, deterministic=False)
    prepared = policy.prepare_value(obs, mask, decision.actions, None)
    evaluation = policy.evaluate(obs, mask, decision.actions, None, prepared)
    torch.testing.assert_close(evaluation.log_prob, decision.log_prob, atol=1e-9, rtol=0)
    values = policy.values(obs, decision.actions, None, prepared)
    torch.testing.assert_close(evaluation.values, values, atol=1e-9, rtol=0)
    if not policy.value.reads_actions:
        torch.testing.assert_close(policy.values(obs, None), values, atol=0, rtol=0)
    terms = evaluation.log_prob.sum(-1) + evaluation.entropy + evaluation.values
    terms.sum().backward()
    assert [name for name, p in policy.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("network", SEQUENTIAL)
def test_all_ways_of_decoding_agree(
    network: str, discrete: bool, blocks: int, greedy: bool
) -> None:
    policy = make_policy(network, discrete, num_blocks=blocks)
    obs, mask = observe(discrete)
    with torch.no_grad():
        encoded = policy.encoder(obs)
    noise = None
    if not greedy:
        noise = policy.distribution.noise((B, N), obs.device, None).double()
    decoder = policy.decoder
    assert isinstance(decoder, ActionDecoder)
    oracle, *others = (
        decode(decoder, policy.distribution, encoded, mask, noise, method)
        for method in ("stepwise", *sorted(set(FIXED_METHODS) - {"stepwise"}))
    )
    for other in others:
        torch.testing.assert_close(other.actions, oracle.actions, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(other.log_prob, oracle.log_prob, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("network", SEQUENTIAL)
def test_a_cache_may_be_gone_back_in_and_lose_rows(network: str) -> None:
    policy = make_policy(network, num_blocks=2)
    decoder = policy.decoder
    assert isinstance(decoder, ActionDecoder)
    with torch.no_grad():
        encoded = policy.encoder(observe()[0])
        tokens = decoder.shift(torch.randint(A, (B, N)))
        expected = decoder(tokens, encoded).output
        cache = action_cache(decoder, encoded)
        alone = cache.as_first(decoder.start_tokens(1))
        for agent in range(N):
            own = decoder(decoder.start_tokens(B), encoded[:, agent : agent + 1]).output
            torch.testing.assert_close(alone[:, agent : agent + 1], own)
        cache.extend(decoder.shift(torch.randint(A, (B, N))), 0)  # a wrong guess
        first = cache.extend(tokens[:, :3], 0)
        rows = torch.tensor([3, 1])
        cache.keep(rows)
        torch.testing.assert_close(cache.extend(tokens[rows, 3:], 3), expected[rows, 3:])
        torch.testing.assert_close(first, expected[:, :3])
        torch.testing.assert_close(cache.head(first), decoder.head(first))


@pytest.mark.parametrize("order", ["index", "reverse", "random"])
@pytest.mark.parametrize("network", SEQUENTIAL)
def test_order_and_placing_agents_one_by_one(network: str, order: str) -> None:
    policy = make_policy(network, order=order)
    obs, mask = observe()
    decision = policy.act(obs, mask, deterministic=False)
    evaluation = policy.evaluate(obs, mask, decision.actions, decision.order, None)
    torch.testing.assert_close(evaluation.log_prob, decision.log_prob, atol=1e-9, rtol=0)
    decoder = policy.decoder
    assert isinstance(decoder, ActionDecoder)
    with torch.no_grad():
        encoded = policy.encoder(obs)
        agents = torch.randperm(N).expand(B, N)
        tokens = decoder.shift(torch.randint(A, (B, N)))
        cache, rows = action_cache(decoder, encoded), []
        for position in range(N):
            cache.place(agents[:, position : position + 1], position)
            rows.append(cache.extend(tokens[:, position : position + 1], position))
        expected = decoder(tokens, encoded[:, agents[0]]).output
        torch.testing.assert_close(torch.cat(rows, 1), expected)


#: Network -> whose observation the logits of agent 2 depend on, whose action, and whose
#: observation the first of its values.
EVERYBODY, BEFORE, UP_TO, ITSELF, NOBODY = [0, 1, 2, 3, 4], [0, 1], [0, 1, 2], [2], []
DEPENDENCE = {
    "transformer": (EVERYBODY, BEFORE, EVERYBODY),
    "mlp": (EVERYBODY, BEFORE, EVERYBODY),
    "gnn": (EVERYBODY, BEFORE, EVERYBODY),
    "encoder": (EVERYBODY, NOBODY, EVERYBODY),
    "decoder": (ITSELF, BEFORE, ITSELF),
    "gru": (UP_TO, BEFORE, UP_TO),
    "mat_dec": (ITSELF, NOBODY, EVERYBODY),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_agents_depend_on_what_their_network_lets_them_see(network: str) -> None:
    policy = make_policy(network)
    obs, _ = observe()
    obs.requires_grad_()
    actions = torch.randint(A, (B, N))
    evaluation = policy.evaluate(obs, None, actions, None, None)
    seen = []
    for output in (evaluation.entropy, evaluation.values):
        (gradient,) = torch.autograd.grad(output[:, 2].sum(), obs, retain_graph=True)
        seen.append((gradient != 0).any(-1).any(0).nonzero().flatten().tolist())
    acted = []
    for agent in range(N):
        changed = actions.clone()
        changed[:, agent] = (changed[:, agent] + 1) % A
        other = policy.evaluate(obs, None, changed, None, None)
        if (other.entropy[:, 2] - evaluation.entropy[:, 2]).abs().max() > 1e-12:
            acted.append(agent)
    assert (seen[0], acted, seen[1]) == DEPENDENCE[network]


def test_value_of_the_encoder_alone_is_weighted_by_its_attention() -> None:
    """SrSv-enc, agent by agent."""
    policy = make_policy("encoder", value="sequential", num_blocks=2, num_heads=2)
    obs, _ = observe()
    x = policy.encoder(obs)
    first, last = policy.decoder.blocks
    x = first(x)
    query, key, _ = last.attention.in_projection(x).chunk(3, dim=-1)
    weights = torch.zeros(B, N, N, dtype=torch.float64)
    for part in (slice(0, 8), slice(8, 16)):
        scores = torch.einsum("bid,bjd->bij", query[..., part], key[..., part]) / 8**0.5
        weights += 0.5 * scores.softmax(-1)
    scalars = policy.value.position_value(last(x)).squeeze(-1)
    expected = torch.stack([(weights[:, i] * scalars).sum(-1) for i in range(N)], dim=1)
    torch.testing.assert_close(policy.values(obs, None), expected)


@pytest.mark.parametrize("mixer", [Attention, StaticTokenMixer, MeanTokenMixer])
@pytest.mark.parametrize("causal", [True, False])
def test_the_weighted_mean_of_the_values_is_taken_in(mixer, causal: bool) -> None:
    layer = mixer(WIDTH, 1, N).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = torch.randn(B, N, WIDTH, dtype=torch.float64)
    query, key_value = layer.split(layer.project(x))
    weights = layer.weights(query, key_value, causal)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, N, dtype=torch.float64))
    if causal:
        assert (weights.triu(1) == 0).all()
    expected = weights @ key_value[..., -WIDTH:]
    torch.testing.assert_close(layer.mix(query, key_value, causal), expected)
    if mixer is MeanTokenMixer:
        seen = torch.arange(1, N + 1) if causal else torch.full((N,), N)
        torch.testing.assert_close(weights[0, :, 0], 1.0 / seen.double())


def test_a_learned_mixture_of_positions_is_for_one_number_of_agents() -> None:
    policy = make_policy("mlp")
    for agents in (N - 1, N + 1):
        obs = torch.randn(B, agents, OBS, dtype=torch.float64)
        with pytest.raises(UserError, match=f"{N} agents are mixed and cannot run with {agents}"):
            policy.act(obs, None, deterministic=True)
    with pytest.raises(ValueError, match="number of positions"):
        SequentialPolicy(obs_dim=OBS, action=ActionSpec(A, True), network="mlp")
    for network in set(NETWORKS) - {"mlp"}:
        obs = torch.randn(1, 3 * N, OBS, dtype=torch.float64)
        actions = make_policy(network).act(obs, None, deterministic=True).actions
        assert actions.shape == (1, 3 * N)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"network": "gru", "value": "sequential"},
            "network 'gru' has no value 'sequential': use value encoder or decoder, or one of the "
            "networks transformer, mlp, gnn, encoder, decoder.",
        ),
        ({"network": "decoder", "value": "encoder"}, "network 'decoder' has no value 'encoder'"),
        ({"network": "gnn", "value": "encoder", "num_heads": 2}, "leave num_heads at 1"),
        ({"network": "encoder", "value": "encoder", "order": "random"}, "leave order at index"),
        (
            {"network": "mat_dec", "value": "encoder", "decode": "cached"},
            "network 'mat_dec' decides for all agents at once: leave decode at auto.",
        ),
        (
            {"network": "encoder", "value": "encoder", "autoregressive": False},
            "leave autoregressive at true",
        ),
    ],
)
def test_settings_without_meaning_are_refused(settings, line: str) -> None:
    with pytest.raises(UserError) as refused:
        check_network(**settings)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)
