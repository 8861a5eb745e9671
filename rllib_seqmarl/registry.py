"""Everything that goes by a name: algorithms, environments, orders, values, networks, encoders.

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
import inspect
import itertools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rllib_seqmarl import _ray_compat
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.names import (
    TABLES,
    Place,
    Table,
    Target,
    check_target,
    import_path,
    import_target,
    is_import_path,
)

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    from rllib_seqmarl.envs.core.contract import TeamVectorEnv
    from rllib_seqmarl.layout import Layout

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
        "index": "rllib_seqmarl.nets.orders.base:IndexOrder",
        "reverse": "rllib_seqmarl.nets.orders.given:ReverseOrder",
        "random": "rllib_seqmarl.nets.orders.given:RandomOrder",
        "plackett_luce": "rllib_seqmarl.nets.orders.plackett_luce:PlackettLuce",
        "next_agent": "rllib_seqmarl.nets.orders.next_agent:NextAgent",
    },
    base="rllib_seqmarl.nets.orders.base:DecisionOrder",
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
    base=f"{_VALUES}.base:ValueFunction",
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
    base="rllib_seqmarl.nets.networks:Network",
    instances=True,
)

#: Encoders of observations, of every algorithm: see `nets.encoders.reader`.
ENCODERS: Table[Target] = Table(
    "observation encoder",
    {
        "mlp": "rllib_seqmarl.nets.encoders.ready:MLPEncoder",
        "cnn": "rllib_seqmarl.nets.encoders.ready:CNNEncoder",
    },
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
        adapter: the environment of this package that plays it, where ``env`` is the class of a
            game, which is called with ``env_config``.
    """

    name: str
    env: Target
    config: Target | None = None
    adapter: str | None = None

    def settings_class(self) -> type | None:
        """The class of settings, imported; None where the environment has none.

        Raises:
            UserError: it cannot be imported.
        """
        return None if self.config is None else import_target(self.config, "env config")

    def _game(self, env_config: Mapping[str, Any]) -> dict[str, Any]:
        """The ``env_config`` with which the adapter plays it."""
        return {"env": self.name, "kwargs": dict(env_config)}

    def check(self, env_config: Mapping[str, Any]) -> dict[str, Any]:
        """The complete ``env_config``, defaults filled in.

        Raises:
            UserError: an unknown key, a wrong type or value.
        """
        from rllib_seqmarl.settings import as_dict

        config = self.read(env_config)
        return config if isinstance(config, dict) else as_dict(config)

    def read(self, env_config: Mapping[str, Any]) -> Any:
        """The settings that ``env_config`` means, checked.

        Returns:
            An instance of the class of settings; without one, ``env_config`` as a dict.

        Raises:
            UserError: an unknown key, a wrong type or value.
        """
        from rllib_seqmarl.settings import read

        if self.adapter is not None:
            ENVIRONMENTS[self.adapter].read(self._game(env_config))
        cls = self.settings_class()
        if cls is None:
            if self.adapter is None:
                self._check_keywords(env_config)
            return dict(env_config)
        variant = getattr(cls, "variant", None)
        cls = cls if variant is None else variant(env_config)
        return read(cls, env_config, f"{self.name}: env_config")

    def observation_layout(self, env_config: Mapping[str, Any]) -> Layout | None:
        """What an agent's observation consists of, where that is known before anything is made.

        Raises:
            UserError: as of `check`.
        """
        entry, settings = self, env_config
        if self.adapter is not None:
            entry, settings = ENVIRONMENTS[self.adapter], self._game(env_config)
        look = getattr(entry.read(settings), "observation_layout", None)
        return None if look is None else cast("Layout", look())

    def _check_keywords(self, env_config: Mapping[str, Any]) -> None:
        target = import_target(self.env, "environment")
        try:
            signature = inspect.signature(target)
        except ValueError:  # one of a C extension
            return
        try:
            signature.bind(1, **{**Place().asked_for_by(target), **env_config})
        except TypeError as error:
            raise UserError(
                f"environment {self.name!r} cannot be called with num_envs and the env_config "
                f"{dict(env_config)!r}: {error}. (What makes one game of PettingZoo or RLlib goes "
                "by env: pettingzoo or multi_agent_env and its own path in env_config: env.)"
            ) from None

    def make(self, num_envs: int, **env_config: Any) -> TeamVectorEnv:
        """``num_envs`` environments, stepped as one.

        Raises:
            UserError: it cannot be imported, or does not take ``env_config``.
        """
        return self.make_at(Place(), num_envs, env_config)

    def make_at(self, place: Place, num_envs: int, env_config: Mapping[str, Any]) -> TeamVectorEnv:
        """The same in a runner; what is called is given those indices that it names."""
        if self.adapter is not None:
            adapter = ENVIRONMENTS[self.adapter]
            return adapter.make_at(place, num_envs, self._game(env_config))
        config = self.read(env_config)
        env = import_target(self.env, "environment")
        asked = place.asked_for_by(env)
        if self.config is not None:
            return cast("TeamVectorEnv", env(num_envs, config, **asked))
        made = env(num_envs, **{**asked, **config})
        if is_of_another_kind(type(made)):
            raise not_a_team(f"environment {self.name!r} makes a {type(made).__name__}")
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

