"""The part of the runner that plays: E worlds, one policy, columns written in place."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_runner import ENV_STEP_FAILURE, EnvRunner
from ray.rllib.utils.framework import get_device
from torch import Tensor

from rllib_seqmarl.envs.core.contract import TeamVectorEnv
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.rollout.rollout_batch import (
    ACTION_MASK,
    ACTIONS,
    IS_FIRST,
    REWARD,
    TERMINATED,
    TRUNCATED,
    FinalObservations,
    RolloutBatch,
)


class WorldsRunner(EnvRunner):
    """Holds E worlds and the policy that acts in them; steps them and keeps what they gave.

    Worlds go on where they were at the next call, a recurrent policy's memory with them.
    """

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self.env_creator = kwargs["env_creator"]
        self.spaces = kwargs.get("spaces") or {}
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
        self._obs: dict[str, NDArray[Any]] | None = None  # None: reset before the next step
        self._is_first: NDArray[np.bool_] = np.zeros(0, bool)
        self._memory: dict[str, Tensor] = {}  # each [E, N, ...]; empty without recurrence
        self._seconds = {"environment": 0.0, "decode": 0.0, "sampling_other": 0.0}

    @abstractmethod
    def _episodes_ended(
        self, ended: NDArray[np.bool_], statistics: dict[str, NDArray[np.float32]]
    ) -> None:
        """Told of worlds (bool [E]) whose episodes ended, with the figures [E] of all worlds."""

    @abstractmethod
    def _call_back(self, name: str, **arguments: Any) -> None:
        """Calls the user's callbacks of that name."""

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

    def _empty_memory(self) -> dict[str, Tensor]:
        """What a recurrent policy remembers where it has seen nothing, each [E, N, ...]."""
        assert self.env is not None
        worlds = self.env.num_envs
        return {
            name: value.expand(worlds, *value.shape).contiguous()
            for name, value in self.module.get_initial_state().items()
        }

    # -- steps -------------------------------------------------------------------------------

    def _sample_steps(self, steps: int, explore: bool, random_actions: bool) -> RolloutBatch | None:
        """T steps of all worlds; None when the environment failed and was rebuilt."""
        env = self._running_env()
        worlds = env.num_envs
        assert self._obs is not None
        memory = {name: value.cpu().numpy() for name, value in self._memory.items()}
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
        return RolloutBatch(steps * worlds, env.num_agents, columns, finals, memory)

    def _sample_episodes(
        self, num_episodes: int, explore: bool, random_actions: bool
    ) -> RolloutBatch | None:
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
        return RolloutBatch(env_steps, env.num_agents)

    def _running_env(self) -> TeamVectorEnv:
        """The worlds, each with an episode under way."""
        assert self.env is not None
        if self._obs is None:
            seed = self._reset_seed()
            if seed is not None:
                self.generator.manual_seed(seed)
            self._obs, _ = self._try_env_reset(seed=seed)
            self._is_first = np.ones(self.env.num_envs, bool)
            self._memory = self._empty_memory()
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
            self._memory = self._empty_memory()  # the policy saw nothing of this step
        else:
            forward = self.module.forward_exploration if explore else self.module.forward_inference
            obs = {k: torch.from_numpy(v).to(self._device) for k, v in self._obs.items()}
            is_first = torch.from_numpy(self._is_first).to(self._device)
            batch = {Columns.OBS: obs, Columns.STATE_IN: self._memory, IS_FIRST: is_first}
            out: dict[str, Any] = forward(batch, generator=self.generator)
            self._memory = out.pop(Columns.STATE_OUT, {})
            decided = {name: value.cpu().numpy() for name, value in out.items()}
        self._seconds["decode"] += time.perf_counter() - begin
        return decided

    def _random_actions(self, mask: NDArray[np.bool_] | None) -> NDArray[Any]:
        assert self.env is not None
        if isinstance(self.env.single_action_space, spaces.Box):
            shape = self.env.action_space.shape
            actions = 2.0 * torch.rand(shape, generator=self.generator).numpy() - 1.0
            return actions if mask is None else actions * mask
        assert mask is not None  # discrete actions have one
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

        Raises:
            RuntimeError: the environment failed and must not be rebuilt.
        """
        assert self.env is not None
        begin = time.perf_counter()
        try:
            result = self._try_env_step(actions)
        except RuntimeError as error:  # RLlib's, of whatever the environment raised
            cause = error.__cause__ or error
            if isinstance(cause, UserError):
                raise cause from None
            raise RuntimeError(
                f"the environment ({self.env.simulator}) failed in a step: "
                f"{type(cause).__name__}: {cause}. Mend it, or let it be built anew with "
                "restart_failed_sub_environments: true."
            ) from cause
        self._seconds["environment"] += time.perf_counter() - begin
        if isinstance(result, str) and result == ENV_STEP_FAILURE:
            self._obs = None
            return None
        self._obs, reward, terminated, truncated, infos = result
        if quota is not None:  # a rollout that is learned from is checked as a whole
            step = {name: value[None] for name, value in self._obs.items()}
            RolloutBatch(1, 0, {**step, REWARD: reward[None]}).check(self.env.simulator)
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

    # -- state -------------------------------------------------------------------------------

    def _worlds_state(self) -> dict[str, Any]:
        """The worlds with all their randomness, and what the policy remembers of them."""
        env = None if self._obs is None else self.env  # None: no episodes are under way
        lost = None if env is None else env.cannot_save_reason()
        if lost is not None:
            env = None
        return {
            "runner": self._identity,
            "generator": self.generator.get_state().numpy(),
            "env": None if env is None else env.get_state(),
            "obs": None if env is None else self._obs,
            "lost": lost,  # why the episodes under way are not in here
            "is_first": self._is_first,
            "memory": {name: value.cpu().numpy() for name, value in self._memory.items()},
            "starts": self._starts,
        }

    @property
    def _identity(self) -> tuple[bool, int]:
        return bool(self.config.in_evaluation), self.worker_index or 0

    def _set_worlds_state(self, worlds: Mapping[str, Any]) -> None:
        """Goes on from what `_worlds_state` gave; new episodes where that does not fit."""
        # RLlib brings a restarted runner up to date with the state of another one, whose worlds
        # and random numbers must not be played twice.
        if worlds["runner"] != self._identity:
            return
        self.generator.set_state(torch.from_numpy(worlds["generator"]))
        self._starts = worlds["starts"]
        fits = worlds["obs"] is not None and self.env is not None
        if fits and len(worlds["is_first"]) == self.config.num_envs_per_env_runner:
            assert self.env is not None
            self.env.reset(seed=0)  # set_state continues worlds that have been started
            self.env.set_state(worlds["env"])
            self._obs, self._is_first = worlds["obs"], worlds["is_first"]
            self._memory = {
                name: torch.from_numpy(value).to(self._device)
                for name, value in worlds.get("memory", {}).items()
            }
        else:
            # Another number of worlds than before: they start new episodes.
            self._obs = None
