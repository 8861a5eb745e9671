"""What all frames of environments need: colours, a pen, and a line of text below the picture.

Everything is drawn larger and then averaged down, which smooths the edges. Needs Pillow, which is
imported when the first frame is drawn.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.errors import UserError

Colour = tuple[int, int, int]
Point = NDArray[np.float64]  # x and y in pixels of the large frame
Frame = NDArray[np.uint8]  # red, green and blue [height, width, 3]
#: An entry of the line of text: what draws a mark around a point, or None, and words.
LegendEntry = tuple[Callable[[Point, float], None] | None, str]

#: Agents take these in turn; red is kept for opponents and collisions.
AGENT_COLOURS: tuple[Colour, ...] = (
    (31, 111, 196),
    (240, 140, 20),
    (38, 150, 70),
    (142, 80, 190),
    (0, 172, 190),
    (225, 95, 175),
    (150, 100, 50),
    (110, 130, 20),
    (60, 70, 150),
    (90, 190, 110),
)
PAGE, GROUND, BORDER = (236, 238, 241), (255, 255, 255), (170, 176, 184)
TEXT, ALARM, PALE_TEXT = (40, 44, 52), (226, 26, 36), (120, 124, 130)

#: Width of a frame in pixels, height of the line of text, and how much larger it is drawn.
SIZE, LEGEND_HEIGHT, OVERSAMPLING = 720, 34, 3


def check_pillow(purpose: str) -> None:
    """Refuses to draw without Pillow.

    Args:
        purpose: what needs it, the beginning of the line: ``drawing``.

    Raises:
        UserError: Pillow is not installed.
    """
    if importlib.util.find_spec("PIL") is None:
        raise UserError(f"{purpose} needs Pillow; run: pip install 'rllib-seqmarl[render]'")


def agent_colour(agent: int) -> Colour:
    """That of an agent slot."""
    return AGENT_COLOURS[agent % len(AGENT_COLOURS)]


def faded(colour: Colour, strength: float, ground: Colour = GROUND) -> Colour:
    """``colour`` as it looks on the ground with that opacity."""
    red, green, blue = (
        round(strength * part + (1.0 - strength) * below)
        for part, below in zip(colour, ground, strict=True)
    )
    return red, green, blue


class Canvas(ABC):
    """A part of the plane, y upwards, in the pixels of a large frame; text stands below it.

    Lengths of the plane are in its own units; widths of lines are in pixels of the final frame.

    Args:
        lower: least x and y that are seen.
        upper: greatest x and y; the height of the frame follows from SIZE, its width.

    Raises:
        UserError: Pillow is not installed.
    """

    def __init__(self, lower: tuple[float, float], upper: tuple[float, float]) -> None:
        check_pillow("drawing")
        from PIL import Image, ImageDraw

        self.lower, self.upper = np.array(lower, float), np.array(upper, float)
        self.scale = SIZE * OVERSAMPLING / (self.upper[0] - self.lower[0])  # pixels per unit
        self.height = round((self.upper[1] - self.lower[1]) * self.scale / OVERSAMPLING)
        size = (SIZE * OVERSAMPLING, (self.height + LEGEND_HEIGHT) * OVERSAMPLING)
        self.image = Image.new("RGB", size, PAGE)
        self.pen = ImageDraw.Draw(self.image)

    @abstractmethod
    def draw(self) -> None:
        """Draws all that the frame shows."""

    def frame(self) -> Frame:
        """The frame, drawn: red, green and blue [height + LEGEND_HEIGHT, SIZE, 3]."""
        self.draw()
        return np.array(self.image.reduce(OVERSAMPLING))

    def pixels(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Places of the plane [..., 2] as pixels."""
        points = np.asarray(points, np.float64)
        x, y = points[..., 0] - self.lower[0], self.upper[1] - points[..., 1]
        return np.stack([x, y], axis=-1) * self.scale

    def length(self, length: float, least: float) -> float:
        """A length in pixels, ``least`` (of the final frame) at least."""
        return max(float(length * self.scale), least * OVERSAMPLING)

    # All that follows is in pixels of the large frame.

    def ring(self, centre: Point, radius: float, colour: Colour, width: float) -> None:
        """The edge of a disc."""
        self.pen.circle(centre.tolist(), radius, outline=colour, width=round(width * OVERSAMPLING))

    def disc(self, centre: Point, radius: float, colour: Colour) -> None:
        """A filled disc."""
        self.pen.circle(centre.tolist(), radius, fill=colour)

    def polygon(self, corners: NDArray[np.float64], colour: Colour, edge: Colour) -> None:
        """A filled polygon, corners [K, 2], with an edge of one pixel."""
        points = [tuple(corner) for corner in corners.tolist()]
        self.pen.polygon(points, fill=colour, outline=edge, width=OVERSAMPLING)

    def line(self, points: NDArray[np.float64], colour: Colour, width: float) -> None:
        """A line through points [K, 2]."""
        flat = np.asarray(points, np.float64).ravel().tolist()
        self.pen.line(flat, colour, max(1, round(width * OVERSAMPLING)), "curve")

    def box(self, corners: NDArray[np.float64], colour: Colour, edge: Colour | None) -> None:
        """A filled rectangle between two opposite corners [2, 2]; it is not turned."""
        ends = [*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()]
        self.pen.rectangle(ends, colour, edge, OVERSAMPLING)

    def text(self, place: Point, words: str, colour: Colour, size: float, anchor: str) -> float:
        """Words of a size in pixels; ``anchor`` as Pillow has it. Returns their width."""
        from PIL import ImageFont

        font: Any = ImageFont.load_default(size * OVERSAMPLING)
        self.pen.text(tuple(place.tolist()), words, colour, font, anchor=anchor)
        return float(self.pen.textlength(words, font))

    def legend(self, entries: Sequence[LegendEntry], left: float = 20.0) -> None:
        """The line of text below the picture: words, some behind the marks they are about.

        Args:
            entries: from left to right.
            left: where it begins, in pixels of the final frame.
        """
        corners = np.array([[0, self.height], [SIZE, self.height + LEGEND_HEIGHT]])
        self.box(corners * float(OVERSAMPLING), PAGE, None)
        radius = 5.5 * OVERSAMPLING
        x, y = left * OVERSAMPLING, (self.height + 0.45 * LEGEND_HEIGHT) * OVERSAMPLING
        for mark, words in entries:
            if mark is not None:
                mark(np.array([x + radius, y]), radius)
                x += 3.0 * radius
            x += self.text(np.array([x, y]), words, TEXT, 15, "lm") + 20 * OVERSAMPLING
