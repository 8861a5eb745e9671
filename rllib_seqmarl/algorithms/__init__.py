"""Algorithms, one file each: what differs from its neighbours, in its paper's symbols."""
