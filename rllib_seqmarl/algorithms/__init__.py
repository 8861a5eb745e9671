"""Algorithms, one file each: what differs from its neighbours, in its paper's symbols."""

from rllib_seqmarl import _ray_compat

_ray_compat.import_rllib()
