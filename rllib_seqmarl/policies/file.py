"""Policies as files that hold numbers and JSON, and nothing that could run.

A checkpoint of RLlib is made of pickles, and who loads a pickle runs what its author wrote. A
shared policy is one file in the safetensors format: the weights that acting needs, and in its
header, under ``rllib_seqmarl``, a JSON object with

- ``format`` (2) and ``version`` of the package that wrote it;
- ``algorithm``, ``env`` (names or import paths), ``env_config`` and ``num_envs_per_env_runner``;
- ``settings``: those of the algorithm's config that are not RLlib's;
- ``actor``: the ``kind`` of network that acts, and the ``settings`` from which it is built (see
  `nets.acting.build`); null where it is code from outside of this package;
- what networks are made for (see `TeamInputs.describe`): ``observation``, name -> shape of one
  environment's observations; ``layout`` of an agent's and whether they are bytes, ``obs_bytes``;
  ``num_agents``; ``action``, its ``size``, whether it is ``discrete``, and its ``parts``.

Files of format 1 have no ``actor``, which follows from the algorithm's config, and no ``layout``.

Reading it, names are looked up in the registry, settings go through the networks' own checks, and
every tensor must have the name, shape and type that the network asks for. What is not part of this
package (an algorithm, an environment, an order, ...) is named by an import path, which does run
code: those are refused unless the user says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from typing_extensions import Self

from rllib_seqmarl._version import __version__
from rllib_seqmarl.columns import ACTION_MASK, ALIVE, NEIGHBOURS, OBS
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.names import is_import_path
from rllib_seqmarl.nets.acting.base import TeamInputs
from rllib_seqmarl.nets.acting.build import build_actor
from rllib_seqmarl.policies.policy import Policy

FORMAT = 2
HEADER = "rllib_seqmarl"
#: Below this no number of a network is too large to be tried.
_SMALL = 1 << 14
_KEYS: dict[str, type[Any]] = {
    "format": int,
    "version": str,
    "algorithm": str,
    "env": str,
    "env_config": dict,
    "num_envs_per_env_runner": int,
    "settings": dict,
    "observation": dict,
    "num_agents": int,
    "action": dict,
}


@dataclass(frozen=True)
class StoredPolicy:
    """What a file holds of a policy, or a checkpoint.

    Attributes:
        path: where it comes from.
        metadata: the header; see the module's docstring.
        weights: by name.
    """

    path: str
    metadata: Mapping[str, Any]
    weights: Mapping[str, Tensor]

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """A file that ``rllib export`` wrote, or that somebody says so of.

        Raises:
            UserError: no such file, or its header is not one of ours; the line says what is wrong.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                header = (file.metadata() or {}).get(HEADER)
                weights = {name: file.get_tensor(name) for name in sorted(file.keys())}
        except FileNotFoundError:
            raise UserError(f"no such file: {path}") from None
        except OSError as error:
            reason = "it is a folder" if Path(path).is_dir() else error.strerror or error
            raise UserError(f"cannot read {path}: {reason}; give another file.") from None
        except SafetensorError as error:
            raise UserError(
                f"{path} is no safetensors file, or it is damaged: {' '.join(str(error).split())}."
            ) from None
        return cls(str(path), _checked(path, header), weights)

    def policy(
        self,
        *,
        device: str | torch.device = "cpu",
        num_agents: int | None = None,
        trust_imports: bool = False,
    ) -> Policy:
        """The policy, built and with its weights.

        Args:
            device: where it computes.
            num_agents: N, where the team is of another size than in training.
            trust_imports: whether parts of the network that are named by an import path may be
                imported, and an environment that is may be made.

        Raises:
            UserError: an actor that cannot be built, or weights that are not its own.
        """
        described = self.metadata.get("actor")
        if not isinstance(described, Mapping):
            raise UserError(
                f"{self.path}: {self.metadata['algorithm']} acts by code of its own, which cannot "
                "be rebuilt from settings: play it with 'rllib evaluate'."
            )
        refuse_imports(self.path, _import_paths(described), trust_imports)
        try:
            inputs = TeamInputs.from_description(self.metadata)
            kind, settings = str(described["kind"]), dict(described["settings"])
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise UserError(
                f"{self.path} is damaged: its header does not describe a network "
                f"({type(error).__name__}: {error})."
            ) from None
        if num_agents is not None:
            if isinstance(num_agents, bool) or not isinstance(num_agents, int):
                raise UserError(f"num_agents must be a whole number, got {num_agents!r}.")
            inputs = _resized(inputs, num_agents)
        try:
            _check_sizes(settings, sum(value.numel() for value in self.weights.values()))
            actor = build_actor(kind, inputs, settings)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"{self.path} is damaged: the settings of its network cannot be used "
                f"({type(error).__name__}: {' '.join(str(error).split())})."
            ) from None
        load_weights(self.path, actor, self.weights)
        return Policy(
            actor,
            inputs,
            algorithm=self.metadata["algorithm"],
            env=self.metadata["env"],
            env_config=self.metadata["env_config"],
            device=device,
            foreign_env=() if trust_imports else tuple(_env_imports(self.metadata)),
        )


