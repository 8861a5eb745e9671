"""One step of a policy as a program that runs without this package: torch.export and ONNX.

Inputs are the observation columns of one team that the policy reads, each [N, ...]; with drawn
actions ``noise`` [N, A]; and for a policy that remembers, ``is_first``, whether an episode begins,
and its state. Outputs are ``actions``, ``log_prob`` and ``order`` as of `Policy.act`, and, as
``next_NAME``, the state for the next step. The number of agents is fixed.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from rllib_seqmarl import files
from rllib_seqmarl.columns import ACTION_MASK, ALIVE, IS_FIRST, NEIGHBOURS, OBS
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.nets.acting.base import TeamActor, TeamInputs
from rllib_seqmarl.policies.policy import Policy

NOISE = "noise"
#: Observations with which a program is tried.
_TRIED = 8


class TeamStep(nn.Module):
    """One step of a team with tensors in and out, in the order of their names.

    Args:
        actor: the network.
        inputs: what it was built for.
        stochastic: actions are drawn with the noise that comes as an input.

    Attributes:
        input_names: of what `forward` takes.
        output_names: of what it returns.
    """

    def __init__(self, actor: TeamActor, inputs: TeamInputs, stochastic: bool) -> None:
        super().__init__()
        self.actor = actor
        self.num_agents = inputs.num_agents
        self.stochastic = stochastic
        self.state_names = list(actor.get_initial_state())
        self.columns = [name for name in actor.columns if name in inputs.observation]
        remembers = [IS_FIRST, *self.state_names] if self.state_names else []
        self.input_names = [*self.columns, *([NOISE] if stochastic else []), *remembers]
        self.output_names = [
            *("actions", "log_prob", "order"),
            *(f"next_{name}" for name in self.state_names),
        ]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """See the module's docstring."""
        given = {name: x.unsqueeze(0) for name, x in zip(self.input_names, tensors, strict=True)}
        is_first = given.get(IS_FIRST)
        if is_first is None:
            is_first = torch.ones(1, dtype=torch.bool)
        decision = self.actor.act(
            {name: given[name] for name in self.columns},
            {name: given[name] for name in self.state_names},
            is_first,
            deterministic=not self.stochastic,
            noise=given.get(NOISE),
        )
        order = torch.arange(self.num_agents) if decision.order is None else decision.order[0]
        after = [decision.state[name][0] for name in self.state_names]
        return decision.actions[0], decision.log_prob[0].sum(-1), order.clone(), *after


def export_step(policy: Policy, *, stochastic: bool = False) -> tuple[ExportedProgram, TeamStep]:
    """The program of one step, tried on random observations.

    Raises:
        UserError: the policy draws more than the noise of its actions, or cannot be traced.
    """
    actor = copy.deepcopy(policy.actor).cpu().requires_grad_(False)  # a program only acts
    actor.prepare_export()
    step = TeamStep(actor, policy.inputs, stochastic)
    generator = torch.Generator().manual_seed(0)
    example = example_inputs(step, policy.inputs, generator)
    _refuse_own_noise(policy, step, example)
    same = True
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(step, example, strict=False)
            exported = program.module()
            for _ in range(_TRIED):
                tried = example_inputs(step, policy.inputs, generator)
                results = zip(exported(*tried), step(*tried), strict=True)
                same &= all(torch.allclose(got, expected, atol=1e-5) for got, expected in results)
    except UserError:
        raise
    except Exception as error:  # torch.export fails in many ways
        raise _not_a_program(policy, error) from error
    if not same:
        raise UserError(
            f"the program of {policy.algorithm} decides otherwise than the policy: export a "
            ".safetensors file."
        )
    return program, step


