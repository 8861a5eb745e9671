"""The policy's parts together: orders, values, and the identities that hold between its verbs."""

import itertools

import pytest
import torch
from helpers.policies import A, B, make_policy, observe

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.nets.orders.base import to_order, to_slots
from rllib_seqmarl.registry import ORDERS, VALUES


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize(("order", "value"), itertools.product(ORDERS, VALUES))
def test_log_prob_of_acting_is_that_of_evaluating(order: str, value: str, discrete: bool) -> None:
    policy = make_policy(discrete, order=order, value=value)
    obs, mask = observe(4, discrete)
    decision = policy.act(obs, mask, deterministic=False)
    prepared = policy.prepare_value(obs, mask, decision.actions, decision.order)
    evaluation = policy.evaluate(obs, mask, decision.actions, decision.order, prepared)
    torch.testing.assert_close(evaluation.log_prob, decision.log_prob, atol=1e-9, rtol=0)
    values = policy.values(obs, decision.actions, decision.order, prepared)
    torch.testing.assert_close(evaluation.values, values, atol=1e-9, rtol=0)
    assert (evaluation.order is None) == (decision.order_log_prob is None)
    if evaluation.order is not None:
        found = evaluation.order.log_prob
        torch.testing.assert_close(found, decision.order_log_prob, atol=1e-9, rtol=0)


@pytest.mark.parametrize("order", [name for name in ORDERS if name != "index"])
def test_actions_may_be_evaluated_in_another_order_than_the_one_drawn(order: str) -> None:
    """What PMAT's published code computes: another probability than that of acting."""
    policy = make_policy(order=order)
    obs, mask = observe(4, True)
    decision = policy.act(obs, mask, deterministic=False)
    published = policy.evaluate(obs, mask, decision.actions, drawn_order=decision.order)
    in_slots = policy.evaluate(obs, mask, decision.actions)
    torch.testing.assert_close(published.log_prob, in_slots.log_prob, atol=0, rtol=0)
    assert (published.log_prob - decision.log_prob).abs().max() > 1e-3
    if order == "plackett_luce":  # a score does not depend on the decoder's pass
        log_prob = published.order.log_prob
        torch.testing.assert_close(log_prob, decision.order_log_prob, atol=1e-9, rtol=0)


def test_agents_who_see_no_actions_cannot_choose_a_successor() -> None:
    with pytest.raises(UserError, match="cannot say who decides next"):
        make_policy(order="next_agent", autoregressive=False)


@pytest.mark.parametrize("order", ["plackett_luce", "next_agent"])
def test_every_parameter_of_a_learned_order_gets_a_gradient(order: str) -> None:
    for agents in (4, 1):
        policy = make_policy(num_agents=agents, order=order)
        obs, mask = observe(agents, True)
        decision = policy.act(obs, mask, deterministic=False)
        evaluated = policy.evaluate(obs, mask, decision.actions, decision.order).order
        assert evaluated is not None
        (evaluated.log_prob.sum() + evaluated.entropy.sum()).backward()
        assert [name for name, p in policy.order.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("autoregressive", [True, False])
def test_every_parameter_gets_a_gradient(value: str, discrete: bool, autoregressive: bool) -> None:
    """Learners in several processes wait for each other's gradient of every parameter."""
    policy = make_policy(discrete, value=value, autoregressive=autoregressive)
    obs, mask = observe(3, discrete)
    actions = policy.act(obs, mask, deterministic=False).actions
    prepared = policy.prepare_value(obs, mask, actions, None)
    evaluation = policy.evaluate(obs, mask, actions, None, prepared)
    (evaluation.log_prob.sum() + evaluation.entropy.sum() + evaluation.values.sum()).backward()
    assert [name for name, p in policy.named_parameters() if p.grad is None] == []


def test_simultaneous_policy_does_not_see_actions() -> None:
    policy = make_policy(autoregressive=False)
    obs, mask = observe(4, True)
    actions = policy.act(obs, mask, deterministic=False).actions
    log_prob = policy.evaluate(obs, None, actions).log_prob
    changed = actions.clone()
    changed[:, 0] = (changed[:, 0] + 1) % A
    again = policy.evaluate(obs, None, changed).log_prob
    torch.testing.assert_close(log_prob[:, 1:], again[:, 1:], atol=0, rtol=0)
    size = sum(p.numel() for p in policy.parameters())
    assert size == sum(p.numel() for p in make_policy().parameters())


@pytest.mark.parametrize("value", VALUES)
def test_agents_see_each_other_through_the_encoder_in_any_order(value: str) -> None:
    """Renumbering the agents renumbers what is said of them, and nothing else."""
    policy = make_policy(value=value)
    obs, mask = observe(4, True)
    order = torch.tensor([2, 0, 3, 1]).expand(B, 4)
    actions = policy.act(obs, mask, deterministic=False).actions
    prepared = policy.prepare_value(obs, mask, actions, order)
    by_order = policy.evaluate(obs, mask, actions, order, prepared)
    moved = (to_order(obs, order), to_order(mask, order), to_order(actions, order))
    renumbered = policy.evaluate(*moved, None, prepared)
    for one, other in zip(by_order[:3], renumbered[:3], strict=True):
        torch.testing.assert_close(one, to_slots(other, order), atol=1e-9, rtol=0)


def test_same_weights_for_any_number_of_agents() -> None:
    policy = make_policy()
    for agents in (1, 8, 1024):
        obs, mask = observe(agents, True)
        assert policy.act(obs[:1], mask[:1], deterministic=True).actions.shape == (1, agents)


@pytest.mark.parametrize(("value", "passes"), [("encoder", 0), ("decoder", 1)])
def test_values_alone_cost_a_pass_of_the_decoder_only_where_they_read_it(
    value: str, passes: int
) -> None:
    policy = make_policy(value=value)
    obs, mask = observe(4, True)
    actions = policy.act(obs, mask, deterministic=False).actions
    calls = []
    policy.decoder.register_forward_hook(lambda *_: calls.append(1))
    policy.values(obs, actions)
    assert len(calls) == passes
    policy.evaluate(obs, mask, actions)
    assert len(calls) == passes + 1  # one pass serves the policy and the value
