"""Rollouts: the columnar team runner behind RLlib's ``EnvRunner`` interface."""

from rllib_seqmarl import _ray_compat

_ray_compat.import_rllib()
