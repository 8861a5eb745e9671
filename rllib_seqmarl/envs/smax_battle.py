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

import jax
import jax.numpy as jnp
import numpy as np
from jaxmarl.environments.smax import HeuristicEnemySMAX

Array = Any  # jax.Array, or the tracer of one

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


class Outcome(NamedTuple):
    """What a step gives besides the next state, arrays [E]."""

    reward: Array
    done: Array
    allies_left: Array
    enemies_left: Array


def threefry(key: tuple[Array, Array], count: Array | int) -> tuple[Array, Array]:
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


def uniform(key: tuple[Array, Array]) -> Array:
    """One float32 in [0, 1) per key, as ``jax.random.uniform(key)``."""
    a, b = threefry(key, 0)
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
        self.random_units = bool(smax.smacv2_unit_type_generation)
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
        fixed = None if self.random_units else np.asarray(smax.scenario)[:, None]
        self.fixed = None if fixed is None else Units(*(table[fixed] for table in self.tables))

    def units(self, battle: Battle) -> Units:
        """The constants of each unit."""
        if self.fixed is not None:
            return self.fixed
        # Looked up once: fused into the pairwise loops, a gather would be repeated U times.
        looked_up = Units(*(jnp.asarray(table)[battle.unit_type] for table in self.tables))
        return Units(*jax.lax.optimization_barrier(tuple(looked_up)))

    def start(self, key: Array) -> Battle:
        """Fresh battles from uint32 keys [2, E]."""
        _, state = jax.vmap(self.smax.reset, in_axes=1)(key)
        first = state.state
        x, y = first.unit_positions[..., 0].T, first.unit_positions[..., 1].T
        zeros = jnp.zeros_like(x)
        goal_x, goal_y = (
            -(own / length * length - length / 2) + length / 2
            for own, length in zip((x[self.allies :], y[self.allies :]), self.size, strict=True)
        )
        unit_type = first.unit_types.T.astype(jnp.int32)
        return Battle(
            x, y, first.unit_health.T, zeros, unit_type, zeros, zeros,
            jnp.zeros_like(unit_type), goal_x, goal_y,
            jnp.full_like(unit_type[self.allies :], -1), jnp.zeros_like(unit_type[0]),
        )  # fmt: skip

    def step(self, battle: Battle, actions: Array, key: Array) -> tuple[Battle, Outcome]:
        """One step of every battle.

        Args:
            battle: E battles.
            actions: the team's actions, int32 [N, E].
            key: uint32 [2, E], used up by this step.
        """
        units = self.units(battle)
        base = (key[0], key[1])
        step_key, enemy_key = threefry(base, 0), threefry(base, 1)
        enemy_actions, target = self.enemy_actions(battle, units, enemy_key)
        action = jnp.concatenate([actions, enemy_actions])
        move_x, move_y = (
            sum(jnp.where(action == k, self.moves[k, axis], 0.0) for k in range(NUM_MOVES - 1))
            for axis in (0, 1)
        )
        attack = jnp.where(action >= NUM_MOVES, action, 0)
        own = jnp.arange(self.allies + self.enemies, dtype=jnp.int32)[:, None]
        shot_at = jnp.where(
            own < self.allies,
            action - NUM_MOVES + self.allies,
            self.allies - 1 - (action - NUM_MOVES),
        )
        shot_at = jnp.where(action >= NUM_MOVES, shot_at, own)
        orders = jax.lax.optimization_barrier((move_x, move_y, shot_at))

        def world_step(carry: Any, _: None) -> tuple[Any, None]:
            now, chain = carry
            now = self.world_step(now, units, orders, threefry(chain, 1))
            return (now, threefry(chain, 0)), None

        fast = (battle.x, battle.y, battle.health, battle.cooldown)
        (fast, _), _ = jax.lax.scan(
            world_step, (fast, step_key), None, length=self.smax.world_steps_per_env_step
        )
        x, y, health, cooldown = fast
        after = battle._replace(
            x=x, y=y, health=health, cooldown=cooldown, move_x=move_x, move_y=move_y,
            attack=attack, target=target, time=battle.time + 1,
        )  # fmt: skip
        return after, self.outcome(battle, after, units)

    def outcome(self, before: Battle, after: Battle, units: Units) -> Outcome:
        """Reward and end of the episode, by JaxMARL's rules."""
        lost = ((after.health - before.health) / units.max_health)[self.allies :].sum(0)
        allies_left = (after.health[: self.allies] > 0).any(0)
        enemies_left = (after.health[self.allies :] > 0).any(0)
        bonus = jnp.where(allies_left & ~enemies_left, self.smax.won_battle_bonus, 0.0)
        return Outcome(
            reward=jnp.abs(lost) / self.enemies + bonus,
            # JaxMARL compares the time before it counts the step.
            done=~allies_left | ~enemies_left | (before.time >= self.smax.max_steps),
            allies_left=allies_left,
            enemies_left=enemies_left,
        )

    def world_step(
        self, now: tuple[Array, ...], units: Units, orders: tuple[Array, ...], key: Any
    ) -> tuple[Array, ...]:
        """``time_per_step`` seconds: move, shoot, die at walls, push overlapping units apart."""
        x, y, health, cooldown = now
        move_x, move_y, shot_at = orders
        alive = health > 0
        num, dt = x.shape[0], self.smax.time_per_step
        own = jnp.arange(num, dtype=jnp.int32)[:, None]

        def there(values: Array) -> Array:
            return jnp.take_along_axis(values, shot_at, axis=0)

        distance = jnp.sqrt(jnp.square(x - there(x)) + jnp.square(y - there(y)))
        hits = (distance < units.shoot_range) & alive & there(alive)
        hits &= (shot_at != own) & (cooldown <= 0.0)
        damage = jnp.where(hits, units.damage, 0.0)
        # Both sides' shots summed per victim, over the shooter axis.
        suffered = jnp.where(shot_at[:, None] == own[None], damage[:, None], 0.0).sum(0)

        jitter = uniform(threefry(key, own)) * (3 * dt) - dt
        jitter = jnp.maximum(-dt, jitter)
        cooldown = cooldown + jnp.where(hits, units.max_cooldown + jitter - cooldown, -dt)
        x = jnp.where(alive, jnp.clip(x + move_x * units.speed * dt, 0.0, self.size[0]), x)
        y = jnp.where(alive, jnp.clip(y + move_y * units.speed * dt, 0.0, self.size[1]), y)
        health = jnp.maximum(health - suffered, 0.0)
        if self.smax.walls_cause_death:
            outside = (x <= 0.0) | (y <= 0.0) | (x >= self.size[0]) | (y >= self.size[1])
            health = jnp.where(outside, 0.0, health)
        x, y, health = jax.lax.optimization_barrier((x, y, health))
        x, y = push_apart(x, y, health > 0, units.radius)
        return x, y, health, cooldown

    def enemy_actions(self, battle: Battle, units: Units, key: Any) -> tuple[Array, Array]:
        """JaxMARL's heuristic: shoot who is in range, else walk to somebody in sight.

        Allies are counted from the last one down, as enemies see them.

        Returns:
            Actions int32 [M, E] and whom they shoot, int32 [M, E], -1 for nobody.
        """
        n, none = self.allies, jnp.zeros_like(battle.target)
        enemy_x, enemy_y, enemy_alive = battle.x[n:], battle.y[n:], battle.health[n:] > 0
        sight, shoot_range = units.sight[n:], units.shoot_range[n:]
        own_key = threefry(key, jnp.arange(self.enemies)[:, None])

        # Loops over the allies: vectorised over all [M, E], unlike sums and minima over pairs.
        def look(rank: Array) -> tuple[Array, ...]:
            x, y, health = (
                jax.lax.dynamic_slice_in_dim(values, n - 1 - rank, 1)
                for values in (battle.x, battle.y, battle.health)
            )
            dx, dy = x - enemy_x, y - enemy_y
            visible = jnp.sqrt(jnp.square(dx) + jnp.square(dy)) < sight
            visible &= enemy_alive & (health > 0)
            # Positions pass through the observation, scaled by the range of sight.
            dx, dy = dx / sight * sight, dy / sight * sight
            distance = jnp.sqrt(jnp.square(dx) + jnp.square(dy))
            return visible, visible & (distance < shoot_range), dx, dy, distance

        def survey(rank: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
            seen, ready, keeps, nearest, choice = carry
            visible, in_range, _, _, distance = look(rank)
            closer = in_range & (distance < nearest)
            return (
                seen + visible,
                ready + in_range,
                keeps | (in_range & (rank == battle.target)),
                jnp.where(closer, distance, nearest),
                jnp.where(closer, rank, choice),
            )

        far = jnp.full_like(enemy_x, np.inf)
        seen, ready, keeps, _, choice = jax.lax.fori_loop(
            0, n, survey, (none, none, none > 0, far, none)
        )
        # A uniform number picks one of those in sight, and one of those in range.
        follow_at = seen * (1.0 - uniform(threefry(own_key, 0)))
        shoot_at = ready * (1.0 - uniform(threefry(own_key, 1)))

        def pick(rank: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
            seen, ready, to_x, to_y, choice = carry
            visible, in_range, dx, dy, _ = look(rank)
            follow = visible & (seen < follow_at) & (seen + 1 >= follow_at)
            shoot = in_range & (ready < shoot_at) & (ready + 1 >= shoot_at)
            return (
                seen + visible,
                ready + in_range,
                jnp.where(follow, dx, to_x),
                jnp.where(follow, dy, to_y),
                jnp.where(shoot, rank, choice),
            )

        zeros = jnp.zeros_like(enemy_x)
        _, _, to_x, to_y, drawn = jax.lax.fori_loop(0, n, pick, (none, none, zeros, zeros, none))
        if self.smax.attack_mode == "random":
            choice = drawn
        can_see, can_shoot = seen > 0, ready > 0
        target = jnp.where(keeps, battle.target, jnp.where(can_shoot, choice, -1))

        to = []
        for own, followed, goal, length in (
            (enemy_x, to_x, battle.goal_x, self.size[0]),
            (enemy_y, to_y, battle.goal_y, self.size[1]),
        ):
            here = own / length * length
            to.append(jnp.where(can_see, followed + here, goal) - here)
        best, action = to[1], jnp.zeros_like(target)
        for direction, gain in ((1, to[0]), (2, -to[1]), (3, -to[0])):
            action = jnp.where(gain > best, direction, action)
            best = jnp.maximum(gain, best)
        if self.smax.enemy_shoots:
            action = jnp.where(can_shoot, target + NUM_MOVES, action)
        return action, target


def push_apart(x: Array, y: Array, alive: Array, radius: Array) -> tuple[Array, Array]:
    """Living units that overlap move half of the overlap away from each other; [U, E]."""
    own = jnp.arange(x.shape[0], dtype=jnp.int32)[:, None]

    # A loop over the other unit, because XLA vectorises its body over all [U, E] but not a sum
    # over pairs [U, U, E]: half the time at U = 16, a third at U = 57.
    def push(other: Array, moved: tuple[Array, Array]) -> tuple[Array, Array]:
        other_x, other_y, other_alive, other_radius = (
            jax.lax.dynamic_slice_in_dim(values, other, 1) for values in (x, y, alive, radius)
        )
        dx, dy = x - other_x, y - other_y
        distance = jnp.sqrt(jnp.square(dx) + jnp.square(dy)) + (own == other) + 1e-6
        overlap = jnp.maximum((radius + other_radius) / distance - 1.0, 0.0)
        overlap = jnp.where(alive & other_alive, overlap, 0.0)
        return moved[0] + dx * overlap, moved[1] + dy * overlap

    none = jnp.zeros_like(x)
    dx, dy = jax.lax.fori_loop(0, x.shape[0], push, (none, none))
    return jnp.where(alive, x + dx / 2, x), jnp.where(alive, y + dy / 2, y)
