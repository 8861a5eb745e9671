"""Playing episodes with a checkpoint, which is all that is needed for it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.rllib.core import (
    COMPONENT_LEARNER,
    COMPONENT_LEARNER_GROUP,
    COMPONENT_RL_MODULE,
    DEFAULT_MODULE_ID,
)
from ray.rllib.utils.checkpoints import Checkpointable

from rllib_seqmarl import registry
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.rollout.metrics import METRIC_NAMES
from rllib_seqmarl.rollout.runner import TeamEnvRunner

#: Where in a checkpoint the trained module lies.
MODULE_PATH = Path(
    COMPONENT_LEARNER_GROUP, COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
)


def load_config(checkpoint: str | Path) -> Any:
    """The algorithm's config as it stands in a checkpoint.

    Raises:
        UserError: not a checkpoint of this package, or one that needs code that is not here.
    """
    from rllib_seqmarl.learning.config import TeamConfig

    file = Path(checkpoint) / Checkpointable.CLASS_AND_CTOR_ARGS_FILE_NAME
    try:
        with file.open("rb") as stream:
            state = pickle.load(stream)["ctor_args_and_kwargs"][0][0]
        config = TeamConfig.from_state(state)
    except (OSError, KeyError, IndexError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{checkpoint} is not a checkpoint, or it is damaged ({file.name}: "
            f"{type(error).__name__}): give the folder of another checkpoint."
        ) from error
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{checkpoint} needs code that cannot be imported here ({error}): "
            "install it or add its folder to PYTHONPATH."
        ) from error
    if not isinstance(config, TeamConfig):
        raise UserError(
            f"{checkpoint} is a checkpoint of {type(config).__name__.removesuffix('Config')}, "
            "which is not an algorithm of this package."
        )
    return config.copy(copy_frozen=False)


def evaluate_checkpoint(
    path: str,
    *,
    episodes: int = 100,
    explore: bool = False,
    env_config: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """Plays ``episodes`` whole episodes, an equal share in each of E worlds.

    Args:
        path: a checkpoint's folder.
        episodes: how many.
        explore: sample actions; otherwise every agent takes its most likely one.
        env_config: settings that replace those of the training, for example another map.
        seed: of the worlds and of the actions.

    Returns:
        ``algorithm``, ``env``, ``env_config``, ``simulator``, ``checkpoint``, ``explore``,
        ``episodes``, ``metrics`` (name -> mean) and ``per_episode`` (name -> list).

    Raises:
        UserError: no episode to play, no checkpoint, or settings that do not fit it.
    """
    if episodes < 1:
        raise UserError(f"episodes must be at least 1, got {episodes!r}.")
    config = load_config(path)
    algorithm = type(config).__name__.removesuffix("Config")
    config.env_config = {**config.env_config, **(env_config or {})}
    config.num_env_runners = 0
    config.num_envs_per_env_runner = min(config.num_envs_per_env_runner, episodes)
    config.seed = seed
    config.in_evaluation = True
    config.evaluation_config = None
    config.validate()
    runner = TeamEnvRunner(
        config=config,
        env_creator=registry.environment_creator(config.env),
        worker_index=0,
        num_workers=0,
    )
    try:
        _restore(runner, Path(path))
        runner.sample(num_episodes=episodes, explore=explore)
        played = runner.pop_episodes()
    finally:
        runner.stop()
    per_episode = {METRIC_NAMES.get(k, k): v.tolist() for k, v in played.items()}
    return {
        "algorithm": algorithm,
        "env": str(config.env),
        "env_config": dict(config.env_config),
        "simulator": config.simulator,
        "checkpoint": str(path),
        "explore": explore,
        "episodes": len(next(iter(per_episode.values()))),
        "metrics": {name: sum(values) / len(values) for name, values in per_episode.items()},
        "per_episode": per_episode,
    }


def _restore(runner: TeamEnvRunner, path: Path) -> None:
    """The checkpoint's weights into the runner's module."""
    try:
        runner.module.restore_from_path(path / MODULE_PATH)
    except RuntimeError as error:  # torch names every parameter that does not fit
        first = str(error).splitlines()[1:2] or [str(error)]
        raise UserError(
            f"the policy of {path} does not fit this environment ({first[0].strip()}): "
            "observation and action sizes must be those of the training."
        ) from error
    except (OSError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
