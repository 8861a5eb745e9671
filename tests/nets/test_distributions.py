"""Action distributions against closed forms, and their noise against the probabilities."""

from __future__ import annotations

import math

import pytest
import torch

from rllib_seqmarl.nets.agents.epsilon import EpsilonCategorical
from rllib_seqmarl.nets.distributions import (
    TOLERANCE,
    Categorical,
    DiagonalGaussian,
)


def test_unavailable_actions_are_never_chosen():
    torch.manual_seed(0)
    distribution = Categorical(6)
    # The unavailable actions have by far the largest logits.
    mask = torch.tensor([True, False, True, True, False, False])
    logits = torch.where(mask, 0.0, 50.0).expand(100_000, 6)
    masks = mask.expand_as(logits)
    noise = distribution.noise((100_000,), logits.device, None)
    actions = distribution.choose(logits, masks, noise)
    assert masks.gather(1, actions.unsqueeze(1)).all()
    assert set(actions.tolist()) == {0, 2, 3}
    assert masks.gather(1, distribution.choose(logits, masks, None).unsqueeze(1)).all()


def test_frequencies_match_softmax():
    torch.manual_seed(1)
    distribution, samples = Categorical(5), 200_000
    logits = torch.tensor([1.0, -0.5, 0.3, 2.0, 0.0])
    mask = torch.tensor([True, True, False, True, True])
    noise = distribution.noise((samples,), logits.device, None)
    actions = distribution.choose(logits.expand(samples, 5), mask.expand(samples, 5), noise)
    frequencies = actions.bincount(minlength=5) / samples
    expected = logits.masked_fill(~mask, -torch.inf).softmax(-1)
    # Four standard errors of the largest probability.
    assert (frequencies - expected).abs().max() < 4 * math.sqrt(0.25 / samples)


def test_categorical_log_prob_and_entropy():
    torch.manual_seed(2)
    distribution = Categorical(5)
    logits, actions = torch.randn(4, 3, 5), torch.randint(3, (4, 3))
    mask = torch.tensor([True, True, True, False, False]).expand_as(logits)
    reference = torch.distributions.Categorical(logits=logits[..., :3])
    log_prob = distribution.log_prob(logits, mask, actions)
    assert log_prob.shape == (4, 3, 1)
    torch.testing.assert_close(log_prob.squeeze(-1), reference.log_prob(actions))
    torch.testing.assert_close(distribution.entropy(logits, mask), reference.entropy())


def test_entropy_of_a_single_available_action_is_zero_with_finite_gradient():
    logits = torch.randn(2, 4, requires_grad=True)
    mask = torch.tensor([False, True, False, False]).expand(2, 4)
    entropy = Categorical(4).entropy(logits, mask)
    assert torch.equal(entropy, torch.zeros(2))
    entropy.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_uniform_entropy_is_log_of_the_number_of_actions():
    entropy = Categorical(7).entropy(torch.zeros(1, 7), None)
    torch.testing.assert_close(entropy, torch.tensor([math.log(7)]))


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("greedy", [True, False])
def test_deciding_with_an_offset_is_choosing(masked, greedy):
    torch.manual_seed(3)
    distribution = Categorical(5)
    logits = torch.randn(1000, 5)
    mask = (torch.rand(1000, 5) < 0.5) | (torch.arange(5) == 1) if masked else None
    noise = None if greedy else distribution.noise((1000,), logits.device, None)
    scores = logits if noise is None else logits + noise
    scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
    decided = distribution.decide(logits, distribution.offset(mask, noise))
    assert torch.equal(decided, scores.argmax(-1))
    assert torch.equal(distribution.choose(logits, mask, noise), decided)


def test_gaussian_standard_deviation_starts_as_in_the_official_code():
    std = DiagonalGaussian(3).std
    torch.testing.assert_close(std, torch.full((3,), 0.5 / (1.0 + math.exp(-1.0))))


def test_gaussian_log_prob_and_entropy():
    torch.manual_seed(4)
    distribution = DiagonalGaussian(3)
    torch.nn.init.normal_(distribution.log_std)
    mean, actions = torch.randn(4, 2, 3), torch.randn(4, 2, 3)
    reference = torch.distributions.Normal(mean, distribution.std)
    log_prob = distribution.log_prob(mean, None, actions)
    assert log_prob.shape == (4, 2, 3)  # per dimension
    torch.testing.assert_close(log_prob, reference.log_prob(actions))
    torch.testing.assert_close(distribution.entropy(mean, None), reference.entropy().sum(-1))


def test_gaussian_samples_have_the_mean_and_the_standard_deviation():
    torch.manual_seed(5)
    distribution = DiagonalGaussian(2)
    mean = torch.tensor([1.0, -2.0]).expand(100_000, 2)
    noise = distribution.noise((100_000,), mean.device, None)
    actions = distribution.choose(mean, None, noise)
    error = 4 * distribution.std / math.sqrt(100_000)
    assert ((actions.mean(0) - mean[0]).abs() < error).all()
    assert ((actions.std(0) - distribution.std).abs() < error).all()
    assert torch.equal(distribution.choose(mean, None, None), mean)


