"""What tests look at inside of an algorithm that learns in their own process."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def learner_of(algorithm: Any) -> Any:
    """Its one learner."""
    found: list[Any] = []
    algorithm.learner_group.foreach_learner(lambda learner: found.append(learner))
    (learner,) = found
    return learner


def gradients(learner: Any, part: str) -> dict[str, Tensor]:
    """Copies of the gradients of a part of its module, by parameter."""
    named = getattr(learner.core, part).named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}
