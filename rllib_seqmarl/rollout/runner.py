"""The team runner: an RLlib ``EnvRunner`` that fills arrays in place.

RLlib's own runners keep one episode object per environment, append to Python lists at every step
and send them through connectors. Here a rollout is a handful of arrays [T, E, N, ...] that are
allocated once and written in place; what RLlib sees of a runner from outside (sampling,
metrics, weights, state, callbacks, restarts) stays the same.
"""

from __future__ import annotations

import logging
import math
import re
import sys
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import numpy as np
import ray
import torch
from gymnasium.spaces import MultiDiscrete
from numpy.typing import NDArray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns as Key
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.env_runner import ENV_STEP_FAILURE, EnvRunner
from ray.rllib.utils import force_list
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.framework import get_device
from ray.rllib.utils.metrics import (
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SAMPLE_TIMER,
    WEIGHTS_SEQ_NO,
)
from torch import Tensor

from rllib_seqmarl._checkpoint_aliases import RUNNER_KEYS, rename
from rllib_seqmarl.envs.adapters.rllib import make_by_creator
from rllib_seqmarl.envs.core.contract import MixedActions, Observation, TeamVectorEnv
from rllib_seqmarl.envs.core.contract import random_actions as uniform_actions
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.matmul import multiply_with
from rllib_seqmarl.names import Place, reason_of
from rllib_seqmarl.rollout.metrics import (
    CPU_TIME,
    CpuClock,
    EpisodeStatistics,
    RunnerMetrics,
    TeamEpisode,
    log_steps,
)
from rllib_seqmarl.rollout.rollout_batch import (
    ACTION_MASK,
    ACTIONS,
    IS_FIRST,
    REWARD,
    TERMINATED,
    TRUNCATED,
    Columns,
    FinalObservations,
    RolloutBatch,
    check_action_mask,
    write_row,
)

logger = logging.getLogger(__name__)

#: Environment state and random state: large, and of this runner alone, so never broadcast.
COMPONENT_ENVS = "envs"

#: How often a failing environment is built again for one rollout, where that is asked for.
MAX_REBUILDS = 10


#: Steps after which an evaluation ends an episode, where neither config nor environment says.
MAX_EVALUATED_STEPS = 10_000


#: What a runner gives in place of spaces where its environment could not be built: the reason.
NOT_BUILT = "not built"


class EnvRestarted(Exception):
    """The environment failed in a step and was built again; what was played is lost."""


Bools = NDArray[np.bool_]
#: Actions [E, N(, A)] for the current observations, and what is stored beside them.
Choose = Callable[[], Columns]
#: What ``env.step`` returns: observation, reward, terminated, truncated, infos.
StepResult = tuple[Observation, NDArray[np.float32], Bools, Bools, dict[str, Any]]


