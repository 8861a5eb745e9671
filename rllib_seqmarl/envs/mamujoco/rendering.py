"""A frame of one robot: its links, and the joints in the colours of the agents that drive them.

Drawn from MuJoCo's kinematics alone, so that no graphics card and no OpenGL are needed. The view
follows the robot; lines on the ground, one per metre, show how far it comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.rendering import (
    ALARM,
    BORDER,
    GROUND,
    OVERSAMPLING,
    PALE_TEXT,
    Canvas,
    Colour,
    Frame,
    LegendEntry,
    agent_colour,
    faded,
)

if TYPE_CHECKING:
    from mujoco import MjModel

#: From x, y, z to what is right and what is up in the frame.
SIDE = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
TOP = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
SLANTED = np.array([[0.94, 0.34, 0.0], [-0.17, 0.47, 0.87]])
VIEWS = {
    "Ant": SLANTED,
    "Pusher": SLANTED,
    "Reacher": TOP,
    "Swimmer": TOP,
    "ManySegmentSwimmer": TOP,
}

LINK, SCENERY = (178, 184, 193), (228, 231, 235)
#: Opacity of a link's colour, which is that of the agent whose joint moves it.
LINK_STRENGTH = 0.45
#: The frame is so many times as wide as the robot, and so much of that high.
VIEW_WIDTH, VIEW_HEIGHT = 2.4, 0.62
#: Least radius of a link, radius of a joint that is not driven, and how much a full drive adds.
MIN_LINK, JOINT, JOINT_GROWTH = 2.0, 4.5, 4.5
#: With more agents than these their numbers do not fit into the line of text.
MAX_LEGEND = 9


@dataclass(frozen=True)
class Scene:
    """One robot at one time, in metres of the plane in which it is seen.

    Attributes:
        ends: both ends of each link's axis, float [G, 2, 2].
        radii: of the links, float [G].
        owners: agent whose joint moves the link, int [G]; -1: nobody's, -2: part of the scenery.
        joints: of the driven joints, float [U, 2].
        drivers: the agents that drive them, int [U].
        drive: how strongly they do, as a part of the most, float [U].
        ground: lines on the ground, their ends, float [L, 2, 2].
        marks: words on the ground and their places.
        middle: of what is seen, float [2].
        width: of what is seen.
        position: of the robot along x.
        num_agents: N.
        step: steps since the episode began.
        max_steps: how many there are at most.
        fell: the episode has ended before its time.
    """

    ends: NDArray[np.floating]
    radii: NDArray[np.floating]
    owners: NDArray[np.integer]
    joints: NDArray[np.floating]
    drivers: NDArray[np.integer]
    drive: NDArray[np.floating]
    ground: NDArray[np.floating]
    marks: Sequence[tuple[NDArray[np.floating], str]]
    middle: NDArray[np.floating]
    width: float
    position: float
    num_agents: int
    step: int
    max_steps: int
    fell: bool = False


def draw(scene: Scene) -> Frame:
    """The robot: red, green and blue.

    Raises:
        UserError: Pillow is not installed.
    """
    return _Canvas(scene).frame()


class _Canvas(Canvas):
    """The scene in the pixels of the large frame."""

    def __init__(self, scene: Scene) -> None:
        half = scene.width / 2 * np.array([1.0, VIEW_HEIGHT])
        lower, upper = scene.middle - half, scene.middle + half
        super().__init__((lower[0], lower[1]), (upper[0], upper[1]))
        self.scene = scene

    def draw(self) -> None:
        scene = self.scene
        self.box(self.pixels(np.stack([self.lower, self.upper])), GROUND, None)
        for ends in self.pixels(scene.ground):
            self.line(ends, BORDER, 1.0)
        for place, words in scene.marks:
            below = self.pixels(place) + np.array([0.0, 5.0 * OVERSAMPLING])
            self.text(below, words, PALE_TEXT, 11, "mt")
        for owner in sorted(set(scene.owners.tolist())):  # the scenery first
            for link in np.flatnonzero(scene.owners == owner):
                self.draw_link(int(link), owner)
        for joint in range(len(scene.joints)):
            self.draw_joint(joint)
        entries: list[LegendEntry] = [
            (None, f"step {scene.step} of {scene.max_steps}"),
            (None, f"x {scene.position:.2f} m"),
        ]
        for agent in range(scene.num_agents if scene.num_agents <= MAX_LEGEND else 0):
            entries.append((partial(self.disc, colour=agent_colour(agent)), str(agent)))
        if scene.fell:
            entries.append((partial(self.disc, colour=ALARM), "over"))
        self.legend(entries)

    def draw_link(self, link: int, owner: int) -> None:
        colour: Colour = SCENERY if owner == -2 else LINK
        if owner >= 0:
            colour = faded(agent_colour(owner), LINK_STRENGTH)
        ends = self.pixels(self.scene.ends[link])
        radius = self.length(float(self.scene.radii[link]), MIN_LINK)
        self.line(ends, colour, 2 * radius / OVERSAMPLING)
        for end in ends:
            self.disc(end, radius, colour)

    def draw_joint(self, joint: int) -> None:
        """A dot; of joints in the same place, each is seen around the next one."""
        centre = self.pixels(self.scene.joints[joint])
        later = self.pixels(self.scene.joints[joint + 1 :]) - centre
        around = int((np.hypot(later[:, 0], later[:, 1]) < JOINT * OVERSAMPLING).sum())
        radius = JOINT + JOINT_GROWTH * (float(self.scene.drive[joint]) + around)
        radius *= OVERSAMPLING
        self.disc(centre, radius + 1.5 * OVERSAMPLING, GROUND)
        self.disc(centre, radius, agent_colour(int(self.scene.drivers[joint])))


class Stage:
    """From a robot's pose to what is to be seen; computes in a simulation of its own.

    Args:
        model: MuJoCo's model of the robot.
        scenario: its name, from which the view follows.
        drivers: the agent that drives each actuator, int [U].
        max_steps: of an episode.
    """

    def __init__(
        self, model: MjModel, scenario: str, drivers: NDArray[np.integer], max_steps: int
    ) -> None:
        import mujoco

        self._model, self._data = model, mujoco.MjData(model)
        self._view = VIEWS.get(scenario, SIDE)
        self._drivers, self._max_steps = drivers, max_steps
        self._joints = model.actuator_trnid[:, 0]
        owner_of_body = np.full(model.nbody, -1)
        # Actuators of one body in reverse, so that the first one gives the colour.
        for joint, agent in zip(self._joints[::-1], drivers[::-1], strict=True):
            owner_of_body[model.jnt_bodyid[joint]] = agent
        for body in range(1, model.nbody):  # feet move with the legs; parents come first
            if owner_of_body[body] < 0 and model.body_jntnum[body] == 0:
                owner_of_body[body] = owner_of_body[model.body_parentid[body]]
        owner_of_body[0] = -2
        self._seen = np.flatnonzero(model.geom_type != mujoco.mjtGeom.mjGEOM_PLANE)
        self._owners = owner_of_body[model.geom_bodyid[self._seen]]
        long = np.isin(
            model.geom_type[self._seen],
            (mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_CYLINDER),
        )
        self._half_lengths = np.where(long, model.geom_size[self._seen, 1], 0.0)
        self._radii = model.geom_size[self._seen, 0]
        ends, _ = self._place(model.qpos0)
        own = ends[self._owners > -2].reshape(-1, 2)
        size = own.max(axis=0) - own.min(axis=0)
        self._width = VIEW_WIDTH * max(float(size[0]), float(size[1]))

    def _place(self, qpos: NDArray[np.floating]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Ends of the links [G, 2, 2] and driven joints [U, 2] of a pose, as they are seen."""
        import mujoco

        self._data.qpos[...] = qpos
        mujoco.mj_kinematics(self._model, self._data)
        centres = self._data.geom_xpos[self._seen]
        axes = self._data.geom_xmat[self._seen].reshape(-1, 3, 3)[:, :, 2]
        reach = axes * self._half_lengths[:, None]
        ends = np.stack([centres - reach, centres + reach], axis=1)  # [G, 2, 3]
        return ends @ self._view.T, self._data.xanchor[self._joints] @ self._view.T

    def scene(
        self, qpos: NDArray[np.floating], drive: NDArray[np.floating], step: int, fell: bool
    ) -> Scene:
        """What is to be seen of a robot.

        Args:
            qpos: MuJoCo's coordinates of it.
            drive: of each actuator, -1 to 1, [U].
            step: steps since the episode began.
            fell: the episode has ended before its time.
        """
        ends, joints = self._place(qpos)
        body = self._data.xpos[1]
        if self._view is SIDE:  # the ground in the lower part, whatever the robot does
            height = VIEW_HEIGHT * self._width
            middle = np.array([body[0], 0.38 * height])
        else:
            middle = self._view @ np.array([body[0], body[1], 0.5 * body[2]])
        ground, marks = self._ground(body)
        return Scene(
            ends=ends,
            radii=self._radii,
            owners=self._owners,
            joints=joints,
            drivers=self._drivers,
            drive=np.abs(drive),
            ground=ground,
            marks=marks,
            middle=middle,
            width=self._width,
            position=float(body[0]),
            num_agents=int(self._drivers.max()) + 1,
            step=step,
            max_steps=self._max_steps,
            fell=fell,
        )

    def _ground(
        self, body: NDArray[np.floating]
    ) -> tuple[NDArray[np.float64], list[tuple[NDArray[np.float64], str]]]:
        """Lines on the ground around the robot, one per metre, and the metres along x."""
        far = max(2.0, 2.0 * self._width)
        metres = [
            np.arange(np.floor(middle - far), np.ceil(middle + far) + 1) for middle in body[:2]
        ]
        (x, y), (left, right), (front, back) = metres, metres[0][[0, -1]], metres[1][[0, -1]]
        if self._view is SIDE:
            tick = 0.02 * self._width
            lines = [[[left, 0.0, 0.0], [right, 0.0, 0.0]]]
            lines += [[[place, 0.0, 0.0], [place, 0.0, -tick]] for place in x]
            places = [np.array([place, 0.0, -tick]) for place in x]
        else:
            lines = [[[place, front, 0.0], [place, back, 0.0]] for place in x]
            lines += [[[left, place, 0.0], [right, place, 0.0]] for place in y]
            places = [np.array([place, np.round(body[1]), 0.0]) for place in x]
        marks = [
            (self._view @ place, f"{number:.0f} m") for place, number in zip(places, x, strict=True)
        ]
        return np.array(lines) @ self._view.T, marks
