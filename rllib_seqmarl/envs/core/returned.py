"""Whether what an environment returns has the form that it has promised.

Shapes and types alone are looked at, in every step: a wrong one would be told by NumPy or torch in
words that name neither environment nor column, or be broadcast without a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import DTypeLike, NDArray

from rllib_seqmarl.errors import UserError

_KINDS = {"b": "bool", "i": "whole numbers", "u": "uint8", "f": "real numbers"}


class Column(NamedTuple):
    """The form of one array.

    Attributes:
        shape: as it must be, [E, ...].
        kind: of its type, as `numpy.dtype.kind` has it; "u" of bytes alone, which have another
            meaning than the same whole numbers.
    """

    shape: tuple[int, ...]
    kind: str

    def fault(self, value: object) -> str | None:
        """What is wrong with ``value``, as the end of a sentence; None where nothing is."""
        if not isinstance(value, np.ndarray | np.generic):
            return f"{type(value).__name__}, not an array of NumPy"
        kind = _kind(value.dtype, self.kind)
        if kind != self.kind:
            return f"of type {value.dtype}, not {_KINDS[self.kind]}"
        if value.shape != self.shape:
            return f"of shape {value.shape}, not {self.shape}"
        return None


class ReturnForm:
    """What ``reset`` and ``step`` of E envs must return.

    Args:
        simulator: begins the line of an error.
        num_envs: E.
        observation_space: of one env.
        rewards: N where every agent has a reward; None where the team has one.
        metrics: the environment's ``metric_names``.
    """

    def __init__(
        self,
        simulator: str,
        num_envs: int,
        observation_space: spaces.Dict,
        rewards: int | None = None,
        metrics: Sequence[str] = (),
    ) -> None:
        self._where = f"the environment ({simulator})"
        self._obs = {
            name: Column((num_envs, *(space.shape or ())), _kind(space.dtype))
            for name, space in observation_space.spaces.items()
        }
        flag = Column((num_envs,), "b")
        self._step = {
            "reward": Column((num_envs,) if rewards is None else (num_envs, rewards), "f"),
            "terminated": flag,
            "truncated": flag,
        }
        types = {name: space.dtype for name, space in observation_space.spaces.items()}
        self._usual_obs = _usual(self._obs, types)
        self._usual_step = _usual(self._step, {"reward": np.dtype(np.float32)})
        self._metrics = metrics
        self._metric = Column((num_envs,), "f")

    def check_obs(self, obs: object, method: str) -> None:
        """Raises a `UserError` if an observation has not its form.

        Args:
            obs: what ``method`` gave.
            method: its name.
        """
        # The short way first, here and below: this is done in every step.
        if type(obs) is dict and len(obs) == len(self._obs) and _right(obs, self._usual_obs):
            return
        if not isinstance(obs, Mapping):
            raise UserError(
                f"{self._where}: {method} gave a {type(obs).__name__} as the observation; expected "
                f"a dict of arrays: {', '.join(self._obs)}."
            )
        if obs.keys() != self._obs.keys():
            missing, more = self._obs.keys() - obs.keys(), obs.keys() - self._obs.keys()
            name, said = (min(missing), "lacks") if missing else (min(map(str, more)), "has also")
            raise UserError(
                f"{self._where}: the observation of {method} {said} {name!r}; its "
                f"single_observation_space has {', '.join(self._obs)}."
            )
        self._check_columns(obs, self._obs, method)

    def check_step(self, returned: object) -> None:
        """Raises a `UserError` if what a step gave is no `VectorStep` of the right form."""
        if not isinstance(returned, tuple) or len(returned) != 4:
            raise UserError(
                f"{self._where}: _step_envs gave {_named(returned)}; expected "
                "VectorStep(obs, reward, terminated, truncated)."
            )
        obs, reward, terminated, truncated = returned
        self.check_obs(obs, "_step_envs")
        given = {"reward": reward, "terminated": terminated, "truncated": truncated}
        if not _right(given, self._usual_step):
            self._check_columns(given, self._step, "_step_envs")

    def check_final(self, returned: object) -> None:
        """Raises a `UserError` if what an episode's end gave is not (observation, metrics)."""
        method = "_final_obs_and_metrics"
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise UserError(
                f"{self._where}: {method} gave {_named(returned)}; expected (observation, metrics)."
            )
        obs, metrics = returned
        self.check_obs(obs, method)
        if not isinstance(metrics, Mapping):
            raise UserError(
                f"{self._where}: {method} gave a {type(metrics).__name__} as the metrics; expected "
                "a dict of arrays."
            )
        for name in self._metrics:
            if name not in metrics:
                raise UserError(
                    f"{self._where}: the metrics of {method} lack {name!r}, which stands in its "
                    "metric_names."
                )
        self._check_columns(metrics, dict.fromkeys(metrics, self._metric), method)

    def check_ends(self, terminated: NDArray[np.bool_], truncated: NDArray[np.bool_]) -> None:
        """Raises a `UserError` if an episode, bool [E] each, ended in both ways."""
        both = terminated & truncated
        if both.any():
            e = int(np.flatnonzero(both)[0])
            raise UserError(
                f"{self._where}: _step_envs gave env {e} as terminated and truncated at once; "
                "where the task has ended, truncated is False."
            )

    def _check_columns(
        self, given: Mapping[str, Any], expected: Mapping[str, Column], method: str
    ) -> None:
        for name, column in expected.items():
            fault = column.fault(given[name])
            if fault is not None:
                raise UserError(f"{self._where}: {name!r} of {method} is {fault}.")


