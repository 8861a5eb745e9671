"""Sequential cooperative multi-agent reinforcement learning on Ray RLlib.

``import rllib_seqmarl`` makes every algorithm and environment of this package known to
Ray Tune by its name, so that ``tune.Tuner("SrSv", ...)`` and ``run: SrSv`` work.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from rllib_seqmarl import _checkpoint_aliases, registry

__version__ = "0.1.0"

_checkpoint_aliases.install()


def __getattr__(name: str) -> Any:
    # Algorithms and configs are imported on first use.
    return registry.lookup(name)


# Names are needed where experiments are started. Ray's worker processes get their classes by
# reference, and the `rllib` command registers once it knows that it will train: `rllib --help`
# must not wait for torch. Without Ray, the pure rooms (nets, losses, envs) still work.
_PROGRAM = Path(sys.argv[0]).name if sys.argv else ""
if _PROGRAM not in {"rllib", "default_worker.py"} and importlib.util.find_spec("ray"):
    registry.register()