def _check_sizes(settings: object, num_weights: int, name: str = "") -> None:
    """Refuses a network that would fill the memory: none is larger than the weights of the file."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            _check_sizes(value, num_weights, str(key))
    elif isinstance(settings, list):
        for value in settings:
            _check_sizes(value, num_weights, name)
    elif isinstance(settings, int) and settings > max(num_weights, _SMALL):
        raise UserError(f"the file is damaged: {name!r} is {settings}, more than it has weights.")


def _resized(inputs: TeamInputs, num_agents: int) -> TeamInputs:
    """For a team of another size: the columns that have a row for each agent."""
    if num_agents < 1:
        raise UserError(f"num_agents must be at least 1, got {num_agents}.")
    shapes = {
        name: (num_agents, *shape[1:]) if name in (OBS, ACTION_MASK, ALIVE, NEIGHBOURS) else shape
        for name, shape in inputs.observation.items()
    }
    return replace(inputs, observation=shapes, num_agents=num_agents)


def _checked(path: str | Path, header: str | None) -> dict[str, Any]:
    if header is None:
        raise UserError(
            f"{path} holds weights, but not what network they belong to: write it with "
            "'rllib export'."
        )
    try:
        metadata = json.loads(header)
    except (json.JSONDecodeError, RecursionError):
        raise UserError(f"{path} is damaged: its header is not JSON.") from None
    if not isinstance(metadata, dict):
        raise UserError(f"{path} is damaged: its header must be a mapping.")
    written = metadata.get("format")
    if isinstance(written, int) and written > FORMAT:
        raise UserError(
            f"{path} was written by rllib-seqmarl {metadata.get('version')}, whose files "
            f"{__version__} cannot read: install a newer one."
        )
    for key, expected in _KEYS.items():
        value = metadata.get(key)
        if not isinstance(value, expected) or isinstance(value, bool):
            raise UserError(
                f"{path} is damaged: {key!r} in its header must be of type "
                f"{expected.__name__}, got {type(value).__name__}."
            )
    return metadata


def load_weights(path: str, module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Puts weights into a module, all of them and no others.

    Raises:
        UserError: weights that are missing, of another shape or type, not finite, or too many.
    """
    expected = module.state_dict()
    for name, value in expected.items():
        if name not in weights:
            raise UserError(f"{path} is damaged: it lacks the weights {name!r}.")
        given = weights[name]
        if given.shape != value.shape:
            raise does_not_fit(
                path, f"{name!r} has shape {list(given.shape)}, needed is {list(value.shape)}"
            )
        if given.dtype != value.dtype:
            raise UserError(f"{path} is damaged: {name!r} is {given.dtype}, needed: {value.dtype}.")
        if given.is_floating_point() and not torch.isfinite(given).all():
            raise UserError(
                f"{path} is damaged: {name!r} holds numbers that are not finite (NaN or "
                "infinite): export another checkpoint."
            )
    unknown = sorted(weights.keys() - expected.keys())
    if unknown:
        raise UserError(f"{path}: the network that its settings describe has no {unknown[0]!r}.")
    module.load_state_dict(dict(weights))


def does_not_fit(path: str, reason: str) -> UserError:
    """The error of weights that belong to another network than the environment asks for."""
    return UserError(
        f"the policy of {path} does not fit this environment ({reason}): observation and action "
        "sizes must be those of the training, and so must the number of agents where a network "
        "depends on it."
    )


def refuse_imports(path: str, imports: Iterator[str], trust_imports: bool) -> None:
    """Refuses a file that names code to be imported, unless the user trusts it.

    Raises:
        UserError: names the import paths.
    """
    named = [] if trust_imports else list(imports)
    if named:
        raise UserError(
            f"{path} names code that would be imported and run: {', '.join(named)}. If you "
            "know it and trust it, add --trust-imports (in Python: trust_imports=True)."
        )


def all_imports(metadata: Mapping[str, Any]) -> Iterator[str]:
    """The import paths in a header: of algorithm and environment, and within their settings."""
    if is_import_path(metadata["algorithm"]):
        yield metadata["algorithm"]
    yield from _import_paths(metadata["settings"])
    yield from _env_imports(metadata)


def _env_imports(metadata: Mapping[str, Any]) -> Iterator[str]:
    """The import paths of a header's environment."""
    if is_import_path(metadata["env"]):
        yield metadata["env"]
    yield from _import_paths(metadata["env_config"])


def _import_paths(value: object, key: str = "") -> Iterator[str]:
    """Every text in a mapping that could be taken for an import path."""
    if isinstance(value, str) and (":" in value or key == "env"):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _import_paths(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _import_paths(inner, key)
