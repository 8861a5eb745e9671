"""Small settings of every registered environment, for tests that run over all of them."""

from __future__ import annotations

from typing import Any

#: Short episodes, so that many end; small maps, so that little is compiled.
SMALL: dict[str, dict[str, Any]] = {
    "smac": {"map_name": "3m", "max_steps": 20, "state": True},
    "distinct_actions": {"num_agents": 3, "episode_length": 4},
    "private_cue": {"num_agents": 3, "episode_length": 4},
    "dubins_car": {
        "num_agents": 3,
        "obstacles": 4,
        "episode_length": 12,
        "on_collision": "freeze",
        "neighbours": True,
        "num_neighbours": 2,
        "state": True,
    },
    "mamujoco": {"scenario": "Pusher", "partition": "3p", "max_episode_steps": 15, "state": True},
    "mpe": {"task": "predator_prey", "episode_length": 9, "agent_id": True, "state": True},
    "pettingzoo": {
        "env": "pettingzoo.sisl.pursuit_v5:parallel_env",
        "kwargs": {"x_size": 8, "y_size": 8, "n_pursuers": 3, "n_evaders": 4, "max_cycles": 19},
        "flatten": True,
        "state": "concatenate",
    },
    "multi_agent_env": {"env": "helpers.small_games:Turns"},
    "football": {"scenario": "academy_pass_and_shoot_with_keeper", "max_episode_steps": 15},
}
