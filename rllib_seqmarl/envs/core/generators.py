"""A random generator for every env, so that an env's episodes do not depend on the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class EnvGenerators(list[np.random.Generator]):
    """The generators of E envs, one each."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(np.random.default_rng() for _ in range(num_envs))

    def reseed(self, source: np.random.Generator) -> None:
        """New generators, whose seeds are drawn from ``source``; env e gets the e-th."""
        self[:] = [np.random.default_rng(seed) for seed in source.integers(2**63, size=len(self))]

    def get_state(self) -> list[Any]:
        """Everything needed to go on bit for bit; picklable."""
        return [generator.bit_generator.state for generator in self]

    def set_state(self, states: Sequence[Any]) -> None:
        """Goes on from what `get_state` returned."""
        for generator, state in zip(self, states, strict=True):
            generator.bit_generator.state = state
