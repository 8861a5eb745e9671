"""A frame of one particle env: agents, landmarks, the prey, and who touches whom."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.rendering import (
    ALARM,
    BORDER,
    GROUND,
    OVERSAMPLING,
    PALE_TEXT,
    TEXT,
    Canvas,
    Frame,
    LegendEntry,
    agent_colour,
    faded,
)

LANDMARK, COVERED_LANDMARK, OBSTACLE, PREY = PALE_TEXT, (38, 170, 90), (186, 192, 201), (40, 44, 52)
#: Edge of what is seen around the origin: everything starts in [-1, 1]^2, but there are no walls.
VIEW = 1.5
#: Opacity of an agent, so that a landmark below it is seen.
AGENT_STRENGTH = 0.8
#: A velocity is drawn as the way of so many seconds.
ARROW_SECONDS = 0.25


@dataclass(frozen=True)
class Scene:
    """One env at one time; discs of P places, in this order: agents, prey, landmarks.

    Attributes:
        positions: float [P, 2].
        velocities: of what moves, float [M, 2].
        radii: float [P].
        num_agents: N; what moves beside them is prey.
        obstacles: landmarks are obstacles, not goals.
        covered: which landmarks are, bool [P - M].
        touching: which of those that move touch another one, bool [M].
        step: steps since the episode began.
        max_steps: how many there are at most.
    """

    positions: NDArray[np.floating]
    velocities: NDArray[np.floating]
    radii: NDArray[np.floating]
    num_agents: int
    obstacles: bool
    covered: NDArray[np.bool_]
    touching: NDArray[np.bool_]
    step: int
    max_steps: int


def draw(scene: Scene) -> Frame:
    """The scene from above, y upwards: red, green and blue. What is farther off is not seen.

    Raises:
        UserError: Pillow is not installed.
    """
    return _Canvas(scene).frame()


class _Canvas(Canvas):
    """The scene in the pixels of the large frame."""

    def __init__(self, scene: Scene) -> None:
        super().__init__((-VIEW, -VIEW), (VIEW, VIEW))
        self.scene = scene
        self.centres = self.pixels(scene.positions)

    def draw(self) -> None:
        self.box(self.pixels(np.array([[-VIEW, -VIEW], [VIEW, VIEW]])), GROUND, None)
        self.box(self.pixels(np.array([[-1.0, -1.0], [1.0, 1.0]])), GROUND, faded(BORDER, 0.5))
        moving = len(self.scene.velocities)
        obstacles = range(moving, len(self.centres)) if self.scene.obstacles else ()
        for place in obstacles:
            self.disc(self.centres[place], self.radius(place), OBSTACLE)
        for mover in range(moving):
            self.draw_mover(mover)
        if not self.scene.obstacles:  # upon the agents that cover them
            for landmark in range(moving, len(self.centres)):
                self.draw_landmark(landmark, bool(self.scene.covered[landmark - moving]))
        self.draw_legend()

    def radius(self, place: int) -> float:
        return self.length(float(self.scene.radii[place]), 3.0)

    def draw_mover(self, mover: int) -> None:
        scene, centre = self.scene, self.centres[mover]
        is_agent = mover < scene.num_agents
        colour = agent_colour(mover) if is_agent else PREY
        self.disc(centre, self.radius(mover), faded(colour, AGENT_STRENGTH) if is_agent else PREY)
        tip = self.pixels(scene.positions[mover] + ARROW_SECONDS * scene.velocities[mover])
        self.line(np.stack([centre, tip]), TEXT if is_agent else PREY, 1.5)
        if scene.touching[mover]:
            self.ring(centre, self.radius(mover) + 2.5 * OVERSAMPLING, ALARM, 2.5)
        if is_agent:
            size = max(9.0, 0.6 * self.radius(mover) / OVERSAMPLING)
            aside = np.array([0.45, 0.45]) * self.radius(mover)
            self.text(centre + aside, str(mover), GROUND, size, "mm")

    def draw_landmark(self, place: int, covered: bool) -> None:
        self.disc(self.centres[place], self.radius(place), GROUND)
        inner = self.radius(place) - 1.5 * OVERSAMPLING
        self.disc(self.centres[place], inner, COVERED_LANDMARK if covered else LANDMARK)

    def draw_legend(self) -> None:
        scene = self.scene
        entries: list[LegendEntry] = [(None, f"step {scene.step} of {scene.max_steps}")]
        if not scene.obstacles:
            words = f"landmarks covered {scene.covered.sum()}/{len(scene.covered)}"
            entries.append((partial(self.disc, colour=COVERED_LANDMARK), words))
        elif len(scene.velocities) > scene.num_agents:
            entries.append((partial(self.disc, colour=PREY), "prey"))
        if scene.touching.any():
            ring = partial(self.ring, colour=ALARM, width=2.5)
            entries.append((ring, f"in contact {scene.touching.sum()}"))
        self.legend(entries)
