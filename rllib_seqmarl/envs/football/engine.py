"""gfootball's engine: its import, and what it says of a scenario."""

from __future__ import annotations

import contextlib
import io
from types import ModuleType


def import_engine() -> ModuleType:
    """gfootball's package ``env`` with the modules that are needed here.

    Raises:
        ImportError: gfootball or a library that it needs is missing.
    """
    # On import, gym prints four lines of advice to its users; gfootball is not ours to port.
    with contextlib.redirect_stderr(io.StringIO()):
        import gym  # noqa: F401
    import gfootball.env
    import gfootball.env.football_env_core

    return gfootball.env


def num_players(scenario: str) -> int:
    """Players of the own team that can be controlled in an existing scenario.

    Raises:
        ImportError: gfootball or a library that it needs is missing.
    """
    config = import_engine().config.Config({"level": scenario})
    return int(config.ScenarioConfig().controllable_left_players)
