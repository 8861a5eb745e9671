"""What runs on a GPU is what runs on the CPU: `pytest -m gpu`, on a machine with one.

Values, gradients, log-probs, decoded actions, whole updates, checkpoints. Without a GPU these tests
are skipped; ``SEQMARL_TEST_DEVICE=cpu`` runs them there, which shows that they can run.
"""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.learners import learner_of
from seeded_figures import config_of, figures
from torch import Tensor

from rllib_seqmarl import registry
from rllib_seqmarl.nets.decoding.decode import METHODS, Choices, decode
from rllib_seqmarl.nets.orders.next_agent import NextAgent
from rllib_seqmarl.nets.sequential_policy import SequentialPolicy
from rllib_seqmarl.nets.transformer.model import ActionSpec

pytestmark = pytest.mark.gpu

#: Where the tests run.
DEVICE = torch.device(os.environ.get("SEQMARL_TEST_DEVICE", "cuda"))
GPUS = {"num_gpus_per_learner": 1, "num_gpus_per_env_runner": 1} if DEVICE.type != "cpu" else {}
OBS, ACTIONS, BATCH, AGENTS = 30, 14, 24, 9

#: Precision of float32 products -> how far results may be apart, relative to the largest.
PRECISIONS = {"highest": 1e-4, "high": 3e-2}

#: Algorithm or part -> settings of the policy, whether it attends to neighbours.
POLICIES: dict[str, tuple[dict[str, Any], bool]] = {
    "MAT": ({}, False),
    "MAT neighbours": ({"num_blocks": 2}, True),
    "MAT decoder value": ({"value": "decoder", "num_heads": 2}, False),
    "MAT gru": ({"network": "gru"}, False),
    "SrSv": ({"value": "sequential"}, False),
    "SrSv neighbours": ({"value": "sequential"}, True),
    "PMAT": ({"order": "plackett_luce"}, False),
    "AOAD-MAT": ({"order": "next_agent"}, False),
}


#: What trains needs Ray; the rest runs without.
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="no Ray here")


@pytest.fixture(autouse=True)
def _device() -> Iterator[None]:
    """Skips where there is no such device; leaves the precision as it was."""
    if DEVICE.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here, or a torch for CPUs only")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision("highest")


def make_policy(name: str, discrete: bool = True) -> SequentialPolicy:
    """A policy on the CPU, its weights far from their gentle initialisation."""
    torch.manual_seed(0)
    policy = SequentialPolicy(
        obs_dim=OBS,
        action=ActionSpec(ACTIONS, discrete),
        num_agents=AGENTS,
        embed_dim=64,
        **POLICIES[name][0],
    )
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return policy


