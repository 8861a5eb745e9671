"""A frame of one DubinsCar env: cars, goals, boxes, trails, and the counts in a line of text.

Sizes are true to scale as long as they are at least a few pixels, so that 8 cars show their real
extent and 1,024 cars on 45 x 45 units can still be seen; cars that touch in such a frame need not
touch in the simulation, and those that do are marked.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.rendering import (
    AGENT_COLOURS,
    ALARM,
    BORDER,
    GROUND,
    OVERSAMPLING,
    PALE_TEXT,
    TEXT,
    Canvas,
    Colour,
    LegendEntry,
    Point,
    agent_colour,
    faded,
)

#: Cars and their goals take these in turn.
CAR_COLOURS = AGENT_COLOURS
BOX, BOX_EDGE = (186, 192, 201), (120, 128, 140)
COLLISION, HALTED = ALARM, PALE_TEXT

#: Least radii of a car, of a goal's ring and of the ring of a collision, in pixels.
MIN_CAR, MIN_GOAL, MIN_COLLISION = 3.0, 4.0, 6.5
#: Width of a goal's ring in pixels, and the opacity of what must not push itself forward.
GOAL_LINE, LINK_STRENGTH, REACHED_STRENGTH, TRAIL_STRENGTH = 1.2, 0.25, 0.35, 0.5
#: With more cars than these, lines from cars to goals would hide more than they show.
MAX_LINKS = 64
#: How many steps a trail reaches back.
TRAIL_STEPS = 60
#: A trail is drawn in so many segments, each paler than the next.
TRAIL_SEGMENTS = 6
#: Corners of a car's nose: ahead of the centre and aside, in radii of the car.
NOSE = np.array([[2.1, 0.0], [0.3, 0.95], [0.3, -0.95]])


@dataclass(frozen=True)
class Scene:
    """One env at one time; lengths in the units of the area.

    Attributes:
        side: of the square [0, side] x [0, side]; cars may leave it.
        positions: of the cars, float [N, 2].
        headings: in radians, 0 along x, float [N].
        goals: one per car, float [N, 2].
        boxes: centre x and y, half width, half height, cosine and sine of the angle, [M, 6].
        trails: earlier positions, the oldest first, float [K, N, 2]; K may be 0.
        car_radius: of a car.
        goal_radius: distance from its goal at which a car has reached it.
        reached: the car has been at its goal, bool [N].
        colliding: it touches a car or a box now, bool [N].
        collided: it has touched one since the episode began, bool [N].
        frozen: a collision has stopped it for good, bool [N].
        step: steps since the episode began.
        seconds: the same in simulated time.
    """

    side: float
    positions: NDArray[np.floating]
    headings: NDArray[np.floating]
    goals: NDArray[np.floating]
    boxes: NDArray[np.floating]
    trails: NDArray[np.floating]
    car_radius: float
    goal_radius: float
    reached: NDArray[np.bool_]
    colliding: NDArray[np.bool_]
    collided: NDArray[np.bool_]
    frozen: NDArray[np.bool_]
    step: int
    seconds: float


def draw(scene: Scene) -> NDArray[np.uint8]:
    """The scene from above, y upwards: red, green and blue [SIZE + LEGEND_HEIGHT, SIZE, 3].

    Raises:
        UserError: Pillow is not installed.
    """
    return _Canvas(scene).frame()


class _Canvas(Canvas):
    """The scene in the pixels of the large frame."""

    def __init__(self, scene: Scene) -> None:
        self.margin = 0.03 * scene.side
        most = scene.side + self.margin
        super().__init__((-self.margin, -self.margin), (most, most))
        self.scene = scene
        self.colours = [agent_colour(car) for car in range(len(scene.positions))]
        self.centres = self.pixels(scene.positions)
        self.car_radius = self.length(scene.car_radius, MIN_CAR)

    def draw(self) -> None:
        corners = self.pixels(np.array([[0.0, 1.0], [1.0, 0.0]]) * self.scene.side)
        self.pen.rectangle(corners.ravel().tolist(), GROUND, BORDER, OVERSAMPLING)
        self.draw_boxes()
        self.draw_trails()
        self.draw_goals()
        self.draw_cars()
        self.draw_legend()

    def draw_boxes(self) -> None:
        for x, y, half_width, half_height, cos, sin in self.scene.boxes:
            corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * (half_width, half_height)
            turned = corners @ np.array([[cos, sin], [-sin, cos]]) + (x, y)
            self.polygon(self.pixels(turned), BOX, BOX_EDGE)

    def draw_trails(self) -> None:
        path = np.concatenate([self.pixels(self.scene.trails), self.centres[None]])  # [K + 1, N, 2]
        width = max(OVERSAMPLING, round(0.5 * self.car_radius))
        ends = np.unique(np.linspace(0, len(path) - 1, TRAIL_SEGMENTS + 1).astype(int))
        for segment, (begin, end) in enumerate(pairwise(ends)):
            strength = TRAIL_STRENGTH * (segment + 1) / len(ends)
            for car, colour in enumerate(self.colours):
                points = path[begin : end + 1, car].ravel().tolist()
                self.pen.line(points, faded(colour, strength), width, "curve")

    def draw_goals(self) -> None:
        radius = self.length(self.scene.goal_radius, MIN_GOAL)
        for car, centre in enumerate(self.pixels(self.scene.goals)):
            colour = self.colours[car]
            if self.scene.reached[car]:
                self.mark_reached(centre, radius, colour)
                continue
            if len(self.colours) <= MAX_LINKS:
                link = [*self.centres[car], *centre]
                self.pen.line(link, faded(colour, LINK_STRENGTH), OVERSAMPLING)
            self.ring(centre, radius, colour, GOAL_LINE)

    def draw_cars(self) -> None:
        """Discs of the cars' extent, with a nose that tells the heading."""
        ahead = np.stack([np.cos(self.scene.headings), -np.sin(self.scene.headings)], axis=-1)
        aside = np.stack([-ahead[:, 1], ahead[:, 0]], axis=-1)
        for car, centre in enumerate(self.centres):
            colour = HALTED if self.scene.frozen[car] else self.colours[car]
            frame = self.car_radius * np.stack([ahead[car], aside[car]])
            self.polygon(centre + NOSE @ frame, colour, colour)
            self.disc(centre, self.car_radius, colour)
            if self.scene.collided[car]:
                self.mark_collided(centre, self.car_radius)
        radius = max(2.0 * self.car_radius, MIN_COLLISION * OVERSAMPLING)
        for centre in self.centres[self.scene.colliding]:
            self.mark_colliding(centre, radius)

    def mark_reached(self, centre: Point, radius: float, colour: Colour = TEXT) -> None:
        self.disc(centre, radius, faded(colour, REACHED_STRENGTH))
        self.ring(centre, radius, colour, GOAL_LINE)

    def mark_collided(self, centre: Point, radius: float) -> None:
        self.disc(centre, 0.5 * radius, COLLISION)

    def mark_colliding(self, centre: Point, radius: float) -> None:
        self.ring(centre, radius, COLLISION, 2.0)

    def mark_frozen(self, centre: Point, radius: float) -> None:
        self.disc(centre, radius, HALTED)

    def draw_legend(self) -> None:
        """A line of text below the area: the time, then counts behind the marks they count."""
        scene = self.scene
        cars = len(scene.positions)
        outside = np.any((scene.positions < 0.0) | (scene.positions > scene.side), axis=1)
        entries: list[LegendEntry] = [
            (None, f"step {scene.step} ({scene.seconds:.2f} s)"),
            (self.mark_reached, f"reached {scene.reached.sum()}/{cars}"),
            (self.mark_colliding, f"colliding {scene.colliding.sum()}"),
            (self.mark_collided, f"collided {scene.collided.sum()}/{cars}"),
        ]
        if scene.frozen.any():
            entries.append((self.mark_frozen, f"frozen {scene.frozen.sum()}"))
        if outside.any():
            entries.append((None, f"outside {outside.sum()}"))
        self.legend(entries, left=self.margin * self.scale / OVERSAMPLING)
