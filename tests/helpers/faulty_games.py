"""Two agents play five steps in which one thing is wrong, by name: `WRONG`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

AGENTS = ("left", "right")
VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
THREE = spaces.Discrete(3)


class Plain(ParallelEnv):
    """Nothing is wrong: five steps, each agent is paid 1 per step."""

    metadata = {"name": "plain"}  # noqa: RUF012
    possible_agents: Any = list(AGENTS)  # noqa: RUF012
    length = 5

    def observation_space(self, agent: str) -> Any:
        return VECTOR

    def action_space(self, agent: str) -> Any:
        return THREE

    def _obs(self) -> dict[str, Any]:
        return {agent: np.zeros(3, np.float32) for agent in self.agents}

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents, self.time = list(AGENTS), 0
        return self._obs(), {agent: {} for agent in AGENTS}

    def step(self, actions: dict[str, Any]) -> Any:
        self.time += 1
        over = self.time >= self.length
        result = (
            self._obs(),
            dict.fromkeys(AGENTS, 1.0),
            dict.fromkeys(AGENTS, over),
            dict.fromkeys(AGENTS, False),
            {agent: {} for agent in AGENTS},
        )
        if over:
            self.agents = []
        return result


def _raises(error: BaseException) -> Callable[..., Any]:
    def method(*_: Any, **__: Any) -> Any:
        raise error

    return method


def _step(place: int, value: Callable[[Any], Any]) -> dict[str, Any]:
    """A `step` whose result has another entry at ``place``."""

    def step(self: Plain, actions: dict[str, Any]) -> Any:
        result = list(Plain.step(self, actions))
        result[place] = value(result[place])
        return tuple(result)

    return {"step": step}


def _each(value: object) -> Callable[[Any], Any]:
    return lambda _: dict.fromkeys(AGENTS, value)


def _reset(change: Callable[[Any], Any]) -> dict[str, Any]:
    return {"reset": lambda self, seed=None, options=None: change(Plain.reset(self))}


def _sees(value: object) -> dict[str, Any]:
    return {"_obs": lambda self: dict.fromkeys(self.agents, value)}


_ONLY_LEFT = {"left": VECTOR}
_ONLY_LEFT_ACTS = {"left": THREE}

#: What is wrong -> members of the game that differ from `Plain`.
WRONG: dict[str, dict[str, Any]] = {
    # Told before anything starts.
    "constructor raises": {"__init__": _raises(RuntimeError("no licence"))},
    "constructor exits": {"__init__": _raises(SystemExit(0))},
    "no agents at all": {"possible_agents": None},
    "an agent twice": {"possible_agents": ["left", "left"]},
    "agents raise": {"possible_agents": property(_raises(OSError("no map")))},
    "a space is missing": {"observation_space": lambda self, agent: _ONLY_LEFT[agent]},
    "an action space is missing": {"action_space": lambda self, agent: _ONLY_LEFT_ACTS[agent]},
    "reset raises": {"reset": _raises(RuntimeError("simulator is not running"))},
    "reset exits": {"reset": _raises(SystemExit(0))},
    "reset without seed": {"reset": lambda self: Plain.reset(self)},
    "old reset": _reset(lambda result: result[0]),
    "reset returns None": _reset(lambda _: None),
    "infos of reset are None": _reset(lambda result: (result[0], None)),
    "observations are a list": _reset(lambda result: (list(result[0].values()), result[1])),
    "step raises": {"step": _raises(RuntimeError("lost connection"))},
    "step exits": {"step": _raises(SystemExit(0))},
    "step returns None": {"step": lambda self, actions: None},
    "old step": {"step": lambda self, actions: Plain.step(self, actions)[:4]},
    "rewards are None": _step(1, lambda _: None),
    "a number as rewards": _step(1, lambda _: 2.0),
    "a reward is None": _step(1, _each(None)),
    "a reward is text": _step(1, _each("much")),
    "a reward has two elements": _step(1, _each(np.ones(2))),
    "terminations are a bool": _step(2, lambda _: False),
    "truncations are None": _step(3, lambda _: None),
    "infos are None": _step(4, lambda _: None),
    "an agent's infos are None": _step(4, _each(None)),
    "a mask is None": _step(4, _each({"action_mask": None})),
    "a mask is too long": _step(4, _each({"action_mask": np.ones(4, np.int8)})),
    "a mask is text": _step(4, _each({"action_mask": ["a", "b", "c"]})),
    "an observation is None": _sees(None),
    "an observation is a number": _sees(1.0),
    "an observation has an axis more": _sees(np.zeros((1, 3), np.float32)),
    "an observation is longer": _sees(np.zeros(4, np.float32)),
    "an observation is text": _sees(["a", "b", "c"]),
    "an observation is ragged": _sees([1, [2], 3]),
    "an observation is no float": _sees([10**400, 0, 0]),
    "a mask is ragged": _step(4, _each({"action_mask": [1, [1, 0], 1]})),
    "agents change names": _step(0, lambda seen: {"middle": seen["left"]}),
    "rewards of strangers": _step(1, lambda paid: {**paid, "middle": 1.0}),
    "step lacks a key": {"step": _raises(KeyError("goal"))},
    "step ends an iterator": {"step": _raises(StopIteration())},
    "step recurses": {"step": lambda self, actions: self.step(actions)},
    "step has no memory": {"step": _raises(MemoryError())},
    "a space exits": {"observation_space": _raises(SystemExit(0))},
    "agents exit": {"possible_agents": property(_raises(SystemExit(0)))},
    "a space is a shape": {"observation_space": lambda self, agent: (3,)},
    "an action space is a number": {"action_space": lambda self, agent: 3},
    "nobody is there": {"reset": lambda self, seed=None, options=None: _nobody(self)},
    "close exits": {"close": _raises(SystemExit(0))},
    "close raises": {"close": _raises(RuntimeError("no window"))},
    # Unusual, and played.
    "nothing": {},
    "only those who end are named": {
        "step": lambda self, actions: _told_sparsely(Plain.step(self, actions))
    },
    "no terminations": _step(2, lambda _: {}),
    "agents stay named at the end": {"step": lambda self, actions: _kept(self, actions)},
    "rewards of one element": _step(1, _each(np.ones(1))),
    "rewards in lists": _step(1, _each([1.0])),
    "rewards of no axis": _step(1, _each(np.float32(1.0))),
    "a mask is a list": _step(4, _each({"action_mask": [1, 0, 1]})),
    "no infos": _step(4, lambda _: {}),
    "observations are lists": _sees([0, 1, 0]),
    "prints": {"step": lambda self, actions: print("moved") or Plain.step(self, actions)},
    "warns": {"step": lambda self, actions: _warned(Plain.step(self, actions))},
    "nobody sees anything at first": _reset(lambda result: ({}, {})),
    "rewards of nobody else": _step(1, lambda paid: {"left": 2.0}),
}


def _told_sparsely(result: Any) -> Any:
    observations, rewards, terminations, _, infos = result
    return observations, rewards, {a: True for a, over in terminations.items() if over}, {}, infos


def _kept(game: Plain, actions: dict[str, Any]) -> Any:
    result = Plain.step(game, actions)
    game.agents = list(AGENTS)
    return result


def _warned(result: Any) -> Any:
    warnings.warn("an old form", stacklevel=2)
    return result


def _nobody(game: Plain) -> Any:
    Plain.reset(game)
    game.agents = []
    return {}, {}


def wrong(what: str) -> Plain:
    """A game in which ``what`` is wrong."""
    return type("Wrong", (Plain,), dict(WRONG[what]))()


class Images(Plain):
    """White images: alone, in a dict, in a tuple, or their bytes as a vector.

    Args:
        form: "image", "dict", "tuple", "nested" or "vector".
    """

    def __init__(self, form: str) -> None:
        image, numbers = spaces.Box(0, 255, (2, 2, 3), np.uint8), VECTOR
        white, ones = np.full((2, 2, 3), 255, np.uint8), np.ones(3, np.float32)
        self.space, self.seen = {
            "image": (image, white),
            "dict": (spaces.Dict(b=numbers, a=image), {"a": white, "b": ones}),
            "tuple": (spaces.Tuple((numbers, image)), (ones, white)),
            "nested": (
                spaces.Dict(x=spaces.Tuple((spaces.Discrete(2), image))),
                {"x": (0, white)},
            ),
            "vector": (spaces.Box(0, 255, (12,), np.uint8), white.ravel()),
        }[form]

    def observation_space(self, agent: str) -> Any:
        return self.space

    def _obs(self) -> dict[str, Any]:
        return dict.fromkeys(self.agents, self.seen)
