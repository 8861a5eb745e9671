"""Playing episodes with a saved policy, which is all that is needed for it.

Where the environment has scripted policies, each of them plays the same episodes, so that the
return of the policy stands beside returns without learning.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.checkpoints import Checkpointable

from rllib_seqmarl import _ray_compat, registry
from rllib_seqmarl.envs.core.contract import METRIC_NAMES, Observation, TeamVectorEnv
from rllib_seqmarl.errors import UserError, why_not_loaded
from rllib_seqmarl.experiments.checkpoints.content import (
    MODULE_PATH as MODULE_PATH,
)
from rllib_seqmarl.experiments.checkpoints.content import (
    Damage,
    check_weights,
    needs_code,
    unpickle,
)
from rllib_seqmarl.experiments.evaluate.progress import PlayProgress
from rllib_seqmarl.experiments.evaluate.watcher import Player, Watcher
from rllib_seqmarl.learning.base.config import TeamConfig
from rllib_seqmarl.learning.base.module import TeamModule
from rllib_seqmarl.names import tell_once
from rllib_seqmarl.policies.file import does_not_fit
from rllib_seqmarl.rollout.metrics import cut_line
from rllib_seqmarl.rollout.rollout_batch import ACTIONS, Columns
from rllib_seqmarl.rollout.runner import Bools, StepResult, TeamEnvRunner


def load_config(checkpoint: str | Path) -> TeamConfig:
    """The algorithm's config as it stands in a checkpoint.

    Raises:
        UserError: not a checkpoint of this package, or one that needs code that is not here.
    """
    file = Path(checkpoint) / Checkpointable.CLASS_AND_CTOR_ARGS_FILE_NAME
    try:
        config = TeamConfig.from_state(unpickle(file)["ctor_args_and_kwargs"][0][0])
    except (ImportError, AttributeError) as error:
        raise needs_code(Path(checkpoint), error) from error
    except (LookupError, TypeError, ValueError) as error:
        what = str(error) if isinstance(error, Damage) else f"{file.name} holds no config"
        raise UserError(
            f"{checkpoint} is not a checkpoint, or it is damaged ({what}): give the folder of "
            "another checkpoint."
        ) from error
    if not isinstance(config, TeamConfig):
        raise UserError(
            f"{checkpoint} is a checkpoint of {type(config).__name__.removesuffix('Config')}, "
            "which is not an algorithm of this package."
        )
    copy: TeamConfig = config.copy(copy_frozen=False)
    return copy


class SavedPolicy(Protocol):
    """A trained policy on disk.

    Attributes:
        path: where.
        has_critic: whether it has the weights of the critic, too.
    """

    path: str
    has_critic: bool

    def config(self) -> TeamConfig:
        """The algorithm's config, to be changed freely."""

    def restore(self, module: RLModule) -> None:
        """Puts the weights into a module that was built from the config."""


class CheckpointPolicy:
    """The policy in a checkpoint of RLlib, which is unpickled."""

    has_critic = True

    def __init__(self, path: str) -> None:
        self.path = path

    def config(self) -> TeamConfig:
        """See `load_config`."""
        return load_config(self.path)

    def restore(self, module: RLModule) -> None:
        """The checkpoint's weights.

        Raises:
            UserError: they do not fit the module, or are damaged.
        """
        try:
            module.restore_from_path(Path(self.path) / MODULE_PATH)
        except UserError as error:  # the module says itself what does not fit
            raise does_not_fit(self.path, str(error)) from error
        except RuntimeError as error:  # torch names every parameter that does not fit
            raise does_not_fit(self.path, why_not_loaded(error)) from error
        except (OSError, LookupError, TypeError, ValueError) as error:
            raise UserError(
                f"checkpoint {self.path} is damaged: {why_not_loaded(error)}."
            ) from error
        # Now that the module has found that they are its own, and RLlib has left alone what lacks.
        # Modules of the user name their weights as they like.
        needed = module.state_dict() if isinstance(module, TeamModule) else ()
        check_weights(Path(self.path), needed)


class Episodes(TypedDict):
    """Metrics of the episodes that one policy played, by name.

    Attributes:
        metrics: means.
        per_episode: a number per episode.
    """

    metrics: dict[str, float]
    per_episode: dict[str, list[float]]


class Evaluation(Episodes):
    """The episodes of the policy, those of scripted policies, and what they were played with.

    Attributes:
        episodes: how many each of them played.
        controllers: by name of the scripted policy.
        notice: how many of the episodes did not end and were cut short; empty if none.
    """

    algorithm: str
    env: str
    env_config: dict[str, Any]
    simulator: str
    checkpoint: str
    explore: bool
    episodes: int
    controllers: dict[str, Episodes]
    notice: str