_TABLES = (ALGORITHMS, ENVIRONMENTS, ORDERS, VALUES, NETWORKS, ENCODERS)
TABLES.update({table.kind: table for table in _TABLES})


def table(kind: str) -> Table[Any]:
    """The table of a kind: "algorithm", "environment", "order", "value", "network", ..."""
    return TABLES[kind]


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
    check_target(env, "environment")
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


def register_encoder(name: str, target: Target) -> None:
    """Makes an encoder of observations known: a torch module (see `nets.encoders.reader`).

    Raises:
        UserError: the name is taken.
    """
    ENCODERS.register(name, target)


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


def config_class(name: str) -> type[AlgorithmConfig]:
    """The class of the config that the algorithm of that name takes."""
    algorithm = algorithm_class(name)
    if not hasattr(algorithm, "get_default_config"):
        raise UserError(f"{name!r} is no algorithm of RLlib.")
    return type(algorithm.get_default_config())


def has_setting(algorithm: str, name: str) -> bool:
    """Whether a config of that algorithm has a setting of that name (imports torch and ray).

    Raises:
        UserError: no such algorithm, or it cannot be imported.
    """
    return name in vars(config_class(algorithm)())


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


#: Begins the name of a class that cannot be imported.
_SCRIPT = "script."

#: Classes of games -> the environment of this package that plays them.
_GAMES = {
    ("ray.rllib.env.multi_agent_env", "MultiAgentEnv"): "multi_agent_env",
    ("pettingzoo", "ParallelEnv"): "pettingzoo",
}


def _derives(cls: type, module: str, base: str) -> bool:
    """Whether a class derives from another one; who does has imported it."""
    known = getattr(sys.modules.get(module), base, None)
    return isinstance(known, type) and issubclass(cls, known)


def is_of_another_kind(cls: type) -> bool:
    """Whether a class is an environment of somebody else's, and no `TeamVectorEnv`."""
    others = (*_GAMES, ("gymnasium.core", "Env"), ("pettingzoo", "AECEnv"))
    return not _derives(cls, "rllib_seqmarl.envs.core.contract", "TeamVectorEnv") and any(
        _derives(cls, module, base) for module, base in others
    )


def game_kind(cls: type) -> str | None:
    """The environment of this package that plays games of a class; None where none does."""
    for (module, base), name in _GAMES.items():
        if _derives(cls, module, base):
            return name
    return None


def not_a_team(what: str) -> UserError:
    """The error of an environment of another kind; ``what`` begins the line."""
    return UserError(
        f"{what}, which is no team: give a TeamVectorEnv, a MultiAgentEnv of RLlib or a parallel "
        "game of PettingZoo, as a class, as 'package.module:Class' or by tune.register_env."
    )


