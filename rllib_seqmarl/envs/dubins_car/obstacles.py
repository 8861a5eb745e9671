"""The boxes among the cars: M rotated rectangles per env, their distances and the rays they stop.

Which boxes are near a point is looked up in a grid over each env, so that the cost does not
grow with the number of boxes that are far away.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: How far cars observe boxes, and rays reach; distances beyond it are not computed.
REACH = 0.5

_SIDES = (0.1, 0.6)  # full sides of a box
_CELL = 0.5
#: A box whose centre is in the area is observed at most this far outside of it.
_MARGIN = REACH + 0.5 * np.hypot(_SIDES[1], _SIDES[1])
#: Columns of the array of boxes.
_X, _Y, _HALF_X, _HALF_Y, _COS, _SIN = range(6)


class NearbyBoxes(NamedTuple):
    """Pairs of a point and a box that is nearer to it than ``REACH``, sorted by point.

    Attributes:
        point: int [P], which of the points that were asked for.
        box: float32 [P, 6]: centre, half sides, cosine and sine of the angle.
        offset_x, offset_y: float32 [P], the point in the frame of the box.
        distance: float32 [P], to the box's edge, negative inside.
    """

    point: NDArray[np.int64]
    box: NDArray[np.float32]
    offset_x: NDArray[np.float32]
    offset_y: NDArray[np.float32]
    distance: NDArray[np.float32]


class Boxes:
    """M boxes in each of E envs whose centres lie in a square [0, side]^2.

    Args:
        num_envs: E.
        num_boxes: M.
        side: of the area, in length units.
    """

    def __init__(self, num_envs: int, num_boxes: int, side: float) -> None:
        self.side = side
        self.array = np.zeros((num_envs, num_boxes, 6), np.float32)
        self._columns = int(np.ceil((side + 2.0 * _MARGIN) / _CELL))
        self._cells: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = [
            (np.zeros(0, np.int64), np.zeros(0, np.int64)) for _ in range(num_envs)
        ]
        self._first = np.zeros(num_envs * self._columns**2 + 1, np.int64)
        self._box = np.zeros(0, np.int64)

    def draw(self, envs: NDArray[np.int64], rngs: list[np.random.Generator]) -> None:
        """New boxes in some envs, each with that env's generator.

        Centres are uniform in the area, sides in [0.1, 0.6], angles in [0, 2 pi); boxes may
        overlap and stick out of the area.
        """
        low, high = _SIDES
        for e in envs:
            uniform = rngs[e].random((self.array.shape[1], 5))
            angle = 2.0 * np.pi * uniform[:, 4]
            self.array[e, :, :2] = self.side * uniform[:, :2]
            self.array[e, :, 2:4] = 0.5 * (low + (high - low) * uniform[:, 2:4])
            self.array[e, :, _COS], self.array[e, :, _SIN] = np.cos(angle), np.sin(angle)
        self.index(envs)

    def index(self, envs: NDArray[np.int64]) -> None:
        """Brings the grid up to date after the boxes of some envs changed."""
        if not self.array.shape[1]:
            return
        for e in envs:
            self._cells[e] = self._cells_around(self.array[e])
        cells_per_env = self._columns**2
        counts = np.zeros(len(self._cells) * cells_per_env, np.int64)
        for e, (cell, _) in enumerate(self._cells):
            begin = e * cells_per_env
            counts[begin : begin + cells_per_env] = np.bincount(cell, minlength=cells_per_env)
        self._first = np.concatenate([[0], np.cumsum(counts)])
        boxes_per_env = self.array.shape[1]
        self._box = np.concatenate(
            [box + e * boxes_per_env for e, (_, box) in enumerate(self._cells)]
        )

    def _cells_around(
        self, boxes: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The (cell, box) pairs of one env in which the box is in reach of the cell, by cell."""
        reach = int(np.ceil(_MARGIN / _CELL)) + 1
        step = np.arange(-reach, reach + 1)
        column = self._cell_index(boxes[:, None, None, _X]) + step[:, None]  # [M, R, 1]
        row = self._cell_index(boxes[:, None, None, _Y]) + step  # [M, 1, R]
        column, row = np.broadcast_arrays(column, row)
        centre_x = (column + 0.5) * _CELL - _MARGIN
        centre_y = (row + 0.5) * _CELL - _MARGIN
        _, _, distance = _in_box_frame(
            centre_x.astype(np.float32), centre_y.astype(np.float32), boxes[:, None, None]
        )
        half_diagonal = 0.5 * np.hypot(_CELL, _CELL) + 1e-4
        inside = (column >= 0) & (column < self._columns) & (row >= 0) & (row < self._columns)
        box, i, j = np.nonzero((distance < REACH + half_diagonal) & inside)
        cell = column[box, i, j] * self._columns + row[box, i, j]
        order = np.argsort(cell, kind="stable")
        return cell[order], box[order]

    def _cell_index(self, coordinate: NDArray[Any]) -> NDArray[np.int64]:
        return np.floor((coordinate + _MARGIN) / _CELL).astype(np.int64)

    def nearby(
        self, e: NDArray[np.int64], x: NDArray[np.float32], y: NDArray[np.float32]
    ) -> NearbyBoxes:
        """The boxes nearer than ``REACH`` to each of some points.

        Args:
            e: int [Q], which env each point is in.
            x, y: float32 [Q], anywhere.
        """
        column, row = self._cell_index(x), self._cell_index(y)
        on_grid = (column >= 0) & (column < self._columns) & (row >= 0) & (row < self._columns)
        cell = np.where(on_grid, (e * self._columns + column) * self._columns + row, -1)
        count = np.where(on_grid, self._first[cell + 1] - self._first[cell], 0)
        point = np.repeat(np.arange(len(x)), count)
        within = np.arange(len(point)) - np.repeat(np.cumsum(count) - count, count)
        box = self.array.reshape(-1, 6)[self._box[self._first[cell[point]] + within]]
        offset_x, offset_y, distance = _in_box_frame(x[point], y[point], box)
        in_reach = np.flatnonzero(distance < REACH)
        return NearbyBoxes(
            point[in_reach],
            box[in_reach],
            offset_x[in_reach],
            offset_y[in_reach],
            distance[in_reach],
        )


