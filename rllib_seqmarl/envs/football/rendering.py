"""A frame of one football match: the pitch, the players of both teams, the ball and the score."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.rendering import (
    AGENT_COLOURS,
    GROUND,
    OVERSAMPLING,
    TEXT,
    Canvas,
    Frame,
    LegendEntry,
)

GRASS, LINES = (226, 240, 226), (255, 255, 255)
TEAM, OPPONENTS, BALL, OFF = AGENT_COLOURS[0], (214, 58, 48), TEXT, (150, 155, 162)
#: Ring around a player that an agent controls.
CONTROLLED = (240, 170, 20)
#: gfootball's pitch: half its length and half its width, of a goal half its width.
HALF_LENGTH, HALF_WIDTH, HALF_GOAL = 1.0, 0.42, 0.044
#: Half the width and the depth of the penalty area, and the radius of the centre circle.
HALF_AREA, AREA_DEPTH, CIRCLE = 0.24, 0.3, 0.11
#: Radii in pixels; a direction is drawn as the way of so many steps; words of the engine's modes.
PLAYER, BALL_RADIUS, RING, ARROW_STEPS = 9.0, 4.5, 2.5, 6.0
MODES = ("", "kick-off", "goal kick", "free kick", "corner", "throw-in", "penalty")


@dataclass(frozen=True)
class Scene:
    """One match at one time, in gfootball's coordinates: x to the right, y downwards.

    Attributes:
        team: places of the own players, float [P, 2]; the team plays to the right.
        team_direction: their movement per step, float [P, 2].
        opponents: float [Q, 2].
        opponents_direction: float [Q, 2].
        team_active: who is on the pitch, bool [P].
        opponents_active: bool [Q].
        controlled: the player of each agent, int [N]; -1: none.
        ball: x, y and height, float [3].
        owner: who has the ball: side, 0 for the own team, and player; None: nobody.
        score: goals of the team and of the opponents.
        mode: an index into ``MODES``.
        step: steps since the match began.
        steps_left: steps until it ends.
    """

    team: NDArray[np.floating]
    team_direction: NDArray[np.floating]
    opponents: NDArray[np.floating]
    opponents_direction: NDArray[np.floating]
    team_active: NDArray[np.bool_]
    opponents_active: NDArray[np.bool_]
    controlled: NDArray[np.integer]
    ball: NDArray[np.floating]
    owner: tuple[int, int] | None
    score: tuple[int, int]
    mode: int
    step: int
    steps_left: int


def draw(scene: Scene) -> Frame:
    """The match from above: red, green and blue.

    Raises:
        UserError: Pillow is not installed.
    """
    return _Canvas(scene).frame()


class _Canvas(Canvas):
    """The scene in the pixels of the large frame."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(
            (-HALF_LENGTH - 0.1, -HALF_WIDTH - 0.1), (HALF_LENGTH + 0.1, HALF_WIDTH + 0.1)
        )
        self.scene = scene

    def place(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """gfootball's places [..., 2], whose y points downwards, as pixels."""
        return self.pixels(points * np.array([1.0, -1.0]))

    def draw(self) -> None:
        scene = self.scene
        self.draw_pitch()
        for side, colour, places, directions, active in (
            (1, OPPONENTS, scene.opponents, scene.opponents_direction, scene.opponents_active),
            (0, TEAM, scene.team, scene.team_direction, scene.team_active),
        ):
            centres = self.place(places)
            tips = self.place(places + ARROW_STEPS * directions)
            for player, centre in enumerate(centres):
                shown = colour if active[player] else OFF
                self.line(np.stack([centre, tips[player]]), shown, 1.5)
                if side == 0 and player in scene.controlled:
                    self.disc(centre, (PLAYER + RING) * OVERSAMPLING, CONTROLLED)
                self.disc(centre, PLAYER * OVERSAMPLING, shown)
                self.text(centre, str(player), GROUND, 10, "mm")
        self.draw_ball()
        self.draw_legend()

    def draw_pitch(self) -> None:
        corners = self.place(np.array([[-1.0, -1.0], [1.0, 1.0]]) * (HALF_LENGTH, HALF_WIDTH))
        self.box(np.stack([np.zeros(2), self.place(self.upper + 1.0)]), GRASS, None)
        self.box(corners, GRASS, LINES)
        width = 2.0
        for x in (-HALF_LENGTH, 0.0, HALF_LENGTH):
            self.line(self.place(np.array([[x, -HALF_WIDTH], [x, HALF_WIDTH]])), LINES, width)
        for y in (-HALF_WIDTH, HALF_WIDTH):
            self.line(self.place(np.array([[-HALF_LENGTH, y], [HALF_LENGTH, y]])), LINES, width)
        self.ring(self.place(np.zeros(2)), self.length(CIRCLE, 1.0), LINES, width)
        for end in (-1.0, 1.0):
            goal = end * HALF_LENGTH
            area = [[goal, -HALF_AREA], [goal - end * AREA_DEPTH, -HALF_AREA]]
            area += [[goal - end * AREA_DEPTH, HALF_AREA], [goal, HALF_AREA]]
            self.line(self.place(np.array(area)), LINES, width)
            net = np.array([[goal, -HALF_GOAL], [goal + end * 0.03, HALF_GOAL]])
            self.box(self.place(net), OFF, None)

    def draw_ball(self) -> None:
        """A disc that is larger the higher the ball is, with a ring where somebody has it."""
        scene = self.scene
        centre = self.place(scene.ball[:2])
        radius = (BALL_RADIUS + min(6.0, 1.5 * float(scene.ball[2]))) * OVERSAMPLING
        self.disc(centre, radius + OVERSAMPLING, GROUND)
        self.disc(centre, radius, BALL)
        if scene.owner is not None:
            side, player = scene.owner
            owner = self.place((scene.team, scene.opponents)[side][player])
            self.ring(owner, (PLAYER + 2 * RING) * OVERSAMPLING, BALL, 1.5)

    def draw_legend(self) -> None:
        scene = self.scene
        own, others = scene.score
        entries: list[LegendEntry] = [
            (None, f"step {scene.step}, {scene.steps_left} left"),
            (None, f"score {own} : {others}"),
            (partial(self.disc, colour=TEAM), "team"),
            (partial(self.ring, colour=CONTROLLED, width=RING), "agents"),
            (partial(self.disc, colour=OPPONENTS), "opponents"),
        ]
        if MODES[scene.mode]:
            entries.append((None, MODES[scene.mode]))
        self.legend(entries)
