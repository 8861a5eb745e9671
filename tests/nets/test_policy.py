"""The policy's parts together: orders, values, and the identities that hold between its verbs."""

import itertools

import pytest
import torch
from helpers.policies import A, B, make_policy, observe

from rllib_seqmarl.nets.orders.orders import ORDERS, to_order, to_slots
from rllib_seqmarl.nets.values.suffixes import Suffixes, _groups, sample_agents
from rllib_seqmarl.nets.values.values import SUCCESSORS, VALUES


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize(("order", "value"), itertools.product(ORDERS, VALUES))
def test_log_prob_of_acting_is_that_of_evaluating(order: str, value: str, discrete: bool) -> None:
    policy = make_policy(discrete, order=order, value=value)
    obs, mask = observe(4, discrete)
    decision = policy.act(obs, mask, deterministic=False)
    completions = policy.completions(obs, mask, decision.actions, decision.order)
    evaluation = policy.evaluate(obs, mask, decision.actions, decision.order, completions)
    torch.testing.assert_close(evaluation.log_prob, decision.log_prob, atol=1e-9, rtol=0)
    values = policy.values(obs, decision.actions, decision.order, completions)
    torch.testing.assert_close(evaluation.values, values, atol=1e-9, rtol=0)
    assert (evaluation.order is None) == (decision.order_log_prob is None)
    if evaluation.order is not None:
        found = evaluation.order.log_prob
        torch.testing.assert_close(found, decision.order_log_prob, atol=1e-9, rtol=0)


@pytest.mark.parametrize("order", [name for name in ORDERS if name != "index"])
def test_actions_taken_in_another_order_are_not_those_of_the_index_order(order: str) -> None:
    """What PMAT's published code computes: another probability than that of acting."""
    policy = make_policy(order=order)
    obs, mask = observe(4, True)
    decision = policy.act(obs, mask, deterministic=False)
    policy.train_in_sampled_order = False
    published = policy.evaluate(obs, mask, decision.actions, decision.order, None)
    assert (published.log_prob - decision.log_prob).abs().max() > 1e-3


def test_agents_who_see_no_actions_cannot_choose_a_successor() -> None:
    with pytest.raises(ValueError, match="cannot say who decides next"):
        make_policy(order="next_agent", autoregressive=False)


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize(
    ("network", "blocks", "heads"),
    [
        ("transformer", 1, 1),
        ("transformer", 2, 2),
        ("mlp", 2, 2),
        ("gnn", 2, 1),
        ("decoder", 1, 2),
    ],
)
@pytest.mark.parametrize("agents", [1, 4, 5])
@pytest.mark.parametrize("order", ["index", "random"])
def test_sequential_value_is_the_papers_double_loop(
    agents: int, network: str, blocks: int, heads: int, discrete: bool, order: str
) -> None:
    """SrSv, eq. 5-6, agent by agent and action by action."""
    policy = make_policy(
        discrete,
        value="sequential",
        network=network,
        num_agents=agents,
        num_blocks=blocks,
        num_heads=heads,
        order=order,
    )
    obs, mask = observe(agents, discrete)
    decision = policy.act(obs, mask, deterministic=False)
    completions = policy.completions(obs, mask, decision.actions, decision.order)
    values = policy.values(obs, decision.actions, decision.order, completions)

    decoder, value = policy.decoder, policy.value
    encoded = to_order(policy.encoder(obs), decision.order)
    ordered_mask = None if mask is None else to_order(mask, decision.order)
    taken = to_order(decision.actions, decision.order)
    naive = torch.empty(B, agents, dtype=torch.float64)
    for i in range(agents):
        joint = taken.clone()
        for k in range(i, agents):
            parameters = decoder.head(decoder(decoder.shift(joint), encoded))
            joint[:, k] = policy.distribution.choose(parameters, ordered_mask, None)[:, k]
        queries = torch.cat((encoded, encoded[:, i : i + 1]), dim=1)
        tokens = decoder.append(joint)
        e, trace = decoder.trace(tokens, queries)
        query, message = trace[-1].cross_query, trace[-1].cross_message
        w = decoder.last_cross_attention.weights(query, message)[:, -1]
        f = torch.stack(
            [
                value.position_value(value.position_value.from_encoded(o_hat), e_j)[:, 0]
                for o_hat, e_j in zip(queries.split(1, dim=1), e.split(1, dim=1), strict=True)
            ],
            dim=1,
        )
        naive[:, i] = (w * f).sum(1)
    torch.testing.assert_close(values, to_slots(naive, decision.order), atol=1e-9, rtol=0)


