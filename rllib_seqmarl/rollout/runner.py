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
from gymnasium import spaces
from numpy.typing import NDArray
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_runner import ENV_STEP_FAILURE, EnvRunner
from ray.rllib.utils import force_list
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.framework import get_device
from ray.rllib.utils.metrics import (
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    SAMPLE_TIMER,
    WEIGHTS_SEQ_NO,
)
from torch import Tensor

from rllib_seqmarl.envs.team_env import TeamVectorEnv
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.rollout.block import (
    ACTION_MASK,
    ACTIONS,
    IS_FIRST,
    REWARD,
    TERMINATED,
    TRUNCATED,
    FinalObservations,
    RolloutBlock,
)
from rllib_seqmarl.rollout.metrics import TIME_SPLIT, TeamEpisode, log_episodes, log_steps

logger = logging.getLogger(__name__)

#: Environment state and random state: large, and of this runner alone, so never broadcast.
COMPONENT_WORLDS = "worlds"

#: How often a failing environment is built anew for one rollout, where that is asked for.
MAX_REBUILDS = 10


class TeamEnvRunner(EnvRunner, Checkpointable):
    """Plays E worlds with one policy and returns blocks of columns.

    ``sample()`` takes ``rollout_fragment_length`` steps of every world; worlds go on where they
    were at the next call. ``sample(num_episodes=n)`` starts afresh, plays n whole episodes, an
    equal share of them in every world so that short episodes are not favoured, and returns
    step counts only.
    """

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self.env_creator = kwargs["env_creator"]
        self.spaces = kwargs.get("spaces") or {}
        self._callbacks = [cls() for cls in force_list(self.config.callbacks_class)]
        self._device = get_device(
            self.config, self.config.num_gpus_per_env_runner if self.worker_index else 0
        )
        self.env: TeamVectorEnv | None = None
        self.module: Any = None
        self.generator = torch.Generator()  # on the CPU, so that its state fits any machine
        if self._seed is not None:
            self.generator.manual_seed(self._seed)
        else:
            self.generator.seed()
        self._weights_seq_no = 0
        self._starts = 0  # of all worlds, with the present weights
        self._error: str | None = None
        self._notice = ""
        self._evaluated: list[dict[str, NDArray[np.float32]]] = []
        self._obs: dict[str, NDArray[Any]] | None = None  # None: reset before the next step
        self._is_first: NDArray[np.bool_] = np.zeros(0, bool)
        self._finished: list[dict[str, NDArray[np.float32]]] = []
        self._seconds = {"environment": 0.0, "decode": 0.0, "sampling_other": 0.0}
        # Where others sample, the learner's own runner needs only spaces and a module.
        others_sample = not self.worker_index and self.config.num_env_runners > 0
        if not others_sample or self.config.create_env_on_local_worker:
            self.make_env()
        self.make_module()

    # -- parts -------------------------------------------------------------------------------

    def make_env(self) -> None:
        """Builds the E worlds, closing those there were."""
        if self.env is not None:
            self.env.close()
        context = {**self.config.env_config, "num_envs": self.config.num_envs_per_env_runner}
        self.env = self.env_creator(context)
        self._obs = None
        self._call_back("on_environment_created", env=self.env, env_context=context)

    def make_module(self) -> None:
        """Builds the policy that acts."""
        spec = self.config.get_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        self.module = spec.build().to(self._device).eval()

    def get_spaces(self) -> dict[str, Any]:
        """Spaces of the E worlds, of one world, and of the module."""
        if self.env is None:
            return self.spaces
        single = (self.env.single_observation_space, self.env.single_action_space)
        return {
            INPUT_ENV_SPACES: (self.env.observation_space, self.env.action_space),
            INPUT_ENV_SINGLE_SPACES: single,
            DEFAULT_MODULE_ID: single,
        }

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
    ) -> list[RolloutBlock]:
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
            return [RolloutBlock(0, self.env.num_agents, error=self._error)]

    def _sample(
        self,
        num_timesteps: int | None,
        num_episodes: int | None,
        explore: bool | None,
        random_actions: bool,
        force_reset: bool,
    ) -> RolloutBlock:
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

    def _until_the_worlds_hold(self, play: Callable[[], RolloutBlock | None]) -> RolloutBlock:
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

    def _sample_steps(self, steps: int, explore: bool, random_actions: bool) -> RolloutBlock | None:
        """T steps of all worlds; None when the environment failed and was rebuilt."""
        env = self._running_env()
        worlds = env.num_envs
        assert self._obs is not None
        columns: dict[str, NDArray[Any]] = {
            name: np.empty((steps + 1, *value.shape), value.dtype)
            for name, value in self._obs.items()
        }
        for name, dtype in (
            (REWARD, np.float32),
            (TERMINATED, np.bool_),
            (TRUNCATED, np.bool_),
            (IS_FIRST, np.bool_),
        ):
            columns[name] = np.empty((steps, worlds), dtype)
        final_at: list[tuple[int, NDArray[np.int64], dict[str, NDArray[Any]]]] = []
        for t in range(steps):
            for name, value in self._obs.items():
                columns[name][t] = value
            columns[IS_FIRST][t] = self._is_first
            decided = self._decide(explore, random_actions)
            if t == 0:
                for name, value in decided.items():
                    columns[name] = np.empty((steps, *value.shape), value.dtype)
            for name, value in decided.items():
                columns[name][t] = value
            result = self._step(decided[ACTIONS])
            if result is None:
                return None
            columns[REWARD][t], columns[TERMINATED][t], columns[TRUNCATED][t], final = result
            if final is not None:
                final_at.append((t, *final))
        for name, value in self._obs.items():
            columns[name][steps] = value
        finals = None
        if final_at:
            finals = FinalObservations(
                np.concatenate([np.full(len(world), t) for t, world, _ in final_at]),
                np.concatenate([world for _, world, _ in final_at]),
                {
                    name: np.concatenate([one[name] for _, _, one in final_at])
                    for name in final_at[0][2]
                },
            )
        return RolloutBlock(steps * worlds, env.num_agents, columns, finals)

    def _sample_episodes(
        self, num_episodes: int, explore: bool, random_actions: bool
    ) -> RolloutBlock | None:
        """``num_episodes`` episodes from fresh worlds; nothing is kept but their statistics.

        None when the environment failed and was rebuilt.
        """
        env = self._running_env()
        # World e plays its share and no more: were the first n to end taken, short episodes
        # (quick defeats, say) would count too often.
        quota = np.full(env.num_envs, num_episodes // env.num_envs)
        quota[: num_episodes % env.num_envs] += 1
        env_steps = 0
        while quota.any():
            actions = self._decide(explore, random_actions)[ACTIONS]
            env_steps += int((quota > 0).sum())
            if self._step(actions, quota) is None:
                return None
        self._obs = None
        return RolloutBlock(env_steps, env.num_agents)

    def _running_env(self) -> TeamVectorEnv:
        """The worlds, each with an episode under way."""
        assert self.env is not None
        if self._obs is None:
            seed = self._reset_seed()
            if seed is not None:
                self.generator.manual_seed(seed)
            self._obs, _ = self._try_env_reset(seed=seed)
            self._is_first = np.ones(self.env.num_envs, bool)
        return self.env

    def _reset_seed(self) -> int | None:
        """Seed of a start of all worlds: of this runner, of its weights, of the starts with them.

        So a runner that was restarted or resumed plays new episodes with new actions, and an
        evaluation is the same whether or not the training was interrupted before it.
        """
        if self._seed is None:
            return None
        key = (self._seed, self._weights_seq_no, self._starts)
        self._starts += 1
        return int(np.random.SeedSequence(key).generate_state(1)[0])

    def _decide(self, explore: bool, random_actions: bool) -> dict[str, NDArray[Any]]:
        """Actions [E, N(, A)] for the current observations, and what is stored beside them."""
        assert self.env is not None
        assert self._obs is not None
        mask = self._obs.get(ACTION_MASK)
        discrete = isinstance(self.env.single_action_space, spaces.MultiDiscrete)
        if discrete and mask is not None and not mask.any(-1).all():
            world, agent = np.argwhere(~mask.any(-1))[0]
            raise UserError(
                f"the environment ({self.env.simulator}) allows agent {agent} of world {world} "
                "no action at all: its action_mask is all zero; a dead agent needs a no-op."
            )
        begin = time.perf_counter()
        if random_actions:
            decided = {ACTIONS: self._random_actions(mask)}
        else:
            obs = {k: torch.from_numpy(v).to(self._device) for k, v in self._obs.items()}
            forward = self.module.forward_exploration if explore else self.module.forward_inference
            out: dict[str, Tensor] = forward({Columns.OBS: obs}, generator=self.generator)
            decided = {name: value.cpu().numpy() for name, value in out.items()}
        self._seconds["decode"] += time.perf_counter() - begin
        return decided

    def _random_actions(self, mask: NDArray[np.bool_] | None) -> NDArray[Any]:
        assert self.env is not None
        if isinstance(self.env.single_action_space, spaces.Box):
            shape = self.env.action_space.shape
            actions = 2.0 * torch.rand(shape, generator=self.generator).numpy() - 1.0
            return actions if mask is None else actions * mask
        keys = torch.rand(mask.shape, generator=self.generator).numpy()
        return np.where(mask, keys, -1.0).argmax(-1)

    def _step(
        self, actions: NDArray[Any], quota: NDArray[np.int64] | None = None
    ) -> tuple[Any, ...] | None:
        """One step of all worlds.

        Args:
            actions: [E, N(, A)].
            quota: episodes that each world still owes; counted down. None counts them all.

        Returns:
            reward, terminated, truncated, each [E], and the worlds that were truncated with their
            final observations (or None); None when the environment failed and was rebuilt.
        """
        assert self.env is not None
        begin = time.perf_counter()
        result = self._try_env_step(actions)
        self._seconds["environment"] += time.perf_counter() - begin
        if isinstance(result, str) and result == ENV_STEP_FAILURE:
            self._obs = None
            return None
        self._obs, reward, terminated, truncated, infos = result
        if quota is not None:  # a rollout that is learned from is checked as a whole
            step = {name: value[None] for name, value in self._obs.items()}
            RolloutBlock(1, 0, {**step, REWARD: reward[None]}).check(self.env.simulator)
        done = terminated | truncated
        self._is_first = done
        final = None
        if done.any():
            counted = done if quota is None else done & (quota > 0)
            if quota is not None:
                quota -= counted
            if counted.any():
                self._episodes_ended(counted, infos["final_info"])
            world = np.flatnonzero(truncated)
            if len(world):
                columns = {k: v[world] for k, v in infos["final_obs"].items()}
                final = (world, columns)
        return reward, terminated, truncated, final

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
        if self.config.in_evaluation and self._error is not None:
            # RLlib asks until it has counted all episodes; the error is raised right after.
            self.metrics.log_value(NUM_EPISODES, self.config.evaluation_duration, reduce="sum")
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

    def _worlds_state(self) -> dict[str, Any]:
        env = None if self._obs is None else self.env  # None: no episodes are under way
        lost = None if env is None else env.cannot_be_saved()
        if lost is not None:
            env = None
        return {
            "runner": self._identity,
            "generator": self.generator.get_state().numpy(),
            "env": None if env is None else env.get_state(),
            "obs": None if env is None else self._obs,
            "lost": lost,  # why the episodes under way are not in here
            "is_first": self._is_first,
            "starts": self._starts,
        }

    @property
    def _identity(self) -> tuple[bool, int]:
        return bool(self.config.in_evaluation), self.worker_index or 0

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
        # RLlib brings a restarted runner up to date with the state of another one, whose worlds
        # and random numbers must not be played twice.
        if worlds is not None and worlds["runner"] == self._identity:
            self.generator.set_state(torch.from_numpy(worlds["generator"]))
            self._starts = worlds["starts"]
            if worlds.get("lost") is not None:
                self._notice = (
                    "the checkpoint does not hold the episodes that were under way, because "
                    f"{worlds['lost']}: new episodes start."
                )
                logger.warning(self._notice)
            fits = worlds["obs"] is not None and self.env is not None
            if fits and len(worlds["is_first"]) == self.config.num_envs_per_env_runner:
                assert self.env is not None
                self.env.reset(seed=0)  # set_state continues worlds that have been started
                self.env.set_state(worlds["env"])
                self._obs, self._is_first = worlds["obs"], worlds["is_first"]
            else:
                # Another number of worlds than before: they start new episodes.
                self._obs = None

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What `Checkpointable` needs to build this runner again."""
        return (), {"config": self.config, "env_creator": self.env_creator}

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        """The module is saved apart; see `Checkpointable`."""
        return [(COMPONENT_RL_MODULE, self.module)]
