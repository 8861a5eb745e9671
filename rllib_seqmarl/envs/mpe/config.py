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

The team's reward is the sum over its agents, as in SQDDPG, unless ``reward`` says otherwise.
Lengths are in units of half the initial square, velocities per second; a step takes 0.1 seconds.
There are no walls.
"""

from __future__ import annotations

from typing import Annotated, Literal

from rllib_seqmarl.envs.core.config import PaidAgentsConfig
from rllib_seqmarl.settings import Doc, Ge, Le, Refused, settings, settings_of

#: Time limit in steps under each set of rules.
EPISODE_LENGTHS = {"sqddpg": 200, "mpe2": 25}

#: Key -> the values of other keys without which it has no meaning.
_NEEDS = {
    "local_ratio": {"rules": "mpe2", "task": "cooperative_navigation"},
    "terminate_on_success": {"rules": "mpe2"},
    "prey": {"task": "predator_prey"},
}


@settings
class MPEConfig(PaidAgentsConfig):
    """``env_config`` of the particle environments."""

    task: Annotated[
        Literal["cooperative_navigation", "predator_prey"],
        Doc(
            "``cooperative_navigation`` (N agents cover N landmarks without touching each other) "
            "or ``predator_prey`` (N predators chase one faster, scripted prey between two "
            "obstacles)."
        ),
    ] = "cooperative_navigation"
    rules: Annotated[
        Literal["sqddpg", "mpe2"], Doc("Whose rules, see the table of `envs.mpe.config`.")
    ] = "sqddpg"
    num_agents: Annotated[int, Ge(1), Doc("Number of agents N.")] = 3
    episode_length: Annotated[
        int, Ge(0), Doc("Time limit in steps; 0: 200 with ``sqddpg``, 25 with ``mpe2``.")
    ] = 0
    local_ratio: Annotated[
        float,
        Ge(0),
        Le(1),
        Doc(
            "Weight of an agent's own contacts in its reward, the common part has the rest; only "
            "of ``mpe2``'s cooperative navigation."
        ),
    ] = 0.5
    terminate_on_success: Annotated[
        bool,
        Doc(
            "An episode ends when every landmark is covered, or the prey is touched; only of "
            "``mpe2`` (``sqddpg``: predator-prey always, navigation never)."
        ),
    ] = False
    prey: Annotated[
        Literal["random", "still"],
        Doc(
            "``random`` (uniform over the five actions, each step) or ``still``; only of "
            "``predator_prey``."
        ),
    ] = "random"
    agent_id: Annotated[bool, Doc("Appends the one-hot agent slot to the observation.")] = False
    state: Annotated[
        bool, Doc("Adds ``state`` [S]: all positions, then the velocities of all that move.")
    ] = False

    def check(self) -> None:
        """Fills in the episode's length; refuses what has no meaning for the task and the rules."""
        self.episode_length = self.episode_length or EPISODE_LENGTHS[self.rules]
        known = settings_of(type(self))
        for key, needed in _NEEDS.items():
            for other, value in needed.items():
                if getattr(self, key) != known[key].default and getattr(self, other) != value:
                    given = getattr(self, other)
                    why = f"has no meaning with {other} {given!r}; it needs {other} {value!r}"
                    raise Refused(key, why)
