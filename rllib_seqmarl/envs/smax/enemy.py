"""The scripted enemy of SMAX, for many battles at once.

Source: JaxMARL 0.2, ``environments/smax/heuristic_enemy.py``. Axes: see
:mod:`rllib_seqmarl.envs.smax.battle`.
"""

from __future__ import annotations

import numpy as np

from rllib_seqmarl.envs.smax.battle import (
    NUM_MOVES,
    Array,
    Battle,
    Rules,
    Units,
    threefry,
    uniform,
)
from rllib_seqmarl.envs.smax.simulator import jax, jnp


def enemy_actions(
    rules: Rules, battle: Battle, units: Units, key: tuple[Array, Array]
) -> tuple[Array, Array]:
    """JaxMARL's heuristic: shoot who is in range, else walk to somebody in sight.

    Allies are counted from the last one down, as enemies see them.

    Returns:
        Actions int32 [M, E] and whom they shoot, int32 [M, E], -1 for nobody.
    """
    n, none = rules.allies, jnp.zeros_like(battle.target)
    enemy_x, enemy_y, enemy_alive = battle.x[n:], battle.y[n:], battle.health[n:] > 0
    sight, shoot_range = units.sight[n:], units.shoot_range[n:]
    own_key = threefry(key, jnp.arange(rules.enemies)[:, None])

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
    if rules.smax.attack_mode == "random":
        choice = drawn
    can_see, can_shoot = seen > 0, ready > 0
    target = jnp.where(keeps, battle.target, jnp.where(can_shoot, choice, -1))

    to = []
    for own, followed, goal, length in (
        (enemy_x, to_x, battle.goal_x, rules.size[0]),
        (enemy_y, to_y, battle.goal_y, rules.size[1]),
    ):
        here = own / length * length
        to.append(jnp.where(can_see, followed + here, goal) - here)
    best, action = to[1], jnp.zeros_like(target)
    for direction, gain in ((1, to[0]), (2, -to[1]), (3, -to[0])):
        action = jnp.where(gain > best, direction, action)
        best = jnp.maximum(gain, best)
    if rules.smax.enemy_shoots:
        action = jnp.where(can_shoot, target + NUM_MOVES, action)
    return action, target
