"""E matches of Google Research Football as one team environment."""

from __future__ import annotations

from rllib_seqmarl.envs.core.contract import discrete_actions, observation_space
from rllib_seqmarl.envs.core.sync_vector import SyncVectorEnv
from rllib_seqmarl.envs.football.config import FootballConfig
from rllib_seqmarl.envs.football.match import NUM_ACTIONS, NUM_FEATURES, Match


class FootballTeamEnv(SyncVectorEnv):
    """E envs of matches, one after another in this process.

    Observation: gfootball's ``simple115v2``. The metric ``score`` of an episode is its goal
    difference, ``won`` whether that is positive.
    """

    metric_names = ("won", "score")
    simulator = "football"

    def __init__(self, num_envs: int, config: FootballConfig) -> None:
        """Takes E and the settings."""
        super().__init__(
            [Match(config) for _ in range(num_envs)],
            observation_space(config.num_agents, NUM_FEATURES, NUM_ACTIONS),
            discrete_actions(config.num_agents, NUM_ACTIONS),
            config.autoreset,
            config.reward_per_agent,
        )
        self.metadata["render_fps"] = 10.0  # a step is 0.1 seconds of the match
        self.max_episode_steps = config.max_episode_steps or None
