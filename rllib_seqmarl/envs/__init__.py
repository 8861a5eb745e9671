"""Team environments: NumPy arrays in and out, neither torch nor Ray.

A folder holds one benchmark: ``config.py`` its class of settings, which starts no simulator, and
``env.py`` its `TeamVectorEnv`, made as ``env(num_envs, config)``. `rllib_seqmarl.registry` names
them.
"""

from rllib_seqmarl.envs.core.config import PaidAgentsConfig, TeamEnvConfig, check_env_config
from rllib_seqmarl.envs.core.contract import TeamVectorEnv
from rllib_seqmarl.envs.core.env_checker import check_team_env

__all__ = [
    "PaidAgentsConfig",
    "TeamEnvConfig",
    "TeamVectorEnv",
    "check_env_config",
    "check_team_env",
]