def environment(name: str) -> Environment:
    """The environment of that name or import path (imports neither torch nor ray).

    What an import path names may have an attribute ``settings``, its class of settings. It may be
    a ``MultiAgentEnv`` of RLlib or a parallel game of PettingZoo, too, which gets ``env_config`` as
    its config or as its keywords.

    Raises:
        UserError: no such environment, or it cannot be imported.
    """
    if not is_import_path(name):
        return ENVIRONMENTS[environment_name(name)]
    target = import_target(name, "environment")
    if not callable(target):
        raise not_a_team(f"environment {name!r} is a {type(target).__name__}")
    if not isinstance(target, type):
        return Environment(name, name, getattr(target, "settings", None))
    adapter = game_kind(target)
    if adapter is None and is_of_another_kind(target):
        raise not_a_team(f"environment {name!r} is a class")
    settings = None if adapter is not None else getattr(target, "settings", None)
    return Environment(name, name, settings, adapter)


def is_of_user(name: str) -> bool:
    """Whether ``tune.register_env`` was given this name by a user."""
    if name in ENVIRONMENTS or is_import_path(name):
        return False
    return _ray_compat.is_registered_environment(name)


def register_class(cls: type) -> str:
    """What stands for an environment's class in a config.

    Returns:
        Its import path; or, where no other process could import it, a name under which it is
        registered with Ray Tune, which sends it to them.

    Raises:
        UserError: it is no team.
    """
    kind = game_kind(cls)
    if kind is None and is_of_another_kind(cls):
        raise not_a_team(f"environment {cls.__name__} is a class")
    path = import_path(cls)
    if path is not None and cls.__module__ in sys.modules:  # the file of an experiment is not
        return path
    creator = _LocalClass(cls, kind)
    for number in itertools.count(1):  # trials that run at once may bring classes of one name
        name = f"{_SCRIPT}{cls.__name__}" + (f"-{number}" if number > 1 else "")
        there = _ray_compat.register_environment_once(name, creator)
        if there is None or (isinstance(there, _LocalClass) and there.cls is cls):
            break
    return name


@dataclass(frozen=True)
class _LocalClass:
    """Creator with Ray's signature of a class that cannot be imported.

    Attributes:
        cls: of a team or a game.
        kind: what plays the game; None of a team.
    """

    cls: type
    kind: str | None

    def __call__(self, context: Mapping[str, Any]) -> object:
        if self.kind is None:
            entry = Environment(self.cls.__name__, self.cls, getattr(self.cls, "settings", None))
            return _create(entry, context)
        if self.kind == "pettingzoo":
            return self.cls(**{**_place(context).asked_for_by(self.cls), **context})
        return self.cls(context)


def environment_name(name: str) -> str:
    """The registered spelling of an environment's name, or an import path.

    Raises:
        UserError: no such environment; the line names the nearest one.
    """
    if name.startswith(_SCRIPT):
        raise UserError(
            f"environment {name.removeprefix(_SCRIPT)!r} stands in a script or a function, which "
            "others cannot import: put it into a module, and give the class from there."
        )
    module, dot, attribute = name.rpartition(".")
    if dot and not is_import_path(name) and not ENVIRONMENTS.knows(name):
        raise UserError(
            f"unknown environment {name!r}: an import path has a colon before the class: "
            f"'{module}:{attribute}'."
        )
    return ENVIRONMENTS.name(name)


def make_environment(
    name: str, num_envs: int = 1, env_config: Mapping[str, Any] | None = None
) -> TeamVectorEnv:
    """Makes environments, stepped as one.

    Args:
        name: of the environment, or its import path.
        num_envs: how many.
        env_config: its settings; keys that are left out have their defaults (``rllib env show
            NAME`` lists them).

    Raises:
        UserError: no such environment, an unknown key, a wrong value, or a simulator that is not
            installed.
    """
    if not isinstance(name, str):
        raise UserError(f"make_environment: name must be text, got {name!r}.")
    if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
        raise UserError(
            f"make_environment: num_envs must be a whole number from 1, got {num_envs!r}."
        )
    if not (env_config is None or isinstance(env_config, Mapping)):
        raise UserError(f"make_environment: env_config must be a mapping, got {env_config!r}.")
    return environment(name).make_at(Place(), num_envs, env_config or {})


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
    return entry.make_at(_place(context), num_envs, env_config)


def _place(context: Mapping[str, Any]) -> Place:
    """What an ``EnvContext`` knows; a plain mapping knows nothing."""
    return Place(*(getattr(context, name, 0) for name in Place._fields))


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
