"""DubinsCar: N cars drive to their goals among boxes, without touching anything (SrSv, 5.1).

The environment is that of GCBF+ (Zhang et al. 2024), which the SrSv paper builds on: state
(x, y, theta, v), action (turn command, acceleration), the dynamics of
:func:`~rllib_seqmarl.envs.dubins_car.scripted.drive`, rotated boxes, goals that are reached
within 0.1, collisions between cars closer than 0.1 and between a car and a box closer than 0.05.
What the paper leaves open is a key of ``env_config`` here. Lengths are in units of the area,
times in seconds; a step takes 0.03 s, the speed limit is 0.8.

The reward of car i in a step, of which the team gets the mean over its N cars (0 for a car that
a collision has stopped, but for the collision's own term):

    r_i = - w_nominal |u_i - u_ref,i|^2 + w_goal (at_goal - at_goal before)
          - w_collision [in collision] - w_step + w_progress (distance before - distance)

Reaching the goal alone has a trivial solution, to drive straight and fast: see the
``scripted_policies`` beside every learned policy, and ``success_ratio`` beside ``reach_ratio``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rllib_seqmarl.envs.core.contract import AUTORESET_MODES, check_env_config
from rllib_seqmarl.envs.dubins_car.env import DubinsCar
from rllib_seqmarl.envs.dubins_car.placement import check_room
from rllib_seqmarl.errors import UserError, nearest

#: With ``area: density``, the side that gives 8 cars this much room each.
_AREA_PER_CAR = 4.0**2 / 8

_CHOICES: dict[str, tuple[str, ...]] = {
    "on_collision": ("continue", "freeze"),
    "observation": ("ego", "paper"),
    "action_mode": ("direct", "residual"),
    "autoreset": tuple(AUTORESET_MODES),
}

#: Keys that take the word ``density`` or a number of this type.
_BY_DENSITY: dict[str, type] = {"area": float, "obstacles": int}

#: Upper bounds of such numbers: boxes are looked up in a grid over the whole area.
_LARGEST = {"area": 1_000, "obstacles": 100_000}

#: Keys that only the ``ego`` observation has.
_EGO_KEYS = ("num_neighbours", "num_rays", "neighbours")

DEFAULTS: dict[str, Any] = {
    "num_agents": 8,
    "area": "density",
    "obstacles": 8,
    "min_travel": 0.0,
    "max_travel": 4.0,
    "time_limit": 256,
    "on_collision": "continue",
    "end_when_all_reached": False,
    "observation": "ego",
    "num_neighbours": 8,
    "num_rays": 16,
    "neighbours": False,
    "state": False,
    "action_mode": "direct",
    "turn_gain": 20.0,
    "goal_radius": 0.1,
    "w_nominal": 1e-3,
    "w_goal": 10.0,
    "w_collision": 0.1,
    "w_step": 1e-4,
    "w_progress": 0.0,
    "autoreset": "same_step",
}


def check(env_config: Mapping[str, Any]) -> dict[str, Any]:
    """The complete ``env_config``.

    Keys:
        num_agents: N, 1 to 4,096.
        area: side of the square of starts and goals, at most 1,000, or ``density``:
            4 sqrt(N / 8), as much room per car as 8 cars have in 4 x 4. Nothing keeps cars inside.
        obstacles: boxes per env, or ``density``: N.
        min_travel, max_travel: bounds of the distance from start to goal; 0 for none.
            ``min_travel`` lies below the distance from the middle of the area to a corner.
        time_limit: steps until an episode is truncated.
        on_collision: ``continue`` only counts collisions; ``freeze`` stops a car for good: it no
            longer reaches its goal, is not alive, and stays where it is as an obstacle.
        end_when_all_reached: terminates once every car has reached its goal or is stopped.
        observation: ``ego``, in the frame of the car (see `dubins_car.env.DubinsCar`), or
            ``paper``, in absolute coordinates (SrSv eq. 10).
        num_neighbours, num_rays: of the ``ego`` observation only.
        neighbours: adds ``neighbours`` [N, num_neighbours]: the cars that an ``ego`` observation
            shows, for attention that is restricted to them.
        state: adds ``state`` [8 N]: x and y as shares of the side, cos theta, sin theta, v,
            goal x and y, and whether the car has reached it, of every car.
        action_mode: ``direct``, u = 3 a, or ``residual``, u = u_ref + 3 a; a in [-1, 1].
        turn_gain: radians per second and unit of the turn command (GCBF+'s simulator: 20; SrSv
            eq. 12 taken literally: 1).
        goal_radius: distance at which a goal counts as reached.
        w_nominal, w_goal, w_collision, w_step, w_progress: the weights of the reward.
        autoreset: ``same_step`` or ``next_step``.

    Raises:
        UserError: unknown key, wrong type, an impossible value, or a key that has no
            meaning with the observation.
    """
    others = {key: value for key, value in env_config.items() if key not in _BY_DENSITY}
    defaults = {key: value for key, value in DEFAULTS.items() if key not in _BY_DENSITY}
    unknown = next((key for key in others if key not in DEFAULTS), None)
    if unknown is not None:
        hint = nearest(str(unknown), DEFAULTS)
        raise UserError(f"dubins_car: unknown env_config key {unknown!r}. {hint}")
    config = check_env_config(others, defaults, "dubins_car")

    def refuse(key: str, why: str) -> None:
        raise UserError(f"dubins_car: env_config {key!r} {why}, got {config[key]!r}.")

    for key, number in _BY_DENSITY.items():
        value = config[key] = env_config.get(key, DEFAULTS[key])
        fits = type(value) is number or (number is float and type(value) is int)
        if value != "density" and not (fits and 0 <= value <= _LARGEST[key]):
            kind = "a number" if number is float else "a whole number"
            refuse(key, f"must be 'density' or {kind} from 0 to {_LARGEST[key]:,}")
    for key, known in _CHOICES.items():
        if config[key] not in known:
            refuse(key, f"must be one of {', '.join(known)} ({nearest(config[key], known)})")
    if not 1 <= config["num_agents"] <= 4096:
        refuse("num_agents", "must lie between 1 and 4096")
    for key in ("time_limit", "num_rays"):
        if config[key] < 1:
            refuse(key, "must be at least 1")
    for key in DEFAULTS:
        if isinstance(config[key], int | float) and config[key] < 0:
            refuse(key, "must not be negative")
    for key in ("turn_gain", "goal_radius"):
        if config[key] == 0:
            refuse(key, "must be above 0")
    if 0.0 < config["max_travel"] <= config["min_travel"]:
        refuse("max_travel", f"must be above min_travel ({config['min_travel']:g}), or 0")
    if config["observation"] != "ego":
        for key in _EGO_KEYS:
            if config[key] != DEFAULTS[key]:
                refuse(key, f"has no meaning with observation {config['observation']!r}")
    check_room(config["num_agents"], side_of(config))
    reach = math.sqrt(0.5) * side_of(config)
    if config["min_travel"] >= reach:
        refuse("min_travel", f"must be below {reach:.4g}, how far a car in the middle can get")
    return config


def side_of(config: Mapping[str, Any]) -> float:
    """The side of the area that a complete ``env_config`` means."""
    if config["area"] == "density":
        return math.sqrt(_AREA_PER_CAR * config["num_agents"])
    return float(config["area"])


def make(num_envs: int, **env_config: Any) -> DubinsCar:
    """``num_envs`` envs with the given ``env_config`` (see :func:`check`)."""
    config = check(env_config)
    return DubinsCar(num_envs, config, side_of(config))
