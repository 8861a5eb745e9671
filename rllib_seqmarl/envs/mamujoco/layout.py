"""Which numbers of a MuJoCo simulation each agent observes, and which actuators it drives.

gymnasium-robotics assembles an agent's observation element by element in Python. Every element
is one number of the simulation's data, some of them limited to a range. This module finds out
once which number and which range, so that all observations are one indexing operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.errors import UserError

if TYPE_CHECKING:
    from gymnasium.envs.mujoco import MujocoEnv

#: What observations are made of: name -> flat numbers [C] of one env's ``mujoco.MjData``.
#: The last three are Reacher's alone; its last body is the target.
SOURCES: dict[str, Callable[[Any], NDArray[np.float64]]] = {
    "qpos": lambda data: data.qpos,
    "qvel": lambda data: data.qvel,
    "cinert": lambda data: data.cinert.reshape(-1),
    "cvel": lambda data: data.cvel.reshape(-1),
    "qfrc_actuator": lambda data: data.qfrc_actuator,
    "cfrc_ext": lambda data: data.cfrc_ext.reshape(-1),
    "xpos": lambda data: data.xpos.reshape(-1),
    "sin": lambda data: np.sin(data.qpos),
    "cos": lambda data: np.cos(data.qpos),
    "to_last_body": lambda data: (data.xpos - data.xpos[-1]).reshape(-1),
}

#: The fields of ``mujoco.MjData`` that ``SOURCES`` read.
FIELDS = ("qpos", "qvel", "cinert", "cvel", "qfrc_actuator", "cfrc_ext", "xpos")


class Layout(NamedTuple):
    """The team's view of one robot with U actuators.

    Attributes:
        sources: the names of ``SOURCES`` that are observed; an env's numbers are theirs, one
            after another.
        columns: int [N, D], which of these numbers an element is.
        lower: float64 [N, D], elements are limited to this from below; 0 where padded.
        upper: float64 [N, D], the same from above; 0 where padded.
        observation_sizes: int [N], the elements of each agent before padding, at most D.
        action_sizes: int [N], the action dimensions of each agent, at most A.
        slots: int [U], where in the flattened actions [N * A] an actuator's value stands.
    """

    sources: tuple[str, ...]
    columns: NDArray[np.int64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    observation_sizes: NDArray[np.int64]
    action_sizes: NDArray[np.int64]
    slots: NDArray[np.int64]

    def read(self, simulations: Sequence[Any]) -> NDArray[np.float64]:
        """The padded observations [E, N, D] of E ``mujoco.MjData``."""
        numbers = [SOURCES[name](data) for data in simulations for name in self.sources]
        table = np.concatenate(numbers).reshape(len(simulations), -1)
        return table[:, self.columns].clip(self.lower, self.upper)


def factorization(scenario: str, partition: str, coarser: str | None) -> dict[str, Any]:
    """The graph of joints and its division among the agents, as gymnasium-robotics takes it.

    Args:
        scenario: name of the robot.
        partition: gymnasium-robotics' name of the division; ignored if ``coarser`` is given.
        coarser: a division of gymnasium-robotics whose parts are split into single joints, in
            the order in which they stand there.
    """
    from gymnasium_robotics.envs.multiagent_mujoco.obsk import get_parts_and_edges

    parts, edges, global_nodes = get_parts_and_edges(scenario, coarser or partition)
    if coarser is not None:
        parts = [(node,) for part in parts for node in part]
    return {"partition": parts, "edges": edges, "globals": global_nodes}


def observers(
    scenario: str, partition: Mapping[str, Any], agent_obsk: int, robot: MujocoEnv
) -> list[Callable[[], NDArray[np.float64]]]:
    """Per agent, gymnasium-robotics' own assembly of its observation from ``robot.data``."""
    from gymnasium_robotics import mamujoco_v1
    from gymnasium_robotics.envs.multiagent_mujoco.obsk import build_obs

    env = mamujoco_v1.parallel_env(
        scenario, "custom", agent_obsk, agent_factorization=dict(partition), gym_env=robot
    )

    def observer(nodes_at: Mapping[int, list[Any]]) -> Callable[[], NDArray[np.float64]]:
        # It sorts sets by label, which says nothing where labels are equal (Pusher has three
        # equal ones): the order would be another one in every process.
        joints = {
            distance: sorted(nodes, key=lambda node: (node.label, node.act_ids))
            for distance, nodes in nodes_at.items()
        }
        return lambda: build_obs(
            robot.data,
            joints,
            env.local_categories,
            env.mujoco_globals,
            env.global_categories,
        )

    return [observer(nodes_at) for nodes_at in env.k_dicts]


