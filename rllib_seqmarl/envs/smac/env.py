"""The battles, by the simulator that the settings name."""

from __future__ import annotations

from rllib_seqmarl.envs.core.contract import TeamVectorEnv
from rllib_seqmarl.envs.smax.config import METRICS, SMAXConfig
from rllib_seqmarl.envs.starcraft2.config import StarCraft2Config
from rllib_seqmarl.envs.starcraft2.env import StarCraft2TeamEnv


def metric_names(config: SMAXConfig | StarCraft2Config) -> tuple[str, ...]:
    """The metrics of the battles, known without importing JAX."""
    return StarCraft2TeamEnv.metric_names if isinstance(config, StarCraft2Config) else METRICS


def make(num_envs: int, config: SMAXConfig | StarCraft2Config) -> TeamVectorEnv:
    """``num_envs`` battles; imports JAX, or, for ``simulator: starcraft2``, PySC2."""
    if isinstance(config, StarCraft2Config):
        return StarCraft2TeamEnv(num_envs, config)
    from rllib_seqmarl.envs.smax.env import SMAXTeamEnv

    return SMAXTeamEnv(num_envs, config)
