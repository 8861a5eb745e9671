"""A second device for machines that have none: what a GPU refuses, it refuses.

Its tensors lie in the memory of the CPU and are computed there, but to PyTorch they are of another
device, ``checked``. As on a GPU, a kernel takes no operand and no generator of the CPU (scalars
excepted), and ``numpy()`` is impossible. Beside that it counts where the CPU has to wait for a
value (``SYNCHRONISATIONS``): on a GPU that empties the queue of kernels.

    python tests/helpers/second_device.py MAT SrSv       (runs of benchmarks/seeded_figures.py)

runs seeded trainings with learner and runner on this device and prints their figures, as JSON.
It is a process of its own, since PyTorch takes one such device per process and for ever.

What it cannot show: kernels that round otherwise, memory, time, streams, and in-place changes of
views that are not contiguous.
"""

from __future__ import annotations

import collections
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "checked"
DEVICE = torch.device("privateuseone", 0)  # called `NAME` once it is registered

#: "operator file:line" -> how often the CPU waited there for a value of the device.
SYNCHRONISATIONS: collections.Counter[str] = collections.Counter()
_WAITS = {
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::masked_select",
    "aten::nonzero",
    "aten::repeat_interleave",
}
#: May have operands on both devices.
_TRANSFERS = {"aten::_copy_from", "aten::_copy_from_and_resize", "aten::_to_copy", "aten::copy_"}
_VIEWS = {"aten::_reshape_alias", "aten::_unsafe_view", "aten::unsafe_view", "aten::view"}
#: Folders whose lines are named.
_SOURCES = (str(Path(__file__).parents[2] / "rllib_seqmarl"), "/ray/rllib/")

#: Storage of a tensor of the device -> the values, on the CPU.
_values: dict[int, Tensor] = {}
_libraries: list[torch.library.Library] = []


class _Checked(torch.Tensor):
    """A tensor of the device; the class exists because `torch.nn.Parameter` asks for one."""

    __torch_function__ = torch._C._disabled_torch_function_impl


def _to_device(values: Tensor) -> Tensor:
    with torch.inference_mode(False):
        tensor = torch._C._acc.create_empty_tensor(values.shape, values.dtype)
    tensor.__class__ = _Checked
    _values[tensor.untyped_storage()._cdata] = values
    return tensor


def _is_ours(x: object) -> bool:
    return isinstance(x, Tensor) and x.device.type == NAME


def _values_of(x: Any) -> Any:
    if _is_ours(x):
        return _values[x.untyped_storage()._cdata]
    return torch.device("cpu") if isinstance(x, torch.device) else x


def _check(name: str, leaves: list[Any]) -> None:
    """Refuses what a kernel of a GPU refuses."""
    for x in leaves:
        if isinstance(x, Tensor) and x.ndim and not _is_ours(x):
            raise RuntimeError(f"{name}: a tensor of shape {tuple(x.shape)} is on the CPU.")
        if isinstance(x, torch.Generator):
            raise RuntimeError(f"{name}: the generator is on the CPU.")


def _count_waiting(name: str) -> None:
    frames = [f for f in traceback.extract_stack() if any(s in f.filename for s in _SOURCES)]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "elsewhere"
    SYNCHRONISATIONS[f"{name.removeprefix('aten::')} {where}"] += 1


def _mapped(function: Callable[[Any], Any], x: Any) -> Any:
    """``function`` of every argument in lists, tuples and dicts; PyTorch's own takes far longer."""
    if type(x) in (list, tuple):
        return type(x)([_mapped(function, y) for y in x])
    if type(x) is dict:
        return {name: _mapped(function, y) for name, y in x.items()}
    return function(x)


