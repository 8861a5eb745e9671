"""The team runner: an RLlib ``EnvRunner`` that fills blocks of columns.

RLlib's own runners keep one episode object per world, append to Python lists at every step and
send them through connectors. Here a rollout is a handful of arrays [T, E, N, ...] that are
allocated once and written in place; what RLlib sees of a runner from outside (sampling,
metrics, weights, state, callbacks, restarts) stays the same.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.utils import force_list
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import (
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SAMPLE_TIMER,
    WEIGHTS_SEQ_NO,
)

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.rollout.metrics import TIME_SPLIT, TeamEpisode, log_episodes, log_steps
from rllib_seqmarl.rollout.rollout_batch import RolloutBatch
from rllib_seqmarl.rollout.worlds import WorldsRunner

logger = logging.getLogger(__name__)

#: Environment state and random state: large, and of this runner alone, so never broadcast.
COMPONENT_WORLDS = "worlds"

#: How often a failing environment is built anew for one rollout, where that is asked for.
MAX_REBUILDS = 10


class TeamEnvRunner(WorldsRunner, Checkpointable):
    """Plays E worlds with one policy and returns blocks of columns.

    ``sample()`` takes ``rollout_fragment_length`` steps of every world; worlds go on where they
    were at the next call. ``sample(num_episodes=n)`` starts afresh, plays n whole episodes, an
    equal share of them in every world so that short episodes are not favoured, and returns
    step counts only.
    """

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self._callbacks = [cls() for cls in force_list(self.config.callbacks_class)]
        self._error: str | None = None
        self._notice = ""
        self._evaluated: list[dict[str, NDArray[np.float32]]] = []
        self._finished: list[dict[str, NDArray[np.float32]]] = []
        # Where others sample, the learner's own runner needs only spaces and a module.
        others_sample = not self.worker_index and self.config.num_env_runners > 0
        if not others_sample or self.config.create_env_on_local_worker:
            self.make_env()
        self.make_module()

    def assert_healthy(self) -> None:
        """Checks that construction has come to its end."""
        assert self.env is not None
        assert self.module is not None

    def stop(self) -> None:
        """Closes the worlds."""
        if self.env is not None:
            self.env.close()

    # -- sampling ----------------------------------------------------------------------------

    def sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[RolloutBatch]:
        """Steps the worlds.

        Args:
            num_timesteps: steps of single worlds, rounded up to whole steps of all E;
                by default ``rollout_fragment_length`` steps of each.
            num_episodes: whole episodes instead, from fresh worlds.
            explore: sample actions (True) or take the most likely ones; by default the config's.
            random_actions: uniform legal actions instead of the policy's.
            force_reset: start all worlds afresh.

        Returns:
            One block.

        Raises:
            UserError: not finite observations or rewards, or a mask without any legal action.
        """
        if self.env is None:
            raise ValueError(f"{self} has no environment to sample from.")
        try:
            return [self._sample(num_timesteps, num_episodes, explore, random_actions, force_reset)]
        except UserError as error:
            if not self.worker_index:
                raise
            # RLlib takes an exception in another process for a crash and begins anew, for ever.
            self._error = str(error)
            return [RolloutBatch(0, self.env.num_agents, error=self._error)]

    def _sample(
        self,
        num_timesteps: int | None,
        num_episodes: int | None,
        explore: bool | None,
        random_actions: bool,
        force_reset: bool,
    ) -> RolloutBatch:
        assert self.env is not None
        begin = time.perf_counter()
        # A rollout has one core: a second OpenMP thread on it slows both down.
        torch.set_num_threads(1)
        explore = self.config.explore if explore is None else explore
        if num_episodes is None and num_timesteps is None and self.config.in_evaluation:
            num_episodes = self.env.num_envs
        with self.metrics.log_time(SAMPLE_TIMER):
            if force_reset or num_episodes is not None:
                self._obs = None
            if num_episodes is not None:
                block = self._until_the_worlds_hold(
                    lambda: self._sample_episodes(num_episodes, explore, random_actions)
                )
            else:
                steps = self.config.get_rollout_fragment_length(self.worker_index)
                if num_timesteps is not None:
                    steps = math.ceil(num_timesteps / self.env.num_envs)
                block = self._until_the_worlds_hold(
                    lambda: self._sample_steps(steps, explore, random_actions)
                )
                block.check(self.env.simulator)
            self._call_back("on_sample_end", samples=[block])
        self._log_env_steps(self._metrics_num_env_steps_sampled, block.num_env_steps)
        log_steps(self.metrics, block.num_env_steps)
        total = time.perf_counter() - begin
        self._seconds["sampling_other"] += (
            total - self._seconds["environment"] - self._seconds["decode"]
        )
        return block

    def _until_the_worlds_hold(self, play: Callable[[], RolloutBatch | None]) -> RolloutBatch:
        """Plays again where the environment failed and was built anew, a few times."""
        assert self.env is not None
        finished = len(self._finished)
        for _ in range(MAX_REBUILDS + 1):
            block = play()
            if block is not None:
                return block
            del self._finished[finished:]  # episodes of the attempt that failed
        raise UserError(
            f"the environment ({self.env.simulator}) was built {MAX_REBUILDS} times and failed "
            "every time before a rollout was complete: mend the environment."
        )

    # -- episodes, metrics, callbacks ----------------------------------------------------------

    def _episodes_ended(
        self, ended: NDArray[np.bool_], statistics: dict[str, NDArray[np.float32]]
    ) -> None:
        chosen = {name: value[ended] for name, value in statistics.items()}
        self._finished.append(chosen)
        if not self.config.has_episode_end_callback():
            return
        for i, world in enumerate(np.flatnonzero(ended)):
            episode = TeamEpisode(int(world), {k: float(v[i]) for k, v in chosen.items()})
            self._call_back(
                "on_episode_end",
                episode=episode,
                prev_episode_chunks=[],
                env=self.env,
                rl_module=self.module,
                env_index=int(world),
            )

    def _call_back(self, name: str, **arguments: Any) -> None:
        """Calls the user's callbacks of that name, with what all of them are given."""
        make_callback(
            name,
            callbacks_objects=self._callbacks,
            callbacks_functions=getattr(self.config, f"callbacks_{name}"),
            kwargs={"env_runner": self, "metrics_logger": self.metrics, **arguments},
        )

    def pop_episodes(self) -> dict[str, NDArray[np.float32]]:
        """Statistics of the episodes that ended since the last call, one array per figure."""
        finished = {
            name: np.concatenate([one[name] for one in self._finished])
            for name in (self._finished[0] if self._finished else ())
        }
        self._finished.clear()
        return finished

    def get_metrics(self) -> Any:
        """Metrics since the last call, for RLlib to merge over runners."""
        finished = self.pop_episodes()
        if self.config.in_evaluation and finished:
            self._evaluated.append(finished)
        log_episodes(
            self.metrics,
            finished,
            # An evaluation reports all of its episodes, training the most recent ones.
            window=None if self.config.in_evaluation else self._smoothing_window(),
        )
        for part, seconds in self._seconds.items():
            self.metrics.log_value((TIME_SPLIT, part), seconds, reduce="mean", window=1)
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        self.metrics.log_value(WEIGHTS_SEQ_NO, self._weights_seq_no, reduce="mean", window=1)
        return self.metrics.reduce()

    def pop_evaluated(self) -> tuple[list[dict[str, NDArray[np.float32]]], str | None]:
        """Statistics of all episodes reported by evaluations since the last call, and an error."""
        evaluated, error = self._evaluated, self._error
        self._evaluated, self._error = [], None
        return evaluated, error

    def pop_notice(self) -> str:
        """What a user should know of the last restore; empty if nothing, or when already told."""
        notice, self._notice = self._notice, ""
        return notice

    def _smoothing_window(self) -> int:
        """This runner's share of the episodes over which RLlib smooths."""
        episodes = self.config.metrics_num_episodes_for_smoothing
        return math.ceil(episodes / (self.config.num_env_runners or 1))

    # -- state -------------------------------------------------------------------------------

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Weights, step count, and the worlds with all their randomness."""
        state: dict[str, Any] = {
            NUM_ENV_STEPS_SAMPLED_LIFETIME: self.num_env_steps_sampled_lifetime
        }
        if self._check_component(COMPONENT_RL_MODULE, components, not_components):
            state[COMPONENT_RL_MODULE] = self.module.get_state(**kwargs)
            state[WEIGHTS_SEQ_NO] = self._weights_seq_no
        if self._check_component(COMPONENT_WORLDS, components, not_components):
            state[COMPONENT_WORLDS] = self._worlds_state()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_state` gave, as far as it is there."""
        if NUM_ENV_STEPS_SAMPLED_LIFETIME in state:
            self.num_env_steps_sampled_lifetime = state[NUM_ENV_STEPS_SAMPLED_LIFETIME]
        if COMPONENT_RL_MODULE in state:
            # An older number than ours means that an older checkpoint was restored.
            number = state.get(WEIGHTS_SEQ_NO, 0)
            if number == 0 or number != self._weights_seq_no:
                self._starts = 0
                weights = state[COMPONENT_RL_MODULE]
                if isinstance(weights, ray.ObjectRef):
                    weights = ray.get(weights)
                self.module.set_state(weights.get(DEFAULT_MODULE_ID, weights))
            if number > 0:
                self._weights_seq_no = number
        worlds = state.get(COMPONENT_WORLDS)
        if worlds is not None:
            self._set_worlds_state(worlds)
            if worlds["runner"] == self._identity and worlds.get("lost") is not None:
                self._notice = (
                    "the checkpoint does not hold the episodes that were under way, because "
                    f"{worlds['lost']}: new episodes start."
                )
                logger.warning(self._notice)

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What `Checkpointable` needs to build this runner again."""
        return (), {"config": self.config, "env_creator": self.env_creator}

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        """The module is saved apart; see `Checkpointable`."""
        return [(COMPONENT_RL_MODULE, self.module)]
