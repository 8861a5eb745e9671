"""Start and step of SMAX for many battles at once.

Axes and sources: see :mod:`rllib_seqmarl.envs.smax.battle`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rllib_seqmarl.envs.smax.battle import (
    NUM_MOVES,
    Array,
    Battle,
    Key,
    Rules,
    Units,
    threefry,
    uniform,
)
from rllib_seqmarl.envs.smax.enemy import enemy_actions
from rllib_seqmarl.envs.smax.simulator import jax, jnp


class Outcome(NamedTuple):
    """What a step gives besides the next state, arrays [E]."""

    reward: Array
    done: Array
    allies_left: Array
    enemies_left: Array


def start(rules: Rules, key: Array) -> Battle:
    """Fresh battles from uint32 keys [2, E], as JaxMARL's ``reset`` makes them."""
    if rules.fixed is None:
        _, state = jax.vmap(rules.smax.reset, in_axes=1)(key)
        x, y = jnp.moveaxis(state.state.unit_positions, 0, 2).swapaxes(0, 1)
        unit_type = state.state.unit_types.T.astype(jnp.int32)
    else:
        x, y = start_positions(rules, threefry((key[0], key[1]), 1))
        x, y = push_apart(x, y, jnp.ones(x.shape, bool), rules.fixed.radius)
        unit_type = jnp.broadcast_to(rules.unit_type, x.shape)
    zeros, no_shot = jnp.zeros_like(x), jnp.zeros_like(unit_type)
    battle = Battle(
        x, y, zeros, zeros, unit_type, zeros, zeros, no_shot,
        goal_x=opposite(x[rules.allies :], rules.size[0]),
        goal_y=opposite(y[rules.allies :], rules.size[1]),
        target=no_shot[rules.allies :] - 1,
        time=no_shot[0],
    )  # fmt: skip
    return battle._replace(health=rules.units(battle).max_health + zeros)


def start_positions(rules: Rules, key: Key) -> tuple[Array, Array]:
    """Each side around the middle of its half of the map, up to 2 units off, [U, E]."""
    sides = []
    for side, num in enumerate((rules.allies, rules.enemies)):
        team_key = threefry(key, 1 + side)
        number = 2 * jnp.arange(num)[:, None]
        noise = [uniform(team_key, number + axis) * 4.0 - 2.0 for axis in (0, 1)]
        quarter = 1 + 2 * side
        sides.append((rules.size[0] / 4 * quarter + noise[0], rules.size[1] / 2 + noise[1]))
    (ally_x, ally_y), (enemy_x, enemy_y) = sides
    return jnp.concatenate([ally_x, enemy_x]), jnp.concatenate([ally_y, enemy_y])


def opposite(position: Array, length: int) -> Array:
    """The point reflected at the middle of the map: where an enemy walks that sees nobody."""
    return -(position / length * length - length / 2) + length / 2


def step(rules: Rules, battle: Battle, actions: Array, key: Array) -> tuple[Battle, Outcome]:
    """One step of every battle.

    Args:
        battle: E battles.
        actions: the team's actions, int32 [N, E].
        key: uint32 [2, E], used up by this step.
    """
    units = rules.units(battle)
    base = (key[0], key[1])
    step_key, enemy_key = threefry(base, 0), threefry(base, 1)
    scripted, target = enemy_actions(rules, battle, units, enemy_key)
    action = jnp.concatenate([actions, scripted])
    move_x, move_y = (
        sum(jnp.where(action == k, rules.moves[k, axis], 0.0) for k in range(NUM_MOVES - 1))
        for axis in (0, 1)
    )
    attack = jnp.where(action >= NUM_MOVES, action, 0)
    own = jnp.arange(rules.allies + rules.enemies, dtype=jnp.int32)[:, None]
    shot_at = jnp.where(
        own < rules.allies,
        action - NUM_MOVES + rules.allies,
        rules.allies - 1 - (action - NUM_MOVES),
    )
    shot_at = jnp.where(action >= NUM_MOVES, shot_at, own)
    orders = (move_x, move_y, shot_at)

    def advance(carry: tuple[Any, ...], _: None) -> tuple[Any, None]:
        now, chain = carry
        now = world_step(rules, now, units, orders, threefry(chain, 1))
        return (now, threefry(chain, 0)), None

    fast = (battle.x, battle.y, battle.health, battle.cooldown)
    (fast, _), _ = jax.lax.scan(
        advance, (fast, step_key), None, length=rules.smax.world_steps_per_env_step
    )
    x, y, health, cooldown = fast
    after = battle._replace(
        x=x, y=y, health=health, cooldown=cooldown, move_x=move_x, move_y=move_y,
        attack=attack, target=target, time=battle.time + 1,
    )  # fmt: skip
    return after, outcome(rules, battle, after, units)


def outcome(rules: Rules, before: Battle, after: Battle, units: Units) -> Outcome:
    """Reward and end of the episode, by JaxMARL's rules."""
    lost = ((after.health - before.health) / units.max_health)[rules.allies :].sum(0)
    allies_left = (after.health[: rules.allies] > 0).any(0)
    enemies_left = (after.health[rules.allies :] > 0).any(0)
    bonus = jnp.where(allies_left & ~enemies_left, rules.smax.won_battle_bonus, 0.0)
    return Outcome(
        reward=jnp.abs(lost) / rules.enemies + bonus,
        # JaxMARL compares the time before it counts the step.
        done=~allies_left | ~enemies_left | (before.time >= rules.smax.max_steps),
        allies_left=allies_left,
        enemies_left=enemies_left,
    )


def world_step(
    rules: Rules,
    now: tuple[Array, ...],
    units: Units,
    orders: tuple[Array, ...],
    key: tuple[Array, Array],
) -> tuple[Array, ...]:
    """``time_per_step`` seconds: move, shoot, die at walls, push overlapping units apart."""
    x, y, health, cooldown = now
    move_x, move_y, shot_at = orders
    alive = health > 0
    num, dt = x.shape[0], rules.smax.time_per_step
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
    x = jnp.where(alive, jnp.clip(x + move_x * units.speed * dt, 0.0, rules.size[0]), x)
    y = jnp.where(alive, jnp.clip(y + move_y * units.speed * dt, 0.0, rules.size[1]), y)
    health = jnp.maximum(health - suffered, 0.0)
    if rules.smax.walls_cause_death:
        outside = (x <= 0.0) | (y <= 0.0) | (x >= rules.size[0]) | (y >= rules.size[1])
        health = jnp.where(outside, 0.0, health)
    x, y = push_apart(x, y, health > 0, units.radius)
    return x, y, health, cooldown


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
