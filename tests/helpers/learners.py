"""What tests look at inside of an algorithm that learns in their own process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from ray.rllib.core.learner.training_data import TrainingData
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


def step(learner: Any, rollouts: Any) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """An update: the gradients of its last step, the state of the module, and the value's loss."""
    metrics = learner.update(TrainingData(batch=rollouts))
    module = learner.module["default_policy"]
    module = module.unwrapped() if learner.distributed else module
    of_parameters = {k: p.grad.clone() for k, p in module.named_parameters() if p.grad is not None}
    return of_parameters, module.state_dict(), metrics["default_policy"]["vf_loss"].peek()


@ray.remote(num_cpus=0)
class _Rank:
    """One of several processes with a learner each, as RLlib's `LearnerGroup` starts them."""

    def __init__(self, rank: int, num_learners: int, file: str) -> None:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{file}", rank=rank, world_size=num_learners
        )

    def step(self, config: Any, spec: Any, rollouts: Any) -> Any:
        learner = config.learner_class(config=config, module_spec=spec)
        learner.build()
        return step(learner, rollouts)


@contextmanager
def learner_processes(count: int, file: str) -> Iterator[Any]:
    """``steps(algorithm, rollouts)``: what `step` returns from learners that share a step.

    The processes are started once, and build the learners of one algorithm after another.

    Args:
        count: how many learners.
        file: over which they find each other; it must not exist.
    """
    path = {"env_vars": {"PYTHONPATH": str(Path(__file__).parents[1])}}
    started = _Rank.options(runtime_env=path)
    ranks = [started.remote(rank, count, file) for rank in range(count)]

    def steps(algorithm: Any, rollouts: list[Any]) -> list[Any]:
        config = algorithm.config.copy(copy_frozen=False).learners(num_learners=count)
        spec = learner_of(algorithm)._module_spec
        both = zip(ranks, rollouts, strict=True)
        found: list[Any] = ray.get([rank.step.remote(config, spec, one) for rank, one in both])
        return found

    yield steps
    for rank in ranks:
        ray.kill(rank)