class TeamEnvRunner(EnvRunner, Checkpointable):
    """Plays E environments with one policy and returns rollouts.

    ``sample()`` takes ``rollout_fragment_length`` steps of every environment. The next call goes on
    where it ended, a recurrent policy's state included. ``sample(num_episodes=n)`` resets all
    environments and plays n whole episodes, an equal share of them in every environment so that
    short episodes are not favoured; it returns step counts only.
    """

    def __init__(
        self,
        *,
        config: AlgorithmConfig,
        env_creator: Callable[[Mapping[str, Any]], object],
        spaces: Mapping[str, Any] | None = None,
        **kwargs: object,
    ) -> None:
        """Builds environments and policy; see ``EnvRunner``.

        Args:
            config: the algorithm's.
            env_creator: makes E environments, or each of them; see `make_by_creator`.
            spaces: as of `get_spaces`, for a runner without environments.
            kwargs: RLlib's.
        """
        super().__init__(config=config, **kwargs)
        self.env_creator = env_creator
        self.spaces = spaces or {}
        self.env: TeamVectorEnv | None = None
        # Where others sample, the learner's own runner needs only spaces and a module.
        others_sample = not self.worker_index and self.config.num_env_runners > 0
        self._device = get_device(
            self.config, 0 if others_sample else self.config.num_gpus_per_env_runner
        )
        self.generator = torch.Generator()  # on the CPU, so that its state fits any machine
        if self._seed is not None:
            self.generator.manual_seed(self._seed)
        else:
            self.generator.seed()
        self._weights_seq_no = 0
        self._num_resets = 0  # of all environments, with the present weights
        self._obs: Observation | None = None  # None: reset before the next step
        self._is_first: Bools = np.zeros(0, bool)
        # Of an evaluation: steps of the episodes under way, and envs whose episode was cut short.
        self._length: NDArray[np.int64] = np.zeros(0, np.int64)
        self._is_cut: Bools = np.zeros(0, bool)
        self._num_cut = 0  # since the last evaluation that was told
        self._recurrent_state: dict[str, Tensor] = {}  # each [E, N, ...]; empty without recurrence
        self._recorder = RunnerMetrics()
        self._cpu_clock = CpuClock()
        self._error: str | None = None
        self._warning = ""
        self._callbacks = [cls() for cls in force_list(self.config.callbacks_class)]
        if NOT_BUILT in self.spaces:  # by the runner that was asked for them
            raise UserError(str(self.spaces[NOT_BUILT]))
        self._not_built: str | None = None
        if not others_sample or self.config.create_env_on_local_worker:
            self._make_first_env()
        if self._not_built is None:
            self.make_module()

    def _make_first_env(self) -> None:
        """Builds the environments; in another process, what prevents it is kept for `get_spaces`.

        Ray starts a process again whose construction fails, and says nowhere why.
        """
        try:
            self.make_env()
        except (Exception, SystemExit) as error:
            line = str(error)
            if not isinstance(error, UserError):
                line = f"environment {self.config.env!r} cannot be built: {reason_of(error)}."
            if not self.worker_index:
                raise UserError(line) from error
            self._not_built = line
            logger.exception(line)

    def make_env(self) -> None:
        """Builds the E environments, and closes those there were."""
        self.stop()
        place = Place(self.worker_index or 0, num_workers=self.config.num_env_runners)
        num_envs, env_config = self.config.num_envs_per_env_runner, self.config.env_config
        self.env = make_by_creator(
            self.env_creator, str(self.config.env), env_config, num_envs, place
        )
        if self.env.num_envs != num_envs:
            self.stop()
            raise UserError(
                f"environment {str(self.config.env)!r} has {self.env.num_envs} envs where num_envs "
                f"is {num_envs}: its creator must pass on the 'num_envs' that it finds in its "
                "env_config."
            )
        self._obs = None
        context = EnvContext({**env_config, "num_envs": num_envs}, **place._asdict())
        self._call_back("on_environment_created", env=self.env, env_context=context)

    def make_module(self) -> None:
        """Builds the policy that acts."""
        spec = self.config.get_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        self.module: RLModule = spec.build().to(self._device).eval()

    def get_spaces(self) -> Mapping[str, Any]:
        """Spaces of the E environments, of one of them, and of the module."""
        if self._not_built is not None:
            return {NOT_BUILT: self._not_built}
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
        assert self._not_built is not None or self.module is not None

    def stop(self) -> None:
        """Closes the environments."""
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
        """Steps the environments.

        Args:
            num_timesteps: steps of single environments, rounded up to whole steps of all E;
                by default ``rollout_fragment_length`` steps of each.
            num_episodes: whole episodes instead, after a reset of all environments.
            explore: sample actions (True) or take the most likely ones; by default the config's.
            random_actions: uniform legal actions instead of the policy's.
            force_reset: reset all environments first.

        Returns:
            One rollout.

        Raises:
            UserError: not finite observations or rewards, or a mask without any legal action.
        """
        if self._not_built is not None:
            raise RuntimeError(self._not_built)
        if self.env is None:
            raise ValueError(f"{self} has no environment to sample from.")
        if num_episodes is None and num_timesteps is None and self.config.in_evaluation:
            num_episodes = self.env.num_envs
        explore = self.config.explore if explore is None else explore
        choose = partial(self._choose_actions, explore, random_actions)
        play: Callable[[], RolloutBatch]
        if num_episodes is not None:
            play = partial(self._play_episodes, num_episodes, choose)
        else:
            steps = self.config.get_rollout_fragment_length(self.worker_index)
            if num_timesteps is not None:
                steps = math.ceil(num_timesteps / self.env.num_envs)
            play = partial(self._collect_steps, steps, choose)
        if force_reset or num_episodes is not None:
            self._obs = None
        try:
            return [self._sample(play)]
        except UserError as error:
            if not self.worker_index:
                raise
            # RLlib takes an exception in another process for a crash and starts again, for ever.
            self._error = str(error)
            return [RolloutBatch(0, self.env.num_agents, error=self._error)]

    def _sample(self, play: Callable[[], RolloutBatch]) -> RolloutBatch:
        """Plays, again where the environment was restarted, and counts steps and seconds."""
        assert self.env is not None
        torch.set_num_threads(1)  # a second OpenMP thread on a runner's core slows both down
        with (
            self._recorder.time("sampling_other"),
            self.metrics.log_time(SAMPLE_TIMER),
            multiply_with(self.config.matmul),
        ):
            finished, num_cut = len(self._recorder.finished), self._num_cut
            for _ in range(MAX_REBUILDS + 1):
                try:
                    rollout = play()
                    break
                except EnvRestarted:
                    # What was noted in the attempt that failed.
                    del self._recorder.finished[finished:]
                    self._num_cut = num_cut
            else:
                raise UserError(
                    f"the environment ({self.env.simulator}) was built {MAX_REBUILDS} times and "
                    "failed every time before a rollout was complete: fix the environment."
                )
            self._call_back("on_sample_end", samples=[rollout])
            self._log_env_steps(self._metrics_num_env_steps_sampled, rollout.num_env_steps)
            log_steps(self.metrics, rollout.num_env_steps)
        return rollout

    def _collect_steps(self, steps: int, choose: Choose) -> RolloutBatch:
        """T steps of all environments."""
        env, obs = self._start()
        if env.reward_per_agent and not self.config.in_evaluation:
            self.config.check_reward_per_agent()
        columns: Columns = {}
        recurrent_state = {name: x.cpu().numpy() for name, x in self._recurrent_state.items()}
        finals: list[FinalObservations] = []
        for t in range(steps):
            write_row(columns, t, steps + 1, obs)
            write_row(columns, t, steps, {IS_FIRST: self._is_first})
            chosen = choose()
            write_row(columns, t, steps, chosen)
            obs, reward, terminated, truncated, infos = self._step(chosen[ACTIONS])
            ends = {TERMINATED: terminated, TRUNCATED: truncated}
            # An environment's own may be of float64.
            paid = reward.astype(np.float32, copy=False)
            write_row(columns, t, steps, {REWARD: paid, **ends})
            ended = np.flatnonzero(truncated)
            if len(ended):
                last = {name: value[ended] for name, value in infos["final_obs"].items()}
                finals.append(FinalObservations(np.full(len(ended), t), ended, last))
        write_row(columns, steps, steps + 1, obs)
        final = FinalObservations.concatenate(finals)
        rollout = RolloutBatch(
            steps * env.num_envs, env.num_agents, columns, final, recurrent_state
        )
        rollout.check(env.simulator)
        return rollout

    def _play_episodes(self, num_episodes: int, choose: Choose) -> RolloutBatch:
        """``num_episodes`` episodes after a reset, of which only statistics are kept."""
        env, _ = self._start()
        # Environment e plays its share and no more: were the first n to end taken, short episodes
        # (quick defeats, say) would count too often.
        quota = np.full(env.num_envs, num_episodes // env.num_envs)
        quota[: num_episodes % env.num_envs] += 1
        env_steps = 0
        while quota.any():
            counted = (quota > 0) & ~self._is_cut
            if not counted.any():  # an env begins anew only with all others
                self._obs = None
                self._start()
                continue
            obs, reward, *_ = self._step(choose()[ACTIONS], counted)
            columns = {name: value[None] for name, value in {**obs, REWARD: reward}.items()}
            RolloutBatch(1, 0, columns).check(env.simulator)
            env_steps += int(counted.sum())
            quota -= counted & self._is_first
        self._obs = None
        return RolloutBatch(env_steps, env.num_agents)

    # -- one step ----------------------------------------------------------------------------

    def _start(self) -> tuple[TeamVectorEnv, Observation]:
        """The environments, each with an episode under way, and what is observed in them."""
        assert self.env is not None
        if self._obs is None:
            seed = self._reset_seed()
            if seed is not None:
                self.generator.manual_seed(seed)
            try:
                self._obs, _ = self._try_env_reset(seed=seed)
            except UserError:
                raise
            except Exception as error:  # whatever the environment raised
                raise self._failed("reset", error) from error
            self._is_first = np.ones(self.env.num_envs, bool)
            self._length = np.zeros(self.env.num_envs, np.int64)
            self._is_cut = np.zeros(self.env.num_envs, bool)
            self._recurrent_state = self._initial_state()
        return self.env, self._obs

    def _reset_seed(self) -> int | None:
        """Seed of a reset: of this runner, of its weights, of the resets with them.

        So a runner that was restarted or resumed plays new episodes with new actions, and an
        evaluation is the same whether or not the training was interrupted before it.
        """
        if self._seed is None:
            return None
        key = (self._seed, self._weights_seq_no, self._num_resets)
        self._num_resets += 1
        return int(np.random.SeedSequence(key).generate_state(1)[0])

    def _initial_state(self) -> dict[str, Tensor]:
        """The state of a recurrent policy before its first observation, each [E, N, ...]."""
        assert self.env is not None
        num_envs = self.env.num_envs
        return {
            name: value.to(self._device).expand(num_envs, *value.shape).contiguous()
            for name, value in self.module.get_initial_state().items()
        }

    def _choose_actions(self, explore: bool, random_actions: bool) -> Columns:
        """See `Choose`."""
        assert self.env is not None
        assert self._obs is not None
        if isinstance(self.env.single_action_space, MultiDiscrete | MixedActions):
            check_action_mask(self._obs.get(ACTION_MASK), self.env.simulator)
        with self._recorder.time("decode"):
            if random_actions:
                self._recurrent_state = self._initial_state()  # the policy saw nothing of this step
                seed = int(torch.randint(2**62, (), generator=self.generator))
                return {ACTIONS: uniform_actions(self.env, self._obs, np.random.default_rng(seed))}
            forward = self.module.forward_exploration if explore else self.module.forward_inference
            obs = {k: torch.from_numpy(v).to(self._device) for k, v in self._obs.items()}
            is_first = torch.from_numpy(self._is_first).to(self._device)
            batch = {Key.OBS: obs, Key.STATE_IN: self._recurrent_state, IS_FIRST: is_first}
            out = forward(batch, generator=self.generator)
            self._recurrent_state = out.pop(Key.STATE_OUT, {})
            return {name: value.cpu().numpy() for name, value in out.items()}

    def _step(self, actions: NDArray[Any], counted: Bools | None = None) -> StepResult:
        """One step of all environments; notes the statistics of episodes that end.

        Args:
            actions: [E, N(, A)].
            counted: bool [E], where an episode that ends now counts, and ends at the latest after
                `max_evaluated_steps`; None: everywhere, whenever it ends.

        Raises:
            EnvRestarted: the environment failed and was built again.
            RuntimeError: the environment failed and must not be built again.
        """
        assert self.env is not None
        try:
            with self._recorder.time("environment"):
                result = self._try_env_step(actions)
        except RuntimeError as error:  # RLlib's, of whatever the environment raised
            cause = error.__cause__ or error
            if isinstance(cause, UserError):
                raise cause from None
            raise self._failed("step", cause) from cause
        if isinstance(result, str) and result == ENV_STEP_FAILURE:
            self._obs = None
            raise EnvRestarted
        if not isinstance(result, tuple) or len(result) != 5:  # of a class with a step of its own
            raise UserError(
                f"the environment ({self.env.simulator}): step gave a {type(result).__name__}; "
                "expected (observation, reward, terminated, truncated, infos)."
            )
        self._obs, _, terminated, truncated, infos = result
        self._is_first = terminated | truncated
        ended = self._is_first if counted is None else self._is_first & counted
        if ended.any():
            self._end_episodes(ended, infos["final_info"])
        if counted is not None:
            self._cut_episodes(counted)
        return result

    def _failed(self, method: str, error: BaseException) -> RuntimeError:
        assert self.env is not None
        return RuntimeError(
            f"the environment ({self.env.simulator}) failed in a {method}: {reason_of(error)}. "
            "Fix it, or let it be built again with restart_failed_sub_environments: true."
        )

    @property
    def max_evaluated_steps(self) -> int:
        """After how many steps an episode of an evaluation is cut short."""
        assert self.env is not None
        bound = self.config.evaluation_max_episode_steps or self.env.max_episode_steps
        return bound or MAX_EVALUATED_STEPS

    def _cut_episodes(self, counted: Bools) -> None:
        """Ends episodes that count (bool [E]) and have lasted too long, as truncated."""
        assert self.env is not None
        self._length = np.where(self._is_first, 0, self._length + 1)
        cut = counted & (self._length >= self.max_evaluated_steps)
        if cut.any():
            self._is_cut |= cut
            self._end_episodes(cut, self.env.statistics_so_far())
            self._is_first = self._is_first | cut
            self._num_cut += int(cut.sum())

    # -- episodes, metrics, callbacks ----------------------------------------------------------

    def _end_episodes(self, ended: Bools, statistics: EpisodeStatistics) -> None:
        """Notes the statistics, each [E], of environments (bool [E]) whose episodes ended."""
        finished = {name: value[ended] for name, value in statistics.items()}
        self._recorder.finished.append(finished)
        if not self.config.has_episode_end_callback():
            return
        assert self.env is not None
        for i, env_index in enumerate(np.flatnonzero(ended).tolist()):
            self._call_back(
                "on_episode_end",
                episode=TeamEpisode(
                    env_index,
                    {k: float(v[i]) for k, v in finished.items()},
                    {} if self._is_cut[env_index] else self.env.episode_infos(env_index),
                ),
                prev_episode_chunks=[],
                env=self.env,
                rl_module=self.module,
                env_index=env_index,
            )

    def _call_back(self, name: str, **arguments: object) -> None:
        """Calls the user's callbacks of that name, with what all of them are given."""
        make_callback(
            name,
            callbacks_objects=self._callbacks,
            callbacks_functions=getattr(self.config, f"callbacks_{name}"),
            kwargs={"env_runner": self, "metrics_logger": self.metrics, **arguments},
        )

    def pop_episodes(self) -> EpisodeStatistics:
        """Statistics of the episodes that ended since the last call."""
        return self._recorder.pop_episodes()

    def get_metrics(self) -> dict[str, Any]:
        """Metrics since the last call, for RLlib to merge over runners."""
        window = None  # an evaluation reports all of its episodes, training the most recent ones
        if not self.config.in_evaluation:
            # This runner's share of the episodes over which RLlib smooths.
            episodes = self.config.metrics_num_episodes_for_smoothing
            window = math.ceil(episodes / (self.config.num_env_runners or 1))
        self._recorder.log(self.metrics, window)
        if self.worker_index:  # the trial counts its own process, in which the others are
            self.metrics.log_value(CPU_TIME, self._cpu_clock.lap(), reduce="sum")
        self.metrics.log_value(WEIGHTS_SEQ_NO, self._weights_seq_no, reduce="mean", window=1)
        reduced: dict[str, Any] = self.metrics.reduce()
        return reduced

    def pop_reported(self) -> tuple[list[EpisodeStatistics], str | None]:
        """Statistics of all episodes that `get_metrics` reported since the last call, an error."""
        error, self._error = self._error, None
        return self._recorder.pop_reported(), error

    def pop_num_cut(self) -> tuple[int, int]:
        """How many episodes were cut short since the last call, and after how many steps."""
        num_cut, self._num_cut = self._num_cut, 0
        return num_cut, self.max_evaluated_steps

    def pop_warning(self) -> str:
        """What a user should know of the last restore; empty if nothing, or when already told."""
        warning, self._warning = self._warning, ""
        return warning

    # -- state -------------------------------------------------------------------------------

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: object,
    ) -> dict[str, Any]:
        """Weights, step count, and the environments with all their randomness."""
        state: dict[str, Any] = {
            NUM_ENV_STEPS_SAMPLED_LIFETIME: self.num_env_steps_sampled_lifetime
        }
        if self._check_component(COMPONENT_RL_MODULE, components, not_components):
            state[COMPONENT_RL_MODULE] = self.module.get_state(**kwargs)
            state[WEIGHTS_SEQ_NO] = self._weights_seq_no
        if self._check_component(COMPONENT_ENVS, components, not_components):
            state[COMPONENT_ENVS] = self._get_envs_state()
        return state

    def forget_weights(self) -> None:
        """Takes the next weights whatever their number is."""
        self._weights_seq_no = 0

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes over what `get_state` gave, as far as it is there."""
        state = rename(state, RUNNER_KEYS)
        if NUM_ENV_STEPS_SAMPLED_LIFETIME in state:
            self.num_env_steps_sampled_lifetime = state[NUM_ENV_STEPS_SAMPLED_LIFETIME]
        if COMPONENT_RL_MODULE in state:
            # An older number than ours means that an older checkpoint was restored.
            number = state.get(WEIGHTS_SEQ_NO, 0)
            if number == 0 or number != self._weights_seq_no:
                self._num_resets = 0
                weights = state[COMPONENT_RL_MODULE]
                if isinstance(weights, ray.ObjectRef):
                    weights = ray.get(weights)
                self.module.set_state(weights.get(DEFAULT_MODULE_ID, weights))
            if number > 0:
                self._weights_seq_no = number
        # RLlib brings a restarted runner up to date with the state of another one, whose episodes
        # and random numbers must not be played twice.
        envs = state.get(COMPONENT_ENVS)
        if envs is not None and envs["runner"] == self._identity:
            self._set_envs_state(rename(envs, RUNNER_KEYS))

    @property
    def _identity(self) -> tuple[bool, int]:
        return bool(self.config.in_evaluation), self.worker_index or 0

    def _fits(self, state: Mapping[str, Any]) -> bool:
        """Whether observations and recurrent states that were saved have today's shapes."""
        assert self.env is not None
        now: dict[str, Any] = dict(self.env.observation_space.spaces)
        pairs = [
            (state["obs"] or now, now),
            (state.get("recurrent_state", {}), self._initial_state()),
        ]
        return all(
            {k: tuple(x.shape) for k, x in then.items()}
            == {k: tuple(x.shape) for k, x in own.items()}
            for then, own in pairs
        )

    @property
    def _played(self) -> dict[str, Any]:
        """What says whether episodes can go on: the environment and its settings."""
        return {"env": str(self.config.env), **self.config.env_config}

    def _get_envs_state(self) -> dict[str, Any]:
        """The environments with all their randomness, and the policy's recurrent state in them."""
        env = None if self._obs is None else self.env  # None: no episodes are under way
        lost = None if env is None else env.cannot_save_reason()
        if lost is not None:
            env = None
        return {
            "runner": self._identity,
            "played": self._played,
            "generator": self.generator.get_state().numpy(),
            "env": None if env is None else env.get_state(),
            "obs": None if env is None else self._obs,
            "lost": lost,  # why the episodes under way are not in here
            "is_first": self._is_first,
            "recurrent_state": {k: v.cpu().numpy() for k, v in self._recurrent_state.items()},
            "num_resets": self._num_resets,
        }

    def _set_envs_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `_get_envs_state` gave; new episodes where that does not fit."""
        self.generator.set_state(torch.from_numpy(state["generator"]))
        self._num_resets = state["num_resets"]
        self._obs = None
        same_number = len(state["is_first"]) == self.config.num_envs_per_env_runner
        changed = _changes(state.get("played", self._played), self._played)
        fits = self.env is not None and self._fits(state)
        if changed:
            self._warning = (
                f"the episodes of the checkpoint do not go on, since {', '.join(changed)}: new "
                "episodes start."
            )
        elif state["obs"] is not None and self.env is not None and same_number and fits:
            self.env.reset(seed=0)  # set_state continues environments that have been reset
            self.env.set_state(state["env"])
            self._obs, self._is_first = state["obs"], state["is_first"]
            self._recurrent_state = {
                name: torch.from_numpy(value).to(self._device)
                for name, value in state.get("recurrent_state", {}).items()
            }
        if state.get("lost") is not None:
            self._warning = (
                "the checkpoint does not hold the episodes that were under way, because "
                f"{state['lost']}: new episodes start."
            )
            logger.warning(self._warning)

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, Any]]:
        """What `Checkpointable` needs to build this runner again."""
        return (), {"config": self.config, "env_creator": self.env_creator}

    def get_checkpointable_components(self) -> list[tuple[str, RLModule]]:
        """The module is saved apart; see `Checkpointable`."""
        return [(COMPONENT_RL_MODULE, self.module)]


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What has changed in settings, as parts of a sentence."""
    return [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in {**before, **now}
        if text_of_settings(before.get(name)) != text_of_settings(now.get(name))
    ]


def text_of_settings(settings: object) -> str:
    """By which settings of different processes are compared.

    Arrays are written out, to their last digit; of objects the address is left out.
    """
    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
        return re.sub(r" at 0x[0-9a-f]+", "", repr(settings))
