"""Loss terms on small tensors whose value is known."""

import pytest
import torch

from rllib_seqmarl.losses import (
    adaptive_entropy,
    approximate_kl,
    clipped_surrogate,
    clipped_value_loss,
    huber,
    probability_ratio,
    ratio_deviation,
    weighted_sum,
)


def test_ratio_aggregations() -> None:
    new = torch.log(torch.tensor([[[2.0, 0.5]]]))
    old = torch.zeros(1, 1, 2)
    torch.testing.assert_close(probability_ratio(new, old, "per_dim"), torch.tensor([[[2.0, 0.5]]]))
    torch.testing.assert_close(probability_ratio(new, old, "prod"), torch.ones(1, 1, 1))
    torch.testing.assert_close(probability_ratio(new * 2, old, "mean"), torch.ones(1, 1, 1))
    # An agent with one of two action dimensions: the mean is over the one that it has.
    single = torch.log(torch.tensor([[[2.0, 1.0]]]))
    exists = torch.tensor([[[True, False]]])
    torch.testing.assert_close(
        probability_ratio(single, old, "mean", exists), torch.full((1, 1, 1), 2.0)
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.1, 2.0, -2.2),  # inside the range: the plain objective
        (1.5, 2.0, -2.4),  # too far up with a good action: held
        (1.5, -2.0, 3.0),  # too far up with a bad one: not held, so that it comes back
        (0.5, -2.0, 1.6),
        (0.5, 2.0, -1.0),
    ],
)
def test_surrogate_is_pessimistic(ratio: float, advantage: float, loss: float) -> None:
    result = clipped_surrogate(torch.tensor([[[ratio]]]), torch.tensor([[advantage]]), 0.2)
    torch.testing.assert_close(result, torch.tensor([[loss]]))


def test_surrogate_sums_over_components() -> None:
    ratio = torch.tensor([[[1.1, 1.5]]])
    result = clipped_surrogate(ratio, torch.tensor([[2.0]]), 0.2)
    torch.testing.assert_close(result, torch.tensor([[-4.6]]))


def test_no_gradient_beyond_the_clip() -> None:
    ratio = torch.tensor([[[1.5]], [[1.1]]], requires_grad=True)
    clipped_surrogate(ratio, torch.ones(2, 1), 0.2).sum().backward()
    torch.testing.assert_close(ratio.grad.flatten(), torch.tensor([0.0, -1.0]))


def test_huber_is_two_sided_with_a_bounded_gradient() -> None:
    error = torch.tensor([-20.0, -1.0, 0.0, 1.0, 20.0], requires_grad=True)
    loss = huber(error, 10.0)
    torch.testing.assert_close(loss, torch.tensor([150.0, 0.5, 0.0, 0.5, 150.0]))
    loss.sum().backward()
    torch.testing.assert_close(error.grad, torch.tensor([-10.0, -1.0, 0.0, 1.0, 10.0]))


def test_value_loss_takes_the_larger_error() -> None:
    values = torch.tensor([[1.0]], requires_grad=True)
    loss = clipped_value_loss(values, torch.zeros(1, 1), torch.ones(1, 1), 0.2, 10.0)
    torch.testing.assert_close(loss, torch.tensor([[0.32]]))  # held at 0.2, target 1
    loss.sum().backward()
    assert values.grad.item() == 0.0


def test_weighted_sum_leaves_rubbish_out() -> None:
    x = torch.tensor([1.0, float("nan"), float("inf"), 3.0], requires_grad=True)
    total = weighted_sum(x, torch.tensor([0.5, 0.0, 0.0, 2.0]))
    assert total.item() == 6.5
    total.backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.5, 0.0, 0.0, 2.0]))


def test_ratio_deviation_counts_the_components_that_an_agent_has() -> None:
    """By hand; a component that is lacking has the ratio 1 and stands for nothing."""
    ratio = torch.tensor([[[1.5, 0.9], [1.5, 1.0], [1.0, 1.0]]])
    has = torch.tensor([[[True, True], [True, False], [False, False]]])
    deviation, clipped = ratio_deviation(ratio, 0.2, has)
    torch.testing.assert_close(deviation, torch.tensor([[0.3, 0.5, 0.0]]))
    torch.testing.assert_close(clipped, torch.tensor([[0.5, 1.0, 0.0]]))
    # Without a mask, and of whole actions, whatever their components.
    torch.testing.assert_close(ratio_deviation(ratio, 0.2)[1], torch.tensor([[0.5, 0.5, 0.0]]))
    torch.testing.assert_close(ratio_deviation(ratio[..., :1], 0.2, has)[0], ratio[..., 0] - 1.0)


def test_adaptive_entropy_has_the_gradient_of_equation_14() -> None:
    """-xi (log p + 1) / H per probability; xi is the caller's."""
    p = torch.tensor([[0.7, 0.2, 0.1], [0.98, 0.01, 0.01]], requires_grad=True)
    entropy = -(p * p.log()).sum(-1)
    (gradient,) = torch.autograd.grad(adaptive_entropy(entropy).sum(), p)
    expected = -(p.log() + 1.0) / entropy.unsqueeze(-1)
    torch.testing.assert_close(gradient, expected.detach())


def test_adaptive_entropy_by_the_level_of_all() -> None:
    entropy = torch.tensor([0.5, 1.0, 0.0])
    found = adaptive_entropy(entropy, entropy.mean())
    torch.testing.assert_close(found, torch.tensor([1.0, 2.0, 0.0]))
    assert adaptive_entropy(entropy)[2] == 0.0  # one legal action: nothing to divide


def test_approximate_kl_is_an_unbiased_estimate_and_never_negative() -> None:
    """Its mean over all actions of the old policy is KL(old || new); two components add up."""
    generator = torch.Generator().manual_seed(0)
    old, new = torch.randn(2, 2, 5, generator=generator).log_softmax(-1)  # [K, A] each
    exact = (old.exp() * (old - new)).sum()
    joint = [torch.stack((x[0].repeat_interleave(5), x[1].repeat(5)), dim=-1) for x in (old, new)]
    found = approximate_kl(joint[1], joint[0])
    assert (found >= 0).all()
    torch.testing.assert_close((joint[0].sum(-1).exp() * found).sum(), exact)
