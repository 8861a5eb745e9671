"""Models of the official Multi-Agent Transformer code, brought into this package.

The official code (PKU-MARL/Multi-Agent-Transformer) saves the ``state_dict`` of its transformer.
The networks are the same functions; the names and the layout differ:

- query, key and value are three layers there and one here;
- a discrete action's embedding is a linear layer on a one-hot vector there, a table here;
- the encoder's value head belongs to the value function here;
- ``encoder.state_encoder``, ``decoder.obs_encoder`` and the attention masks are left out: the first
  reads a constant, the second is never used, the third limits the number of agents.

The number of attention heads is not in the weights and has to be given (the official scripts
use 1). MAT-Dec and other variants without the causal decoder are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from rllib_seqmarl.errors import UserError, why_not_loaded
from rllib_seqmarl.nets.sequential_policy import SequentialPolicy
from rllib_seqmarl.nets.transformer.model import ActionSpec

#: Not taken over, see above.
_IGNORED = re.compile(r".*\.mask|encoder\.state_encoder\..*|decoder\.obs_encoder\..*")

#: Modules whose parameters only change their name: official pattern, name here.
_RENAMED = (
    (r"encoder\.obs_encoder\.(\d)", r"encoder.embed.\1"),
    (r"encoder\.ln", r"encoder.norm"),
    (r"encoder\.blocks\.(\d+)\.ln1", r"encoder.blocks.\1.norm_attention"),
    (r"encoder\.blocks\.(\d+)\.ln2", r"encoder.blocks.\1.norm_feed_forward"),
    (r"encoder\.blocks\.(\d+)\.attn\.proj", r"encoder.blocks.\1.attention.out_projection"),
    (r"encoder\.blocks\.(\d+)\.mlp\.(\d)", r"encoder.blocks.\1.feed_forward.\2"),
    (r"encoder\.head\.(\d)", r"value.head.\1"),
    (r"decoder\.action_encoder\.0", r"decoder.token"),
    (r"decoder\.ln", r"decoder.norm"),
    (r"decoder\.blocks\.(\d+)\.ln1", r"decoder.blocks.\1.norm_self"),
    (r"decoder\.blocks\.(\d+)\.ln2", r"decoder.blocks.\1.norm_cross"),
    (r"decoder\.blocks\.(\d+)\.ln3", r"decoder.blocks.\1.norm_feed_forward"),
    (r"decoder\.blocks\.(\d+)\.attn1\.proj", r"decoder.blocks.\1.self_attention.out_projection"),
    (r"decoder\.blocks\.(\d+)\.attn2\.proj", r"decoder.blocks.\1.cross_attention.out_projection"),
    (r"decoder\.blocks\.(\d+)\.mlp\.(\d)", r"decoder.blocks.\1.feed_forward.\2"),
    (r"decoder\.head\.(\d)", r"decoder.head.\1"),
)

#: Attention modules, whose query, key and value become one layer.
_ATTENTION = (
    (r"encoder\.blocks\.(\d+)\.attn", r"encoder.blocks.\1.attention"),
    (r"decoder\.blocks\.(\d+)\.attn1", r"decoder.blocks.\1.self_attention"),
    (r"decoder\.blocks\.(\d+)\.attn2", r"decoder.blocks.\1.cross_attention"),
)

#: Without these the sizes of the network cannot be told.
_REQUIRED = (
    "encoder.obs_encoder.1.weight",
    "encoder.head.3.weight",
    "decoder.action_encoder.0.weight",
    "decoder.head.3.weight",
)


class MATSettings(NamedTuple):
    """The sizes that an official model's weights tell."""

    obs_dim: int
    action: ActionSpec
    embed_dim: int
    num_blocks: int


