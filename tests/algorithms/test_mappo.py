"""MAPPO's losses against plain loops over the paper's formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.learners import learner_of

DISCRETE: dict[str, Any] = {"env": "mpe", "env_config": {"episode_length": 4, "state": True}}
CONTINUOUS: dict[str, Any] = {
    "env": "dubins_car",
    "env_config": {"num_agents": 3, "episode_length": 4, "obstacles": 0, "state": True},
}


@pytest.mark.parametrize("mask_values", [False, True])
@pytest.mark.parametrize("game", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_losses_are_the_formulas(game: dict[str, Any], mask_values: bool, small: Any) -> None:
    eps, c_ent, delta = 0.1, 0.03, 0.5
    config = small(
        "MAPPO",
        **game,
        num_envs_per_env_runner=2,
        state="environment_and_observation",
        clip_param=eps,
        entropy_coeff=c_ent,
        huber_delta=delta,
        use_value_active_mask=mask_values,
    )
    algorithm = config.build_algo()
    learner = learner_of(algorithm)
    rows = learner.build_train_batch(algorithm.env_runner.sample()[0])
    rows.alive[::3, 1] = False
    rows = learner.prepare_minibatch(rows)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learner.core.parameters():  # away from ratio 1 and unclipped values
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    out, values = learner.core.forward_train(rows), learner.core.values(rows)
    found_loss = learner.compute_loss_for_module(
        module_id="default_policy", config=learner.config, batch=rows, fwd_out=out
    )
    found_value_loss = learner.critic_loss(rows)

    alive, norm = rows.alive, learner.core.value_norm
    policy, value, clipped_ratios, clipped_values = 0.0, 0.0, 0, 0
    for b in range(len(alive)):
        for i in range(alive.shape[1]):
            if alive[b, i]:
                r = (out.log_prob[b, i].sum() - rows.log_prob[b, i].sum()).exp().item()
                a = rows.advantages[b, i].item()
                held = min(max(r, 1 - eps), 1 + eps)
                clipped_ratios += held != r
                policy -= min(r * a, held * a) + c_ent * out.entropy[b, i].item()
            if alive[b, i] or not mask_values:
                target = norm.normalize(rows.returns[b, i]).item()
                v, old = values[b, i].item(), rows.old_values[b, i].item()
                near = old + min(max(v - old, -eps), eps)
                clipped_values += near != v
                value += max(
                    e * e / 2 if abs(e) <= delta else delta * (abs(e) - delta / 2)
                    for e in (target - v, target - near)
                )
    assert clipped_ratios > 5
    assert clipped_values > 5
    assert found_loss.item() == pytest.approx(policy / alive.sum().item(), rel=1e-4, abs=1e-6)
    counted = alive.sum().item() if mask_values else alive.numel()
    assert found_value_loss.item() == pytest.approx(value / counted, rel=1e-4)
    algorithm.stop()


def test_actors_and_critic_have_learning_rates_and_clipped_gradients_of_their_own(
    small: Any,
) -> None:
    algorithm = small("MAPPO", lr=0.0, critic_lr=1e-2, grad_clip=1e-3).build_algo()
    core = learner_of(algorithm).core
    before = {name: p.clone() for name, p in core.named_parameters()}
    algorithm.train()
    for name, parameter in core.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("actor"), name
    for part in (core.actor, core.critic):
        norm = torch.stack([p.grad.square().sum() for p in part.parameters()]).sum().sqrt()
        assert norm.item() == pytest.approx(1e-3, rel=1e-2)
    algorithm.stop()
