"""Environments made of E separate objects that are stepped one after another.

What a simulator that knows only one env at a time needs around it: buffers in which every env
fills its own row, the automatic start of the next episode, seeds, and saving. A simulator
derives from :class:`SingleEnv`; :class:`SyncVectorEnv` does the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from rllib_seqmarl.envs.core.contract import Observation, TeamVectorEnv, VectorStep
from rllib_seqmarl.envs.core.old_names import SINGLE_ENV, accept_old_members, old_attributes
from rllib_seqmarl.errors import UserError


class SingleEnv(ABC):
    """One env of one team of N agents."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        accept_old_members(cls, SINGLE_ENV)

    @abstractmethod
    def reset(self, seed: int | None) -> None:
        """Starts an episode.

        Args:
            seed: restarts the env's randomness; None goes on with it.
        """

    @abstractmethod
    def step(self, actions: NDArray[Any]) -> tuple[ArrayLike, bool, bool]:
        """Acts, without starting the next episode.

        Args:
            actions: int [N] or float32 [N, A].

        Returns:
            The team's reward (or, with ``reward_per_agent``, all agents' [N]), terminated and
            truncated, never both.
        """

    @abstractmethod
    def observe(self, row: Observation) -> None:
        """Writes the present observation into this env's arrays [N, ...], all of it."""

    @abstractmethod
    def close(self) -> None:
        """Ends what the env started."""

    def episode_metrics(self) -> dict[str, float]:
        """The environment's ``metric_names`` of the episode that the last step ended.

        Also of one that is cut short where it is, see `TeamVectorEnv.metrics_so_far`.
        """
        return {}

    def episode_infos(self) -> Mapping[str, Any]:
        """What the game said in the last step, for callbacks."""
        return {}

    def get_state(self) -> object:
        """All that the next step depends on, picklable."""
        raise NotImplementedError

    def set_state(self, state: Any) -> None:
        """Goes on from what ``get_state`` returned."""
        raise NotImplementedError

    def render_frame(self) -> NDArray[np.uint8] | None:
        """The env as it is now [height, width, 3]; None if it cannot be drawn."""
        return None

    def render_final_frame(self) -> NDArray[np.uint8] | None:
        """The env as it was at the end of the episode before this one; None if it is not kept."""
        return None


def _is_bool(flag: object) -> bool:
    """Whether it is a bool, or an array of one as JAX and PyTorch have them."""
    if isinstance(flag, bool | np.bool_):
        return True
    array = np.asarray(flag)
    return array.dtype.kind == "b" and array.ndim == 0


