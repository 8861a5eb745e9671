"""Team environments: NumPy arrays in and out, neither torch nor Ray.

A module of this package that the registry lists offers two functions:

- ``check(env_config)`` returns the complete ``env_config`` with defaults filled in and raises
  :class:`~rllib_seqmarl.errors.UserError` on any mistake in it. It starts no simulator.
- ``make(num_envs, **env_config)`` builds a a `TeamVectorEnv`.
"""

from rllib_seqmarl.envs.core.contract import TeamVectorEnv, check_env_config
from rllib_seqmarl.envs.core.env_checker import check_team_env

__all__ = ["TeamVectorEnv", "check_env_config", "check_team_env"]