def test_completions_keep_predecessors_and_agree_on_the_last_agent() -> None:
    policies = {s: make_policy(value="sequential", successors=s) for s in SUCCESSORS}
    obs, mask = observe(5, True)
    actions = policies["greedy"].act(obs, mask, deterministic=False).actions
    completed = {s: p.completions(obs, mask, actions, None).actions for s, p in policies.items()}
    for completions in completed.values():
        for i in range(5):
            torch.testing.assert_close(completions[:, i, :i], actions[:, :i])
        legal = mask.unsqueeze(1).expand(-1, 5, -1, -1).gather(-1, completions.unsqueeze(-1))
        own = torch.ones(5, 5, dtype=torch.bool).triu()
        assert legal.squeeze(-1)[:, own].all()
    # The last agent has no successors, and its predecessors' actions are given.
    last = [completions[:, -1] for completions in completed.values()]
    torch.testing.assert_close(last[0], last[1])
    torch.testing.assert_close(last[0], last[2])


def test_completions_of_a_simultaneous_policy_are_its_own_actions() -> None:
    policy = make_policy(value="sequential", autoregressive=False)
    obs, mask = observe(5, True)
    greedy = policy.act(obs, mask, deterministic=True).actions
    taken = policy.act(obs, mask, deterministic=False).actions
    completions = policy.completions(obs, mask, taken, None).actions
    for i in range(5):
        torch.testing.assert_close(completions[:, i, :i], taken[:, :i])
        torch.testing.assert_close(completions[:, i, i:], greedy[:, i:])


