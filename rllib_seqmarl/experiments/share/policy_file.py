"""Policies as files that hold numbers and JSON, and nothing that could run.

A checkpoint of RLlib is made of pickles, and who loads a pickle runs what its author wrote. A
shared policy is one file in the safetensors format: the weights that acting needs, and in its
header, under ``rllib_seqmarl``, a JSON object with

- ``format`` (1) and ``version`` of the package that wrote it;
- ``algorithm``, ``env`` (names or import paths), ``env_config`` and ``num_envs_per_env_runner``;
- ``settings``: those of the algorithm's config that are not RLlib's, of which the network is made;
- ``observation``: name -> shape of one environment's observations; ``num_agents``; ``action``: its
  ``size`` and whether it is ``discrete``.

Reading it, names are looked up in the registry, settings go through the config's own checks, and
every tensor must have the name, shape and type that the network asks for. What is not part of this
package (an algorithm, an environment, an order, ...) is named by an import path, which does run
code: those are refused unless the user says otherwise.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModule
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import rllib_seqmarl
from rllib_seqmarl import _ray_compat, registry
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.evaluate.evaluation import MODULE_PATH, does_not_fit, load_config
from rllib_seqmarl.experiments.spec.fields import kind
from rllib_seqmarl.learning.base.config import TeamConfig
from rllib_seqmarl.learning.base.module import action_spec

FORMAT = 1
_HEADER = "rllib_seqmarl"
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


def export(checkpoint: Path, file: Path) -> None:
    """Writes the policy of a checkpoint to a file that is safe to share.

    Args:
        checkpoint: the checkpoint's folder; it is unpickled.
        file: the new file.

    Raises:
        UserError: the file exists or cannot be written, or the policy needs code
            that cannot be imported, or values that JSON cannot hold.
    """
    config = load_config(checkpoint)
    algorithm = _algorithm(config)
    if algorithm is None:
        raise UserError(
            f"{checkpoint}: {type(config).__name__.removesuffix('Config')} cannot be imported by "
            "whoever gets the file: put the algorithm into a module."
        )
    if _ray_compat.module_spec_of_user(config) is not None:
        raise UserError(
            f"{checkpoint}: its network is code of yours (rl_module_spec), which a file without "
            "code cannot hold."
        )
    module = RLModule.from_checkpoint(str(checkpoint / MODULE_PATH))
    metadata = {
        "format": FORMAT,
        "version": rllib_seqmarl.__version__,
        "algorithm": algorithm,
        "env": str(config.env),
        "env_config": dict(config.env_config),
        "num_envs_per_env_runner": config.num_envs_per_env_runner,
        "settings": {name: getattr(config, name) for name in sorted(_own_settings(config))},
        **_sizes(module),
    }
    config.in_evaluation = True  # what only learning needs is left out
    spec = config.get_default_rl_module_spec()
    spec.observation_space, spec.action_space = module.observation_space, module.action_space
    spec.inference_only = True
    trained = module.state_dict()
    weights = {
        name: trained[name].detach().cpu().contiguous().clone()
        for name in spec.build().state_dict()
    }
    try:
        header = json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{checkpoint}: its settings hold what JSON cannot: {error}.") from None
    new = file.with_name(f"{file.name}.new")
    try:
        new.write_bytes(save(weights, {_HEADER: header}))
        os.replace(new, file)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}.") from None


def _algorithm(config: TeamConfig) -> str | None:
    """The name of a config's algorithm, or its import path if it is code of the user."""
    path = registry.import_path(config.algo_class)
    for name, target in registry.ALGORITHMS.items():
        if registry.ALGORITHMS.is_own(name) and registry.import_path(target) == path:
            return name
    return path


def _own_settings(config: TeamConfig) -> set[str]:
    """Names of the settings that RLlib's configs do not have."""
    names = vars(type(config)()).keys() - vars(AlgorithmConfig()).keys()
    return {name for name in names if not name.startswith("_")}


def _sizes(module: RLModule) -> dict[str, Any]:
    spec = action_spec(module.action_space)
    return {
        "observation": {
            name: list(space.shape) for name, space in module.observation_space.spaces.items()
        },
        "num_agents": int(module.action_space.shape[0]),
        "action": {"discrete": spec.discrete, "size": spec.size, "parts": list(spec.parts)},
    }