def test_actions_differ_beyond_the_tolerance():
    gaussian = DiagonalGaussian(2)
    zeros, step = torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]) * gaussian.std
    assert (gaussian.distance(zeros, zeros + 0.5 * TOLERANCE * step) < 1.0).all()
    assert (gaussian.distance(zeros, zeros + 2.0 * TOLERANCE * step) > 1.0).all()
    differs = Categorical(3).distance(torch.tensor([[0, 1]]), torch.tensor([[0, 2]])) > 1.0
    assert differs.tolist() == [[False, True]]


@pytest.mark.parametrize("distribution", [Categorical(4), DiagonalGaussian(4)])
def test_noise_is_repeatable_from_a_generator(distribution):
    device = torch.device("cpu")
    first = distribution.noise((3, 2), device, torch.Generator().manual_seed(7))
    again = distribution.noise((3, 2), device, torch.Generator().manual_seed(7))
    assert first.shape == (3, 2, 4)
    assert torch.equal(first, again)


@pytest.mark.parametrize("greedy", [True, False])
def test_action_dimensions_that_an_agent_lacks_are_zero_and_count_for_nothing(greedy):
    torch.manual_seed(5)
    wide, narrow = DiagonalGaussian(3), DiagonalGaussian(2)
    with torch.no_grad():
        wide.log_std.copy_(torch.tensor([0.3, -0.5, 2.0]))
        narrow.log_std.copy_(wide.log_std[:2])
    mask = torch.tensor([True, True, False]).expand(6, 4, 3)
    parameters = torch.randn(6, 4, 3)
    noise = None if greedy else wide.noise((6, 4), parameters.device, None)
    actions = wide.choose(parameters, mask, noise)
    assert not actions[..., 2].any()
    expected = narrow.choose(parameters[..., :2], None, None if greedy else noise[..., :2])
    torch.testing.assert_close(actions[..., :2], expected)
    log_prob = wide.log_prob(parameters, mask, actions)
    assert not log_prob[..., 2].any()
    torch.testing.assert_close(
        log_prob[..., :2], narrow.log_prob(parameters[..., :2], None, expected)
    )
    torch.testing.assert_close(
        wide.entropy(parameters, mask), narrow.entropy(parameters[..., :2], None)
    )
    # Neither the missing dimension's mean nor its spread gets a gradient.
    parameters.requires_grad_()
    log_prob, entropy = (
        wide.log_prob(parameters, mask, actions),
        wide.entropy(parameters, mask),
    )
    (log_prob.sum() + 3.0 * entropy.sum()).backward()
    assert parameters.grad is not None
    assert not parameters.grad[..., 2].any()
    assert wide.log_std.grad is not None
    assert wide.log_std.grad[2] == 0.0
    assert wide.log_std.grad[:2].all()


@pytest.mark.parametrize("greedy", [True, False])
def test_some_actions_are_random(greedy):
    """1 - epsilon of the own choice and epsilon of any available action."""
    epsilon, size = 0.3, 4
    distribution = EpsilonCategorical(size, greedy, epsilon)
    logits = torch.tensor([0.5, 2.0, 9.0, 1.0])
    mask = torch.tensor([True, True, False, True])
    own = torch.tensor([0.0, 1.0, 0.0, 0.0]) if greedy else torch.tensor([0.5, 2.0, 1.0]).softmax(0)
    if not greedy:
        own = torch.stack((own[0], own[1], torch.tensor(0.0), own[2]))
    expected = (1.0 - epsilon) * own + epsilon * mask / 3
    torch.testing.assert_close(distribution.probabilities(logits, mask), expected)
    torch.manual_seed(6)
    many = logits.expand(100_000, size)
    actions = distribution.choose(many, mask, distribution.noise((100_000,), logits.device, None))
    frequency = torch.bincount(actions, minlength=size) / 100_000
    assert (frequency - expected).abs().max() < 4 * 0.5 / math.sqrt(100_000)
    assert frequency[2] == 0
    log_prob = distribution.log_prob(many, mask, actions).squeeze(-1)
    torch.testing.assert_close(log_prob.exp(), expected[actions])
    assert distribution.choose(logits, mask, None) == 1
    entropy = -torch.xlogy(expected, expected).sum()
    torch.testing.assert_close(distribution.entropy(logits, mask), entropy)
    unmasked = distribution.probabilities(logits, None)
    torch.testing.assert_close(unmasked.sum(), torch.tensor(1.0))


def test_without_random_actions_the_best_is_always_chosen():
    torch.manual_seed(7)
    distribution = EpsilonCategorical(5, greedy=True, epsilon=0.0)
    logits = torch.randn(10_000, 5)
    noise = distribution.noise((10_000,), logits.device, None)
    actions = distribution.choose(logits, None, noise)
    assert torch.equal(actions, logits.argmax(-1))
    assert distribution.log_prob(logits, None, actions).abs().max() < 1e-6
    other = EpsilonCategorical(5, greedy=True, epsilon=0.7)
    other.load_state_dict(distribution.state_dict())
    assert other.epsilon == 0
