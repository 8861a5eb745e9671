"""The space of the observations of a team, which says what they consist of."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from rllib_seqmarl.layout import Layout


class ObservationSpace(spaces.Box):
    """``obs`` [N, D]: the D numbers of an agent are the arrays of a layout, one after another.

    Args:
        num_agents: N.
        layout: what an agent's observation consists of.
        dtype: float32; or uint8, a quarter of the memory, which networks read divided by 255.
    """

    def __init__(self, num_agents: int, layout: Layout, dtype: type = np.float32) -> None:
        low, high = (0, 255) if dtype == np.uint8 else (-np.inf, np.inf)
        super().__init__(low, high, (num_agents, layout.size), dtype)
        self.layout = layout

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ObservationSpace)
            and self.layout == other.layout
            and bool(super().__eq__(other))
        )

    def __repr__(self) -> str:
        return f"ObservationSpace({self.shape[0]} agents: {self.layout}, {self.dtype})"