class SyncVectorEnv(TeamVectorEnv):
    """E objects behind the one interface.

    A subclass sets ``simulator`` and ``metric_names``. Envs without a ``get_state`` of their own
    cannot be saved, and ``cannot_save_reason`` says so.

    Every reset of all envs draws a new seed for each of them; the episodes that follow go on
    with the env's own randomness.
    """

    _envs: Sequence[SingleEnv] = ()  # a construction that failed is closed, too

    def __init__(
        self,
        envs: Sequence[SingleEnv],
        single_observation_space: spaces.Dict,
        single_action_space: spaces.MultiDiscrete | spaces.Box,
        autoreset: str = "same_step",
        reward_per_agent: bool = False,
    ) -> None:
        """Takes the E envs; see :class:`TeamVectorEnv` for the rest."""
        self._envs = list(envs)
        self._infos: list[Mapping[str, Any]] = [{} for _ in envs]
        super().__init__(
            len(envs), single_observation_space, single_action_space, autoreset, reward_per_agent
        )
        self._buffers: Observation = {
            name: np.zeros((self.num_envs, *(space.shape or ())), space.dtype)
            for name, space in single_observation_space.spaces.items()
        }
        # Views, so that an env that writes its row writes into the buffers.
        self._rows = [
            {name: buffer[e] for name, buffer in self._buffers.items()}
            for e in range(self.num_envs)
        ]

    def _observation(self) -> Observation:
        return {name: buffer.copy() for name, buffer in self._buffers.items()}

    def _start(self, e: int, seed: int | None) -> None:
        self._envs[e].reset(seed)
        self._envs[e].observe(self._rows[e])

    def _reset_envs(self) -> Observation:
        for e, seed in enumerate(self.np_random.integers(2**31, size=self.num_envs)):
            self._start(e, int(seed))
        return self._observation()

    def _step_envs(self, actions: NDArray[Any], frozen: NDArray[np.bool_] | None) -> VectorStep:
        agents = (self.num_agents,) if self.reward_per_agent else ()
        reward = np.zeros((self.num_envs, *agents), np.float32)
        terminated = np.zeros(self.num_envs, np.bool_)
        truncated = np.zeros(self.num_envs, np.bool_)
        for e, env in enumerate(self._envs):
            if frozen is None or not frozen[e]:
                reward[e], terminated[e], truncated[e] = self._checked(env.step(actions[e]), e)
                env.observe(self._rows[e])
        ended = [int(e) for e in np.flatnonzero(terminated | truncated)]
        if ended:
            self._last = (self._observation(), self._metrics(ended))
            for e in ended:
                self._infos[e] = self._envs[e].episode_infos()
                self._start(e, None)
        return VectorStep(self._observation(), reward, terminated, truncated)

    def _checked(self, returned: object, e: int) -> tuple[ArrayLike, bool, bool]:
        """What ``step`` of env ``e`` gave; a `UserError` if that is not what it must be.

        NumPy would make NaN of None and True of any number.
        """
        if isinstance(returned, tuple) and len(returned) == 3:
            reward, *flags = returned
            array = np.asarray(reward)
            agents = self.num_agents if self.reward_per_agent else 1
            if all(map(_is_bool, flags)) and array.dtype.kind in "fiub" and array.size == agents:
                reward = array.reshape((agents,) if self.reward_per_agent else ())
                return reward, bool(flags[0]), bool(flags[1])
        paid = "the rewards of all agents" if self.reward_per_agent else "the team's reward"
        text = " ".join(repr(returned).split())
        raise UserError(
            f"the environment ({self.simulator}): step of env {e}, a "
            f"{type(self._envs[e]).__name__}, gave {text[:80]}; expected ({paid}, terminated, "
            "truncated), a number and two bools."
        )

    def _metrics(self, envs: Iterable[int]) -> dict[str, NDArray[np.float32]]:
        """The metrics of some envs, each [E]; 0 for the others."""
        metrics: dict[str, NDArray[np.float32]] = {}
        for e in envs:
            for name, value in self._envs[e].episode_metrics().items():
                column = metrics.setdefault(name, np.zeros(self.num_envs, np.float32))
                column[e] = value
        return metrics

    def metrics_so_far(self) -> dict[str, NDArray[np.float32]]:
        """See :class:`TeamVectorEnv`."""
        return self._metrics(range(self.num_envs))

    def episode_infos(self, e: int) -> Mapping[str, Any]:
        """See :class:`TeamVectorEnv`."""
        return self._infos[e]

    def _get_envs_state(self) -> dict[str, Any]:
        return {
            "buffers": self._observation(),
            "saved": [env.get_state() for env in self._envs],
        }

    def _set_envs_state(self, state: Mapping[str, Any]) -> None:
        for name, buffer in self._buffers.items():
            buffer[...] = state["buffers"][name]
        for env, saved in zip(self._envs, state["saved"], strict=True):
            env.set_state(saved)

    def render_frame(self, e: int = 0) -> NDArray[np.uint8]:
        """Env ``e`` as it is now, red, green and blue [height, width, 3].

        Raises:
            UserError: this environment cannot be drawn.
        """
        frame = self._envs[e].render_frame()
        return super().render_frame(e) if frame is None else frame

    def render_final_frame(self, e: int = 0) -> NDArray[np.uint8] | None:
        """See `TeamVectorEnv.render_final_frame`."""
        return self._envs[e].render_final_frame()

    def cannot_save_reason(self) -> str | None:
        """Why `get_state` cannot hold the envs, in one clause; None where it can."""
        if type(self._envs[0]).get_state is SingleEnv.get_state:
            return f"{self.simulator} has no function that saves an env"
        return None

    def close_extras(self, **kwargs: object) -> None:
        """Closes every env."""
        for env in self._envs:
            env.close()


accept_old_members(SingleEnv, SINGLE_ENV)
__getattr__ = old_attributes(
    __name__, {"World": f"{__name__}:SingleEnv", "SeparateWorlds": f"{__name__}:SyncVectorEnv"}
)
