"""From a checkpoint to a policy that stands for itself, and to the file that holds it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
from safetensors.torch import save

from rllib_seqmarl import _ray_compat, files, registry
from rllib_seqmarl._version import __version__
from rllib_seqmarl.errors import UserError, why_not_loaded
from rllib_seqmarl.experiments.checkpoints.content import MODULE_PATH, check_weights
from rllib_seqmarl.experiments.evaluate.evaluation import load_config
from rllib_seqmarl.learning.base.config import TeamConfig
from rllib_seqmarl.learning.base.module import team_inputs
from rllib_seqmarl.policies.file import (
    FORMAT,
    HEADER,
    StoredPolicy,
    all_imports,
    load_weights,
    refuse_imports,
)


def from_checkpoint(checkpoint: Path) -> StoredPolicy:
    """The policy of a checkpoint, which is unpickled: what acting needs, and no more.

    Raises:
        UserError: the policy is made of code that cannot be imported or rebuilt.
    """
    config = load_config(checkpoint)
    if _ray_compat.module_spec_of_user(config) is not None:
        raise UserError(
            f"{checkpoint}: its network is code of yours (rl_module_spec), which a file without "
            "code cannot hold."
        )
    try:
        trained = RLModule.from_checkpoint(str(checkpoint / MODULE_PATH))
    except UserError:
        raise
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"checkpoint {checkpoint} is damaged: its module cannot be built "
            f"({why_not_loaded(error)}). Give another checkpoint."
        ) from error
    spec = _acting_spec(config)
    spec.observation_space, spec.action_space = trained.observation_space, trained.action_space
    own = {name: getattr(config, name) for name in sorted(_own_settings(config))}
    metadata = {
        "format": FORMAT,
        "version": __version__,
        "algorithm": _algorithm(config),
        "env": str(config.env),
        "env_config": dict(config.env_config),
        "num_envs_per_env_runner": config.num_envs_per_env_runner,
        "settings": own,
        "actor": spec.module_class.actor_description(spec.model_config),
        **team_inputs(trained.observation_space, trained.action_space).describe(),
    }
    learned, needed = trained.state_dict(), spec.build().state_dict()
    check_weights(checkpoint, needed)
    weights = {name: learned[name].detach().cpu().contiguous().clone() for name in needed}
    return StoredPolicy(str(checkpoint), metadata, weights)


def export(checkpoint: Path, file: Path) -> None:
    """Writes the policy of a checkpoint to a file that is safe to share; see `policies.file`.

    Args:
        checkpoint: the checkpoint's folder; it is unpickled.
        file: the new file.

    Raises:
        UserError: the file exists or cannot be written, or the policy needs code
            that cannot be imported, or values that JSON cannot hold.
    """
    stored = from_checkpoint(checkpoint)
    if stored.metadata["algorithm"] is None:
        name = type(load_config(checkpoint)).__name__.removesuffix("Config")
        raise UserError(
            f"{checkpoint}: {name} cannot be imported by whoever gets the file: put the algorithm "
            "into a module."
        )
    try:
        header = json.dumps(stored.metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{checkpoint}: its settings hold what JSON cannot: {error}.") from None
    files.write(file, save(dict(stored.weights), {HEADER: header}), "FILE")


def _acting_spec(config: TeamConfig) -> RLModuleSpec:
    """Of a module as an evaluation builds it."""
    config = config.copy(copy_frozen=False)
    config.in_evaluation = True  # what only learning needs is left out
    if config.seed is None:
        config.seed = 0  # as an evaluation has one: no choice is left to the clock
    spec = config.get_default_rl_module_spec()
    spec.inference_only = True
    return spec


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


def completed(stored: StoredPolicy, *, trust_imports: bool) -> StoredPolicy:
    """A policy in a file of format 1, with the description of its actor.

    Raises:
        UserError: as of `SharedPolicy`, or settings that its algorithm does not take.
    """
    spec = _acting_spec(SharedPolicy(stored.path, trust_imports=trust_imports).config())
    description = spec.module_class.actor_description(spec.model_config)
    return replace(stored, metadata={**stored.metadata, "actor": description})


class SharedPolicy:
    """The policy in a file, for an evaluation, which builds it from the algorithm's config.

    Args:
        path: the file.
        trust_imports: whether an algorithm, an environment, an order, ... that is named by an
            import path may be imported.

    Attributes:
        stored: what the file holds.

    Raises:
        UserError: as of `StoredPolicy.read`, or import paths that are not trusted.
    """

    has_critic = False

    def __init__(self, path: str | Path, *, trust_imports: bool = False) -> None:
        self.path = str(path)
        self.stored = StoredPolicy.read(path)
        refuse_imports(self.path, all_imports(self.stored.metadata), trust_imports)

    def config(self) -> TeamConfig:
        """The config from which the policy is built.

        Raises:
            UserError: an unknown algorithm or setting, or a wrong value.
        """
        metadata = self.stored.metadata
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
        load_weights(self.path, module, self.stored.weights)
