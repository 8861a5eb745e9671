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
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from rllib_seqmarl.envs.core.contract import AUTORESET_MODES, check_env_config
from rllib_seqmarl.errors import UserError, nearest

if TYPE_CHECKING:
    from rllib_seqmarl.envs.mamujoco.env import MAMuJoCo


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

DEFAULTS: dict[str, Any] = {
    "scenario": "HalfCheetah",
    "partition": "6x1",
    "agent_obsk": 1,
    "agent_id": True,
    "state": False,
    "max_episode_steps": 0,  # 0: the robot's own limit
    "autoreset": "same_step",
}


def partitions(scenario: str) -> tuple[str, ...]:
    """The names of all divisions of a robot of ``ROBOTS``."""
    robot = ROBOTS[scenario]
    return tuple(dict.fromkeys((*robot.partitions, f"{robot.joints}x1")))


def check(env_config: Mapping[str, Any]) -> dict[str, Any]:
    """The complete ``env_config``; imports no simulator.

    Keys:
        scenario: a robot of ``ROBOTS``, or ``ManySegmentSwimmer``.
        partition: how its joints are divided, one of :func:`partitions`; for
            ``ManySegmentSwimmer`` any ``<agents>x<joints of each>``.
        agent_obsk: an agent sees the positions of joints up to this many joints away, and of
            its own joints and the torso everything; 0 for only the latter.
        agent_id: appends the one-hot agent slot to the observation.
        state: adds ``state`` [S], the robot's whole observation in gymnasium.
        max_episode_steps: after how many steps an episode is truncated; 0 for the robot's own
            limit (1,000; Pusher 100, Reacher 50), which becomes part of the complete config.
        autoreset: ``same_step`` or ``next_step``.

    Raises:
        UserError: unknown key, wrong type, impossible value, unknown or broken scenario, unknown
            partition, or MuJoCo missing.
    """
    config = check_env_config(env_config, DEFAULTS, "mamujoco")
    _check_partition(config["scenario"], config["partition"])
    for key in ("agent_obsk", "max_episode_steps"):
        if config[key] < 0:
            raise UserError(f"mamujoco: env_config {key!r} must not be negative: {config[key]!r}.")
    if config["autoreset"] not in AUTORESET_MODES:
        hint = nearest(config["autoreset"], AUTORESET_MODES)
        raise UserError(f"mamujoco: unknown autoreset {config['autoreset']!r}. {hint}")
    robot = ROBOTS.get(config["scenario"], ROBOTS["Swimmer"])
    config["max_episode_steps"] = config["max_episode_steps"] or robot.max_episode_steps
    if any(importlib.util.find_spec(name) is None for name in ("mujoco", "gymnasium_robotics")):
        raise UserError(
            "mamujoco: MuJoCo or gymnasium-robotics is not installed; run: "
            "pip install 'rllib-seqmarl[mamujoco]'"
        )
    return config


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


def make(num_envs: int, **env_config: Any) -> MAMuJoCo:
    """``num_envs`` envs with the given ``env_config`` (see :func:`check`); imports MuJoCo."""
    config = check(env_config)
    from rllib_seqmarl.envs.mamujoco.env import MAMuJoCo

    return MAMuJoCo(num_envs, coarser=_coarser(config["scenario"], config["partition"]), **config)


def _coarser(scenario: str, partition: str) -> str | None:
    """The division that is split into single joints; None for gymnasium-robotics' own."""
    if scenario == MANY_SEGMENT_SWIMMER or partition in ROBOTS[scenario].partitions:
        return None
    return ROBOTS[scenario].partitions[0]
