"""An algorithm of a user: MAT under another name, with a setting of its own."""

from __future__ import annotations

from rllib_seqmarl.algorithms.mat import MAT, MATConfig


class OwnConfig(MATConfig):
    """MAT's settings and one more."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or Own)
        self.bonus = 0.5


class Own(MAT):
    """The algorithm."""

    @classmethod
    def get_default_config(cls) -> OwnConfig:
        return OwnConfig()