class EpisodePlayer(TeamEnvRunner):
    """A runner that plays the same episodes again, with the policy or a scripted one.

    Attributes:
        scripted_policy: its name, where a scripted policy plays.
        watchers: who sees the first episode of env 0; nobody once it is over.
        policy: on disk, of which this player has what acting needs.
        progress: is told of every step.
    """

    scripted_policy: str | None = None
    watchers: Sequence[Watcher] = ()
    progress: PlayProgress | None = None
    policy: SavedPolicy

    def play(self, episodes: int, explore: bool) -> Episodes:
        """The same episodes with every call, as far as actions are equal."""
        self._num_resets = 0  # equal seeds
        if self.progress is not None:
            self.progress.begin(self.scripted_policy or "policy", episodes)
        self.sample(num_episodes=episodes, explore=explore)
        per_episode = {METRIC_NAMES.get(k, k): v.tolist() for k, v in self.pop_episodes().items()}
        means = {name: sum(values) / len(values) for name, values in per_episode.items()}
        return {"metrics": means, "per_episode": per_episode}

    @property
    def observation(self) -> Observation:
        """What the policy sees now, arrays [E, ...]."""
        assert self._obs is not None
        return self._obs

    @property
    def is_cut(self) -> bool:
        """Whether the episode of env 0 was cut short."""
        return bool(self._is_cut[0])

    @property
    def device(self) -> torch.device:
        """On which the policy acts."""
        return self._device

    def full_module(self) -> RLModule:
        """The policy with its critic; without, where what was saved has none."""
        if not self.policy.has_critic:
            return self.module
        spec = self.config.get_rl_module_spec(spaces=self.get_spaces(), inference_only=False)
        module: RLModule = spec.build().to(self.device).eval()
        self.policy.restore(module)
        return module

    def _choose_actions(self, explore: bool, random_actions: bool) -> Columns:
        assert self.env is not None
        if self.scripted_policy is not None:
            return {ACTIONS: self.env.scripted_actions(self.scripted_policy)}
        decided = super()._choose_actions(explore, random_actions)
        for watcher in self.watchers:
            watcher.on_step(self, decided)
        return decided

    def _step(self, actions: NDArray[Any], counted: Bools | None = None) -> StepResult:
        result = super()._step(actions, counted)
        if self.progress is not None:
            env_steps = len(actions) if counted is None else int(counted.sum())
            self.progress.step(env_steps, self._num_finished)
        if self._is_first[0]:
            for watcher in self.watchers:
                watcher.on_episode_end(self)
            self.watchers = ()
        return result

    def _num_finished(self) -> int:
        return sum(len(one["episode_return"]) for one in self._recorder.finished)


class _BeforeStep(Watcher):
    """Calls a function with the environments."""

    def __init__(self, call: Callable[[TeamVectorEnv], None]) -> None:
        self.call = call

    def on_step(self, player: Player, decided: Columns) -> None:
        assert player.env is not None
        self.call(player.env)


def evaluate_checkpoint(path: str, **settings: Any) -> Evaluation:
    """Plays with the policy of the checkpoint in the folder ``path``; see `evaluate_policy`."""
    if "controllers" in settings:
        tell_once("evaluate_checkpoint: controllers is called scripted_policies now.")
        settings["scripted_policies"] = settings.pop("controllers")
    return evaluate_policy(CheckpointPolicy(path), **settings)


def evaluate_policy(
    policy: SavedPolicy,
    *,
    episodes: int = 100,
    explore: bool = False,
    env_config: Mapping[str, Any] | None = None,
    seed: int | None = None,
    scripted_policies: Collection[str] | None = None,
    before_step: Callable[[TeamVectorEnv], None] | None = None,
    watchers: Sequence[Watcher] = (),
    progress: PlayProgress | None = None,
) -> Evaluation:
    """Plays ``episodes`` whole episodes, an equal share in each of E environments.

    Args:
        policy: who plays.
        episodes: how many.
        explore: sample actions; otherwise every agent takes its most likely one.
        env_config: settings that replace those of the training, for example another map.
        seed: of the environments and of the actions.
        scripted_policies: those of the environment that play the same episodes after the
            policy; None: all that it has.
        before_step: called with the environments before each step of the policy's first episode
            in env 0.
        watchers: see that episode, too.
        progress: shows how far it is.

    Raises:
        UserError: no episode to play, no checkpoint, settings that do not fit it, or a
            scripted policy that the environment does not have.
    """
    if episodes < 1:
        raise UserError(f"episodes must be at least 1, got {episodes!r}.")
    config = policy.config()
    class_name = type(config).__name__.removesuffix("Config")
    config.env_config = {**config.env_config, **(env_config or {})}
    config.num_env_runners = config.num_gpus_per_env_runner = 0
    config.num_envs_per_env_runner = min(config.num_envs_per_env_runner, episodes)
    if seed is None:  # RLlib adds to it, and NumPy takes 32 bits
        seed = int(np.random.SeedSequence().generate_state(1)[0] // 2)
    config.seed = seed
    config.in_evaluation = True
    config.evaluation_config = None
    config.validate()
    player = EpisodePlayer(
        config=config,
        # There since the config was validated, and also where the user registered it.
        env_creator=_ray_compat.registered_environment(config.env),
        worker_index=0,
        num_workers=0,
    )
    try:
        policy.restore(player.module)
        env = player.env
        assert env is not None
        names = env.scripted_policies if scripted_policies is None else scripted_policies
        for name in set(names) - set(env.scripted_policies):
            env.scripted_actions(name)  # refuses it, and says which there are
        if before_step is not None:
            watchers = (*watchers, _BeforeStep(before_step))
        player.watchers, player.policy, player.progress = watchers, policy, progress
        played = player.play(episodes, explore)
        num_cut, bound = player.pop_num_cut()
        scripted = {}
        for name in names:
            player.scripted_policy = name
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
        "notice": cut_line(num_cut, bound) if num_cut else "",
    }