def find_layout(
    scenario: str, partition: Mapping[str, Any], agent_obsk: int, robot: MujocoEnv
) -> Layout:
    """Finds the layout by filling the simulation with numbers that tell where they come from.

    Args:
        scenario: name of the robot.
        partition: see :func:`factorization`.
        agent_obsk: how many joints away an agent still sees.
        robot: an unwrapped gymnasium MuJoCo environment of the scenario; its data is
            overwritten, so it needs a reset afterwards.

    Raises:
        UserError: the installed gymnasium-robotics observes something that is not known here.
    """
    observe = observers(scenario, partition, agent_obsk, robot)
    rng = np.random.default_rng(0)
    probe = {name: rng.random(getattr(robot.data, name).shape) for name in FIELDS}

    def observed(scale: float) -> list[NDArray[np.float64]]:
        for name, numbers in probe.items():
            getattr(robot.data, name)[...] = scale * numbers
        return [one() for one in observe]

    # All different and within every range: each number gives its place away.
    seen = observed(1.0)
    values = {name: source(robot.data) for name, source in SOURCES.items()}
    used = tuple(
        name for name, numbers in values.items() if np.isin(np.concatenate(seen), numbers).any()
    )
    place = {
        number: column
        for column, number in enumerate(np.concatenate([values[name] for name in used]).tolist())
    }
    agents, sizes = len(seen), [len(row) for row in seen]
    columns = np.zeros((agents, max(sizes)), np.int64)
    lower, upper = np.zeros(columns.shape), np.zeros(columns.shape)
    try:
        for agent, row in enumerate(seen):
            columns[agent, : len(row)] = [place[number] for number in row.tolist()]
    except KeyError:
        raise _unknown(scenario) from None
    # Far outside of every range: what comes back is the number itself or the end of its range.
    for scale, bound in ((1e6, upper), (-1e6, lower)):
        rows = observed(scale)
        table = np.concatenate([SOURCES[name](robot.data) for name in used])
        for agent, row in enumerate(rows):
            free = row == table[columns[agent, : len(row)]]
            bound[agent, : len(row)] = np.where(free, np.copysign(np.inf, scale), row)

    layout = Layout(
        used, columns, lower, upper, np.array(sizes), *_actuators(partition["partition"])
    )
    rows = observed(3.0)
    read = layout.read([robot.data])[0]
    if not all(np.array_equal(one[: len(row)], row) for one, row in zip(read, rows, strict=True)):
        raise _unknown(scenario)
    return layout


def _unknown(scenario: str) -> UserError:
    installed = version("gymnasium-robotics")
    return UserError(
        f"mamujoco: gymnasium-robotics {installed} observes something in {scenario} that is not "
        "known here; run: pip install 'rllib-seqmarl[mamujoco]'"
    )


def _actuators(
    parts: Sequence[Sequence[Any]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``action_sizes`` and ``slots`` of :class:`Layout`."""
    sizes = np.array([len(part) for part in parts])
    slots = np.zeros(sizes.sum(), np.int64)
    for agent, part in enumerate(parts):
        for dimension, node in enumerate(part):
            slots[node.act_ids] = agent * sizes.max() + dimension
    return sizes, slots