def write_program(
    policy: Policy, file: Path, metadata: Mapping[str, Any], *, stochastic: bool = False
) -> list[str]:
    """Writes the program of one step to a ``.pt2`` or ``.onnx`` file.

    Args:
        policy: what decides.
        file: the new file.
        metadata: what the file says of the policy, as JSON under ``rllib_seqmarl``.
        stochastic: see `TeamStep`.

    Returns:
        The inputs and outputs, a line each.

    Raises:
        UserError: as of `export_step`; or, for ONNX, packages that are not installed.
    """
    onnx = file.suffix == ".onnx"
    if onnx:
        try:
            import onnxscript  # noqa: F401
        except ImportError:
            raise UserError(
                "ONNX files need onnx and onnxscript, which are not installed: "
                "pip install 'rllib-seqmarl[onnx]'."
            ) from None
    program, step = export_step(policy, stochastic=stochastic)
    header = json.dumps(
        {**metadata, "inputs": step.input_names, "outputs": step.output_names}, default=str
    )
    converted = None
    if onnx:
        try:
            with _quiet():
                converted = torch.onnx.export(
                    program,
                    input_names=step.input_names,
                    output_names=step.output_names,
                    verbose=False,
                )
            assert converted is not None
        except Exception as error:  # so does the exporter to ONNX
            raise _not_a_program(policy, error) from error
        converted.model.metadata_props["rllib_seqmarl"] = header
    if converted is not None:
        content = converted.model_proto.SerializeToString()
    else:
        stream = io.BytesIO()
        torch.export.save(program, stream, extra_files={"rllib_seqmarl": header})
        content = stream.getvalue()
    files.write(file, content, "FILE")
    example = example_inputs(step, policy.inputs, torch.Generator().manual_seed(0))
    with torch.no_grad():
        results = step(*example)
    return [
        *(_line("input", *pair) for pair in zip(step.input_names, example, strict=True)),
        *(_line("output", *pair) for pair in zip(step.output_names, results, strict=True)),
    ]


def example_inputs(
    step: TeamStep, inputs: TeamInputs, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Random inputs of a team at the first step of an episode, in the order of `TeamStep`."""

    def of(name: str) -> Tensor:
        shape = inputs.observation.get(name, ())
        if name == OBS and inputs.obs_bytes:
            return torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        if name == OBS:
            return torch.randn(shape, generator=generator)
        if name in (ACTION_MASK, ALIVE):
            mask = torch.rand(shape, generator=generator) < 0.7
            mask[..., 0] = True
            return mask
        if name == NEIGHBOURS:
            agents = torch.arange(inputs.num_agents, dtype=torch.int32).unsqueeze(-1)
            others = torch.arange(1, shape[-1] + 1, dtype=torch.int32)
            return ((agents + others) % inputs.num_agents).expand(shape).contiguous()
        if name == NOISE:
            return torch.randn(inputs.num_agents, inputs.action.size, generator=generator)
        if name == IS_FIRST:
            return torch.tensor(True)
        return step.actor.get_initial_state()[name].clone()

    return tuple(of(name) for name in step.input_names)


def _refuse_own_noise(policy: Policy, step: TeamStep, example: tuple[Tensor, ...]) -> None:
    """Refuses what draws beside its actions, such as a random order: a program cannot."""
    before = torch.random.get_rng_state()
    with torch.no_grad():
        step(*example)
    drawn = not torch.equal(before, torch.random.get_rng_state())
    torch.random.set_rng_state(before)
    if drawn:
        instead = "export it without --stochastic, or" if step.stochastic else "export"
        raise UserError(
            f"the policy of {policy.algorithm} draws its order too, which a program of one step "
            f"does not: {instead} a .safetensors file."
        )


def _not_a_program(policy: Policy, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:120]
    return UserError(
        f"the network of {policy.algorithm} cannot be exported as a program "
        f"({type(error).__name__}: {reason}...): export a .safetensors file."
    )


def _line(kind: str, name: str, value: Tensor) -> str:
    return f"  {kind:<6}  {name} {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own notes: they are of torch, and say nothing to a user of this."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    nowhere = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
