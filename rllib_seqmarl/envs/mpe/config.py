"""Cooperative navigation and predator-prey, the two toy tasks of SeCA, as E envs at once.

The tasks are particle environments of Lowe et al. 2017, computed here with NumPy. ``rules`` chooses
between the two forms in which they are used; ``sqddpg`` is what SeCA's toy study follows
(Wang et al. 2020, "Shapley Q-value", and their code), ``mpe2`` is ``simple_spread_v3`` and
``simple_tag_v3`` of the package mpe2, transition by transition:

================  =====================================  ====================================
                  ``sqddpg``                             ``mpe2``
================  =====================================  ====================================
actions 0 to 4    none, right, left, up, down            none, left, right, down, up
a step moves      with the new velocity                  with the old velocity
time limit        200 steps                              25 steps
navigation: an    -(sum over landmarks of the distance   (1 - local_ratio) x -(the same sum)
agent's reward    of the nearest agent) - 1 per agent    - local_ratio x 1 per other agent
                  in contact, itself included            in contact
predator-prey: a  10 per predator at the prey            10 per predator at the prey
predator's        - 0.1 x sum of their distances to it
predator-prey     ends at the first contact              runs on
================  =====================================  ====================================

The team's reward is the sum over its agents, as in SQDDPG. Lengths are in units of half the
initial square, velocities per second; a step takes 0.1 seconds. There are no walls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rllib_seqmarl.envs.core.contract import AUTORESET_MODES, check_env_config
from rllib_seqmarl.envs.mpe.env import CooperativeNavigation, ParticleTask, PredatorPrey
from rllib_seqmarl.errors import UserError, nearest

TASKS: dict[str, type[ParticleTask]] = {
    "cooperative_navigation": CooperativeNavigation,
    "predator_prey": PredatorPrey,
}
#: Time limit in steps under each set of rules.
EPISODE_LENGTHS = {"sqddpg": 200, "mpe2": 25}
PREYS = ("random", "still")

DEFAULTS: dict[str, Any] = {
    "task": "cooperative_navigation",
    "rules": "sqddpg",
    "num_agents": 3,
    "episode_length": 0,  # 0: that of the rules
    "local_ratio": 0.5,
    "terminate_on_success": False,
    "prey": "random",
    "agent_id": False,
    "state": False,
    "autoreset": "same_step",
}


def check(env_config: Mapping[str, Any]) -> dict[str, Any]:
    """The complete ``env_config``.

    Keys:
        task: ``cooperative_navigation`` (N agents cover N landmarks without touching each
            other) or ``predator_prey`` (N predators chase one faster, scripted prey between
            two obstacles).
        rules: ``sqddpg`` or ``mpe2``, see the module's table.
        num_agents: N.
        episode_length: time limit in steps; 0: 200 with ``sqddpg``, 25 with ``mpe2``.
        local_ratio: weight of an agent's own contacts in its reward, the common part has the
            rest; only of ``mpe2``'s cooperative navigation.
        terminate_on_success: an episode ends when every landmark is covered, or the prey is
            touched; only of ``mpe2`` (``sqddpg``: predator-prey always, navigation never).
        prey: ``random`` (uniform over the five actions, each step) or ``still``; only of
            ``predator_prey``.
        agent_id: appends the one-hot agent slot to the observation.
        state: adds ``state`` [S]: all positions, then the velocities of all that move.
        autoreset: ``same_step`` or ``next_step``.

    Raises:
        UserError: unknown key, wrong type, impossible value, or a key that has no meaning for
            the task and the rules.
    """
    config = check_env_config(env_config, DEFAULTS, "mpe")
    for key, known in (
        ("task", tuple(TASKS)),
        ("rules", tuple(EPISODE_LENGTHS)),
        ("prey", PREYS),
        ("autoreset", tuple(AUTORESET_MODES)),
    ):
        if config[key] not in known:
            raise UserError(
                f"mpe: unknown {key} {config[key]!r} in env_config. {nearest(config[key], known)}"
            )
    config["episode_length"] = config["episode_length"] or EPISODE_LENGTHS[config["rules"]]
    for key in ("num_agents", "episode_length"):
        if config[key] < 1:
            raise UserError(f"mpe: env_config {key!r} must be at least 1, got {config[key]!r}.")
    if not 0.0 <= config["local_ratio"] <= 1.0:
        raise UserError(
            f"mpe: env_config 'local_ratio' must be in [0, 1], got {config['local_ratio']!r}."
        )
    for key, needed in (
        ("local_ratio", {"rules": "mpe2", "task": "cooperative_navigation"}),
        ("terminate_on_success", {"rules": "mpe2"}),
        ("prey", {"task": "predator_prey"}),
    ):
        for other, value in needed.items():
            if config[key] != DEFAULTS[key] and config[other] != value:
                raise UserError(
                    f"mpe: env_config {key!r} has no meaning with {other} {config[other]!r}; "
                    f"it needs {other} {value!r}."
                )
    return config


def make(num_envs: int, **env_config: Any) -> ParticleTask:
    """``num_envs`` envs with the given ``env_config`` (see :func:`check`)."""
    config = check(env_config)
    return TASKS[config.pop("task")](num_envs, **config)