def make_inputs(name: str, discrete: bool = True) -> dict[str, Tensor | None]:
    """Observations, masks and neighbours, on the CPU."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(BATCH, AGENTS, ACTIONS, generator=generator) > 0.3
    mask[..., 0] = True
    neighbours = None
    if POLICIES[name][1]:
        others = torch.rand(BATCH, AGENTS, AGENTS, generator=generator)
        others += 9.0 * torch.eye(AGENTS)  # nobody is a neighbour of its own
        neighbours = others.argsort(-1)[..., :4].int()
        neighbours[..., 3] = -1
    return {
        "obs": torch.randn(BATCH, AGENTS, OBS, generator=generator),
        "mask": mask if discrete else None,
        "neighbours": neighbours,
    }


def moved(inputs: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {name: None if x is None else x.to(DEVICE) for name, x in inputs.items()}


def assert_close(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """To ``tolerance`` times the largest entry, at least 1."""
    assert found.device.type == DEVICE.type
    found, expected = found.detach().cpu().double(), expected.detach().double()
    scale = max(1.0, float(expected.abs().max()))
    error = float((found - expected).abs().max())
    assert error <= tolerance * scale, f"{what} is {error / scale:.1e} apart"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("discrete", [True, False], ids=["discrete", "continuous"])
@pytest.mark.parametrize("name", POLICIES)
def test_values_log_probs_and_gradients(name: str, discrete: bool, precision: str) -> None:
    ours = make_policy(name, discrete)
    theirs = copy.deepcopy(ours).to(DEVICE)
    inputs = make_inputs(name, discrete)
    neighbours = inputs["neighbours"]
    generator = torch.Generator().manual_seed(2)
    taken = ours.act(
        **inputs,
        deterministic=False,
        generator=generator,  # type: ignore[arg-type]
    )
    of = {"neighbours": neighbours}
    args = inputs["obs"], inputs["mask"], taken.actions, taken.order
    prepared = ours.prepare_value(*args, **of)  # type: ignore[arg-type]
    torch.set_float32_matmul_precision(precision)
    results = []
    for policy, where in ((ours, "cpu"), (theirs, DEVICE)):
        here = [None if x is None else x.to(where) for x in (*args, prepared)]
        others = None if neighbours is None else neighbours.to(where)
        result = policy.evaluate(*here, neighbours=others)  # type: ignore[arg-type]
        loss = result.values.square().mean() + result.log_prob.mean() - result.entropy.mean()
        if result.order is not None:
            loss = loss + result.order.log_prob.mean()
        loss.backward()
        results.append(result)
    tolerance = PRECISIONS[precision]
    cpu, device = results
    assert_close(device.log_prob, cpu.log_prob, tolerance, "log_prob")
    assert_close(device.values, cpu.values, tolerance, "values")
    assert_close(device.entropy, cpu.entropy, tolerance, "entropy")
    parameters = dict(theirs.named_parameters())
    for parameter_name, parameter in ours.named_parameters():
        if parameter.grad is not None:
            gradient = parameters[parameter_name].grad
            assert gradient is not None
            assert_close(gradient, parameter.grad, tolerance, f"gradient of {parameter_name}")


@pytest.mark.parametrize("name", ["SrSv", "SrSv neighbours"])
def test_inputs_of_the_value(name: str) -> None:
    """The greedy continuations of SrSv are found on the device as on the CPU."""
    ours, inputs = make_policy(name), make_inputs(name)
    taken = ours.act(**inputs, deterministic=False)  # type: ignore[arg-type]
    expected = ours.prepare_value(
        inputs["obs"],
        inputs["mask"],
        taken.actions,
        neighbours=inputs["neighbours"],  # type: ignore[arg-type]
    )
    there = moved(inputs)
    found = (
        copy.deepcopy(ours)
        .to(DEVICE)
        .prepare_value(
            there["obs"],  # type: ignore[arg-type]
            there["mask"],
            taken.actions.to(DEVICE),
            neighbours=there["neighbours"],
        )
    )
    assert expected is not None
    assert found is not None
    assert_close(found, expected, 1e-4, "prepared")


@pytest.mark.parametrize("greedy", [True, False], ids=["greedy", "sampled"])
@pytest.mark.parametrize("discrete", [True, False], ids=["discrete", "continuous"])
@pytest.mark.parametrize("name", ["MAT", "MAT neighbours", "PMAT", "AOAD-MAT"])
def test_decoded_actions(name: str, discrete: bool, greedy: bool) -> None:
    """Every way to decode, with the same noise, beside strictly one after another on the CPU."""
    decisions = []
    for method in ("stepwise", *METHODS):
        policy = make_policy(name, discrete)
        policy.decode.method = method
        inputs = make_inputs(name, discrete)
        if decisions:  # all but the first
            policy, inputs = policy.to(DEVICE), moved(inputs)
        generator = torch.Generator().manual_seed(3)
        decisions.append(
            policy.act(**inputs, deterministic=greedy, generator=generator)  # type: ignore[arg-type]
        )
    expected = decisions[0]
    for found, method in zip(decisions[1:], METHODS, strict=True):
        assert_close(found.actions, expected.actions, 0 if discrete else 1e-4, method)
        assert_close(found.log_prob, expected.log_prob, 1e-4, method)
        if expected.order is not None:
            assert found.order is not None
            assert_close(found.order, expected.order, 0, f"order of {method}")


@needs_ray
@pytest.mark.parametrize("run", [*sorted(registry.ALGORITHMS), "MAT random order", "SrSv on cars"])
def test_a_training_gives_the_same_figures(run: str, ray_session: None) -> None:
    """Two iterations with learner and runner on the device, and on the CPU."""
    expected, found = figures(run), figures(run, more=GPUS)
    assert found == pytest.approx(expected, rel=2e-3, abs=1e-4, nan_ok=True)


@needs_ray
@pytest.mark.parametrize("run", ["MAT", "SrSv", "AOAD-MAT", "MAPPO recurrent", "COMA"])
def test_resumes_evaluates_and_leaves_the_device(
    run: str, ray_session: None, tmp_path: Path
) -> None:
    """A checkpoint of the device goes on there; on the CPU its policy plays, exported or not."""
    from rllib_seqmarl.experiments.evaluate.evaluation import evaluate_checkpoint, evaluate_policy
    from rllib_seqmarl.experiments.share.policy_file import SharedPolicy, export

    def weights(algorithm: Any) -> dict[str, Tensor]:
        state = learner_of(algorithm).module["default_policy"].state_dict()
        return {name: value.cpu().clone() for name, value in state.items()}

    config = config_of(run)
    config.update_from_dict(GPUS)
    algorithm = config.build_algo()
    algorithm.train()
    checkpoint = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    resumed = type(algorithm).from_checkpoint(checkpoint)
    for one in (algorithm, resumed):
        one.train()
    ours, theirs = weights(algorithm), weights(resumed)
    for name, value in ours.items():
        # Sums on a GPU may be added up in another order.
        np.testing.assert_allclose(theirs[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    for one in (algorithm, resumed):
        one.stop()
    played = evaluate_checkpoint(checkpoint, episodes=4, seed=3)["per_episode"]
    assert np.isfinite(played["episode_return"]).all()
    export(Path(checkpoint), tmp_path / "policy.safetensors")
    shared = evaluate_policy(SharedPolicy(tmp_path / "policy.safetensors"), episodes=4, seed=3)
    assert shared["per_episode"] == played


def test_noise_is_that_of_the_generator_of_the_cpu() -> None:
    """So that a run that moves to another machine goes on with the same random numbers."""
    policy = make_policy("MAT").to(DEVICE)
    shape = (BATCH, AGENTS)
    for seed in (0, 1):
        noise = [
            policy.distribution.noise(shape, where, torch.Generator().manual_seed(seed)).cpu()
            for where in (torch.device("cpu"), DEVICE)
        ]
        torch.testing.assert_close(*noise)


def test_the_order_of_the_next_agent_needs_no_cpu() -> None:
    """`decode` itself, with choices of a successor."""
    policy = make_policy("AOAD-MAT").to(DEVICE)
    assert isinstance(policy.order, NextAgent)
    encoded = torch.randn(BATCH, AGENTS, 64, device=DEVICE)
    choices = Choices(policy.order, policy.order.noise(encoded, None))
    found = decode(
        policy.decoder,  # type: ignore[arg-type]
        policy.distribution,
        encoded,
        None,
        policy.distribution.noise((BATCH, AGENTS), DEVICE, None),
        "cached",
        choices,
    )
    assert found.order is not None
    assert found.order.device.type == DEVICE.type
