"""A2PO's two loops, its corrections and its loss against plain loops, and what it is for N = 1."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from helpers.learners import learner_of
from torch import Tensor

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.nets.agents.stacked import StackedParameter
from rllib_seqmarl.rollout.rollout_batch import REWARD, TERMINATED, TRUNCATED

GAME: dict[str, Any] = {
    "env": "mpe",
    "env_config": {"episode_length": 4, "state": True},
    "state": "environment",
    "num_envs_per_env_runner": 2,
    "chunk_length": 5,
}
N, EPS, GAMMA, LAMBDA = 3, 0.1, 0.9, 0.7


def build(small: Any, name: str = "A2PO", **settings: Any) -> tuple[Any, Any]:
    usual = {"clip_param": EPS, "gamma": GAMMA, "lambda_": LAMBDA, "lr": 1e-2}
    algorithm = small(name, **GAME | usual | settings).build_algo()
    return algorithm, learner_of(algorithm)


def ratios_now(learner: Any, rows: Any) -> Tensor:
    """pi_now / pi_old of every agent, [B, N], from one pass over all rows; 1 for the dead."""
    with torch.no_grad():
        ratio = (learner.core.evaluate(rows).log_prob - rows.log_prob).sum(-1).exp()
    return torch.where(rows.alive, ratio, 1.0)


# --- the loss -----------------------------------------------------------------------------------


def test_loss_is_the_formula(small: Any) -> None:
    """The others' product stands inside the clip, and each agent has a clip of its own."""
    c_ent = 0.03
    algorithm, learner = build(small, entropy_coeff=c_ent)
    rows = learner.build_train_batch(algorithm.env_runner.sample()[0])
    rows.alive[::3, 1] = False
    generator = torch.Generator().manual_seed(0)
    rows.factor = torch.rand(rows.advantages.shape, generator=generator).unsqueeze(-1) * 0.2 + 0.9
    rows.clip = torch.tensor([0.05, 0.1, 0.2]).view(1, N, 1).expand_as(rows.factor).clone()
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
        for i, eps in enumerate((0.05, 0.1, 0.2)):
            if alive[b, i]:
                r = (out.log_prob[b, i] - rows.log_prob[b, i]).exp().item()
                joint, a = r * rows.factor[b, i].item(), rows.advantages[b, i].item()
                held = min(max(joint, 1 - eps), 1 + eps)
                clipped += held != joint
                expected -= min(joint * a, held * a) + c_ent * out.entropy[b, i].item()
    assert clipped > 5
    assert found.item() == pytest.approx(expected / alive.sum().item(), rel=1e-4, abs=1e-6)
    algorithm.stop()


# --- orders and groups --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["semi_greedy", "greedy", "random", "index", "reverse"])
def test_orders_are_those_of_their_definition(kind: str, small: Any) -> None:
    algorithm, learner = build(
        small, update_order=kind, env_config={"num_agents": 5, "state": True}
    )
    rows = learner.build_train_batch(algorithm.env_runner.sample()[0])
    generator = torch.Generator().manual_seed(0)
    rows.alive = torch.rand(rows.alive.shape, generator=generator) < 0.5
    scale = torch.tensor([0.5, 3.0, 1.0, 2.0, 0.1])
    rows.advantages = torch.randn(rows.alive.shape, generator=generator) * scale
    rows.advantages[~rows.alive] = 100.0  # counts for nothing
    score = [rows.advantages[:, i][rows.alive[:, i]].abs().mean().item() for i in range(5)]
    twin = torch.Generator()
    found = set()
    for _ in range(12):
        twin.set_state(learner.generator.get_state())
        luck = torch.rand(5, generator=twin).tolist()
        order, left = learner.update_order(rows), [0, 1, 2, 3, 4]
        for place in range(5):
            by_score = kind == "greedy" or (kind == "semi_greedy" and place % 2 == 0)
            best = max(left, key=(score if by_score else luck).__getitem__)
            if kind in ("index", "reverse"):
                best = place if kind == "index" else 4 - place
            assert order[place] == best
            left.remove(best)
        found.add(tuple(order))
    assert (len(found) > 1) == (kind in ("semi_greedy", "random"))
    algorithm.stop()


# --- agents outside -----------------------------------------------------------------------------


def values_of(learner: Any, rollout: Any) -> list[np.ndarray]:
    """Values of each step and of what followed it, [T, E, N], in units of the reward."""
    columns = {name: torch.as_tensor(column) for name, column in rollout.columns.items()}
    core, steps = learner.core, len(columns["reward"])
    with torch.no_grad():
        inputs = core.actor_input(columns)[:steps], core.critic_input(columns)
        values = learner.rollout_values(rollout, columns, *inputs)
        return [core.value_norm.denormalize(one).double().numpy() for one in values[:2]]


