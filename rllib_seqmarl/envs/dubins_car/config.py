"""DubinsCar: N cars drive to their goals among boxes, without touching anything (SrSv, 5.1).

The environment is that of GCBF+ (Zhang et al. 2024), which the SrSv paper builds on: state
(x, y, theta, v), action (turn command, acceleration), the dynamics of
:func:`~rllib_seqmarl.envs.dubins_car.scripted.drive`, rotated boxes, goals that are reached
within 0.1, collisions between cars closer than 0.1 and between a car and a box closer than 0.05.
What the paper leaves open is a key of ``env_config`` here. Lengths are in units of the area,
times in seconds; a step takes 0.03 s, the speed limit is 0.8.

The reward of car i in a step, of which the team gets the mean over its N cars unless ``reward``
says otherwise (0 for a car that a collision has stopped, but for the collision's own term):

    r_i = - w_nominal |u_i - u_ref,i|^2 + w_goal (at_goal - at_goal before)
          - w_collision [in collision] - w_step + w_progress (distance before - distance)

Reaching the goal alone has a trivial solution, to drive straight and fast: see the
``scripted_policies`` beside every learned policy, and ``success_ratio`` beside ``reach_ratio``.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from rllib_seqmarl.envs.core.config import PaidAgentsConfig
from rllib_seqmarl.envs.dubins_car.placement import check_area
from rllib_seqmarl.settings import Doc, Ge, Gt, Le, OldName, Refused, settings, settings_of

#: With ``area: density``, the side that gives 8 cars this much space each.
_AREA_PER_CAR = 4.0**2 / 8

#: Keys that only the ``ego`` observation has.
_EGO_KEYS = ("num_neighbours", "num_rays", "neighbours")


@settings
class DubinsCarConfig(PaidAgentsConfig):
    """``env_config`` of DubinsCar."""

    reward = "mean"
    num_agents: Annotated[int, Ge(1), Le(4096), Doc("Number of cars N.")] = 8
    # Upper bounds, because boxes are looked up in a grid over the whole area.
    area: Annotated[
        float | Literal["density"],
        Ge(0),
        Le(1_000),
        Doc(
            "Side of the square of starts and goals, or ``density``: 4 sqrt(N / 8), as much space "
            "per car as 8 cars have in 4 x 4. Nothing keeps cars inside."
        ),
    ] = "density"
    obstacles: Annotated[
        int | Literal["density"], Ge(0), Le(100_000), Doc("Boxes per env, or ``density``: N.")
    ] = 8
    min_travel: Annotated[
        float,
        Ge(0),
        Doc(
            "Least distance from start to goal; below the distance from the middle of the area to "
            "a corner."
        ),
    ] = 0.0
    max_travel: Annotated[
        float, Ge(0), Doc("Largest distance from start to goal; 0 for no bound.")
    ] = 4.0
    episode_length: Annotated[
        int, Ge(1), OldName("time_limit"), Doc("Steps until an episode is truncated.")
    ] = 256
    on_collision: Annotated[
        Literal["continue", "freeze"],
        Doc(
            "``continue`` only counts collisions; ``freeze`` stops a car for good: it no longer "
            "reaches its goal, is not alive, and stays where it is as an obstacle."
        ),
    ] = "continue"
    end_when_all_reached: Annotated[
        bool, Doc("Terminates once every car has reached its goal or is stopped.")
    ] = False
    observation: Annotated[
        Literal["ego", "paper"],
        Doc(
            "``ego``, in the frame of the car (see `dubins_car.env.DubinsCar`), or ``paper``, in "
            "absolute coordinates (SrSv eq. 10)."
        ),
    ] = "ego"
    num_neighbours: Annotated[
        int, Ge(0), Doc("Cars that an ``ego`` observation shows, the nearest ones within 0.5.")
    ] = 8
    num_rays: Annotated[
        int, Ge(1), Doc("Directions in which an ``ego`` observation has the distance to boxes.")
    ] = 16
    neighbours: Annotated[
        bool,
        Doc(
            "Adds ``neighbours`` [N, num_neighbours]: the cars that an ``ego`` observation shows, "
            "for attention that is restricted to them."
        ),
    ] = False
    state: Annotated[
        bool,
        Doc(
            "Adds ``state`` [8 N]: x and y as shares of the side, cos theta, sin theta, v, goal x "
            "and y, and whether the car has reached it, of every car."
        ),
    ] = False
    action_mode: Annotated[
        Literal["direct", "residual"],
        Doc("``direct``, u = 3 a, or ``residual``, u = u_ref + 3 a; a in [-1, 1]."),
    ] = "direct"
    turn_gain: Annotated[
        float,
        Gt(0),
        Doc(
            "Radians per second and unit of the turn command (GCBF+'s simulator: 20; SrSv eq. 12 "
            "taken literally: 1)."
        ),
    ] = 20.0
    goal_radius: Annotated[float, Gt(0), Doc("Distance at which a goal counts as reached.")] = 0.1
    w_nominal: Annotated[float, Ge(0), Doc("Reward: cost of the squared distance to u_ref.")] = 1e-3
    w_goal: Annotated[float, Ge(0), Doc("Reward: of reaching the goal.")] = 10.0
    w_collision: Annotated[float, Ge(0), Doc("Reward: cost of a step in collision.")] = 0.1
    w_step: Annotated[float, Ge(0), Doc("Reward: cost of each step.")] = 1e-4
    w_progress: Annotated[float, Ge(0), Doc("Reward: of each unit of way to the goal.")] = 0.0

    @property
    def side(self) -> float:
        """The side of the area."""
        if self.area == "density":
            return math.sqrt(_AREA_PER_CAR * self.num_agents)
        return float(self.area)

    @property
    def num_boxes(self) -> int:
        """Boxes per env."""
        return self.num_agents if self.obstacles == "density" else self.obstacles

    def check(self) -> None:
        """Checks what concerns several settings.

        Raises:
            Refused: a range of travel that no car can have, or a key that has no meaning with the
                observation.
            UserError: the area is too small for the cars.
        """
        if 0.0 < self.max_travel <= self.min_travel:
            raise Refused("max_travel", f"must be above min_travel ({self.min_travel:g}), or 0")
        if self.observation != "ego":
            for key in _EGO_KEYS:
                if getattr(self, key) != settings_of(type(self))[key].default:
                    why = f"has no meaning with observation {self.observation!r}"
                    raise Refused(key, why)
        check_area(self.num_agents, self.side)
        reach = math.sqrt(0.5) * self.side
        if self.min_travel >= reach:
            why = f"must be below {reach:.4g}, how far a car in the middle can get"
            raise Refused("min_travel", why)
