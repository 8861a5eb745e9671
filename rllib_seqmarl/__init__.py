"""Sequential cooperative multi-agent reinforcement learning on Ray RLlib.

``import rllib_seqmarl`` makes every algorithm and environment of this package known to
Ray Tune by its name, so that ``tune.Tuner("SrSv", ...)`` and ``run: SrSv`` work. Algorithms and
configs are imported on first use, and so is `load_policy`, which needs neither Ray nor gymnasium.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rllib_seqmarl import _checkpoint_aliases
from rllib_seqmarl._version import __version__ as __version__
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.registry import (
    make_environment,
    register_algorithm,
    register_encoder,
    register_environment,
    register_network,
    register_order,
    register_value,
)

if TYPE_CHECKING:
    from rllib_seqmarl.algorithms.a2po import A2PO, A2POConfig
    from rllib_seqmarl.algorithms.aoad_mat import AOADMAT, AOADMATConfig
    from rllib_seqmarl.algorithms.coma import COMA, COMAConfig
    from rllib_seqmarl.algorithms.happo import HAPPO, HAPPOConfig
    from rllib_seqmarl.algorithms.lica import LICA, LICAConfig
    from rllib_seqmarl.algorithms.mappo import MAPPO, MAPPOConfig
    from rllib_seqmarl.algorithms.mat import MAT, MATConfig
    from rllib_seqmarl.algorithms.pmat import PMAT, PMATConfig
    from rllib_seqmarl.algorithms.riit import RIIT, RIITConfig
    from rllib_seqmarl.algorithms.scc import SCC, SCCConfig
    from rllib_seqmarl.algorithms.seca import SeCA, SeCAConfig
    from rllib_seqmarl.algorithms.srsv import SrSv, SrSvConfig
    from rllib_seqmarl.experiments.share.load import load_policy

__all__ = [
    "A2PO",
    "AOADMAT",
    "COMA",
    "HAPPO",
    "LICA",
    "MAPPO",
    "MAT",
    "PMAT",
    "RIIT",
    "SCC",
    "A2POConfig",
    "AOADMATConfig",
    "COMAConfig",
    "HAPPOConfig",
    "LICAConfig",
    "MAPPOConfig",
    "MATConfig",
    "PMATConfig",
    "RIITConfig",
    "SCCConfig",
    "SeCA",
    "SeCAConfig",
    "SrSv",
    "SrSvConfig",
    "UserError",
    "load_policy",
    "make_environment",
    "register_algorithm",
    "register_encoder",
    "register_environment",
    "register_network",
    "register_order",
    "register_value",
]

_checkpoint_aliases.install()


def __getattr__(name: str) -> Any:
    """An algorithm, its config or the loader of policies, imported on first use."""
    if name == "load_policy":
        return importlib.import_module(f"{__name__}.experiments.share.load").load_policy
    if name in __all__:
        algorithm = name.removesuffix("Config")
        module = "aoad_mat" if algorithm == "AOADMAT" else algorithm.lower()
        return getattr(importlib.import_module(f"{__name__}.algorithms.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
