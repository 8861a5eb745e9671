"""The only list of names: algorithms, environments, aliases, and their registration with Ray.

Everything that goes by a name (the command line, YAML files, the tests that run over all
algorithms and all environments) reads the tables of this module.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

from rllib_seqmarl import _ray_compat
from rllib_seqmarl.errors import UserError, nearest

if TYPE_CHECKING:
    from rllib_seqmarl.envs.core.contract import TeamVectorEnv

#: Algorithm name -> "module:class". The config class stands beside it as ``<class>Config``.
ALGORITHMS: dict[str, str] = {
    "MAT": "rllib_seqmarl.algorithms.mat:MAT",
    "SrSv": "rllib_seqmarl.algorithms.srsv:SrSv",
    "SeCA": "rllib_seqmarl.algorithms.seca:SeCA",
    "LICA": "rllib_seqmarl.algorithms.lica:LICA",
    "RIIT": "rllib_seqmarl.algorithms.riit:RIIT",
    "PMAT": "rllib_seqmarl.algorithms.pmat:PMAT",
    "AOAD-MAT": "rllib_seqmarl.algorithms.aoad_mat:AOADMAT",
    "MAPPO": "rllib_seqmarl.algorithms.mappo:MAPPO",
    "HAPPO": "rllib_seqmarl.algorithms.happo:HAPPO",
    "A2PO": "rllib_seqmarl.algorithms.a2po:A2PO",
    "COMA": "rllib_seqmarl.algorithms.coma:COMA",
    "SCC": "rllib_seqmarl.algorithms.scc:SCC",
}

#: Environment name -> module with ``check(env_config)`` and ``make(num_envs, **env_config)``.
ENVIRONMENTS: dict[str, str] = {
    "smac": "rllib_seqmarl.envs.smac.config",
    "distinct_actions": "rllib_seqmarl.envs.toy.distinct_actions",
    "private_cue": "rllib_seqmarl.envs.toy.private_cue",
    "pettingzoo": "rllib_seqmarl.envs.adapters.pettingzoo",
    "multi_agent_env": "rllib_seqmarl.envs.adapters.rllib",
    "mamujoco": "rllib_seqmarl.envs.mamujoco.config",
    "dubins_car": "rllib_seqmarl.envs.dubins_car.config",
    "mpe": "rllib_seqmarl.envs.mpe.config",
    "football": "rllib_seqmarl.envs.football.config",
}

#: Other spellings that people type.
ALIASES: dict[str, str] = {
    "mat": "MAT",
    "srsv": "SrSv",
    "seca": "SeCA",
    "lica": "LICA",
    "riit": "RIIT",
    "pmat": "PMAT",
    "aoad-mat": "AOAD-MAT",
    "aoad_mat": "AOAD-MAT",
    "aoadmat": "AOAD-MAT",
    "coma": "COMA",
    "scc": "SCC",
    "mappo": "MAPPO",
    "happo": "HAPPO",
    "a2po": "A2PO",
    "smax": "smac",
}


class Environment(Protocol):
    """What an environment module offers (see :mod:`rllib_seqmarl.envs`)."""

    def check(self, env_config: Mapping[str, Any]) -> dict[str, Any]:
        """The complete ``env_config``, defaults filled in; a `UserError` where it is wrong."""

    def make(self, num_envs: int, **env_config: Any) -> TeamVectorEnv:
        """``num_envs`` worlds of this environment, stepped as one."""


def _resolve(name: str, table: Mapping[str, str], kind: str) -> str:
    if name in table:
        return table[name]
    alias = ALIASES.get(name.lower(), name)
    if alias in table:
        return table[alias]
    raise UserError(f"unknown {kind} {name!r}. {nearest(name, table)}")


def algorithm_name(name: str) -> str:
    """The registered spelling of an algorithm's name, aliases resolved.

    Raises:
        UserError: no such algorithm; the line names the nearest one.
    """
    path = _resolve(name, ALGORITHMS, "algorithm")
    return next(known for known, target in ALGORITHMS.items() if target == path)


def name_of_class(class_name: str) -> str | None:
    """The registered name of the algorithm whose class is called so; None where there is none."""
    for name, path in ALGORITHMS.items():
        if path.partition(":")[2] == class_name:
            return name
    return None


def algorithm_class(name: str) -> type[Any]:
    """The RLlib ``Algorithm`` class of that name (imports torch and ray)."""
    module, _, attribute = _resolve(name, ALGORITHMS, "algorithm").partition(":")
    return cast("type[Any]", getattr(importlib.import_module(module), attribute))


def config_class(name: str) -> type[Any]:
    """The ``*Config`` builder class that stands beside the algorithm of that name."""
    module, _, attribute = _resolve(name, ALGORITHMS, "algorithm").partition(":")
    return cast("type[Any]", getattr(importlib.import_module(module), f"{attribute}Config"))


def environment(name: str) -> Environment:
    """The environment module of that name (imports neither torch nor ray).

    Raises:
        UserError: no such environment; the line names the nearest one.
    """
    return cast(Environment, importlib.import_module(_resolve(name, ENVIRONMENTS, "environment")))


def environment_name(name: str) -> str:
    """The registered spelling of an environment's name, aliases resolved.

    Raises:
        UserError: no such environment; the line names the nearest one.
    """
    path = _resolve(name, ENVIRONMENTS, "environment")
    return next(known for known, target in ENVIRONMENTS.items() if target == path)


EnvironmentCreator = Callable[[Mapping[str, Any]], "TeamVectorEnv"]


def make_environment(name: str, num_envs: int, env_config: Mapping[str, Any]) -> TeamVectorEnv:
    """Checks ``env_config`` and builds ``num_envs`` worlds of the environment of that name."""
    module = environment(name)
    return module.make(num_envs, **module.check(env_config))


def _create(env: str, context: Mapping[str, Any]) -> TeamVectorEnv:
    """Environment creator with Ray's signature: ``context`` is env_config plus ``num_envs``."""
    env_config = dict(context)
    num_envs = env_config.pop("num_envs", 1)
    if is_import_path(env):
        return cast("TeamVectorEnv", _import(env)(num_envs, **env_config))
    return make_environment(env, num_envs, env_config)