class SharedPolicy:
    """The policy in a file that `export` wrote, or that somebody says so of.

    Args:
        path: the file.
        trust_imports: whether an algorithm, an environment, an order, ... that is named by an
            import path may be imported.

    Attributes:
        metadata: what the header says; see the module's docstring.

    Raises:
        UserError: no such file, or its header is not one of ours; the line says what is wrong.
    """

    has_critic = False

    def __init__(self, path: str | Path, *, trust_imports: bool = False) -> None:
        self.path = str(path)
        try:
            with safe_open(self.path, framework="pt") as file:
                header = (file.metadata() or {}).get(_HEADER)
                self._weights: dict[str, Tensor] = {
                    name: file.get_tensor(name) for name in sorted(file.keys())
                }
        except OSError:
            raise UserError(f"no such file: {path}") from None
        except SafetensorError as error:
            raise UserError(
                f"{path} is no safetensors file, or it is damaged: {' '.join(str(error).split())}."
            ) from None
        self.metadata = self._checked(header)
        named = [self.metadata["algorithm"], self.metadata["env"]]
        imports = [text for text in named if registry.is_import_path(text)]
        imports += _import_paths(self.metadata["settings"])
        imports += _import_paths(self.metadata["env_config"])
        if imports and not trust_imports:
            raise UserError(
                f"{path} names code that would be imported and run: {', '.join(imports)}. If you "
                "know it and trust it, add --trust-imports."
            )

    def _checked(self, header: str | None) -> dict[str, Any]:
        if header is None:
            raise UserError(
                f"{self.path} holds weights, but not what network they belong to: write it with "
                "'rllib export'."
            )
        try:
            metadata = json.loads(header)
        except (json.JSONDecodeError, RecursionError):
            raise UserError(f"{self.path} is damaged: its header is not JSON.") from None
        if not isinstance(metadata, dict):
            raise UserError(f"{self.path} is damaged: its header must be a mapping.")
        written = metadata.get("format")
        if isinstance(written, int) and written > FORMAT:
            raise UserError(
                f"{self.path} was written by rllib-seqmarl {metadata.get('version')}, whose files "
                f"{rllib_seqmarl.__version__} cannot read: install a newer one."
            )
        for key, expected in _KEYS.items():
            value = metadata.get(key)
            if not isinstance(value, expected) or isinstance(value, bool):
                raise UserError(
                    f"{self.path} is damaged: {key!r} in its header must be of type "
                    f"{expected.__name__}, got {kind(value)}."
                )
        return metadata

    def config(self) -> TeamConfig:
        """The config from which the policy is built.

        Raises:
            UserError: an unknown algorithm or setting, or a wrong value.
        """
        metadata = self.metadata
        try:
            config = registry.config_class(metadata["algorithm"])()
            own = _own_settings(config)
            for name in metadata["settings"]:
                if name not in own:  # RLlib's could name classes to be imported
                    raise UserError(f"{name!r} is no setting of {metadata['algorithm']}.")
            config.update_from_dict(metadata["settings"])
            config.num_envs_per_env_runner = metadata["num_envs_per_env_runner"]
            return config.environment(metadata["env"], env_config=metadata["env_config"])
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None

    def restore(self, module: RLModule) -> None:
        """Puts the weights into a module that was built from `config`.

        Raises:
            UserError: weights that are missing, of another shape or type, not finite, or too many.
        """
        expected = module.state_dict()
        for name, value in expected.items():
            if name not in self._weights:
                raise UserError(f"{self.path} is damaged: it lacks the weights {name!r}.")
            given = self._weights[name]
            if given.shape != value.shape:
                raise does_not_fit(
                    self.path,
                    f"{name!r} has shape {list(given.shape)}, needed is {list(value.shape)}",
                )
            if given.dtype != value.dtype:
                raise UserError(
                    f"{self.path} is damaged: {name!r} is {given.dtype} in place of {value.dtype}."
                )
            if given.is_floating_point() and not torch.isfinite(given).all():
                raise UserError(f"{self.path}: {name!r} holds numbers that are not finite.")
        unknown = sorted(self._weights.keys() - expected.keys())
        if unknown:
            raise UserError(
                f"{self.path}: the network that its settings describe has no {unknown[0]!r}."
            )
        module.load_state_dict(self._weights)


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
