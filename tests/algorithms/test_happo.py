"""HAPPO's loop over agents and its loss, against plain loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.learners import learner_of
from torch import Tensor

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.nets.agents.stacked import StackedParameter

GAME: dict[str, Any] = {
    "env": "mpe",
    "env_config": {"episode_length": 4, "state": True},
    "state": "environment",
    "num_envs_per_env_runner": 2,
    "chunk_length": 5,
}
AGENTS = 3


def build(small: Any, **settings: Any) -> tuple[Any, Any]:
    algorithm = small("HAPPO", **GAME | settings).build_algo()
    return algorithm, learner_of(algorithm)


def of_each_agent(learner: Any, value: Any) -> list[list[Tensor]]:
    """``value(parameter)`` of all actor parameters, agent by agent."""
    parts = [one for one in learner.core.actor.modules() if isinstance(one, StackedParameter)]
    return [[value(part.members[agent]).clone() for part in parts] for agent in range(AGENTS)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_loss_is_the_formula(small: Any) -> None:
    """The factor stands outside of the clip, and not before the entropy."""
    eps, c_ent = 0.1, 0.03
    algorithm, learner = build(small, clip_param=eps, entropy_coeff=c_ent)
    rows = learner.build_train_batch(algorithm.env_runner.sample()[0])
    rows.alive[::3, 1] = False
    generator = torch.Generator().manual_seed(0)
    rows.factor = torch.rand(rows.advantages.shape, generator=generator) * 2.0 + 0.1
    rows = learner.prepare_minibatch(rows)
    with torch.no_grad():
        for parameter in learner.core.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    out = learner.core.forward_train(rows)
    found = learner.compute_loss_for_module(
        module_id="default_policy", config=learner.config, batch=rows, fwd_out=out
    )
    alive, expected, clipped = rows.alive, 0.0, 0
    for b in range(len(alive)):
        for i in range(AGENTS):
            if alive[b, i]:
                r = (out.log_prob[b, i] - rows.log_prob[b, i]).exp().item()
                a, held = rows.advantages[b, i].item(), min(max(r, 1 - eps), 1 + eps)
                clipped += held != r
                expected -= rows.factor[b, i].item() * min(r * a, held * a)
                expected -= c_ent * out.entropy[b, i].item()
    assert clipped > 5
    assert found.item() == pytest.approx(expected / alive.sum().item(), rel=1e-4, abs=1e-6)
    algorithm.stop()


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
def test_agents_move_one_after_another(recurrent: bool, small: Any) -> None:
    """A phase leaves the others' weights and moments bitwise alone; factors are of those before.

    The factor of each phase is the product, agent by agent, of pi_now / pi_old before it began.
    """
    algorithm, learner = build(small, recurrent=recurrent, lr=1e-2, num_epochs=2)
    algorithm.train()  # so that Adam has moments
    (rollout,) = algorithm.env_runner.sample()
    rows = learner.build_train_batch(rollout)
    step = learner.gradient_step
    optimizer = learner.get_optimizer("default_policy", "actor")

    def state() -> dict[str, list[list[Tensor]]]:
        return {
            "weights": of_each_agent(learner, lambda p: p.detach()),
            "moments": of_each_agent(learner, lambda p: optimizer.state[p]["exp_avg"]),
            "squares": of_each_agent(learner, lambda p: optimizer.state[p]["exp_avg_sq"]),
            "steps": of_each_agent(learner, lambda p: optimizer.state[p]["step"]),
        }

    phases: list[tuple[int | None, Tensor, Tensor]] = []

    def watch(minibatch: Any, loss: Any) -> None:
        before, factor = state(), minibatch.factor
        with torch.no_grad():
            ratio = (learner.core.evaluate(rows).log_prob - rows.log_prob)[..., 0].exp()
        step(minibatch, loss)
        after = state()
        for agent in range(AGENTS):
            equal = {same(before[name][agent], after[name][agent]) for name in before}
            assert len(equal) == 1  # all of them moved, or none
        moved = [a for a in range(AGENTS) if not same(before["steps"][a], after["steps"][a])]
        assert len(moved) <= 1
        phases.append((moved[0] if moved else None, factor, ratio))

    learner.gradient_step = watch
    learner.update_epochs(rows)
    agents = [agent for agent, _, _ in phases]
    order = agents[: 2 * AGENTS : 2]
    assert sorted(a for a in order if a is not None) == list(range(AGENTS))
    # All epochs of an agent, then the next; the critic comes last.
    assert agents == [agent for agent in order for _ in range(2)] + [None, None]
    for k in range(AGENTS):
        for _, factor, _ in phases[2 * k : 2 * k + 2]:
            expected = torch.ones_like(phases[0][2][..., 0])
            for earlier in order[:k]:
                expected = expected * phases[2 * k][2][..., earlier]
            torch.testing.assert_close(factor[..., 0], expected, atol=1e-5, rtol=1e-4)
    assert (phases[-1][2] - 1.0).abs().max() > 1e-2
    algorithm.stop()


def test_order_is_drawn_again_or_fixed(small: Any) -> None:
    """By whom the phases belong to, over several updates."""
    for fixed in (True, False):
        algorithm, learner = build(small, fixed_order=fixed, num_epochs=1)
        orders: list[list[int]] = []
        actor_loss = learner.actor_loss

        def watch(
            agents: list[int], orders: list[list[int]] = orders, actor_loss: Any = actor_loss
        ) -> Any:
            orders[-1] += agents
            return actor_loss(agents)

        learner.actor_loss = watch
        for _ in range(6):
            orders.append([])
            algorithm.train()
        assert all(sorted(order) == [0, 1, 2] for order in orders)
        assert (len({tuple(order) for order in orders}) > 1) != fixed
        if fixed:
            assert orders[0] == [0, 1, 2]
        algorithm.stop()


@pytest.mark.parametrize("per_agent", [False, True])
def test_advantages_of_one_value_are_standardised_agent_by_agent(
    per_agent: bool, small: Any
) -> None:
    """With values of their own, all together."""
    algorithm, learner = build(small, share_critic=not per_agent)
    (rollout,) = algorithm.env_runner.sample()
    generator = torch.Generator().manual_seed(0)
    alive = torch.rand(rollout.columns["alive"].shape, generator=generator) > 0.4
    rollout.columns["alive"] = alive.numpy()
    rows = learner.build_train_batch(rollout)
    means = [rows.advantages[:, i][rows.alive[:, i]].mean().item() for i in range(AGENTS)]
    assert (max(map(abs, means)) > 1e-4) == per_agent
    assert rows.advantages[rows.alive].mean().item() == pytest.approx(0.0, abs=1e-5)
    algorithm.stop()


def test_shared_parameters_are_refused(small: Any) -> None:
    with pytest.raises(UserError, match="HAPPO updates one agent after another") as caught:
        small("HAPPO", share_parameters=True).validate()
    assert "\n" not in str(caught.value)
