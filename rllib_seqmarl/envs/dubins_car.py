"""DubinsCar: N cars drive to their goals among boxes, without touching anything (SrSv, 5.1).

The world is that of GCBF+ (Zhang et al. 2024), which the SrSv paper builds on: state
(x, y, theta, v), action (turn command, acceleration), the dynamics of
:func:`~rllib_seqmarl.envs.dubins_controllers.drive`, rotated boxes, goals that are reached
within 0.1, collisions between cars closer than 0.1 and between a car and a box closer than 0.05.
What the paper leaves open is a key of ``env_config`` here. Lengths are in units of the area,
times in seconds; a step takes 0.03 s, the speed limit is 0.8.

The reward of car i in a step, of which the team gets the mean over its N cars (0 for a car that
a collision has stopped, but for the collision's own term):

    r_i = - w_nominal |u_i - u_ref,i|^2 + w_goal (at_goal - at_goal before)
          - w_collision [in collision] - w_step + w_progress (distance before - distance)

Reaching the goal alone has a trivial solution, to drive straight and fast: see the scripted
``controllers`` beside every learned policy, and ``success_ratio`` beside ``reach_ratio``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs import dubins_controllers as control_laws
from rllib_seqmarl.envs.dubins_boxes import REACH, Boxes, NearBoxes, ray_distances
from rllib_seqmarl.envs.dubins_car_picture import TRAIL_STEPS, draw, scene_of
from rllib_seqmarl.envs.dubins_controllers import CAR_RADIUS, MAX_ACTION, PARKING_RADIUS, Cars
from rllib_seqmarl.envs.dubins_neighbours import Neighbours, neighbours
from rllib_seqmarl.envs.dubins_placement import check_room, place
from rllib_seqmarl.envs.team_env import (
    AUTORESET_MODES,
    Observation,
    TeamVectorEnv,
    WorldStep,
    check_env_config,
    continuous_actions,
    observation_space,
)
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
        area: side of the square of starts and goals, or ``density``: 4 sqrt(N / 8), as much room
            per car as 8 cars have in 4 x 4. Nothing keeps cars inside.
        obstacles: boxes per world, or ``density``: N.
        min_travel, max_travel: bounds of the distance from start to goal; 0 for none.
        time_limit: steps until an episode is truncated.
        on_collision: ``continue`` only counts collisions; ``freeze`` stops a car for good: it no
            longer reaches its goal, is not alive, and stays where it is as an obstacle.
        end_when_all_reached: terminates once every car has reached its goal or is stopped.
        observation: ``ego``, in the frame of the car (see :class:`DubinsCar`), or ``paper``, in
            absolute coordinates (SrSv eq. 10).
        num_neighbours, num_rays: of the ``ego`` observation.
        state: adds ``state`` [8 N]: x and y as shares of the side, cos theta, sin theta, v,
            goal x and y, and whether the car has reached it, of every car.
        action_mode: ``direct``, u = 3 a, or ``residual``, u = u_ref + 3 a; a in [-1, 1].
        turn_gain: radians per second and unit of the turn command (GCBF+'s simulator: 20; SrSv
            eq. 12 taken literally: 1).
        goal_radius: distance at which a goal counts as reached.
        w_nominal, w_goal, w_collision, w_step, w_progress: the weights of the reward.
        autoreset: ``same_step`` or ``next_step``.

    Raises:
        UserError: unknown key, wrong type, or a value that makes no world.
    """
    others = {key: value for key, value in env_config.items() if key not in _BY_DENSITY}
    defaults = {key: value for key, value in DEFAULTS.items() if key not in _BY_DENSITY}
    unknown = next((key for key in others if key not in DEFAULTS), None)
    if unknown is not None:
        raise UserError(
            f"dubins_car: unknown env_config key {unknown!r}. {nearest(unknown, DEFAULTS)}"
        )
    config = check_env_config(others, defaults, "dubins_car")

    def refuse(key: str, why: str) -> None:
        raise UserError(f"dubins_car: env_config {key!r} {why}, got {config[key]!r}.")

    for key, number in _BY_DENSITY.items():
        value = config[key] = env_config.get(key, DEFAULTS[key])
        fits = type(value) is number or (number is float and type(value) is int)
        if value != "density" and not (fits and value >= 0):
            kind = "a number" if number is float else "a whole number"
            refuse(key, f"must be 'density' or {kind}, at least 0")
    for key, known in _CHOICES.items():
        if config[key] not in known:
            refuse(key, f"must be one of {', '.join(known)} ({nearest(config[key], known)})")
    if not 1 <= config["num_agents"] <= 4096:
        refuse("num_agents", "must lie between 1 and 4096")
    for key in ("time_limit", "num_rays"):
        if config[key] < 1:
            refuse(key, "must be at least 1")
    for key in DEFAULTS:
        if isinstance(config[key], int | float) and not 0 <= config[key] < math.inf:
            refuse(key, "must be finite and not negative")
    for key in ("turn_gain", "goal_radius"):
        if config[key] == 0:
            refuse(key, "must be above 0")
    if 0.0 < config["max_travel"] <= config["min_travel"]:
        refuse("max_travel", f"must be above min_travel ({config['min_travel']:g}), or 0")
    check_room(config["num_agents"], side_of(config))
    return config