def corrected(rollout: Any, values: list[np.ndarray], rho: Tensor) -> tuple[Tensor, Tensor]:
    """Standardised advantages and returns [T, E, N] by the paper's double sum; ``rho`` [T, E]."""
    c, (old, following) = rollout.columns, values
    advantages = np.zeros_like(old)
    for t, e, n in np.ndindex(*old.shape):
        weight = 1.0
        for step in range(t, len(old)):
            if step > t:
                weight *= GAMMA * LAMBDA * min(1.0, rho[step, e].item())
            future = 0.0 if c[TERMINATED][step, e] else following[step, e, n]
            delta = c[REWARD][step, e] + GAMMA * future - old[step, e, n]
            advantages[t, e, n] += weight * delta
            if c[TERMINATED][step, e] or c[TRUNCATED][step, e]:
                break
    standard = (advantages - advantages.mean()) / (advantages.std() + 1e-5)
    return torch.as_tensor(standard).float(), torch.as_tensor(advantages + old).float()


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize("num_agent_groups", [None, 2])
def test_agents_learn_from_what_those_before_them_have_changed(
    num_agent_groups: int | None, recurrent: bool, small: Any
) -> None:
    algorithm, learner = build(
        small, num_agent_groups=num_agent_groups, recurrent=recurrent, num_epochs=2
    )
    algorithm.train()
    (rollout,) = algorithm.env_runner.sample()
    rows, values = learner.build_train_batch(rollout), values_of(learner, rollout)
    groups: list[list[int]] = []
    step, draw = learner._step, learner.agent_groups

    def grouped(given: Any) -> list[list[int]]:
        groups.extend(draw(given))
        return groups

    steps: list[list[int]] = []

    def watch(own: Any, agents: list[int]) -> None:
        if not steps or steps[-1] != agents:  # the first epoch of a rollout
            done = [agent for earlier in groups[: groups.index(agents)] for agent in earlier]
            rho = torch.ones(rows.alive.shape[:-1])
            for agent in done:
                rho = rho * ratios_now(learner, rows)[..., agent]
            held = rho.clamp(1 - EPS / 2, 1 + EPS / 2).unsqueeze(-1).expand_as(own.advantages)
            torch.testing.assert_close(own.factor[..., 0], held, atol=1e-5, rtol=1e-4)
            place = groups.index(agents) + 1
            assert own.clip.unique().item() == pytest.approx(
                EPS * (0.5 * place / len(groups) + 0.5)
            )
            by_time = learner.from_rows(rho.unsqueeze(-1), rollout.num_envs).squeeze(-1)
            advantages, returns = corrected(rollout, values, by_time)
            for name, expected in (("advantages", advantages), ("returns", returns)):
                expected = learner.to_rows(expected)[..., agents]
                torch.testing.assert_close(getattr(own, name), expected, atol=1e-4, rtol=1e-4)
            assert (rho - 1.0).abs().max() > 1e-2 or not done
        steps.append(agents)
        before = weights_of_agents(learner)
        step(own, agents)
        moved = [
            i for i, w in enumerate(weights_of_agents(learner)) if not torch.equal(w, before[i])
        ]
        assert moved == sorted(agents)

    learner.agent_groups, learner._step = grouped, watch
    learner.update_epochs(rows)
    assert steps == [agents for agents in groups for _ in range(2)]
    assert sorted(itertools.chain.from_iterable(groups)) == [0, 1, 2]
    assert len(groups) == (num_agent_groups or N)
    algorithm.stop()


def weights_of_agents(learner: Any) -> list[Tensor]:
    """All parameters of each agent's actor and critic as one vector."""
    core = learner.core
    parts = [
        module
        for network in (core.actor, core.critic)
        for module in network.modules()
        if isinstance(module, StackedParameter)
    ]
    return [torch.cat([p.members[i].detach().flatten() for p in parts]) for i in range(N)]


# --- epochs outside -----------------------------------------------------------------------------


@pytest.mark.parametrize(("num_agent_groups", "rounds"), [(None, 2), (2, 3), (1, 5)])
def test_shared_parameters_learn_in_cumulative_groups(
    num_agent_groups: int | None, rounds: int, small: Any
) -> None:
    """ceil(epochs / groups) rounds, each with an order of its own; ratios are of all others."""
    algorithm, learner = build(
        small,
        share_parameters=True,
        share_critic=True,
        num_agent_groups=num_agent_groups,
        num_epochs=5,
    )
    algorithm.train()
    (rollout,) = algorithm.env_runner.sample()
    rows, values = learner.build_train_batch(rollout), values_of(learner, rollout)
    drawn: list[list[list[int]]] = []
    trained: list[list[int]] = []
    step, draw = learner._step, learner.agent_groups

    def grouped(given: Any) -> list[list[int]]:
        torch.testing.assert_close(given.advantages, rows.advantages)  # the first ones
        drawn.append(draw(given))
        return drawn[-1]

    def watch(own: Any, agents: list[int]) -> None:
        ratio = ratios_now(learner, rows)
        for place, agent in enumerate(agents):
            others = torch.ones(len(ratio))
            for other in range(N):
                if other != agent:
                    others = others * ratio[:, other]
            held = others.clamp(1 - EPS / 2, 1 + EPS / 2)
            torch.testing.assert_close(own.factor[:, place, 0], held, atol=1e-5, rtol=1e-4)
        by_time = learner.from_rows(ratio.prod(-1, keepdim=True), rollout.num_envs).squeeze(-1)
        advantages, returns = corrected(rollout, values, by_time)
        for name, expected in (("advantages", advantages), ("returns", returns)):
            expected = learner.to_rows(expected)[..., agents]
            torch.testing.assert_close(getattr(own, name), expected, atol=1e-4, rtol=1e-4)
        trained.append(list(agents))
        step(own, agents)

    learner.agent_groups, learner._step = grouped, watch
    learner.update_epochs(rows)
    assert len(drawn) == rounds
    expected = []
    for groups in drawn:
        expected += itertools.accumulate(groups)
    assert trained == expected
    assert (ratios_now(learner, rows) - 1.0).abs().max() > 1e-2
    algorithm.stop()


