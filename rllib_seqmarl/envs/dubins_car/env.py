"""The environment DubinsCar: what a step does, and what the cars see."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.contract import (
    Observation,
    TeamVectorEnv,
    VectorStep,
    continuous_actions,
    observation_space,
)
from rllib_seqmarl.envs.core.generators import EnvGenerators
from rllib_seqmarl.envs.dubins_car import scripted
from rllib_seqmarl.envs.dubins_car.config import DubinsCarConfig
from rllib_seqmarl.envs.dubins_car.neighbours import Neighbours, neighbours
from rllib_seqmarl.envs.dubins_car.obstacles import REACH, Boxes, NearbyBoxes, ray_distances
from rllib_seqmarl.envs.dubins_car.placement import place
from rllib_seqmarl.envs.dubins_car.rendering import TRAIL_STEPS, Scene, draw
from rllib_seqmarl.envs.dubins_car.scripted import CAR_RADIUS, MAX_ACTION, PARKING_RADIUS, Cars


class DubinsCar(TeamVectorEnv):
    """E envs of N cars.

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
        scripted_policies: ``nominal`` (u_ref of the reward), ``full_speed``, ``potential_field``.
    """

    metric_names = ("reach_ratio", "safe_ratio", "success_ratio")
    scripted_policies = ("nominal", "full_speed", "potential_field")
    simulator = "dubins_car"

    def __init__(self, num_envs: int, config: DubinsCarConfig) -> None:
        """Takes E and the settings."""
        cars, boxes = config.num_agents, config.num_boxes
        self._ego = config.observation == "ego"
        if self._ego:
            obs_size = 5 + 5 * config.num_neighbours + config.num_rays
        else:
            obs_size = 6 + 2 * boxes
        space = observation_space(
            cars,
            obs_size,
            state_shape=(8 * cars,) if config.state else None,
            num_neighbours=config.num_neighbours if config.neighbours else None,
        )
        super().__init__(
            num_envs,
            space,
            continuous_actions(cars, 2),
            config.autoreset,
            config.reward_per_agent,
        )
        self.metadata["render_fps"] = 1.0 / scripted.TIME_STEP
        self.config = config
        self.max_episode_steps = config.episode_length
        self.side = config.side
        self._freeze = config.on_collision == "freeze"
        shape = (num_envs, cars)
        self.cars = Cars(*(np.zeros(shape, np.float32) for _ in Cars._fields))
        self.boxes = Boxes(num_envs, boxes, self.side)
        self.time = np.zeros(num_envs, np.int64)
        self.at_goal, self.reached = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        self.colliding, self.collided = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        self._rngs = EnvGenerators(num_envs)
        self._drawn: set[int] = set()  # envs of which frames are asked for, and so the last ones
        self._final_scenes: dict[int, Scene] = {}
        self._trail: deque[tuple[NDArray[np.float32], ...]] = deque(maxlen=TRAIL_STEPS)
        self._nearby_cars, self._nearby_boxes = self._look_around(np.arange(num_envs))

    # -- the steps -----------------------------------------------------------------------------

    def _reset_envs(self) -> Observation:
        self._rngs.reseed(self.np_random)
        everywhere = np.arange(self.num_envs)
        self._start(everywhere)
        self._nearby_cars, self._nearby_boxes = self._look_around(everywhere)
        return self._observe(everywhere, self._nearby_cars, self._nearby_boxes)

    def _start(self, envs: NDArray[np.int64]) -> None:
        config = self.config
        start, goal, heading = place(
            envs, self._rngs, self.boxes, self.num_agents,
            config.min_travel, config.max_travel,
        )  # fmt: skip
        state = (start[..., 0], start[..., 1], heading, np.zeros_like(heading))
        for array, value in zip(self.cars, (*state, goal[..., 0], goal[..., 1]), strict=True):
            array[envs] = value
        self.time[envs] = 0
        at_goal = np.hypot(*np.moveaxis(goal - start, -1, 0)) < config.goal_radius
        self.at_goal[envs] = self.reached[envs] = at_goal
        self.colliding[envs] = self.collided[envs] = False

    def _step_envs(self, actions: NDArray[Any], frozen: NDArray[np.bool_] | None) -> VectorStep:
        config, before = self.config, self.cars
        self._trail.append((before.x, before.y))
        u_ref = scripted.nominal(before)
        u = MAX_ACTION * np.clip(actions, -1.0, 1.0)
        if config.action_mode == "residual":
            u = np.clip(u_ref + u, -MAX_ACTION, MAX_ACTION)
        _, _, distance_before = before.to_goal()
        # Cars that a collision has stopped neither move nor reach anything any more.
        stopped = self.collided if self._freeze else np.zeros_like(self.collided)
        active = self._active(frozen)
        moves = ~stopped & (distance_before >= PARKING_RADIUS) & active[:, None]
        self.cars = scripted.drive(before, u, config.turn_gain, moves)
        self._nearby_cars, self._nearby_boxes = self._look_around(np.arange(self.num_envs))

        _, _, distance = self.cars.to_goal()
        at_goal_before = self.at_goal
        self.at_goal = np.where(stopped, at_goal_before, distance < config.goal_radius)
        self.colliding = self._collisions()
        # [E, N]
        reward = (
            np.float32(config.w_goal)
            * (self.at_goal.astype(np.float32) - at_goal_before.astype(np.float32))
            - np.float32(config.w_nominal) * np.square(u - u_ref).sum(-1)
            - np.float32(config.w_step)
            + np.float32(config.w_progress) * (distance_before - distance)
        )
        reward = np.where(stopped, np.float32(0.0), reward)
        reward -= np.float32(config.w_collision) * self.colliding
        reward = config.paid(reward * active[:, None])
        self.reached = self.reached | self.at_goal
        self.collided = self.collided | self.colliding
        self.time = self.time + active
        terminated = np.zeros(self.num_envs, np.bool_)
        if config.end_when_all_reached:
            still = self.collided if self._freeze else False
            terminated = (self.reached | still).all(1) & active
        truncated = (self.time >= config.episode_length) & ~terminated & active

        everywhere = np.arange(self.num_envs)
        obs = self._observe(everywhere, self._nearby_cars, self._nearby_boxes)
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            self._last = (
                {name: value.copy() for name, value in obs.items()},
                self._episode_metrics(),
            )
            self._final_scenes = {
                e: copy.deepcopy(self._scene(e)) for e in self._drawn.intersection(ended.tolist())
            }
            self._start(ended)
            for name, value in self._observe(ended, *self._look_around(ended)).items():
                obs[name][ended] = value
            self._nearby_cars, self._nearby_boxes = self._look_around(everywhere)
        return VectorStep(obs, reward, terminated, truncated)

    def _look_around(self, envs: NDArray[np.int64]) -> tuple[Neighbours, NearbyBoxes]:
        """Pairs of near cars, and of cars and near boxes, in W envs; cars are e * N + i."""
        x, y = self.cars.x[envs], self.cars.y[envs]
        e = np.repeat(envs, self.num_agents)
        return neighbours(x, y, REACH), self.boxes.nearby(e, x.ravel(), y.ravel())

    def _collisions(self) -> NDArray[np.bool_]:
        """Which cars touch another one or a box now, [E, N]."""
        touching = np.zeros(self.num_envs * self.num_agents, np.bool_)
        touching[self._nearby_cars.car[self._nearby_cars.distance < 2.0 * CAR_RADIUS]] = True
        touching[self._nearby_boxes.point[self._nearby_boxes.distance < CAR_RADIUS]] = True
        return touching.reshape(self.num_envs, self.num_agents)

    def _episode_metrics(self) -> dict[str, NDArray[np.float32]]:
        safe = ~self.collided
        return {
            name: value.mean(1, dtype=np.float32)
            for name, value in (
                ("reach_ratio", self.reached),
                ("safe_ratio", safe),
                ("success_ratio", self.reached & safe),
            )
        }

    # -- what the cars see ---------------------------------------------------------------------

    def _observe(
        self, envs: NDArray[np.int64], nearby_cars: Neighbours, nearby_boxes: NearbyBoxes
    ) -> Observation:
        cars = Cars(*(array[envs] for array in self.cars))
        alive = np.ones(cars.x.shape, np.bool_)
        if self._freeze:
            alive = ~self.collided[envs]
        if self._ego:
            rows = self._ego_rows(cars, self.at_goal[envs], nearby_cars, nearby_boxes)
        else:
            rows = self._paper_rows(cars, self.boxes.array[envs])
        rows[~alive] = 0.0
        obs: Observation = {"obs": rows, "alive": alive}
        if self.config.state:
            columns = [
                *(array / self.side for array in (cars.x, cars.y)),
                np.cos(cars.theta),
                np.sin(cars.theta),
                cars.v,
                *(array / self.side for array in (cars.goal_x, cars.goal_y)),
                self.reached[envs],
            ]
            obs["state"] = np.stack(columns, -1, dtype=np.float32).reshape(len(envs), -1)
        if self.config.neighbours:
            obs["neighbours"] = self._neighbour_slots(alive.shape, nearby_cars)
        return obs

    def _neighbour_slots(
        self, shape: tuple[int, ...], nearby_cars: Neighbours
    ) -> NDArray[np.int32]:
        """The cars that each car sees, nearest first, -1 where there are fewer: [W, N, K]."""
        count = self.config.num_neighbours
        slots = np.full((*shape, count), -1, np.int32)
        seen = nearby_cars.rank < count
        car, rank = nearby_cars.car[seen], nearby_cars.rank[seen]
        slots.reshape(shape[0] * shape[1], count)[car, rank] = (
            nearby_cars.other[seen] % self.num_agents
        )
        return slots

    def _ego_rows(
        self,
        cars: Cars,
        at_goal: NDArray[np.bool_],
        nearby_cars: Neighbours,
        nearby_boxes: NearbyBoxes,
    ) -> NDArray[np.float32]:
        slots, rays = self.config.num_neighbours, self.config.num_rays
        dx, dy, distance = cars.to_goal()
        cos, sin = np.cos(cars.theta), np.sin(cars.theta)
        shorten = np.minimum(1.0, REACH / np.maximum(distance, REACH))
        rows = np.zeros((*cars.x.shape, 5 + 5 * slots + rays), np.float32)
        rows[..., 0] = shorten * (cos * dx + sin * dy)
        rows[..., 1] = shorten * (cos * dy - sin * dx)
        rows[..., 2] = np.minimum(0.25 * distance, 4.0)
        rows[..., 3] = cars.v
        rows[..., 4] = at_goal

        seen = nearby_cars.rank < slots
        car, other, rank = nearby_cars.car[seen], nearby_cars.other[seen], nearby_cars.rank[seen]
        velocity_x, velocity_y = (cars.v * cos).ravel(), (cars.v * sin).ravel()
        x, y = cars.x.ravel(), cars.y.ravel()
        cos, sin = cos.ravel()[car], sin.ravel()[car]
        flat = rows.reshape(-1, rows.shape[-1])
        column = 5 + 5 * rank
        for offset, (along_x, along_y) in enumerate(((x, y), (velocity_x, velocity_y))):
            relative_x = along_x[other] - along_x[car]
            relative_y = along_y[other] - along_y[car]
            flat[car, column + 2 * offset] = cos * relative_x + sin * relative_y
            flat[car, column + 2 * offset + 1] = cos * relative_y - sin * relative_x
        flat[car, column + 4] = 1.0

        rows[..., 5 + 5 * slots :] = ray_distances(
            nearby_boxes, len(flat), cars.theta.ravel(), rays
        ).reshape(*cars.x.shape, rays)
        return rows

    def _paper_rows(self, cars: Cars, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        own = np.stack(cars, axis=-1)  # [W, N, 6]
        centres = boxes[:, :, :2].reshape(len(boxes), 1, -1)
        shape = (*own.shape[:2], centres.shape[-1])
        return np.concatenate([own, np.broadcast_to(centres, shape)], axis=-1)

    # -- scripted policies, frame, state ---------------------------------------------------------

    def scripted_actions(self, name: str) -> NDArray[np.float32]:
        """See `TeamVectorEnv.scripted_actions`; float32 [E, N, 2].

        With residual actions, which reach no further than 3 from u_ref, as near as they get.
        """
        if name == "nominal":
            u = scripted.nominal(self.cars)
        elif name == "full_speed":
            u = scripted.full_speed(self.cars)
        elif name == "potential_field":
            u = scripted.potential_field(self.cars, self._nearby_cars, self._nearby_boxes, REACH)
        else:
            return super().scripted_actions(name)
        if self.config.action_mode == "residual":
            u = u - scripted.nominal(self.cars)
        return u / np.float32(MAX_ACTION)

    def render_frame(self, e: int = 0) -> NDArray[np.uint8]:
        """See `TeamVectorEnv.render_frame`."""
        self._drawn.add(e)
        return draw(self._scene(e))

    def render_final_frame(self, e: int = 0) -> NDArray[np.uint8] | None:
        """See `TeamVectorEnv.render_final_frame`; of envs that were drawn before."""
        return draw(self._final_scenes[e]) if e in self._final_scenes else None

    def _scene(self, e: int) -> Scene:
        """What is to be seen in one of E envs now, with the trails of the present episode."""
        cars = Cars(*(array[e] for array in self.cars))
        step = int(self.time[e])
        earlier = [np.stack([x[e], y[e]], axis=-1) for x, y in self._trail]
        trail = earlier[max(0, len(earlier) - step) :]
        return Scene(
            side=self.side,
            positions=np.stack([cars.x, cars.y], axis=-1),
            headings=cars.theta,
            goals=np.stack([cars.goal_x, cars.goal_y], axis=-1),
            boxes=self.boxes.array[e],
            trails=np.array(trail).reshape(len(trail), self.num_agents, 2),
            car_radius=CAR_RADIUS,
            goal_radius=self.config.goal_radius,
            reached=self.reached[e],
            colliding=self.colliding[e],
            collided=self.collided[e],
            frozen=self.collided[e] & self._freeze,
            step=step,
            seconds=step * scripted.TIME_STEP,
        )

    def _get_envs_state(self) -> dict[str, Any]:
        return {
            "cars": [array.copy() for array in self.cars],
            "boxes": self.boxes.array.copy(),
            "time": self.time.copy(),
            "at_goal": self.at_goal.copy(),
            "reached": self.reached.copy(),
            "colliding": self.colliding.copy(),
            "collided": self.collided.copy(),
            "random": self._rngs.get_state(),
        }

    def _set_envs_state(self, state: Mapping[str, Any]) -> None:
        everywhere = np.arange(self.num_envs)
        self._trail.clear()
        self.cars = Cars(*(array.copy() for array in state["cars"]))
        self.boxes.array = state["boxes"].copy()
        self.boxes.index(everywhere)
        self.time = state["time"].copy()
        self.at_goal, self.reached = state["at_goal"].copy(), state["reached"].copy()
        self.colliding, self.collided = state["colliding"].copy(), state["collided"].copy()
        self._rngs.set_state(state["random"])
        self._nearby_cars, self._nearby_boxes = self._look_around(everywhere)