def check_spaces(simulator: str, observation: object, action: object) -> None:
    """Raises a `UserError` if the spaces of one env are not a team's: see `observation_space`."""
    where = f"the environment ({simulator}): single_"
    if not isinstance(action, spaces.MultiDiscrete | spaces.Box) or not action.shape:
        raise UserError(
            f"{where}action_space is {action}; expected what discrete_actions, continuous_actions "
            "or mixed_actions gives."
        )
    if not isinstance(observation, spaces.Dict):
        raise UserError(
            f"{where}observation_space is {observation}; expected a Dict as observation_space "
            "gives it."
        )
    agents = action.shape[0]
    needed: dict[str, tuple[int | None, ...]] = {"obs": (agents, None), "alive": (agents,)}
    if isinstance(action, spaces.MultiDiscrete):
        needed["action_mask"] = (agents, int(action.nvec.max()))
    elif hasattr(action, "mask_size"):
        needed["action_mask"] = (agents, action.mask_size)
    for name, shape in needed.items():
        space = observation.spaces.get(name)
        said = "lacks" if space is None else f"has {space.shape} as"
        fits = space is not None and len(space.shape or ()) == len(shape)
        if not fits or any(n not in (m, None) for n, m in zip(shape, space.shape, strict=True)):
            expected = ", ".join("D" if n is None else str(n) for n in shape)
            raise UserError(
                f"{where}observation_space {said} {name!r}, which is [{expected}] with its action "
                "space."
            )


def _named(returned: object) -> str:
    """What a method returned, in a few words."""
    length = f" of {len(returned)}" if isinstance(returned, tuple) else ""
    return f"a {type(returned).__name__}{length}"


#: Name, shape and type of several arrays.
_Usual = tuple[tuple[str, tuple[int, ...], np.dtype[Any]], ...]


def _usual(columns: Mapping[str, Column], types: Mapping[str, Any]) -> _Usual:
    """What is seen in nearly every step: arrays of exactly these types, flags where none is said.

    Others of the same kind, real numbers of double precision for example, go the long way.
    """
    flag = np.dtype(np.bool_)
    return tuple((name, column.shape, types.get(name, flag)) for name, column in columns.items())


def _right(given: Mapping[str, Any], usual: _Usual) -> bool:
    """Whether all columns are there, and without a doubt."""
    for name, shape, dtype in usual:
        value = given.get(name)
        # NumPy has one object for each of its types.
        if type(value) is not np.ndarray or value.dtype is not dtype or value.shape != shape:
            return False
    return True


def _kind(dtype: DTypeLike, expected: str = "u") -> str:
    """The kind of a type; bytes are whole numbers where those are expected."""
    kind = np.dtype(dtype).kind
    return "i" if kind == "u" and (expected != "u" or dtype != np.uint8) else kind