def convert_mat(state_dict: Mapping[str, Tensor]) -> tuple[MATSettings, dict[str, Tensor]]:
    """Names and layout of an official ``state_dict`` -> those of `SequentialPolicy`.

    Args:
        state_dict: of the official ``MultiAgentTransformer``, discrete or continuous.

    Returns:
        The sizes, and the parameters under the names ``encoder.``, ``decoder.``, ``value.head.``
        and ``distribution.``.

    Raises:
        UserError: a parameter is missing or unknown, or this is a variant without decoder.
    """
    if any(name.startswith("decoder.mlp.") for name in state_dict):
        raise UserError(
            "This official model is a MAT-Dec (it has decoder.mlp): only MAT, "
            "whose causal decoder has attention blocks, can be loaded."
        )
    for name in _REQUIRED:
        if name not in state_dict:
            raise UserError(
                f"The official MAT model has no {name!r}: give the state_dict of its transformer "
                "(transformer_*.pt of the official code)."
            )
    obs_encoder = state_dict["encoder.obs_encoder.1.weight"]
    discrete = "decoder.log_std" not in state_dict
    blocks = {
        match[1] for name in state_dict if (match := re.match(r"encoder\.blocks\.(\d+)", name))
    }
    settings = MATSettings(
        obs_dim=obs_encoder.shape[1],
        action=ActionSpec(len(state_dict["decoder.head.3.weight"]), discrete),
        embed_dim=obs_encoder.shape[0],
        num_blocks=len(blocks),
    )
    parameters: dict[str, Tensor] = {}
    projections: dict[str, dict[str, Tensor]] = {}
    for name, value in state_dict.items():
        if _IGNORED.fullmatch(name):
            continue
        if name == "decoder.log_std":
            parameters["distribution.log_std"] = value
            continue
        module, _, kind = name.rpartition(".")
        parent, _, part = module.rpartition(".")
        if part in {"query", "key", "value"} and (ours := _rename(parent, _ATTENTION)):
            projections.setdefault(f"{ours}.in_projection.{kind}", {})[part] = value
        elif ours := _rename(module, _RENAMED):
            parameters[f"{ours}.{kind}"] = value
        else:
            raise UserError(
                f"The official MAT model has an unknown parameter {name!r}: "
                "only the unchanged MAT network can be loaded."
            )
    for name, parts in projections.items():
        if len(parts) == 3:  # an incomplete one is reported as missing
            parameters[name] = torch.cat([parts[part] for part in ("query", "key", "value")])
    if discrete:
        parameters["decoder.token.weight"] = parameters["decoder.token.weight"].T.contiguous()
    return settings, parameters


def load_mat(
    source: Mapping[str, Tensor] | str | os.PathLike[str], *, heads: int
) -> SequentialPolicy:
    """An official MAT model as a policy of this package; it works with any number of agents.

    Args:
        source: the official ``state_dict``, or a file that `torch.save` wrote, with the
            ``state_dict`` or a mapping whose one entry is it.
        heads: attention heads, ``--n_head`` of the official code. Nothing in the weights tells
            another number that divides the width from the right one: the model then plays badly.

    Raises:
        UserError: the file cannot be read, or its parameters are not those of a MAT network.
    """
    state_dict = source if isinstance(source, Mapping) else _read(source)
    settings, parameters = convert_mat(state_dict)
    if heads < 1 or settings.embed_dim % heads:
        raise UserError(
            f"heads={heads} does not divide the model's width {settings.embed_dim}: "
            "give --n_head of the official training run."
        )
    policy = SequentialPolicy(
        obs_dim=settings.obs_dim,
        action=settings.action,
        embed_dim=settings.embed_dim,
        num_blocks=settings.num_blocks,
        num_heads=heads,
        order="index",
        value="encoder",
    )
    expected = {name: tuple(value.shape) for name, value in policy.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in parameters.items()}
    for name in sorted(expected.keys() | given.keys()):
        if expected.get(name) != given.get(name):
            raise UserError(
                f"The official MAT model does not fit: {name!r} should have shape "
                f"{_shape(expected.get(name))} and has {_shape(given.get(name))}."
            )
    policy.load_state_dict(parameters)
    return policy


def _rename(module: str, table: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, ours in table:
        if match := re.fullmatch(pattern, module):
            return match.expand(ours)
    return None


def _shape(shape: tuple[int, ...] | None) -> str:
    return "none (it does not exist)" if shape is None else str(list(shape))


def _read(path: str | os.PathLike[str]) -> Mapping[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file that is none makes of the unpickler
        raise UserError(
            f"Cannot read the official MAT model {os.fspath(path)!r}: {why_not_loaded(error)}"
        ) from error
    if isinstance(content, Mapping) and len(content) == 1:
        (only,) = content.values()
        content = only if isinstance(only, Mapping) else content
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{os.fspath(path)!r} does not hold the state_dict of a MAT model.")
    return content
