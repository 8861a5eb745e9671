"""Everything that goes by a name: algorithms, environments, orders, values and networks.

One call makes another one known::

    register_algorithm("HASAC", "my_package.hasac:HASAC")   # HASACConfig stands beside it
    register_environment("my_game", "my_package.env:MyGame", config="my_package.config:MyConfig")
    register_order("by_distance", "my_package.orders:ByDistance")

A target is a class, or its import path "package.module:Name", imported on first use. An import path
does in place of a name, too: ``run: my_package.hasac:HASAC``, ``order: my_package:ByDistance``.
Names are looked up when a config is validated, so that it does not matter where and when they were
registered. Other processes need not know them: a config that was validated holds the import path in
the place of a name from outside.

Imports neither ray nor torch.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from rllib_seqmarl import _ray_compat
from rllib_seqmarl.errors import UserError, nearest

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm

    from rllib_seqmarl.envs.core.contract import TeamVectorEnv
    from rllib_seqmarl.learning.base.config import TeamConfig

Target = str | type | Callable[..., Any]
V = TypeVar("V")

logger = logging.getLogger("rllib_seqmarl")
_told: set[str] = set()


def tell_once(message: str) -> None:
    """Logs a warning, the same one only once per process."""
    if message not in _told:
        _told.add(message)
        logger.warning(message)


def is_import_path(name: object) -> bool:
    """Whether ``name`` is "package.module:attribute"."""
    return isinstance(name, str) and ":" in name


def import_target(target: Target, kind: str) -> Any:
    """The object that a target is or names.

    Raises:
        UserError: it cannot be imported; the line gives the reason.
    """
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module from outside may fail in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{kind} {target!r} cannot be imported: {reason}.") from error


def import_path(target: Target) -> str | None:
    """ "package.module:Name" of a target; None where another process could not import it."""
    if isinstance(target, str):
        return target
    path = f"{target.__module__}:{target.__qualname__}"
    return None if target.__module__ == "__main__" or "<" in path else path


class Table(Mapping[str, V], Generic[V]):
    """Name -> target, for one kind of thing.

    Args:
        kind: what these are, for messages.
        targets: this package's own.
        aliases: other spellings that people type, in lower case.
        old_names: names from before; who uses one is told today's once.
    """

    def __init__(
        self,
        kind: str,
        targets: Mapping[str, V],
        aliases: Mapping[str, str] | None = None,
        old_names: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = kind
        self._targets = dict(targets)
        self._own = frozenset(targets)
        self._aliases = {name.lower(): name for name in targets} | dict(aliases or {})
        self._old_names = dict(old_names or {})

    def __getitem__(self, name: str) -> V:
        return self._targets[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    def register(self, name: str, target: V) -> None:
        """Makes ``name`` known, or changes what it stands for.

        Raises:
            UserError: it is one of this package's own names, or looks like an import path.
        """
        if self.is_own(name) or is_import_path(name):
            reason = "contains a colon" if is_import_path(name) else "is taken"
            raise UserError(f"the {self.kind} name {name!r} {reason}: choose another one.")
        self._targets[name] = target

    def knows(self, name: str) -> bool:
        """Whether it is a name, in any of its spellings."""
        return name in self or self._spelling(name) in self

    def is_own(self, name: str) -> bool:
        """Whether this package itself has the name, in any of its spellings."""
        return self._spelling(name) in self._own

    def _spelling(self, name: str) -> str:
        return self._old_names.get(name, self._aliases.get(name.lower(), name))

    def name(self, given: str) -> str:
        """The registered spelling of a name; an import path is returned as it is.

        Raises:
            UserError: no such name; the line says the nearest one.
        """
        if given in self or is_import_path(given):
            return given
        spelled = self._spelling(given)
        if spelled not in self:
            raise UserError(f"unknown {self.kind} {given!r}. {nearest(given, self)}")
        if given in self._old_names:
            tell_once(f"{self.kind} {given!r} is called {spelled!r} now.")
        return spelled

    def resolve(self, given: str) -> Any:
        """What a name or an import path stands for, imported.

        Raises:
            UserError: no such name, or it cannot be imported.
        """
        name = self.name(given)
        return import_target(cast(Target, self._targets.get(name, name)), self.kind)

    def portable(self, given: str) -> str:
        """A name that means the same in another process: an own one, or an import path.

        Raises:
            UserError: no such name, or it cannot be imported.
        """
        name = self.name(given)
        if name in self._own:
            return name
        self.resolve(name)
        return import_path(cast(Target, self._targets.get(name, name))) or name


#: The config class of an algorithm is that of its ``get_default_config()``.
ALGORITHMS: Table[Target] = Table(
    "algorithm",
    {
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
    },
    aliases={"aoad_mat": "AOAD-MAT", "aoadmat": "AOAD-MAT"},
)

#: Decision orders.
ORDERS: Table[Target] = Table(
    "order",
    {
        "index": "rllib_seqmarl.nets.orders.given:IndexOrder",
        "reverse": "rllib_seqmarl.nets.orders.given:ReverseOrder",
        "random": "rllib_seqmarl.nets.orders.given:RandomOrder",
        "plackett_luce": "rllib_seqmarl.nets.orders.plackett_luce:PlackettLuce",
        "next_agent": "rllib_seqmarl.nets.orders.next_agent:NextAgent",
    },
)

_VALUES = "rllib_seqmarl.nets.values"

#: Value functions of agents that decide one after another.
VALUES: Table[Target] = Table(
    "value",
    {
        "encoder": f"{_VALUES}.encoder:EncoderValue",
        "decoder": f"{_VALUES}.decoder:DecoderValue",
        "sequential": f"{_VALUES}.sequential:SequentialValue",
        "sequential_without_policy": (
            f"{_VALUES}.sequential_without_policy:SequentialValueWithoutPolicy"
        ),
    },
)

#: Networks of agents that decide one after another: instances of `nets.networks.Network`.
NETWORKS: Table[Target] = Table(
    "network",
    {
        "transformer": "rllib_seqmarl.nets.networks:TRANSFORMER",
        "mlp": "rllib_seqmarl.nets.networks:MLP",
        "gnn": "rllib_seqmarl.nets.networks:GNN",
        "encoder": "rllib_seqmarl.nets.networks:ENCODER",
        "decoder": "rllib_seqmarl.nets.networks:DECODER",
        "gru": "rllib_seqmarl.nets.networks:GRU",
        "mat_dec": "rllib_seqmarl.nets.networks:MAT_DEC",
    },
    old_names={"decentralised": "mat_dec"},
)


# -- environments --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Environment:
    """An environment by name.

    Attributes:
        name: as it was registered.
        env: ``env(num_envs, config) -> TeamVectorEnv``; without a class of settings
            ``env(num_envs, **env_config)``.
        config: its class of settings (see `rllib_seqmarl.settings`); None where there is none. A
            class method ``variant(env_config)``, where it has one, gives the class to be read.
    """

    name: str
    env: Target
    config: Target | None = None

    def settings_class(self) -> type | None:
        """The class of settings, imported; None where the environment has none.

        Raises:
            UserError: it cannot be imported.
        """
        return None if self.config is None else import_target(self.config, "env config")

    def read(self, env_config: Mapping[str, Any]) -> Any:
        """An instance of the class of settings; without one, ``env_config`` as a dict.

        Raises:
            UserError: an unknown key, a wrong type or value.
        """
        from rllib_seqmarl.settings import read

        cls = self.settings_class()
        variant = getattr(cls, "variant", None)
        cls = cls if variant is None else variant(env_config)
        return (
            dict(env_config) if cls is None else read(cls, env_config, f"{self.name}: env_config")
        )

    def check(self, env_config: Mapping[str, Any]) -> dict[str, Any]:
        """The complete ``env_config``, defaults filled in.

        Raises:
            UserError: an unknown key, a wrong type or value.
        """
        from rllib_seqmarl.settings import as_dict

        config = self.read(env_config)
        return config if self.config is None else as_dict(config)

    def make(self, num_envs: int, **env_config: Any) -> TeamVectorEnv:
        """``num_envs`` environments, stepped as one.

        Raises:
            UserError: it cannot be imported, or does not take ``env_config``.
        """
        config = self.read(env_config)
        env = import_target(self.env, "environment")
        made = env(num_envs, **config) if self.config is None else env(num_envs, config)
        return cast("TeamVectorEnv", made)


def _own(name: str, env: str, config: str) -> Environment:
    return Environment(name, f"rllib_seqmarl.envs.{env}", f"rllib_seqmarl.envs.{config}")


ENVIRONMENTS: Table[Environment] = Table(
    "environment",
    {
        entry.name: entry
        for entry in (
            _own("smac", "smac.env:make", "smac.config:SMACConfig"),
            _own(
                "distinct_actions",
                "toy.distinct_actions:DistinctActions",
                "toy.distinct_actions:DistinctActionsConfig",
            ),
            _own("private_cue", "toy.private_cue:PrivateCue", "toy.private_cue:PrivateCueConfig"),
            _own("pettingzoo", "adapters.pettingzoo:make", "adapters.pettingzoo:PettingZooConfig"),
            _own("multi_agent_env", "adapters.rllib:make", "adapters.rllib:MultiAgentEnvConfig"),
            _own("mamujoco", "mamujoco.env:MAMuJoCo", "mamujoco.config:MAMuJoCoConfig"),
            _own("dubins_car", "dubins_car.env:DubinsCar", "dubins_car.config:DubinsCarConfig"),
            _own("mpe", "mpe.env:make", "mpe.config:MPEConfig"),
            _own("football", "football.env:FootballTeamEnv", "football.config:FootballConfig"),
        )
    },
    aliases={"smax": "smac"},
)

_TABLES: dict[str, Table[Any]] = {
    table.kind: table for table in (ALGORITHMS, ENVIRONMENTS, ORDERS, VALUES, NETWORKS)
}


def table(kind: str) -> Table[Any]:
    """The table of a kind: "algorithm", "environment", "order", "value" or "network"."""
    return _TABLES[kind]


# -- registering ---------------------------------------------------------------------------------


def register_algorithm(name: str, target: Target) -> None:
    """Makes an algorithm known: an RLlib ``Algorithm`` class, or its import path.

    Raises:
        UserError: the name is taken.
    """
    ALGORITHMS.register(name, target)
    _ray_compat.when_tune_is_imported(register)


def register_environment(name: str, env: Target, config: Target | None = None) -> None:
    """Makes an environment known.

    Args:
        name: what ``env:`` names.
        env: ``env(num_envs, config)`` makes the `TeamVectorEnv`; an import path, or itself.
        config: its class of settings, with which every ``env_config`` is checked; None: anything
            is taken, and ``env(num_envs, **env_config)`` is called.

    Raises:
        UserError: the name is taken.
    """
    ENVIRONMENTS.register(name, Environment(name, env, config))
    _ray_compat.when_tune_is_imported(register)


def register_order(name: str, target: Target) -> None:
    """Makes a decision order known: a subclass of `nets.orders.DecisionOrder`.

    Raises:
        UserError: the name is taken.
    """
    ORDERS.register(name, target)


def register_value(name: str, target: Target) -> None:
    """Makes a value function known: a subclass of `nets.values.ValueFunction`.

    Raises:
        UserError: the name is taken.
    """
    VALUES.register(name, target)


def register_network(name: str, target: Target) -> None:
    """Makes a network known: an instance of `nets.networks.Network`.

    Raises:
        UserError: the name is taken.
    """
    NETWORKS.register(name, target)


# -- algorithms ----------------------------------------------------------------------------------


def algorithm_name(name: str) -> str:
    """The registered spelling of an algorithm's name, or an import path.

    Raises:
        UserError: no such algorithm; the line names the nearest one.
    """
    return ALGORITHMS.name(name)


def name_of_class(class_name: str) -> str | None:
    """The registered name of the algorithm whose class is called so; None where there is none."""
    for name, target in ALGORITHMS.items():
        if (import_path(target) or "").rpartition(":")[2] == class_name:
            return name
    return None


def algorithm_class(name: str) -> type[Algorithm]:
    """The RLlib ``Algorithm`` class of that name or import path (imports torch and ray).

    Raises:
        UserError: no such algorithm, or it cannot be imported.
    """
    return cast("type[Algorithm]", ALGORITHMS.resolve(name))


def config_class(name: str) -> type[TeamConfig]:
    """The class of the config that the algorithm of that name takes."""
    return cast("type[TeamConfig]", type(algorithm_class(name).get_default_config()))


def summary(target: Target | Environment) -> str:
    """The first sentence of the module of a target, which is not imported where it is a path."""
    if isinstance(target, Environment):
        target = target.config or target.env
    module = target.partition(":")[0] if isinstance(target, str) else target.__module__
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    doc = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    return " ".join((doc or "").partition("\n\n")[0].split())


# -- environments by name ------------------------------------------------------------------------


EnvironmentCreator = Callable[[Mapping[str, Any]], "TeamVectorEnv"]


def environment(name: str) -> Environment:
    """The environment of that name or import path (imports neither torch nor ray).

    What an import path names may have an attribute ``settings``, its class of settings.

    Raises:
        UserError: no such environment, or it cannot be imported.
    """
    if not is_import_path(name):
        return ENVIRONMENTS[ENVIRONMENTS.name(name)]
    return Environment(name, name, getattr(import_target(name, "environment"), "settings", None))


def environment_name(name: str) -> str:
    """The registered spelling of an environment's name, or an import path.

    Raises:
        UserError: no such environment; the line names the nearest one.
    """
    return ENVIRONMENTS.name(name)


def make_environment(name: str, num_envs: int, env_config: Mapping[str, Any]) -> TeamVectorEnv:
    """Checks ``env_config`` and makes ``num_envs`` environments, stepped as one."""
    return environment(name).make(num_envs, **env_config)


def environment_creator(name: str) -> EnvironmentCreator:
    """Creator with the signature of ``ray.tune.register_env``, for a name or an import path.

    Raises:
        UserError: no such environment, or it cannot be imported.
    """
    return partial(_create, environment(name))


def _create(entry: Environment, context: Mapping[str, Any]) -> TeamVectorEnv:
    """Environment creator with Ray's signature: ``context`` is env_config plus ``num_envs``."""
    env_config = dict(context)
    num_envs = env_config.pop("num_envs", 1)
    return entry.make(num_envs, **env_config)


# -- Ray -----------------------------------------------------------------------------------------


class _Algorithm:
    """Stands for an algorithm's class in Ray's registry, and is that class when it is read."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return import_target, (self.target, "algorithm")


def register() -> None:
    """Makes all names known to Ray Tune (imports ray.tune, but no algorithm)."""
    _ray_compat.register_names(
        {name: _Algorithm(target) for name, target in ALGORITHMS.items()},
        {name: partial(_create, entry) for name, entry in ENVIRONMENTS.items()},
    )


_ray_compat.when_tune_is_imported(register)
