"""A frame of one battle: units by type, health, who shoots whom, and who is dead.

A unit is a shape with the letter of its type and its slot, large enough to be read; only the
places are true to scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.rendering import (
    BORDER,
    GROUND,
    OVERSAMPLING,
    TEXT,
    Canvas,
    Colour,
    Frame,
    LegendEntry,
    Point,
    faded,
)
from rllib_seqmarl.envs.smax.scenarios import UNIT_TYPES

ALLY, ENEMY, DEAD = (31, 111, 196), (214, 58, 48), (150, 155, 162)
HEALTH, LOST_HEALTH = (38, 150, 70), (214, 217, 222)

#: Letters of the types, as in the names of maps, and corners of their shapes; 0: a disc.
SYMBOLS: dict[str, tuple[str, int]] = {
    "marine": ("m", 0),
    "marauder": ("M", 4),
    "stalker": ("s", 6),
    "zealot": ("z", 3),
    "zergling": ("zg", 3),
    "hydralisk": ("h", 5),
}
#: Radius of a unit and half the width of its bar in pixels, and where the bar is above it.
RADIUS, BAR_WIDTH, BAR_HEIGHT, BAR_ABOVE = 11.0, 13.0, 3.5, 16.0
#: Of a shot in pixels: its width, and how far aside of the line between the two it runs, so that
#: two who shoot each other have two lines.
SHOT_WIDTH, SHOT_ASIDE, IMPACT = 2.0, 2.5, 3.5
#: Opacity of the line of a unit that aims and has to wait for its weapon.
AIM_STRENGTH = 0.3


@dataclass(frozen=True)
class Scene:
    """One battle at one time; allies are the first N of U units.

    Attributes:
        size: width and height of the map; units start and stay in [0, width] x [0, height].
        num_allies: N.
        positions: float [U, 2].
        unit_types: indices into ``UNIT_TYPES``, int [U].
        health: as a part of all that the unit had, float [U]; 0 is dead.
        targets: whom a unit has aimed at in the last step, int [U]; -1: nobody.
        fired: whether its weapon went off in that step, bool [U].
        step: steps since the battle began.
        max_steps: how many there are at most.
        over: the episode has ended.
    """

    size: tuple[float, float]
    num_allies: int
    positions: NDArray[np.floating]
    unit_types: NDArray[np.integer]
    health: NDArray[np.floating]
    targets: NDArray[np.integer]
    fired: NDArray[np.bool_]
    step: int
    max_steps: int
    over: bool


def draw(scene: Scene) -> Frame:
    """The battle from above, y upwards: red, green and blue.

    Raises:
        UserError: Pillow is not installed.
    """
    return _Canvas(scene).frame()


class _Canvas(Canvas):
    """The scene in the pixels of the large frame."""

    def __init__(self, scene: Scene) -> None:
        width, height = scene.size
        margin = 0.03 * width
        super().__init__((-margin, -margin), (width + margin, height + margin))
        self.scene = scene
        self.centres = self.pixels(scene.positions)
        self.is_ally = np.arange(len(scene.positions)) < scene.num_allies

    def colour(self, unit: int) -> Colour:
        return ALLY if self.is_ally[unit] else ENEMY

    def draw(self) -> None:
        ground = self.pixels(np.array([[0.0, 0.0], self.scene.size]))
        self.box(ground, GROUND, BORDER)
        alive = self.scene.health > 0
        for unit in np.flatnonzero(~alive):
            self.draw_cross(self.centres[unit], 0.6 * RADIUS * OVERSAMPLING)
        fired, aims = self.scene.fired, self.scene.targets >= 0
        for unit in (*np.flatnonzero(aims & alive & ~fired), *np.flatnonzero(aims & fired)):
            self.draw_shot(int(unit))
        for unit in np.flatnonzero(alive):
            self.draw_unit(int(unit))
        for unit in np.flatnonzero(alive):  # upon the shapes of those beside
            self.draw_bar_and_slot(int(unit))
        self.draw_legend()

    def draw_cross(self, centre: Point, radius: float) -> None:
        for turn in ([1, 1], [1, -1]):
            arm = radius * np.array(turn)
            self.line(np.stack([centre - arm, centre + arm]), DEAD, 2.0)

    def draw_shot(self, unit: int) -> None:
        scene = self.scene
        begin, end = self.centres[unit], self.centres[scene.targets[unit]]
        way = end - begin
        distance = float(np.hypot(*way))
        if distance == 0.0:
            return
        aside = SHOT_ASIDE * OVERSAMPLING * np.array([-way[1], way[0]]) / distance
        points = np.stack([begin, end]) + aside
        if scene.fired[unit]:
            self.line(points, self.colour(unit), SHOT_WIDTH)
            stop = points[1] - way / distance * min(distance, RADIUS * OVERSAMPLING)
            self.disc(stop, IMPACT * OVERSAMPLING, self.colour(unit))
        else:
            self.line(points, faded(self.colour(unit), AIM_STRENGTH), 1.0)

    def draw_unit(self, unit: int) -> None:
        letter, corners = SYMBOLS[UNIT_TYPES[self.scene.unit_types[unit]]]
        centre, radius = self.centres[unit], RADIUS * OVERSAMPLING
        self.draw_shape(centre, radius, corners, self.colour(unit))
        size = 12 if len(letter) == 1 else 10
        self.text(centre, letter, GROUND, size, "mm")

    def draw_bar_and_slot(self, unit: int) -> None:
        centre = self.centres[unit]
        slot = unit if self.is_ally[unit] else unit - self.scene.num_allies
        beside = centre + RADIUS * OVERSAMPLING * np.array([1.15, 0.75])
        self.text(beside, str(slot), TEXT, 10, "lm")
        above = centre - np.array([0.0, BAR_ABOVE * OVERSAMPLING])
        self.draw_bar(above, float(self.scene.health[unit]))

    def draw_shape(self, centre: Point, radius: float, corners: int, colour: Colour) -> None:
        """A disc, or a polygon of about the same size that stands on a side."""
        if not corners:
            self.disc(centre, radius, colour)
            return
        angles = np.pi / 2 + np.pi / corners + 2 * np.pi * np.arange(corners) / corners
        out = radius * {3: 1.45, 4: 1.25}.get(corners, 1.1)
        shape = centre + out * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        self.polygon(shape, colour, colour)

    def draw_bar(self, centre: Point, part: float) -> None:
        """A horizontal bar of which ``part`` is full."""
        half = np.array([BAR_WIDTH, BAR_HEIGHT / 2]) * OVERSAMPLING
        self.box(np.stack([centre - half, centre + half]), LOST_HEALTH, None)
        full = centre + half * np.array([2 * part - 1, 1.0])
        self.box(np.stack([centre - half, full]), HEALTH, None)

    def draw_legend(self) -> None:
        scene = self.scene
        alive = scene.health > 0
        counts = [
            (colour, name, alive[side].sum(), side.sum())
            for colour, name, side in (
                (ALLY, "allies", self.is_ally),
                (ENEMY, "enemies", ~self.is_ally),
            )
        ]
        entries: list[LegendEntry] = [(None, f"step {scene.step} of {scene.max_steps}")]
        for colour, name, living, all_of_them in counts:
            entries.append((partial(self.disc, colour=colour), f"{name} {living}/{all_of_them}"))
        if scene.over:
            entries.append((None, outcome(int(counts[0][2]), int(counts[1][2]))))
        self.legend(entries)


def outcome(allies: int, enemies: int) -> str:
    """How a battle ended, by who lives."""
    if allies and enemies:
        return "time is up"
    if allies:
        return "won"
    return "lost" if enemies else "nobody left"
