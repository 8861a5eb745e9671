"""The rules of SMAX for many battles at once, as compiled functions on JAX arrays.

JaxMARL writes SMAX for one battle and one unit and leaves the batch axis to ``vmap``; on a
CPU, scatters, gathers and tiny random-number loops then cost most of the time. Here the same
rules stand over whole arrays with the battles as the last, contiguous axis. Keys are consumed
in JaxMARL's order, so a step from the same state with the same key gives JaxMARL's result
(checked against ``HeuristicEnemySMAX.step_env`` in the tests).

Source: JaxMARL 0.2, ``environments/smax`` (Rutherford et al., 2023, arXiv:2311.10090).

Axes: E battles, N allies, M enemies, U = N + M units, allies first, A = 5 + M actions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rllib_seqmarl.envs.smax.simulator import HeuristicEnemySMAX, jax, jnp

Array = Any  # jax.Array, or the tracer of one
Key = tuple[Array, Array]  # the two halves of a key of jax.random, uint32 [E] each

NUM_MOVES = 5  # north, east, south, west, stop


class Battle(NamedTuple):
    """E battles.

    Attributes:
        x, y: positions, float32 [U, E].
        health, cooldown: health points, seconds until the next shot, float32 [U, E].
        unit_type: int32 [U, E].
        move_x, move_y: direction of the last action, float32 [U, E].
        attack: last action if it was a shot, else 0, int32 [U, E].
        goal_x, goal_y: where an enemy walks that sees nobody, float32 [M, E].
        target: whom an enemy shot last, counted from the last ally down; -1: none; int32 [M, E].
        time: steps since the episode's start, int32 [E].
    """

    x: Array
    y: Array
    health: Array
    cooldown: Array
    unit_type: Array
    move_x: Array
    move_y: Array
    attack: Array
    goal_x: Array
    goal_y: Array
    target: Array
    time: Array


class Units(NamedTuple):
    """The constants of each unit, float32 [U, E] or, the same in every battle, [U, 1]."""

    speed: Array
    damage: Array
    shoot_range: Array
    sight: Array
    radius: Array
    max_health: Array
    max_cooldown: Array


def threefry(key: Key, count: Array | int) -> tuple[Array, Array]:
    """Threefry-2x32 of the 64-bit ``count`` below 2^32: what ``jax.random`` computes.

    ``jax.random`` runs it as a loop of tiny kernels on a CPU; unrolled, it becomes one kernel.
    Source: Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    words = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
    a, b = words[0], jnp.asarray(count, jnp.uint32) + words[1]
    for group in range(5):
        for rotation in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            a = a + b
            b = a ^ ((b << np.uint32(rotation)) | (b >> np.uint32(32 - rotation)))
        a = a + words[(group + 1) % 3]
        b = b + words[(group + 2) % 3] + np.uint32(group + 1)
    return a, b


def uniform(key: Key, count: Array | int = 0) -> Array:
    """Element ``count`` of ``jax.random.uniform(key, ...)``: float32 in [0, 1)."""
    a, b = threefry(key, count)
    bits = ((a ^ b) >> np.uint32(9)) | np.uint32(0x3F800000)
    return jax.lax.bitcast_convert_type(bits, jnp.float32) - 1.0


class Rules:
    """One scenario's rules; holds constants only."""

    def __init__(self, smax: HeuristicEnemySMAX) -> None:
        """Reads scenario, options and unit constants from JaxMARL's environment."""
        self.smax = smax
        self.allies, self.enemies = smax.num_allies, smax.num_enemies
        self.num_unit_types = smax.unit_type_bits
        self.size = (smax.map_width, smax.map_height)
        self.tables = Units(
            *(
                np.asarray(table, np.float32)
                for table in (
                    smax.unit_type_velocities,
                    smax.unit_type_attacks,
                    smax.unit_type_attack_ranges,
                    smax.unit_type_sight_ranges,
                    smax.unit_type_radiuses,
                    smax.unit_type_health,
                    smax.unit_type_weapon_cooldowns,
                )
            )
        )
        moves, _ = smax._decode_discrete_actions(jnp.arange(NUM_MOVES - 1))
        self.moves = np.asarray(moves)  # [4, 2]
        self.unit_type: np.ndarray | None = None
        self.fixed: Units | None = None
        if not smax.smacv2_unit_type_generation:
            self.unit_type = np.asarray(smax.scenario, np.int32)[:, None]
            self.fixed = Units(*(table[self.unit_type] for table in self.tables))

    def units(self, battle: Battle) -> Units:
        """The constants of each unit."""
        if self.fixed is not None:
            return self.fixed
        return Units(*(jnp.asarray(table)[battle.unit_type] for table in self.tables))
