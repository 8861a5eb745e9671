"""Learning: the shells that put pure-torch networks and losses under RLlib's interfaces."""

from rllib_seqmarl import _ray_compat

_ray_compat.import_rllib()
