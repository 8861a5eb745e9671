"""Playing episodes with a saved policy, which is all that is needed for it.

Where the environment has scripted controllers, each of them plays the same worlds, so that what
the policy achieves stands beside what can be had without learning.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from ray.rllib.core import (
    COMPONENT_LEARNER,
    COMPONENT_LEARNER_GROUP,
    COMPONENT_RL_MODULE,
    DEFAULT_MODULE_ID,
)
from ray.rllib.utils.checkpoints import Checkpointable

from rllib_seqmarl import _ray_compat, registry
from rllib_seqmarl.envs.core.contract import TeamVectorEnv
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.rollout.metrics import METRIC_NAMES
from rllib_seqmarl.rollout.rollout_batch import ACTIONS
from rllib_seqmarl.rollout.runner import StepResult, TeamEnvRunner

#: Where in a checkpoint the trained module lies.
MODULE_PATH = Path(
    COMPONENT_LEARNER_GROUP, COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
)


def load_config(checkpoint: str | Path) -> Any:
    """The algorithm's config as it stands in a checkpoint.

    Raises:
        UserError: not a checkpoint of this package, or one that needs code that is not here.
    """
    from rllib_seqmarl.learning.base.config import TeamConfig

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


class SavedPolicy(Protocol):
    """A trained policy on disk.

    Attributes:
        path: where.
    """

    path: str

    def config(self) -> Any:
        """The algorithm's config, to be changed freely."""

    def restore(self, module: Any) -> None:
        """Puts the weights into a module that was built from the config."""


class CheckpointPolicy:
    """The policy in a checkpoint of RLlib, which is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def config(self) -> Any:
        """See `load_config`."""
        return load_config(self.path)

    def restore(self, module: Any) -> None:
        """The checkpoint's weights.

        Raises:
            UserError: they do not fit the module, or are damaged.
        """
        try:
            module.restore_from_path(Path(self.path) / MODULE_PATH)
        except UserError as error:  # the module says itself what does not fit
            raise does_not_fit(self.path, str(error)) from error
        except RuntimeError as error:  # torch names every parameter that does not fit
            first = str(error).splitlines()[1:2] or [str(error)]
            raise does_not_fit(self.path, first[0].strip()) from error
        except (OSError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise UserError(f"{self.path} is damaged: {error}") from error


def does_not_fit(path: str, reason: str) -> UserError:
    """The error of weights that belong to another network than the environment asks for."""
    return UserError(
        f"the policy of {path} does not fit this environment ({reason}): observation and action "
        "sizes must be those of the training, and so must the number of agents where a network "
        "depends on it."
    )


class _Player(TeamEnvRunner):
    """A runner that plays the same worlds again, with the policy or a scripted controller.

    Attributes:
        controller: who decides instead of the policy.
        watch: called with the worlds before each step of the first episode of world 0.
    """

    controller: str | None = None
    watch: Callable[[TeamVectorEnv], None] | None = None

    def known(self, controllers: Collection[str] | None) -> Collection[str]:
        """``controllers``, or all that there are; a `UserError` where there is no such."""
        assert self.env is not None
        if controllers is None:
            return self.env.scripted_policies
        for name in controllers:
            if name not in self.env.scripted_policies:
                self.env.scripted_actions(name)  # refuses it, and says which there are
        return controllers

    def play(self, episodes: int, explore: bool) -> dict[str, Any]:
        """``metrics`` (name -> mean) and ``per_episode`` (name -> list)."""
        self._num_resets = 0  # equal seeds, so equal worlds
        self.sample(num_episodes=episodes, explore=explore)
        per_episode = {METRIC_NAMES.get(k, k): v.tolist() for k, v in self.pop_episodes().items()}
        return {
            "metrics": {name: sum(values) / len(values) for name, values in per_episode.items()},
            "per_episode": per_episode,
        }

    def _choose_actions(self, explore: bool, random_actions: bool) -> dict[str, NDArray[Any]]:
        assert self.env is not None
        if self.watch is not None:
            self.watch(self.env)
        if self.controller is not None:
            return {ACTIONS: self.env.scripted_actions(self.controller)}
        return super()._choose_actions(explore, random_actions)

    def _step(self, actions: NDArray[Any], quota: NDArray[np.int64] | None = None) -> StepResult:
        result = super()._step(actions, quota)
        if self._is_first[0]:
            self.watch = None
        return result


def evaluate_checkpoint(path: str, **settings: Any) -> dict[str, Any]:
    """Plays with the policy of the checkpoint in the folder ``path``; see `evaluate_policy`."""
    return evaluate_policy(CheckpointPolicy(path), **settings)


def evaluate_policy(
    policy: SavedPolicy,
    *,
    episodes: int = 100,
    explore: bool = False,
    env_config: Mapping[str, Any] | None = None,
    seed: int | None = None,
    controllers: Collection[str] | None = None,
    watch: Callable[[TeamVectorEnv], None] | None = None,
) -> dict[str, Any]:
    """Plays ``episodes`` whole episodes, an equal share in each of E worlds.

    Args:
        policy: who plays.
        episodes: how many.
        explore: sample actions; otherwise every agent takes its most likely one.
        env_config: settings that replace those of the training, for example another map.
        seed: of the worlds and of the actions.
        controllers: scripted controllers of the environment that play the same worlds after the
            policy; None: all that it has.
        watch: called with the worlds before each step of the policy's first episode in world 0.

    Returns:
        ``algorithm``, ``env``, ``env_config``, ``simulator``, ``checkpoint``, ``explore``,
        ``episodes``, ``metrics`` (name -> mean) and ``per_episode`` (name -> list), and the latter
        two of each controller in ``controllers`` (name -> both).

    Raises:
        UserError: no episode to play, no checkpoint, settings that do not fit it, or a
            controller that the environment does not have.
    """
    if episodes < 1:
        raise UserError(f"episodes must be at least 1, got {episodes!r}.")
    config = policy.config()
    class_name = type(config).__name__.removesuffix("Config")
    config.env_config = {**config.env_config, **(env_config or {})}
    config.num_env_runners = 0
    config.num_envs_per_env_runner = min(config.num_envs_per_env_runner, episodes)
    if seed is None:  # RLlib adds to it, and NumPy takes 32 bits
        seed = int(np.random.SeedSequence().generate_state(1)[0] // 2)
    config.seed = seed
    config.in_evaluation = True
    config.evaluation_config = None
    config.validate()
    player = _Player(
        config=config,
        # There since the config was validated, and also where the user registered it.
        env_creator=_ray_compat.registered_environment(config.env),
        worker_index=0,
        num_workers=0,
    )
    try:
        policy.restore(player.module)
        names = player.known(controllers)
        player.watch = watch
        played = player.play(episodes, explore)
        scripted = {}
        for name in names:
            player.controller = name
            scripted[name] = player.play(episodes, explore)
    finally:
        player.stop()
    return {
        "algorithm": registry.name_of_class(class_name) or class_name,
        "env": str(config.env),
        "env_config": dict(config.env_config),
        "simulator": config.simulator,
        "checkpoint": policy.path,
        "explore": explore,
        "episodes": len(next(iter(played["per_episode"].values()))),
        **played,
        "controllers": scripted,
    }
