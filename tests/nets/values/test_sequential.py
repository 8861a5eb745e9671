"""SrSv's values: the fast form against the readable one, and what may depend on what."""

from __future__ import annotations

import pytest
import torch
from helpers.policies import A, B, make_policy, observe
from torch import Tensor

from rllib_seqmarl.nets.decoding.decode import decode
from rllib_seqmarl.nets.orders.base import to_order, to_slots
from rllib_seqmarl.nets.sequential_policy import SequentialPolicy
from rllib_seqmarl.nets.values import sequential_reference as reference
from rllib_seqmarl.nets.values.base import JointActions
from rllib_seqmarl.nets.values.sequential import SUCCESSORS
from rllib_seqmarl.nets.values.suffixes import ROW_STEP, Suffixes


def reference_values(
    policy: SequentialPolicy,
    obs: Tensor,
    mask: Tensor | None,
    actions: Tensor,
    order: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Greedy continuations, in decision order, and values, in slots, by the double loop."""
    encoded = to_order(policy.encoder(obs), order)
    mask = None if mask is None else to_order(mask, order)
    taken = JointActions(
        policy.decoder, policy.distribution, encoded, mask, to_order(actions, order)
    )
    continuations = reference.greedy_continuations(taken)
    trace = policy.decoder(policy.decoder.shift(taken.actions), encoded)
    f = policy.value.position_value
    values = reference.sequential_values(f, trace, policy.decoder, continuations)
    return continuations, to_slots(values, order)


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
    """SrSv, eq. 5-6: continuations, values, and gradients of all that values depend on."""
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
    continuations = policy.prepare_value(obs, mask, decision.actions, decision.order)
    values = policy.values(obs, decision.actions, decision.order, continuations)
    expected = reference_values(policy, obs, mask, decision.actions, decision.order)
    torch.testing.assert_close(continuations, expected[0], atol=1e-9, rtol=0, check_dtype=False)
    torch.testing.assert_close(values, expected[1], atol=1e-9, rtol=0)
    # For a loss that weights every value differently.
    weight = torch.randn(values.shape, dtype=values.dtype)
    parameters = [p for name, p in policy.named_parameters() if not name.startswith("decoder.head")]
    gradients = [
        torch.autograd.grad((weight * v).sum(), parameters, allow_unused=True)
        for v in (values, expected[1])
    ]
    for parameter, fast, readable in zip(parameters, *gradients, strict=True):
        # What cancels out may have no gradient in one of the two forms.
        found, right = (torch.zeros_like(parameter) if g is None else g for g in (fast, readable))
        torch.testing.assert_close(found, right, atol=1e-8, rtol=1e-8)


def test_continuations_keep_predecessors_and_agree_on_the_last_agent() -> None:
    policies = {
        s: make_policy(value="sequential", value_settings={"successors": s}) for s in SUCCESSORS
    }
    obs, mask = observe(5, True)
    actions = policies["greedy"].act(obs, mask, deterministic=False).actions
    continued = {s: p.prepare_value(obs, mask, actions) for s, p in policies.items()}
    continued = {name: continuations.long() for name, continuations in continued.items()}
    for continuations in continued.values():
        for i in range(5):
            torch.testing.assert_close(continuations[:, i, :i], actions[:, :i])
        legal = mask.unsqueeze(1).expand(-1, 5, -1, -1).gather(-1, continuations.unsqueeze(-1))
        own = torch.ones(5, 5, dtype=torch.bool).triu()
        assert legal.squeeze(-1)[:, own].all()
    # The last agent has no successors, and its predecessors' actions are given.
    last = [continuations[:, -1] for continuations in continued.values()]
    torch.testing.assert_close(last[0], last[1])
    torch.testing.assert_close(last[0], last[2])


def test_continuations_of_a_simultaneous_policy_are_its_own_actions() -> None:
    policy = make_policy(value="sequential", autoregressive=False)
    obs, mask = observe(5, True)
    greedy = policy.act(obs, mask, deterministic=True).actions
    taken = policy.act(obs, mask, deterministic=False).actions
    continuations = policy.prepare_value(obs, mask, taken).long()
    for i in range(5):
        torch.testing.assert_close(continuations[:, i, :i], taken[:, :i])
        torch.testing.assert_close(continuations[:, i, i:], greedy[:, i:])


def test_value_without_successor_policy_ignores_own_and_later_actions() -> None:
    policy = make_policy(value="sequential_without_policy")
    obs, mask = observe(4, True)
    actions = policy.act(obs, mask, deterministic=False).actions
    values = policy.values(obs, actions)
    changed = actions.clone()
    changed[:, 2] = (changed[:, 2] + 1) % A
    difference = (policy.values(obs, changed) - values).abs().amax(0)
    assert (difference[:3] == 0).all()
    assert difference[3] > 0


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("agents", [5, 6])
def test_chunks_of_the_sequential_value_change_nothing(
    agents: int, blocks: int, discrete: bool
) -> None:
    """Continuations, values and gradients, for chunks of one group of suffixes, two, and all."""
    found = []
    for chunk_size in (None, 2 * B * (agents + 1), 1):
        policy = make_policy(
            discrete,
            value="sequential",
            num_blocks=blocks,
            value_settings={"chunk_size": chunk_size},
        )
        obs, mask = observe(agents, discrete)
        actions = policy.act(obs, mask, deterministic=True).actions.roll(1, dims=0)
        continuations = policy.prepare_value(obs, mask, actions)
        evaluation = policy.evaluate(obs, mask, actions, None, continuations)
        (evaluation.values.square() + evaluation.log_prob.sum(-1)).sum().backward()
        gradients = [parameter.grad for parameter in policy.parameters()]
        with torch.no_grad():
            values = policy.values(obs, actions, None, continuations)
        found.append([continuations, evaluation.values, values, *gradients])
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, same, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("successors", SUCCESSORS)
@pytest.mark.parametrize(
    ("agents", "ids"), [(5, [1, 4]), (6, [0, 5]), (6, [2]), (6, [0, 1, 5]), (6, [0, 2, 3, 5])]
)
def test_sequential_values_of_some_agents_are_those_of_all(
    agents: int, ids: list[int], successors: str, discrete: bool
) -> None:
    settings = {"successors": successors, "chunk_size": 1}
    policy = make_policy(discrete, value="sequential", value_settings=settings)
    obs, mask = observe(agents, discrete)
    actions = policy.act(obs, mask, deterministic=False).actions
    continuations = policy.prepare_value(obs, mask, actions)
    every = policy.evaluate(obs, mask, actions, None, continuations)
    some = torch.tensor(ids)
    of_some = policy.prepare_value(obs, mask, actions, agent_ids=some)
    torch.testing.assert_close(of_some, continuations[:, some])
    torch.testing.assert_close(policy.value.select(continuations, some), of_some)
    evaluation = policy.evaluate(obs, mask, actions, None, of_some, agent_ids=some)
    expected = torch.zeros_like(every.values)
    expected[:, some] = every.values[:, some]
    torch.testing.assert_close(evaluation.values, expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(evaluation.log_prob, every.log_prob)
    torch.testing.assert_close(
        policy.values(obs, actions, None, of_some, agent_ids=some), evaluation.values
    )


@pytest.mark.parametrize("greedy", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("blocks", [1, 2])
def test_sequences_that_are_the_same_are_computed_once(blocks: int, greedy: float) -> None:
    """Values and rows, from no continuation that goes on as it was taken to all of them."""
    agents = 6
    policy = make_policy(value="sequential", num_blocks=blocks)
    obs, mask = observe(agents, True)
    noise = 1e4 * policy.distribution.noise((B, agents), obs.device, None)
    noise[torch.rand(B, agents) < greedy] = 0.0
    encoded = policy.encoder(obs)
    decoded = decode(policy.decoder, policy.distribution, encoded, mask, noise, "cached")
    actions = decoded.actions.clone()
    prepared = policy.prepare_value(obs, mask, actions)
    values = policy.values(obs, actions, None, prepared)
    expected = reference_values(policy, obs, mask, actions, None)[1]
    torch.testing.assert_close(values, expected, atol=1e-9, rtol=0)
    tokens = policy.decoder.as_tokens(prepared)
    taken = policy.decoder.shift(actions)
    separate = Suffixes.of(tokens, taken, torch.arange(agents), rows_per_window=0)
    together = Suffixes.of(tokens, taken, torch.arange(agents), rows_per_window=10**6)
    assert len(together.windows) == 1
    broken = (policy.prepare_value(obs, mask, actions)[:, 0] != actions).any()
    assert broken == (greedy < 1)
    rows, more = (sum(s * w for s, w in suffixes.windows) for suffixes in (separate, together))
    if greedy == 1:  # only the positions that read values are left
        assert rows == B * agents
    assert rows <= more
    assert rows <= B * agents * (agents + 1) // 2
    assert len(separate.tokens) == len(separate.encoded) == -(-rows // ROW_STEP) * ROW_STEP