def test_two_stages_step_the_critic_first(small: Any) -> None:
    """Twice as many steps of the critic, and as many of the actors; one figure of the value."""
    figures = []
    for two_stage in (False, True):
        algorithm, learner = build(small, two_stage=two_stage, num_epochs=2, critic_lr=0.0)
        kinds: list[tuple[bool, bool]] = []
        step = learner.gradient_step

        def watch(minibatch: Any, loss: Any, kinds: Any = kinds, step: Any = step) -> None:
            step(minibatch, loss)
            core = watch.learner.core  # type: ignore[attr-defined]
            kinds.append(
                tuple(
                    any(p.grad is not None for p in part.parameters())
                    for part in (core.actor, core.critic)
                )
            )

        watch.learner = learner  # type: ignore[attr-defined]
        learner.gradient_step = watch
        result = algorithm.train()["learners"]["default_policy"]
        stages = [(False, True), (True, True)] if two_stage else [(True, True)]
        assert kinds == stages * (2 * N)
        figures.append(result["vf_loss"])
        algorithm.stop()
    # The critic stands still, so that its loss is the same however often it is taken.
    assert figures[0] == pytest.approx(figures[1], rel=1e-3)


# --- one agent ----------------------------------------------------------------------------------


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize("continuous", [False, True], ids=["discrete", "continuous"])
def test_with_one_agent_all_three_are_ppo(continuous: bool, recurrent: bool, small: Any) -> None:
    game: dict[str, Any] = {"env": "mpe", "env_config": {"episode_length": 4, "num_agents": 1}}
    if continuous:
        cars = {"num_agents": 1, "episode_length": 4, "obstacles": 0}
        game = {"env": "dubins_car", "env_config": cars}
    variants = [
        ("MAPPO", {}),
        ("MAPPO", {"share_parameters": False, "share_critic": False}),
        ("HAPPO", {}),
        ("A2PO", {}),
        ("A2PO", {"two_stage": True}),  # not this one
    ]
    found = []
    for name, settings in variants:
        algorithm, learner = build(
            small, name, **game, state="observation", recurrent=recurrent, lr=1e-3, **settings
        )
        for _ in range(2):
            algorithm.train()
        found.append({k: v.clone() for k, v in learner.core.state_dict().items()})
        algorithm.stop()
    *equal, differs = found[1:]
    for other in equal:
        for key, value in found[0].items():
            torch.testing.assert_close(other[key], value, atol=1e-5, rtol=1e-4, msg=key)
    assert any((differs[key] - value).abs().max() > 1e-4 for key, value in found[0].items())


@pytest.mark.parametrize(("share", "epochs"), [(False, 2), (True, 1)])
def test_with_one_agent_minibatches_are_mappos_too(share: bool, epochs: int, small: Any) -> None:
    """Where no order is drawn, the same rows are drawn out.

    With epochs outside, the second one corrects for what the agent itself did in the first.
    """
    found = []
    for name, settings in (
        ("MAPPO", {}),
        ("A2PO", {"update_order": "index", "share_parameters": share}),
    ):
        game = {"env_config": {"episode_length": 4, "num_agents": 1}, "state": "observation"}
        settings |= {"minibatch_size": 7, "num_epochs": epochs, "lr": 1e-3}
        algorithm, learner = build(small, name, **game, **settings)
        for _ in range(2):
            algorithm.train()
        found.append({k: v.clone() for k, v in learner.core.state_dict().items()})
        algorithm.stop()
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, atol=1e-5, rtol=1e-4, msg=key)


# --- settings -----------------------------------------------------------------------------------


def test_more_groups_than_agents_are_refused_before_anything_is_sampled(small: Any) -> None:
    with pytest.raises(UserError, match=r"'num_agent_groups' \(4\) must not be larger") as caught:
        build(small, num_agent_groups=4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"num_agent_groups": 0}, "'num_agent_groups' must be above 0"),
        ({"num_agent_groups": 1.5}, "'num_agent_groups' must be a whole number"),
        ({"update_order": "lucky"}, "'update_order' must be one of semi_greedy, "),
        ({"clip_growth": 1.1}, "'clip_growth' must lie between 0 and 1"),
        ({"others_clip": 0}, "'others_clip' must be above 0"),
        ({"two_stage": 1}, "'two_stage' must be true or false"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], line: str, small: Any) -> None:
    with pytest.raises(UserError, match=line) as caught:
        small("A2PO", **settings).validate()
    assert "\n" not in str(caught.value)