def test_value_without_successor_policy_ignores_own_and_later_actions() -> None:
    policy = make_policy(value="sequential_without_policy")
    obs, mask = observe(4, True)
    actions = policy.act(obs, mask, deterministic=False).actions
    values = policy.values(obs, actions, None, None)
    changed = actions.clone()
    changed[:, 2] = (changed[:, 2] + 1) % A
    difference = (policy.values(obs, changed, None, None) - values).abs().amax(0)
    assert (difference[:3] == 0).all()
    assert difference[3] > 0


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("agents", [5, 6])
def test_chunks_of_the_sequential_value_change_nothing(
    agents: int, blocks: int, discrete: bool
) -> None:
    """Continuations, values and gradients, for chunks of one group of branches, two, and all."""
    found = []
    for chunk_size in (None, 2 * B * (agents + 1), 1):
        policy = make_policy(
            discrete, value="sequential", num_blocks=blocks, value_chunk_size=chunk_size
        )
        obs, mask = observe(agents, discrete)
        actions = policy.act(obs, mask, deterministic=True).actions.roll(1, dims=0)
        completions = policy.completions(obs, mask, actions, None)
        evaluation = policy.evaluate(obs, mask, actions, None, completions)
        (evaluation.values.square() + evaluation.log_prob.sum(-1)).sum().backward()
        gradients = [parameter.grad for parameter in policy.parameters()]
        with torch.no_grad():
            values = policy.values(obs, actions, None, completions)
        found.append([completions.actions, evaluation.values, values, *gradients])
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, same, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("successors", SUCCESSORS)
@pytest.mark.parametrize("agents", [5, 6])
def test_sequential_values_of_some_agents_are_those_of_all(
    agents: int, successors: str, discrete: bool
) -> None:
    policy = make_policy(discrete, value="sequential", successors=successors, value_chunk_size=1)
    obs, mask = observe(agents, discrete)
    actions = policy.act(obs, mask, deterministic=False).actions
    completions = policy.completions(obs, mask, actions, None)
    every = policy.evaluate(obs, mask, actions, None, completions)
    generator = torch.Generator().manual_seed(2)
    some = sample_agents(agents, 3, generator)
    assert 2 < len(some) < agents
    of_some = policy.completions(obs, mask, actions, None, some)
    torch.testing.assert_close(of_some.actions, completions.actions[:, some])
    evaluation = policy.evaluate(obs, mask, actions, None, of_some)
    expected = torch.zeros_like(every.values)
    expected[:, some] = every.values[:, some]
    torch.testing.assert_close(evaluation.values, expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(evaluation.log_prob, every.log_prob)
    torch.testing.assert_close(policy.values(obs, actions, None, of_some), evaluation.values)


@pytest.mark.parametrize("agents", [1, 5, 6])
def test_every_agent_is_sampled_equally_often(agents: int) -> None:
    generator = torch.Generator().manual_seed(1)
    draws = 3000
    counts = torch.zeros(agents)
    for _ in range(draws):
        counts[sample_agents(agents, 2, generator)] += 1
    share = 1 / len(_groups(agents))
    assert (counts / draws - share).abs().max() <= 4 * (share * (1 - share) / draws) ** 0.5
    assert sample_agents(agents, agents, generator).tolist() == list(range(agents))
    assert sample_agents(agents, 10**6, generator).tolist() == list(range(agents))


def test_branches_of_agents_who_do_not_fill_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fill groups"):
        list(Suffixes.chunks(6, 1, None, torch.device("cpu"), [0, 1]))


@pytest.mark.parametrize("order", ["plackett_luce", "next_agent"])
def test_every_parameter_of_a_learned_order_gets_a_gradient(order: str) -> None:
    for agents in (4, 1):
        policy = make_policy(num_agents=agents, order=order)
        obs, mask = observe(agents, True)
        decision = policy.act(obs, mask, deterministic=False)
        judged = policy.evaluate(obs, mask, decision.actions, decision.order, None).order
        assert judged is not None
        (judged.log_prob.sum() + judged.entropy.sum()).backward()
        assert [name for name, p in policy.order.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("autoregressive", [True, False])
def test_every_parameter_gets_a_gradient(value: str, discrete: bool, autoregressive: bool) -> None:
    """Learners in several processes wait for each other's gradient of every parameter."""
    policy = make_policy(discrete, value=value, autoregressive=autoregressive)
    obs, mask = observe(3, discrete)
    actions = policy.act(obs, mask, deterministic=False).actions
    completions = policy.completions(obs, mask, actions, None)
    evaluation = policy.evaluate(obs, mask, actions, None, completions)
    (evaluation.log_prob.sum() + evaluation.entropy.sum() + evaluation.values.sum()).backward()
    assert [name for name, p in policy.named_parameters() if p.grad is None] == []


def test_simultaneous_policy_does_not_see_actions() -> None:
    policy = make_policy(autoregressive=False)
    obs, mask = observe(4, True)
    actions = policy.act(obs, mask, deterministic=False).actions
    log_prob = policy.evaluate(obs, None, actions, None, None).log_prob
    changed = actions.clone()
    changed[:, 0] = (changed[:, 0] + 1) % A
    again = policy.evaluate(obs, None, changed, None, None).log_prob
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
    completions = policy.completions(obs, mask, actions, order)
    by_order = policy.evaluate(obs, mask, actions, order, completions)
    moved = (to_order(obs, order), to_order(mask, order), to_order(actions, order))
    renumbered = policy.evaluate(*moved, None, completions)
    for one, other in zip(by_order[:3], renumbered[:3], strict=True):
        torch.testing.assert_close(one, to_slots(other, order), atol=1e-9, rtol=0)


def test_same_weights_for_any_number_of_agents() -> None:
    policy = make_policy()
    for agents in (1, 8, 1024):
        obs, mask = observe(agents, True)
        assert policy.act(obs[:1], mask[:1], deterministic=True).actions.shape == (1, agents)
