"""What a policy is asked about: dicts of arrays, checked once and made into tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rllib_seqmarl.columns import ACTION_MASK, ALIVE, NEIGHBOURS, OBS
from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.nets.acting.base import TeamInputs

#: Column -> kinds of NumPy's types that it may have, and what they are called.
_KINDS = {
    OBS: ("fiu", "real numbers"),
    ACTION_MASK: ("b", "booleans"),
    ALIVE: ("b", "booleans"),
    NEIGHBOURS: ("iu", "whole numbers"),
}
_REAL = ("fiu", "real numbers")


def to_tensors(
    observations: Mapping[str, Any],
    inputs: TeamInputs,
    columns: Sequence[str],
    device: torch.device,
) -> tuple[dict[str, Tensor], bool]:
    """The columns that a policy reads, [B, N, ...].

    Args:
        observations: name -> array [N, ...] of one team, or [B, N, ...] of B teams, as an
            environment returns them. Columns that the policy does not read may be there.
        inputs: what the policy was built for.
        columns: the names of those that it reads.
        device: where the tensors go.

    Returns:
        The tensors, and whether there was an axis B.

    Raises:
        UserError: a column that is missing or unknown, of another shape or type; numbers that are
            not finite; an agent without any action.
    """
    if not isinstance(observations, Mapping):
        raise UserError(
            f"act: observations must be a mapping of names to arrays, got "
            f"{type(observations).__name__}: give a dict with 'obs' [N, {inputs.layout.size}]."
        )
    for name in observations:
        if name not in inputs.observation:
            raise UserError(
                f"act: unknown observation {name!r}. {nearest(str(name), inputs.observation)}"
            )
    needed = [name for name in columns if name in inputs.observation]
    for name in needed:
        if name not in observations:
            raise UserError(
                f"act: the observations lack {name!r}: give it with shape "
                f"{_shape(inputs.observation[name])}, alone or with an axis for teams in front."
            )
    arrays = {name: _array(name, observations[name]) for name in needed}
    batched = arrays[OBS].ndim == len(inputs.observation[OBS]) + 1
    leading = arrays[OBS].shape[:1] if batched else ()
    if leading == (0,):
        raise UserError("act: observations of no team at all: give those of one or more.")
    for name, array in arrays.items():
        kinds, what = _KINDS.get(name, _REAL)
        if name == OBS and inputs.obs_bytes:
            kinds, what = "u", "bytes (uint8), as in training"
        _check_shape(name, array, (*leading, *inputs.observation[name]))
        if array.dtype.kind not in kinds or (kinds == "u" and array.dtype != np.uint8):
            raise UserError(f"act: {name!r} must be of {what}, got {array.dtype}.")
    if not inputs.obs_bytes:
        arrays[OBS] = arrays[OBS].astype(np.float32)
    _check_values(arrays, inputs)
    tensors = {}
    for name, array in arrays.items():
        rows = np.array(array if batched else array[None])  # a copy, whatever becomes of theirs
        tensors[name] = torch.from_numpy(rows).to(device)
    return tensors, batched


def _array(name: str, value: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError:
        raise UserError(f"act: {name!r} is no array: its rows are of different lengths.") from None


def _check_shape(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise UserError(
            f"act: {name!r} must have shape {_shape(shape)}, or one axis for teams more in all "
            f"columns, got {_shape(array.shape)}."
        )


def _check_values(columns: Mapping[str, NDArray[Any]], inputs: TeamInputs) -> None:
    if not np.isfinite(columns[OBS]).all():
        raise UserError("act: 'obs' holds numbers that are not finite: mend what observes.")
    mask = columns.get(ACTION_MASK)
    decides = inputs.action.discrete or inputs.action.parts
    if mask is not None and decides and not mask.any(-1).all():
        agent = int(np.argwhere(~mask.any(-1))[0][-1])
        raise UserError(
            f"act: 'action_mask' leaves agent {agent} without any action: one must be available, "
            "a no-op for an agent that is dead."
        )
    neighbours = columns.get(NEIGHBOURS)
    if neighbours is not None and not ((neighbours >= -1) & (neighbours < inputs.num_agents)).all():
        raise UserError(
            f"act: 'neighbours' must be slots of the {inputs.num_agents} agents, counted from 0, "
            "or -1 for none."
        )


def _shape(shape: Sequence[int]) -> str:
    return str(list(shape))
