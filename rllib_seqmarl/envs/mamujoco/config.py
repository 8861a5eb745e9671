"""Multi-Agent MuJoCo: one robot whose joints are divided among the agents.

Robots, divisions, observations and rewards are those of gymnasium-robotics' ``mamujoco_v1`` on
gymnasium's ``-v5`` robots (Peng et al. 2021, "FACMAC: Factored Multi-Agent Centralised Policy
Gradients", is where the benchmark comes from). Returns are not comparable with papers that used
the ``-v2`` robots.

Beside the divisions of gymnasium-robotics there is ``<joints>x1`` for every robot (Ant 8x1,
Walker2d 6x1, Humanoid 17x1, ...): its first division below, split into single joints.

What gymnasium-robotics has wrong with Humanoid is kept, so that results are of the same task:
the agent that moves the joint abdomen_y observes abdomen_z as its own, and the other way round.
"""

from __future__ import annotations

import importlib.util
import re
from typing import Annotated, NamedTuple

from rllib_seqmarl.envs.core.config import TeamEnvConfig
from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.settings import Doc, Ge, settings


class Robot(NamedTuple):
    """A robot and how it can be divided.

    Attributes:
        joints: the number of joints that are driven.
        partitions: gymnasium-robotics' divisions.
        max_episode_steps: its time limit.
    """

    joints: int
    partitions: tuple[str, ...]
    max_episode_steps: int = 1000


ROBOTS: dict[str, Robot] = {
    "Ant": Robot(8, ("4x2", "2x4", "2x4d")),
    "HalfCheetah": Robot(6, ("6x1", "2x3")),
    "Hopper": Robot(3, ("3x1",)),
    "Humanoid": Robot(17, ("9|8",)),
    "HumanoidStandup": Robot(17, ("9|8",)),
    "Pusher": Robot(7, ("3p",), 100),
    "Reacher": Robot(2, ("2x1",), 50),
    "Swimmer": Robot(2, ("2x1",)),
    "Walker2d": Robot(6, ("2x3",)),
}

#: The swimmer with as many joints as its division, "<agents>x<joints of each>", asks for.
MANY_SEGMENT_SWIMMER = "ManySegmentSwimmer"

#: Scenarios of gymnasium-robotics that cannot be played -> why.
BROKEN: dict[str, str] = {
    "CoupledHalfCheetah": "its tendon cannot be observed with present versions of MuJoCo",
    "ManySegmentAnt": "its agents observe other joints than those that they move",
}


def partitions(scenario: str) -> tuple[str, ...]:
    """The names of all divisions of a robot of ``ROBOTS``."""
    robot = ROBOTS[scenario]
    return tuple(dict.fromkeys((*robot.partitions, f"{robot.joints}x1")))


@settings
class MAMuJoCoConfig(TeamEnvConfig):
    """``env_config`` of Multi-Agent MuJoCo."""

    scenario: Annotated[str, Doc("A robot of ``ROBOTS``, or ``ManySegmentSwimmer``.")] = (
        "HalfCheetah"
    )
    partition: Annotated[
        str,
        Doc(
            "How its joints are divided, one of ``mamujoco.config.partitions``; for "
            "``ManySegmentSwimmer`` any ``<agents>x<joints of each>``."
        ),
    ] = "6x1"
    agent_obsk: Annotated[
        int,
        Ge(0),
        Doc(
            "An agent sees the positions of joints up to this many joints away, and of its own "
            "joints and the torso everything; 0 for only the latter."
        ),
    ] = 1
    agent_id: Annotated[bool, Doc("Appends the one-hot agent slot to the observation.")] = True
    state: Annotated[
        bool, Doc("Adds ``state`` [S], the robot's whole observation in gymnasium.")
    ] = False
    max_episode_steps: Annotated[
        int,
        Ge(0),
        Doc(
            "After how many steps an episode is truncated; 0 for the robot's own limit (1,000; "
            "Pusher 100, Reacher 50)."
        ),
    ] = 0

    def check(self) -> None:
        """Fills in the robot's limit; imports no simulator.

        Raises:
            UserError: unknown or broken scenario, unknown partition, or MuJoCo missing.
        """
        _check_partition(self.scenario, self.partition)
        robot = ROBOTS.get(self.scenario, ROBOTS["Swimmer"])
        self.max_episode_steps = self.max_episode_steps or robot.max_episode_steps
        if any(importlib.util.find_spec(name) is None for name in ("mujoco", "gymnasium_robotics")):
            raise UserError(
                "mamujoco: MuJoCo or gymnasium-robotics is not installed; run: "
                "pip install 'rllib-seqmarl[mamujoco]'"
            )

    @property
    def coarser_partition(self) -> str | None:
        """The division that is split into single joints; None for gymnasium-robotics' own."""
        if self.scenario == MANY_SEGMENT_SWIMMER:
            return None
        known = ROBOTS[self.scenario].partitions
        return None if self.partition in known else known[0]


def _check_partition(scenario: str, partition: str) -> None:
    if scenario in BROKEN:
        raise UserError(
            f"mamujoco: scenario {scenario!r} of gymnasium-robotics is broken: {BROKEN[scenario]}. "
            f"Known: {', '.join((*ROBOTS, MANY_SEGMENT_SWIMMER))}."
        )
    if scenario == MANY_SEGMENT_SWIMMER:
        sizes = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", partition)
        if sizes is None or int(sizes[1]) * int(sizes[2]) < 2:
            raise UserError(
                f"mamujoco: unknown partition {partition!r} of {scenario}: it must be "
                "'<agents>x<joints of each>' with at least 2 joints, for instance '6x1'."
            )
        return
    if scenario not in ROBOTS:
        hint = nearest(scenario, (*ROBOTS, MANY_SEGMENT_SWIMMER))
        raise UserError(f"mamujoco: unknown scenario {scenario!r}. {hint}")
    known = partitions(scenario)
    if partition not in known:
        raise UserError(
            f"mamujoco: unknown partition {partition!r} of {scenario}. Known: {', '.join(known)}."
        )