def side_of(config: Mapping[str, Any]) -> float:
    """The side of the area that a complete ``env_config`` means."""
    if config["area"] == "density":
        return math.sqrt(_AREA_PER_CAR * config["num_agents"])
    return float(config["area"])


def make(num_envs: int, **env_config: Any) -> DubinsCar:
    """``num_envs`` worlds with the given ``env_config`` (see :func:`check`)."""
    return DubinsCar(num_envs, check(env_config))


class DubinsCar(TeamVectorEnv):
    """E worlds of N cars.

    Observation ``ego`` of a car, float32, in its own frame (x ahead, y to the left), of a width
    that does not depend on N:

    - own, 5: offset to the goal, shortened to length 0.5; distance / 4, at most 4; v; at goal;
    - the ``num_neighbours`` nearest cars within 0.5, nearest first, 5 each: relative position,
      relative velocity, 1; zeros where there are fewer;
    - ``num_rays`` distances to boxes in directions 2 pi k / num_rays, as shares of 0.5.

    Observation ``paper``: x, y, theta, v, goal x, goal y, then the centres of all boxes.

    Attributes:
        metric_names: over all states of an episode, the first included: ``reach_ratio``, cars
            that have been at their goal; ``safe_ratio``, cars never in collision;
            ``success_ratio``, both.
        controllers: ``nominal`` (u_ref of the reward), ``full_speed``, ``potential_field``.
    """

    metric_names = ("reach_ratio", "safe_ratio", "success_ratio")
    controllers = ("nominal", "full_speed", "potential_field")
    simulator = "dubins_car"

    def __init__(self, num_envs: int, config: Mapping[str, Any]) -> None:
        """Takes the complete ``env_config`` that :func:`check` returns."""
        cars = config["num_agents"]
        boxes = cars if config["obstacles"] == "density" else config["obstacles"]
        self._ego = config["observation"] == "ego"
        if self._ego:
            obs_size = 5 + 5 * config["num_neighbours"] + config["num_rays"]
        else:
            obs_size = 6 + 2 * boxes
        super().__init__(
            num_envs,
            observation_space(cars, obs_size, state_shape=(8 * cars,) if config["state"] else None),
            continuous_actions(cars, 2),
            config["autoreset"],
        )
        self.config = dict(config)
        self.side = side_of(config)
        self._freeze = config["on_collision"] == "freeze"
        shape = (num_envs, cars)
        self.cars = Cars(*(np.zeros(shape, np.float32) for _ in Cars._fields))
        self.boxes = Boxes(num_envs, boxes, self.side)
        self.time = np.zeros(num_envs, np.int64)
        self.at_goal, self.reached = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        self.colliding, self.collided = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        # Every world has its own generator: its episodes do not depend on the other worlds.
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]
        self._trail: deque[tuple[NDArray[np.float32], ...]] = deque(maxlen=TRAIL_STEPS)
        self._last: tuple[Observation, dict[str, NDArray[np.float32]]] = ({}, {})
        self._near_cars, self._near_boxes = self._look_around(np.arange(num_envs))

    # -- the worlds ----------------------------------------------------------------------------

    def _reset_worlds(self) -> Observation:
        seeds = self.np_random.integers(2**63, size=self.num_envs)
        self._rngs = [np.random.default_rng(seed) for seed in seeds]
        everywhere = np.arange(self.num_envs)
        self._start(everywhere)
        self._near_cars, self._near_boxes = self._look_around(everywhere)
        return self._observe(everywhere, self._near_cars, self._near_boxes)

    def _start(self, worlds: NDArray[np.int64]) -> None:
        config = self.config
        start, goal, heading = place(
            worlds, self._rngs, self.boxes, self.num_agents,
            config["min_travel"], config["max_travel"],
        )  # fmt: skip
        state = (start[..., 0], start[..., 1], heading, np.zeros_like(heading))
        for array, value in zip(self.cars, (*state, goal[..., 0], goal[..., 1]), strict=True):
            array[worlds] = value
        self.time[worlds] = 0
        at_goal = np.hypot(*np.moveaxis(goal - start, -1, 0)) < config["goal_radius"]
        self.at_goal[worlds] = self.reached[worlds] = at_goal
        self.colliding[worlds] = self.collided[worlds] = False

    def _step_worlds(self, actions: NDArray[Any], frozen: NDArray[np.bool_] | None) -> WorldStep:
        config, before = self.config, self.cars
        self._trail.append((before.x, before.y))
        u_ref = control_laws.nominal(before)
        u = MAX_ACTION * np.clip(actions, -1.0, 1.0)
        if config["action_mode"] == "residual":
            u = np.clip(u_ref + u, -MAX_ACTION, MAX_ACTION)
        _, _, distance_before = before.to_goal()
        # Cars that a collision has stopped neither move nor reach anything any more.
        stopped = self.collided if self._freeze else np.zeros_like(self.collided)
        moves = ~stopped & (distance_before >= PARKING_RADIUS)
        if frozen is not None:
            moves &= ~frozen[:, None]
        self.cars = control_laws.drive(before, u, config["turn_gain"], moves)
        self._near_cars, self._near_boxes = self._look_around(np.arange(self.num_envs))

        _, _, distance = self.cars.to_goal()
        at_goal_before = self.at_goal
        self.at_goal = np.where(stopped, at_goal_before, distance < config["goal_radius"])
        self.colliding = self._collisions()
        # [E, N]
        reward = (
            np.float32(config["w_goal"])
            * (self.at_goal.astype(np.float32) - at_goal_before.astype(np.float32))
            - np.float32(config["w_nominal"]) * np.square(u - u_ref).sum(-1)
            - np.float32(config["w_step"])
            + np.float32(config["w_progress"]) * (distance_before - distance)
        )
        reward = np.where(stopped, np.float32(0.0), reward)
        reward -= np.float32(config["w_collision"]) * self.colliding
        team_reward = reward.mean(1, dtype=np.float32)
        self.reached = self.reached | self.at_goal
        self.collided = self.collided | self.colliding
        active = np.ones(self.num_envs, np.bool_)
        if frozen is not None:
            active = ~frozen
            team_reward *= active
        self.time = self.time + active
        terminated = np.zeros(self.num_envs, np.bool_)
        if config["end_when_all_reached"]:
            still = self.collided if self._freeze else False
            terminated = (self.reached | still).all(1) & active
        truncated = (self.time >= config["time_limit"]) & ~terminated & active

        everywhere = np.arange(self.num_envs)
        obs = self._observe(everywhere, self._near_cars, self._near_boxes)
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            self._last = ({name: value.copy() for name, value in obs.items()}, self._figures())
            self._start(ended)
            for name, value in self._observe(ended, *self._look_around(ended)).items():
                obs[name][ended] = value
            self._near_cars, self._near_boxes = self._look_around(everywhere)
        return WorldStep(obs, team_reward, terminated, truncated)

    def _look_around(self, worlds: NDArray[np.int64]) -> tuple[Neighbours, NearBoxes]:
        """Pairs of near cars, and of cars and near boxes, in W worlds; cars are e * N + i."""
        x, y = self.cars.x[worlds], self.cars.y[worlds]
        world = np.repeat(worlds, self.num_agents)
        return neighbours(x, y, REACH), self.boxes.near(world, x.ravel(), y.ravel())

    def _collisions(self) -> NDArray[np.bool_]:
        """Which cars touch another one or a box now, [E, N]."""
        touching = np.zeros(self.num_envs * self.num_agents, np.bool_)
        touching[self._near_cars.car[self._near_cars.distance < 2.0 * CAR_RADIUS]] = True
        touching[self._near_boxes.point[self._near_boxes.distance < CAR_RADIUS]] = True
        return touching.reshape(self.num_envs, self.num_agents)

    def _figures(self) -> dict[str, NDArray[np.float32]]:
        safe = ~self.collided
        return {
            name: value.mean(1, dtype=np.float32)
            for name, value in (
                ("reach_ratio", self.reached),
                ("safe_ratio", safe),
                ("success_ratio", self.reached & safe),
            )
        }

    def _finished(self) -> tuple[Observation, dict[str, NDArray[np.float32]]]:
        return self._last

    # -- what the cars see ---------------------------------------------------------------------

    def _observe(
        self, worlds: NDArray[np.int64], near_cars: Neighbours, near_boxes: NearBoxes
    ) -> Observation:
        cars = Cars(*(array[worlds] for array in self.cars))
        alive = np.ones(cars.x.shape, np.bool_)
        if self._freeze:
            alive = ~self.collided[worlds]
        at_goal = self.at_goal[worlds]
        rows = self._ego_rows if self._ego else self._paper_rows
        obs: Observation = {
            "obs": rows(worlds, cars, at_goal, near_cars, near_boxes),
            "alive": alive,
        }
        obs["obs"][~alive] = 0.0
        if self.config["state"]:
            columns = [
                *(array / self.side for array in (cars.x, cars.y)),
                np.cos(cars.theta),
                np.sin(cars.theta),
                cars.v,
                *(array / self.side for array in (cars.goal_x, cars.goal_y)),
                self.reached[worlds],
            ]
            obs["state"] = np.stack(columns, -1, dtype=np.float32).reshape(len(worlds), -1)
        return obs

    def _ego_rows(
        self,
        worlds: NDArray[np.int64],
        cars: Cars,
        at_goal: NDArray[np.bool_],
        near_cars: Neighbours,
        near_boxes: NearBoxes,
    ) -> NDArray[np.float32]:
        slots, rays = self.config["num_neighbours"], self.config["num_rays"]
        dx, dy, distance = cars.to_goal()
        cos, sin = np.cos(cars.theta), np.sin(cars.theta)
        shorten = np.minimum(1.0, REACH / np.maximum(distance, REACH))
        rows = np.zeros((*cars.x.shape, 5 + 5 * slots + rays), np.float32)
        rows[..., 0] = shorten * (cos * dx + sin * dy)
        rows[..., 1] = shorten * (cos * dy - sin * dx)
        rows[..., 2] = np.minimum(0.25 * distance, 4.0)
        rows[..., 3] = cars.v
        rows[..., 4] = at_goal

        seen = near_cars.rank < slots
        car, other, rank = near_cars.car[seen], near_cars.other[seen], near_cars.rank[seen]
        velocity_x, velocity_y = (cars.v * cos).ravel(), (cars.v * sin).ravel()
        x, y = cars.x.ravel(), cars.y.ravel()
        cos, sin = cos.ravel()[car], sin.ravel()[car]
        block = rows.reshape(-1, rows.shape[-1])
        column = 5 + 5 * rank
        for offset, (along_x, along_y) in enumerate(((x, y), (velocity_x, velocity_y))):
            relative_x = along_x[other] - along_x[car]
            relative_y = along_y[other] - along_y[car]
            block[car, column + 2 * offset] = cos * relative_x + sin * relative_y
            block[car, column + 2 * offset + 1] = cos * relative_y - sin * relative_x
        block[car, column + 4] = 1.0

        rows[..., 5 + 5 * slots :] = ray_distances(
            near_boxes, len(block), cars.theta.ravel(), rays
        ).reshape(*cars.x.shape, rays)
        return rows

    def _paper_rows(
        self,
        worlds: NDArray[np.int64],
        cars: Cars,
        at_goal: NDArray[np.bool_],
        near_cars: Neighbours,
        near_boxes: NearBoxes,
    ) -> NDArray[np.float32]:
        own = np.stack(
            [cars.x, cars.y, cars.theta, cars.v, cars.goal_x, cars.goal_y], axis=-1
        )  # [W, N, 6]
        centres = self.boxes.array[worlds, :, :2].reshape(len(worlds), 1, -1)
        shape = (*own.shape[:2], centres.shape[-1])
        return np.concatenate([own, np.broadcast_to(centres, shape)], axis=-1)

    # -- controllers, picture, state -------------------------------------------------------------

    def control(self, name: str) -> NDArray[np.float32]:
        """See `TeamVectorEnv.control`; the actions [E, N, 2] in [-1, 1]."""
        if name == "nominal":
            u = control_laws.nominal(self.cars)
        elif name == "full_speed":
            u = control_laws.full_speed(self.cars)
        elif name == "potential_field":
            u = control_laws.potential_field(self.cars, self._near_cars, self._near_boxes, REACH)
        else:
            return super().control(name)
        if self.config["action_mode"] == "residual":
            u = u - control_laws.nominal(self.cars)
        return u / np.float32(MAX_ACTION)

    def picture(self, world: int = 0) -> NDArray[np.uint8]:
        """See `TeamVectorEnv.picture`."""
        return draw(scene_of(self, world, self._trail))

    def _get_worlds(self) -> dict[str, Any]:
        return {
            "cars": [array.copy() for array in self.cars],
            "boxes": self.boxes.array.copy(),
            "time": self.time.copy(),
            "at_goal": self.at_goal.copy(),
            "reached": self.reached.copy(),
            "colliding": self.colliding.copy(),
            "collided": self.collided.copy(),
            "random": [rng.bit_generator.state for rng in self._rngs],
        }

    def _set_worlds(self, worlds: Mapping[str, Any]) -> None:
        everywhere = np.arange(self.num_envs)
        self.cars = Cars(*(array.copy() for array in worlds["cars"]))
        self.boxes.array = worlds["boxes"].copy()
        self.boxes.index(everywhere)
        self.time = worlds["time"].copy()
        self.at_goal, self.reached = worlds["at_goal"].copy(), worlds["reached"].copy()
        self.colliding, self.collided = worlds["colliding"].copy(), worlds["collided"].copy()
        for rng, state in zip(self._rngs, worlds["random"], strict=True):
            rng.bit_generator.state = state
        self._near_cars, self._near_boxes = self._look_around(everywhere)
