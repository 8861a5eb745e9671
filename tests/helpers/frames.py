"""Looking at frames, and at what drawing one does to an environment."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.contract import TeamVectorEnv
from rllib_seqmarl.envs.core.rendering import LEGEND_HEIGHT

Frame = NDArray[np.uint8]


def count(frame: Frame, colour: tuple[int, ...]) -> int:
    """How many pixels above the line of text have exactly this colour."""
    return int((frame[:-LEGEND_HEIGHT] == colour).all(-1).sum())


def centre(frame: Frame, colour: tuple[int, ...]) -> tuple[float, float]:
    """Mean column and row of these pixels."""
    rows, columns = np.nonzero((frame[:-LEGEND_HEIGHT] == colour).all(-1))
    return float(columns.mean()), float(rows.mean())


def changed_text(before: Frame, after: Frame) -> bool:
    """Whether the line of text says something else."""
    return not np.array_equal(before[-LEGEND_HEIGHT:], after[-LEGEND_HEIGHT:])


def equal(left: Any, right: Any) -> bool:
    """Whether two states of environments are equal in every number."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[k], right[k]) for k in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(np.array_equal(left, right))


def assert_drawing_changes_nothing(env: TeamVectorEnv) -> Frame:
    """Draws env 0 of environments that have been reset; returns the frame."""
    before = env.get_state()
    frame = env.render_frame(0)
    assert equal(before, env.get_state())
    assert frame.dtype == np.uint8
    assert frame.ndim == 3
    assert frame.shape[2] == 3
    return frame
