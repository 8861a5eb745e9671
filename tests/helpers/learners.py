"""What tests look at inside of an algorithm that learns in their own process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def learner_of(algorithm: Any) -> Any:
    """Its one learner."""
    found: list[Any] = []
    algorithm.learner_group.foreach_learner(lambda learner: found.append(learner))
    (learner,) = found
    return learner


#: Three steps per episode: rollouts of ten steps hold ends and beginnings, and cut episodes.
SHORT_GAME = {"episode_length": 3, "num_agents": 3}


def build(small: Any, name: str, **settings: Any) -> tuple[Any, Any]:
    """An algorithm on a short game, with one epoch, and its learner."""
    algorithm = small(name, **{"env_config": SHORT_GAME, "num_epochs": 1, **settings}).build_algo()
    return algorithm, learner_of(algorithm)


def with_moved_weights(algorithm: Any) -> tuple[Any, Any]:
    """Its learner and a minibatch with dead agents, ratios away from 1 and values unclipped."""
    learner = learner_of(algorithm)
    batch = learner.build_train_batch(algorithm.env_runner.sample()[0])
    batch.alive[::3, 1] = False
    batch = learner.prepare_minibatch(batch)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learner.core.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return learner, batch


def gradients(learner: Any, part: str) -> dict[str, Tensor]:
    """Copies of the gradients of a part of its module, by parameter."""
    named = getattr(learner.core, part).named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}
