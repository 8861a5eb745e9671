"""One step as a program: it decides as the policy does, and is refused where it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.layout import Layout
from rllib_seqmarl.nets.acting.base import TeamInputs
from rllib_seqmarl.nets.acting.build import build_actor
from rllib_seqmarl.nets.transformer.model import ActionSpec
from rllib_seqmarl.policies.export import TeamStep, example_inputs, write_program
from rllib_seqmarl.policies.policy import Policy

N, D = 4, 5
IMAGE = Layout.of({"image": (6, 6, 1), "flags": (2,)}, agent_id=N)
DISCRETE = ActionSpec(3, discrete=True)
MAT: dict[str, Any] = {"embed_dim": 16, "value": None}
ACTORS = {
    "share_parameters": False,
    "hidden_sizes": [16],
    "activation": "relu",
    "feature_norm": True,
    "recurrent": True,
}


def make_policy(kind: str, action: ActionSpec = DISCRETE, **settings: Any) -> Policy:
    """With weights far from their gentle initialisation."""
    encoder = settings.get("observation_encoder")
    layout = Layout.vector(D) if encoder is None else IMAGE
    shapes = {"obs": (N, layout.size), "alive": (N,), "action_mask": (N, action.size)}
    inputs = TeamInputs(shapes, layout, encoder is not None, action, N)
    torch.manual_seed(0)
    actor = build_actor(kind, inputs, {"observation_encoder": None, **settings})
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return Policy(actor, inputs, algorithm="MAT", env="none", env_config={})


Program = Callable[[dict[str, torch.Tensor]], list[NDArray[Any]]]


def load(file: Path) -> Program:
    """What a program gives, by the names that stand in the file."""
    if file.suffix == ".pt2":
        extra = {"rllib_seqmarl": ""}
        module = torch.export.load(file, extra_files=extra).module()
        names = json.loads(extra["rllib_seqmarl"])["inputs"]
        return lambda given: [out.numpy() for out in module(*(given[name] for name in names))]
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(file), options)
    return lambda given: session.run(None, {name: x.numpy() for name, x in given.items()})


CASES: dict[str, tuple[str, dict[str, Any], bool, str]] = {
    "MAT": ("sequential", MAT, False, ".onnx"),
    "MAT with images": ("sequential", MAT | {"observation_encoder": "cnn"}, False, ".onnx"),
    "MAT drawn": ("sequential", MAT, True, ".pt2"),
    "MAT continuous": ("sequential", MAT | {"action": ActionSpec(2, False)}, True, ".pt2"),
    "MAT parts": ("sequential", MAT | {"action": ActionSpec(6, False, (3, 2))}, True, ".pt2"),
    "AOAD-MAT": ("sequential", MAT | {"order": "next_agent"}, False, ".pt2"),
    "PMAT": ("sequential", MAT | {"order": "plackett_luce"}, False, ".pt2"),
    "HAPPO": ("simultaneous", ACTORS, True, ".onnx"),
    "COMA": ("recurrent", {"hidden_dim": 16, "epsilon": None, "greedy": False}, False, ".onnx"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_program_decides_as_the_policy_does(case: str, tmp_path: Path) -> None:
    """On 100 observations; policies that remember through episodes of ten steps."""
    kind, settings, stochastic, ending = CASES[case]
    policy = make_policy(kind, **settings)
    file = tmp_path / f"policy{ending}"
    write_program(policy, file, {"algorithm": "MAT"}, stochastic=stochastic)
    step = TeamStep(policy.actor, policy.inputs, stochastic)
    program = load(file)
    generator = torch.Generator().manual_seed(5)
    state: dict[str, torch.Tensor] = {}
    for time in range(100):
        given = dict(
            zip(step.input_names, example_inputs(step, policy.inputs, generator), strict=True)
        )
        if step.state_names:
            given |= {"is_first": torch.tensor(time % 10 == 0), **state}
        outputs = program(given)
        if stochastic:  # the policy draws its noise itself
            with torch.no_grad():
                decision = [out.numpy() for out in step(*given.values())]
        else:
            if time % 10 == 0:
                policy.reset()
            seen = {name: given[name].numpy() for name in ("obs", "action_mask")}
            decision = list(policy.act(seen))
        np.testing.assert_allclose(outputs[0], decision[0], atol=1e-5)
        np.testing.assert_allclose(outputs[1], decision[1], atol=1e-4)
        np.testing.assert_array_equal(outputs[2], decision[2])
        after = zip(step.state_names, outputs[3:], strict=True)
        state = {name: torch.from_numpy(value) for name, value in after}


@pytest.mark.parametrize(
    ("order", "stochastic", "expected"),
    [
        ("random", False, "draws its order too.*export a .safetensors file"),
        ("plackett_luce", True, "draws its order too.*without --stochastic"),
    ],
)
def test_what_a_program_cannot_hold_is_refused(
    order: str, stochastic: bool, expected: str, tmp_path: Path
) -> None:
    policy = make_policy("sequential", **MAT, order=order)
    with pytest.raises(UserError, match=expected) as caught:
        write_program(policy, tmp_path / "policy.pt2", {}, stochastic=stochastic)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "policy.pt2").exists()
