"""What the ``env_config`` of every environment has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, make_dataclass
from typing import Annotated, Any, Literal

from rllib_seqmarl.settings import Doc, as_dict, read, settings


@settings
class TeamEnvConfig:
    """The base of the environments' classes of settings."""

    autoreset: Annotated[
        Literal["same_step", "next_step"],
        Doc(
            "``same_step``: the step that ends an episode returns the first observation of the "
            "next one; ``next_step``: the step after it does (for RLlib's own env runners)."
        ),
    ] = "same_step"


def check_env_config(
    env_config: Mapping[str, Any], defaults: Mapping[str, Any], env_name: str
) -> dict[str, Any]:
    """``defaults`` overwritten by ``env_config``, every key known and of its default's type.

    A class of settings (see `rllib_seqmarl.settings`) says more: bounds, choices and sentences.

    Raises:
        UserError: unknown key (the line names the nearest one), wrong type, or a real number
            that is NaN, infinite or too large for a float.
    """
    declared = [(key, type(value), field(default=value)) for key, value in defaults.items()]
    cls = make_dataclass("EnvConfig", declared, kw_only=True)
    return as_dict(read(cls, env_config, f"{env_name}: env_config"))