def _import(path: str) -> Any:
    """What an import path "package.module:attribute" names."""
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"environment {path!r} cannot be imported: {error}.") from error


def is_import_path(env: Any) -> bool:
    """Whether ``env`` is "package.module:attribute", a user's own environment."""
    return isinstance(env, str) and ":" in env


def environment_creator(env: str) -> EnvironmentCreator:
    """Creator with the signature of ``ray.tune.register_env``, for a name or an import path.

    An import path names ``make(num_envs, **env_config) -> TeamVectorEnv`` (a class will do).

    Raises:
        UserError: no such environment, or it cannot be imported.
    """
    if is_import_path(env):
        _import(env)
    else:
        environment_name(env)
    return partial(_create, env)


_hooked = False


def register() -> None:
    """Makes all names of this package known to Ray, now and after every later ``ray.init``.

    Ray keeps names per cluster connection and forgets them at ``ray.shutdown()``.
    Calling this more than once is harmless.
    """
    global _hooked
    _register_names()
    if not _hooked:
        _ray_compat.call_after_init(_register_names)
        _hooked = True


def _register_names() -> None:
    from ray import tune

    for name in ALGORITHMS:
        tune.register_trainable(name, algorithm_class(name))
    for name in ENVIRONMENTS:
        tune.register_env(name, environment_creator(name))


def lookup(attribute: str) -> Any:
    """Classes by attribute of the package: ``rllib_seqmarl.SrSv``, ``rllib_seqmarl.SrSvConfig``.

    Raises:
        AttributeError: the package has no such attribute.
    """
    name = name_of_class(attribute)
    if name is not None:
        return algorithm_class(name)
    name = name_of_class(attribute.removesuffix("Config"))
    if name is not None:
        return config_class(name)
    raise AttributeError(f"module 'rllib_seqmarl' has no attribute {attribute!r}")