def _in_box_frame(
    x: NDArray[np.float32], y: NDArray[np.float32], box: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Points in the frames of boxes [..., 6], and their signed distances to the edges."""
    dx, dy = x - box[..., _X], y - box[..., _Y]
    offset_x = box[..., _COS] * dx + box[..., _SIN] * dy
    offset_y = box[..., _COS] * dy - box[..., _SIN] * dx
    beyond_x = np.abs(offset_x) - box[..., _HALF_X]
    beyond_y = np.abs(offset_y) - box[..., _HALF_Y]
    outside = np.hypot(np.maximum(beyond_x, 0.0), np.maximum(beyond_y, 0.0))
    inside = np.minimum(np.maximum(beyond_x, beyond_y), 0.0)
    return offset_x, offset_y, outside + inside


def away(nearby: NearbyBoxes) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """The unit vectors from the nearest points of boxes to the points, [P] each.

    For a point inside its box: the way out through the nearest side.
    """
    half_x, half_y = nearby.box[:, _HALF_X], nearby.box[:, _HALF_Y]
    beyond_x, beyond_y = np.abs(nearby.offset_x) - half_x, np.abs(nearby.offset_y) - half_y
    outside = nearby.distance > 0.0
    through_x = np.where(outside, np.maximum(beyond_x, 0.0), beyond_x >= beyond_y)
    through_y = np.where(outside, np.maximum(beyond_y, 0.0), beyond_x < beyond_y)
    length = np.maximum(np.hypot(through_x, through_y), 1e-6)
    local_x = np.copysign(through_x, nearby.offset_x) / length
    local_y = np.copysign(through_y, nearby.offset_y) / length
    cos, sin = nearby.box[:, _COS], nearby.box[:, _SIN]
    return cos * local_x - sin * local_y, sin * local_x + cos * local_y


def ray_distances(
    nearby: NearbyBoxes, num_points: int, heading: NDArray[np.float32], num_rays: int
) -> NDArray[np.float32]:
    """How far each ray gets, as a share of ``REACH``: 1 where nothing stops it, 0 inside a box.

    Ray k leaves the point at ``heading + 2 pi k / num_rays``. A slab test in the frame of each
    box: a ray is in a box while it is between both pairs of opposite sides.

    Args:
        nearby: the boxes near the points.
        num_points: Q.
        heading: float32 [Q].
        num_rays: R.

    Returns:
        float32 [Q, R].
    """
    result = np.ones((num_points, num_rays), np.float32)
    if not len(nearby.point):
        return result
    angle = (2.0 * np.pi / num_rays * np.arange(num_rays)).astype(np.float32)
    ray_cos, ray_sin = np.cos(angle), np.sin(angle)  # [R]
    cos, sin = nearby.box[:, _COS], nearby.box[:, _SIN]
    heading_cos, heading_sin = np.cos(heading)[nearby.point], np.sin(heading)[nearby.point]
    local_cos = (heading_cos * cos + heading_sin * sin)[:, None]
    local_sin = (heading_sin * cos - heading_cos * sin)[:, None]
    along_x = local_cos * ray_cos - local_sin * ray_sin  # [P, R], unit vectors in box frames
    along_y = local_sin * ray_cos + local_cos * ray_sin
    # A ray parallel to a side would divide by zero; this turns it by a millionth.
    inverse_x = 1.0 / np.where(np.abs(along_x) < 1e-6, np.float32(1e-6), along_x)
    inverse_y = 1.0 / np.where(np.abs(along_y) < 1e-6, np.float32(1e-6), along_y)
    middle_x, middle_y = (
        -nearby.offset_x[:, None] * inverse_x,
        -nearby.offset_y[:, None] * inverse_y,
    )
    half_x = nearby.box[:, _HALF_X, None] * np.abs(inverse_x)
    half_y = nearby.box[:, _HALF_Y, None] * np.abs(inverse_y)
    enters = np.maximum(middle_x - half_x, middle_y - half_y)
    leaves = np.minimum(middle_x + half_x, middle_y + half_y)
    hits = (enters <= leaves) & (leaves >= 0.0)
    share = np.where(hits, np.clip(enters * np.float32(1.0 / REACH), 0.0, 1.0), np.float32(1.0))
    first = np.flatnonzero(np.diff(nearby.point, prepend=-1))
    result[nearby.point[first]] = np.minimum.reduceat(share, first, axis=0)
    return result
