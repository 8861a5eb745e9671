"""What SMAX's agents see, for many battles at once, as functions on JAX arrays.

Layout and values are those of JaxMARL 0.2's ``unit_list`` observations
(``environments/smax/smax_env.py``); the tests compare them.

Axes: E battles, N allies, M enemies, U = N + M units, D = 13 (U - 1) + 10 (+ N, or + 6).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from rllib_seqmarl.envs.smax.battle import NUM_MOVES, Array, Battle, Rules, Units
from rllib_seqmarl.envs.smax.simulator import jnp

UNIT_FEATURES = 13  # health, relative position (2), last move (2), last shot, cooldown, type (6)
OWN_FEATURES = 10  # health, position (2), cooldown, type (6)


def observe(
    rules: Rules, battle: Battle, *, agent_id: bool | Literal["type"], with_state: bool
) -> dict[str, Array]:
    """The team's observation.

    Args:
        rules: the scenario.
        battle: E battles.
        agent_id: append the one-hot slot, or unit type, to the observation of living agents.
        with_state: add the normalised global state.

    Returns:
        ``obs`` float32 [E, N, D]: the other units, allies first, zero where dead or out of
        sight, then the agent itself; a dead agent's row is zero. ``alive`` bool [E, N].
        ``action_mask`` bool [E, N, A]. ``state`` float32 [E, 12 U] if asked for.
    """
    n, units = rules.allies, rules.units(battle)
    alive = (battle.health > 0).T  # [E, U]
    health, cooldown, types = unit_features(rules, battle, units)
    own = jnp.stack(
        [health, battle.x.T / rules.size[0], battle.y.T / rules.size[1], cooldown], axis=-1
    )
    own = jnp.where(alive[:, :, None], jnp.concatenate([own, types], axis=-1), 0.0)
    parts = [other_units(rules, battle, units, health, cooldown, types), own[:, :n]]
    if agent_id:
        ids = types[:, :n] if agent_id == "type" else jnp.eye(n, dtype=jnp.float32)
        parts.append(ids * alive[:, :n, None])
    team = {
        "obs": jnp.concatenate(parts, axis=-1),
        "alive": alive[:, :n],
        "action_mask": action_mask(rules, battle, units, alive),
    }
    if with_state:
        num = alive.shape[1]
        teams = jnp.broadcast_to(np.arange(num, dtype=np.float32) >= n, alive.shape)
        type_id = battle.unit_type.T / (types.shape[-1] - 1)
        team["state"] = jnp.concatenate([own.reshape(-1, OWN_FEATURES * num), teams, type_id], -1)
    return team


def unit_features(rules: Rules, battle: Battle, units: Units) -> tuple[Array, Array, Array]:
    """Health and cooldown as parts of their maximum [E, U], one-hot type [E, U, 6]."""
    types = battle.unit_type.T[:, :, None] == np.arange(rules.num_unit_types)
    return (
        (battle.health / units.max_health).T,
        jnp.clip(battle.cooldown / units.max_cooldown, 0.0, 1.0).T,
        types.astype(jnp.float32),
    )


def other_units(
    rules: Rules, battle: Battle, units: Units, health: Array, cooldown: Array, types: Array
) -> Array:
    """What each ally sees of all units but itself: float32 [E, N, 13 (U - 1)].

    The unit and feature axes are kept as one: XLA then writes rows of 13 (U - 1) contiguous
    numbers in vector instructions instead of 13 strided parts.
    """
    n, num = rules.allies, rules.allies + rules.enemies
    shown = np.ones((num, 1), np.float32)
    if not rules.smax.see_enemy_actions:
        shown[n:] = 0.0
    # A shot is shown as a part of the highest action of the shooter's side.
    last_action = np.full((num, 1), NUM_MOVES + rules.enemies - 1, np.float32)
    last_action[n:] = NUM_MOVES + n - 1
    features = jnp.stack(
        [
            health,
            battle.x.T,
            battle.y.T,
            (battle.move_x * shown).T,
            (battle.move_y * shown).T,
            (battle.attack / last_action * shown).T,
            cooldown,
        ],
        axis=-1,
    )
    # Dead units are moved out of everybody's sight.
    x, y = (jnp.where(battle.health > 0, position, np.inf).T for position in (battle.x, battle.y))
    features = jnp.concatenate([features, types], axis=-1).reshape(-1, num * UNIT_FEATURES)
    # Copies stacked, not `repeat`: a gather would be computed again for each ally.
    wide_x, wide_y = (
        jnp.stack([position] * UNIT_FEATURES, axis=-1).reshape(features.shape)
        for position in (x, y)
    )

    column = np.arange((num - 1) * UNIT_FEATURES)
    before_self = column < UNIT_FEATURES * np.arange(n)[:, None]  # [N, 13 (U - 1)]

    def all_but_self(wide: Array) -> Array:
        """[E, 13 U] to [E, N, 13 (U - 1)]."""
        shifted = wide[:, None, UNIT_FEATURES:]
        return jnp.where(before_self, wide[:, None, :-UNIT_FEATURES], shifted)

    own_x, own_y = battle.x[:n].T[:, :, None], battle.y[:n].T[:, :, None]
    dx = all_but_self(wide_x) - own_x
    dy = all_but_self(wide_y) - own_y
    sight = units.sight[:n].T[:, :, None]
    visible = jnp.sqrt(jnp.square(dx) + jnp.square(dy)) < sight
    visible &= (battle.health[:n] > 0).T[:, :, None]
    feature = column % UNIT_FEATURES
    origin = own_x * (feature == 1) + own_y * (feature == 2)
    scale = jnp.where((feature == 1) | (feature == 2), sight, 1.0)
    return jnp.where(visible, (all_but_self(features) - origin) / scale, 0.0)


def action_mask(rules: Rules, battle: Battle, units: Units, alive: Array) -> Array:
    """Legal actions, bool [E, N, A]: the living move, and shoot who lives in their range."""
    n = rules.allies
    dx, dy = (
        position[None, n:] - position[:n, None] for position in (battle.x, battle.y)
    )  # [N, M, E]
    in_range = jnp.sqrt(jnp.square(dx) + jnp.square(dy)) < units.shoot_range[:n, None]
    in_range &= (battle.health[None, n:] > 0) & (battle.health[:n, None] > 0)
    moves = jnp.repeat(alive[:, :n, None], NUM_MOVES - 1, axis=2)
    stop = jnp.ones_like(moves[:, :, :1])
    return jnp.concatenate([moves, stop, jnp.moveaxis(in_range, 2, 0)], axis=-1)
