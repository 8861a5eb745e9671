"""Actions of several parts: their distribution against torch's, and all that reads them."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rllib_seqmarl.nets.decoding.decode import METHODS, Choices, Decoding, decode
from rllib_seqmarl.nets.distributions import DiagonalGaussian, Mixed
from rllib_seqmarl.nets.orders.base import to_order, to_slots
from rllib_seqmarl.nets.orders.next_agent import NextAgent
from rllib_seqmarl.nets.sequential_policy import SequentialPolicy
from rllib_seqmarl.nets.transformer.model import ActionSpec, Decoder
from rllib_seqmarl.nets.values import sequential_reference as reference
from rllib_seqmarl.nets.values.base import JointActions

SIZES, REAL = (3, 2), 2
SPEC = ActionSpec(7, discrete=False, parts=SIZES)
CHOICES_ALONE = ActionSpec(5, discrete=False, parts=SIZES)
WIDTH = 16


def distribution_of(spec: ActionSpec) -> Mixed:
    return Mixed(spec.parts, DiagonalGaussian(spec.num_real) if spec.num_real else None)


def masks(batch: int, agents: int, spec: ActionSpec = SPEC) -> Tensor:
    """Random ones in which every third agent lacks a part; whoever has a choice has a way."""
    mask = torch.rand(batch, agents, spec.size) < 0.6
    mask[..., 1] = mask[..., 4] = True
    mask[:, 1::3, 3:5] = False
    mask[:, 2::3, 0:3] = False
    return mask


def test_log_prob_and_entropy_are_those_of_torch() -> None:
    torch.manual_seed(0)
    distribution = distribution_of(SPEC)
    parameters, mask = torch.randn(8, 4, 7), masks(8, 4)
    actions = distribution.choose(parameters, mask, distribution.noise((8, 4), mask.device, None))
    log_prob, entropy = distribution.log_prob_and_entropy(parameters, mask, actions)
    expected, expected_entropy = torch.zeros(8, 4, 4), torch.zeros(8, 4)
    for b, m in itertools.product(range(8), range(4)):
        for part, columns in enumerate((slice(0, 3), slice(3, 5))):
            legal = mask[b, m, columns]
            if not legal.any():
                continue
            by_hand = torch.distributions.Categorical(
                logits=parameters[b, m, columns].masked_fill(~legal, -torch.inf)
            )
            expected[b, m, part] = by_hand.log_prob(actions[b, m, part])
            p = by_hand.probs[legal]
            expected_entropy[b, m] -= (p * p.log()).sum()
        for c in range(REAL):
            if mask[b, m, 5 + c]:
                normal = torch.distributions.Normal(
                    parameters[b, m, 5 + c], 0.5 / (1 + torch.e**-1)
                )
                expected[b, m, 2 + c] = normal.log_prob(actions[b, m, 2 + c])
                expected_entropy[b, m] += normal.entropy()
    torch.testing.assert_close(log_prob, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy, expected_entropy, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(distribution.log_prob(parameters, mask, actions), log_prob)
    torch.testing.assert_close(distribution.entropy(parameters, mask), entropy)


def test_what_an_agent_lacks_is_zero_whatever_the_parameters_say() -> None:
    torch.manual_seed(0)
    distribution, mask = distribution_of(SPEC), masks(200, 3)
    parameters = (300.0 * torch.randn(200, 3, 7)).requires_grad_()
    noise = distribution.noise((200, 3), mask.device, None)
    for some in (noise, None):
        actions = distribution.choose(parameters, mask, some).detach()
        assert not actions[:, 1, 1].any()
        assert not actions[:, 2, 0].any()
        assert not actions[..., 2:][~mask[..., 5:]].any()
        chosen = F.one_hot(actions[:, 0, 0].long(), 3).bool()
        assert mask[:, 0, :3][chosen].all()
    log_prob, entropy = distribution.log_prob_and_entropy(parameters, mask, actions)
    components = SPEC.component_mask(mask)
    assert not log_prob[~components].any()
    assert components[:, 0, :2].all()
    (log_prob.sum() + entropy.sum()).backward()
    assert parameters.grad is not None
    assert not parameters.grad[:, 1, 3:5].any()
    assert not parameters.grad[:, 2, :3].any()


def test_samples_have_the_probabilities_that_are_said() -> None:
    torch.manual_seed(0)
    distribution, samples = distribution_of(CHOICES_ALONE), 100_000
    parameters = torch.randn(5).expand(samples, 5)
    noise = distribution.noise((samples,), parameters.device, None)
    actions = distribution.choose(parameters, None, noise).long()
    frequencies = (2 * actions[:, 0] + actions[:, 1]).bincount(minlength=6) / samples
    joint = torch.cartesian_prod(torch.arange(3.0), torch.arange(2.0))
    log_prob = distribution.log_prob(parameters[:6], None, joint).sum(-1)
    torch.testing.assert_close(frequencies, log_prob.exp(), atol=0.01, rtol=0)


def test_tokens_are_one_hot_vectors_beside_the_real_numbers() -> None:
    decoder = Decoder(SPEC, WIDTH, 1, 1)
    actions = torch.tensor([[[2.0, 0.0, 0.5, -0.5], [0.0, 1.0, 0.0, 0.0]]])
    read = decoder.token_input(decoder.append(actions))
    assert read[0].tolist() == [
        [0, 0, 0, 0, 0, 0, 0],  # the start symbol
        [0, 0, 1, 1, 0, 0.5, -0.5],
        [1, 0, 0, 0, 1, 0, 0],
    ]


def make(spec: ActionSpec, weights: str, blocks: int) -> tuple[Decoder, Mixed]:
    """As in `test_decode`: the more, the more agents depend on each other."""
    decoder = Decoder(spec, WIDTH, blocks, blocks)
    if weights == "coupled":
        for module in decoder.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight)
        nn.init.orthogonal_(decoder.head[-1].weight, gain=3.0)
    return decoder, distribution_of(spec)


@pytest.mark.parametrize("spec", [SPEC, CHOICES_ALONE], ids=["with numbers", "choices alone"])
@pytest.mark.parametrize("weights", ["untrained", "coupled"])
@pytest.mark.parametrize("agents", [1, 3, 12])
def test_all_ways_to_decode_agree(spec: ActionSpec, weights: str, agents: int) -> None:
    torch.manual_seed(agents)
    for batch, greedy, ordered in itertools.product((1, 9), (True, False), (True, False)):
        decoder, distribution = make(spec, weights, blocks=1 + batch % 2)
        encoded, mask = torch.randn(batch, agents, WIDTH), masks(batch, agents, spec)
        noise = None if greedy else distribution.noise((batch, agents), mask.device, None)
        choices = None
        if not ordered:
            next_agent = NextAgent(WIDTH, agents, "mlp", first_agent=0)
            choices = Choices(next_agent, None if greedy else next_agent.noise(encoded, None))
        inputs = (decoder, distribution, encoded, mask, noise)
        oracle = decode(*inputs, "stepwise", choices)
        for method in METHODS:
            decoded = Decoding(method)(*inputs, choices)
            parts = len(SIZES)
            assert torch.equal(decoded.actions[..., :parts], oracle.actions[..., :parts]), method
            torch.testing.assert_close(decoded.actions, oracle.actions, atol=1e-4, rtol=1e-4)
            with torch.no_grad():
                at = to_order(encoded, decoded.order)
                output = decoder(decoder.shift(decoded.actions), at).output
                expected = distribution.log_prob(
                    decoder.head(output), to_order(mask, decoded.order), decoded.actions
                )
            torch.testing.assert_close(decoded.log_prob, expected, atol=4e-5, rtol=1e-5)


def policy_of(spec: ActionSpec = SPEC, **settings: object) -> SequentialPolicy:
    torch.manual_seed(0)
    policy = SequentialPolicy(
        obs_dim=5,
        action=spec,
        embed_dim=WIDTH,
        **{"num_agents": 4, **settings},  # type: ignore[arg-type]
    ).double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return policy


NETWORKS_AND_ORDERS = [
    *(("transformer", order) for order in ("index", "random", "plackett_luce", "next_agent")),
    *((network, "index") for network in ("gru", "gnn", "mlp", "encoder", "mat_dec")),
]


@pytest.mark.parametrize(("network", "order"), NETWORKS_AND_ORDERS)
def test_learners_see_the_probabilities_of_acting(network: str, order: str) -> None:
    policy = policy_of(network=network, order=order)
    obs, mask = torch.randn(6, 4, 5, dtype=torch.float64), masks(6, 4)
    decision = policy.act(obs, mask, deterministic=False)
    evaluation = policy.evaluate(obs, mask, decision.actions, decision.order)
    torch.testing.assert_close(evaluation.log_prob, decision.log_prob, atol=1e-9, rtol=0)
    assert evaluation.log_prob.shape == (6, 4, 4)
    components = SPEC.component_mask(mask)
    assert not evaluation.log_prob[~components].any()


def test_an_agent_reads_every_part_of_its_predecessors_actions() -> None:
    policy = policy_of()
    obs, mask = torch.randn(6, 4, 5, dtype=torch.float64), torch.ones(6, 4, 7, dtype=torch.bool)
    actions = policy.act(obs, mask, deterministic=False).actions
    before = policy.evaluate(obs, mask, actions).log_prob
    for part in range(4):
        changed = actions.clone()
        changed[:, 1, part] = 1.0 - changed[:, 1, part].clamp(max=1.0)
        after = policy.evaluate(obs, mask, changed).log_prob
        assert torch.equal(before[:, 0], after[:, 0])
        assert ((before - after)[:, 2:].abs().amax((1, 2)) > 1e-6).all(), part


@pytest.mark.parametrize("spec", [SPEC, CHOICES_ALONE], ids=["with numbers", "choices alone"])
@pytest.mark.parametrize("order", ["index", "random"])
def test_sequential_value_is_the_papers_double_loop(spec: ActionSpec, order: str) -> None:
    policy = policy_of(spec, value="sequential", order=order, num_blocks=2)
    obs, mask = torch.randn(6, 4, 5, dtype=torch.float64), masks(6, 4, spec)
    decision = policy.act(obs, mask, deterministic=False)
    continuations = policy.prepare_value(obs, mask, decision.actions, decision.order)
    values = policy.values(obs, decision.actions, decision.order, continuations)
    encoded = to_order(policy.encoder(obs), decision.order)
    decoder, actions = policy.decoder, to_order(decision.actions, decision.order)
    in_order = to_order(mask, decision.order)
    taken = JointActions(decoder, policy.distribution, encoded, in_order, actions)
    expected = reference.greedy_continuations(taken)
    torch.testing.assert_close(continuations, expected, atol=1e-9, rtol=0)
    trace = decoder(decoder.shift(actions), encoded)
    readable = reference.sequential_values(policy.value.position_value, trace, decoder, expected)
    torch.testing.assert_close(values, to_slots(readable, decision.order), atol=1e-9, rtol=0)


def test_sequential_value_with_attention_to_neighbours() -> None:
    """All agents as neighbours: the same values as attention to all."""
    policy = policy_of(value="sequential")
    obs, mask = torch.randn(6, 4, 5, dtype=torch.float64), masks(6, 4)
    others = [[n for n in range(4) if n != m] for m in range(4)]
    neighbours = torch.tensor(others).expand(6, 4, 3)
    actions = policy.act(obs, mask, deterministic=False).actions
    found = []
    for near in (None, neighbours):
        prepared = policy.prepare_value(obs, mask, actions, neighbours=near)
        found.append(policy.values(obs, actions, None, prepared, neighbours=near))
    torch.testing.assert_close(found[0], found[1], atol=1e-9, rtol=0)