def _kernel(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Any operator on tensors of the device."""
    name = op._schema.name
    leaves: list[Any] = []
    on_cpu: list[Any] = []

    def value(x: Any) -> Any:
        leaves.append(x)
        on_cpu.append(_values_of(x))
        return on_cpu[-1]

    a, k = _mapped(value, args), _mapped(value, kwargs)
    if name not in _TRANSFERS:
        _check(name, leaves)
    if name in _WAITS:
        _count_waiting(name)
    if name == "aten::_copy_from":
        a[1].copy_(a[0])
        return args[1]
    with torch._C._AutoDispatchBelowAutograd():
        if name in _VIEWS:
            out = a[0].reshape(a[1])
        elif name == "aten::empty_strided":
            out = torch.empty(a[0], dtype=k.get("dtype"))
        else:
            out = op(*a, **k)
    to_cpu = name == "aten::_to_copy" and getattr(kwargs.get("device"), "type", NAME) == "cpu"
    # What an operator writes into is the tensor that it was given.
    given = {id(y): x for x, y in zip(leaves, on_cpu, strict=True) if _is_ours(x)}

    def tensor(y: Any) -> Any:
        if not isinstance(y, Tensor) or to_cpu:
            return y
        return given[id(y)] if id(y) in given else _to_device(y)

    return _mapped(tensor, out)


def _gru_cell(
    x: Tensor, h: Tensor, w: Tensor, u: Tensor, b: Tensor | None = None, c: Tensor | None = None
) -> Tensor:
    """PyTorch's ``gru_cell`` in its equations: devices other than the CPU need a fused kernel."""
    gates_x, gates_h = torch.nn.functional.linear(x, w, b), torch.nn.functional.linear(h, u, c)
    (reset_x, update_x, new_x), (reset_h, update_h, new_h) = (
        gates_x.chunk(3, 1),
        gates_h.chunk(3, 1),
    )
    reset, update = torch.sigmoid(reset_x + reset_h), torch.sigmoid(update_x + update_h)
    new = torch.tanh(new_x + reset * new_h)
    return new + update * (h - new)


def _gru(
    x: Tensor, h: Tensor, weights: list[Tensor], biases: bool, layers: int, *settings: Any
) -> tuple[Tensor, Tensor]:
    """PyTorch's ``gru`` likewise, in one direction."""
    dropout, training, bidirectional, batch_first = settings
    assert not bidirectional
    assert not (dropout and training)
    steps = x.transpose(0, 1) if batch_first else x
    number, last = 4 if biases else 2, []
    for layer in range(layers):
        own, state, outputs = weights[layer * number : (layer + 1) * number], h[layer], []
        for step in steps:
            state = _gru_cell(step, state, *own)
            outputs.append(state)
        steps = torch.stack(outputs)
        last.append(state)
    return steps.transpose(0, 1) if batch_first else steps, torch.stack(last)


def register() -> None:
    """Makes the device known to PyTorch."""
    _setup_privateuseone_for_python_backend(NAME)
    rest, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    _libraries.extend((rest, aten))
    rest.fallback(_kernel, "PrivateUse1")
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    composite = ("CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    for name in torch._C._dispatch_get_all_op_names():
        # The fallback is for what has no kernel for all devices; such a kernel reads strides.
        if not name.startswith("aten::") or not any(has_kernel(name, key) for key in composite):
            continue
        if has_kernel(name, "CompositeImplicitAutograd"):
            continue
        packet, _, overload = name.removeprefix("aten::").partition(".")
        op = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
        if op is not None:

            def kernel(*args: Any, op: Any = op, **kwargs: Any) -> Any:
                return _kernel(op, *args, **kwargs)

            aten.impl(name.removeprefix("aten::"), kernel, "PrivateUse1")
    for key in ("AutogradPrivateUse1", "PrivateUse1"):
        aten.impl("gru_cell", _gru_cell, key)
        aten.impl("gru.input", _gru, key)


def main(runs: list[str]) -> None:
    """Prints a line per run: its figures, and where the CPU waits."""
    import ray
    import ray.rllib.core.learner.torch.torch_learner as torch_learner
    from seeded_figures import figures

    import rllib_seqmarl.rollout.runner as runner

    torch.set_num_threads(1)
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(num_cpus=1, num_gpus=1, **quiet)
    register()
    for module in (torch_learner, runner):
        # A GPU for who asks for one.
        module.get_device = lambda _, gpus=1: DEVICE if gpus else torch.device("cpu")
    for run in runs:
        SYNCHRONISATIONS.clear()
        gpus = {"num_gpus_per_learner": 1, "num_gpus_per_env_runner": 1}
        found = figures(run, more=gpus)
        line = {"run": run, "figures": found, "synchronisations": SYNCHRONISATIONS}
        print("result " + json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
