"""Checks an experiment's RLlib config before Ray starts: keys, types, values, environment.

RLlib takes unknown config keys without a word and finds many wrong values only inside a
worker. Here every config, with each value of each ``grid_search`` and the choices and ends of each
sampler in turn, goes through the algorithm's own config class. Imports ray and torch, but starts
nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from rllib_seqmarl import registry
from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.experiments.spec.experiment import ExperimentSpec
from rllib_seqmarl.experiments.spec.fields import kind
from rllib_seqmarl.experiments.spec.grids import GRID, all_values, grid_values, variants
from rllib_seqmarl.experiments.spec.sampling import Sampler, candidates, is_sampler

#: Config keys of older RLlib versions -> today's names.
OLD_KEYS: dict[str, str] = {
    "num_workers": "num_env_runners",
    "num_rollout_workers": "num_env_runners",
    "num_envs_per_worker": "num_envs_per_env_runner",
    "num_cpus_per_worker": "num_cpus_per_env_runner",
    "num_gpus_per_worker": "num_gpus_per_env_runner",
    "evaluation_num_workers": "evaluation_num_env_runners",
    "num_sgd_iter": "num_epochs",
    "sgd_minibatch_size": "minibatch_size",
    "lambda": "lambda_",
    "num_learner_workers": "num_learners",
}
_REFUSED_KEYS: dict[str, str] = {
    "horizon": "the length of an episode belongs to the environment: env_config",
    "multiagent": "the team is one agent here; remove it",
}

#: Keys that RLlib still takes and that change nothing any more, with their only right values.
_WITHOUT_EFFECT: dict[str, tuple[tuple[Any, ...], str]] = {
    "framework": (("torch", None), "everything here is torch"),
    "num_gpus": ((0, None), "use num_learners and num_gpus_per_learner"),
    "model": (({}, None), "the network has keys of its own, e.g. embed_dim and num_blocks"),
    "exploration_config": (({}, None), "use entropy_coeff, and explore in evaluation_config"),
}

#: Types of keys whose default, None, tells nothing.
_WHOLE_OR_NONE = ("evaluation_interval", "seed", "minibatch_size", "micro_batch_size")
_MAPPINGS_OR_NONE = ("evaluation_config",)

#: Keys with a whole number as default that may be fractions, by how they begin or end.
_FRACTIONS = ("num_cpus", "num_gpus")


def algorithm_class(spec: ExperimentSpec) -> type[Any]:
    """The class that an experiment trains."""
    return registry.algorithm_class(spec.run) if isinstance(spec.run, str) else spec.run


def check(spec: ExperimentSpec) -> list[dict[str, Any]]:
    """Checks ``spec.config`` and repairs old key names and whole numbers written as 1e6.

    Returns:
        The configs that were looked at (see :func:`grids.variants`).

    Raises:
        UserError: unknown key, wrong type or value; the line names the experiment.
    """
    config_class = type(algorithm_class(spec).get_default_config())
    defaults = _defaults(config_class())
    where = f"{spec.source}: config"
    spec.config = _known_keys(spec.config, defaults, where, spec.notes)
    spec.config = {
        key: _typed(key, value, defaults.get(key), where) for key, value in spec.config.items()
    }
    if spec.config.get("evaluation_config"):
        spec.config["evaluation_config"] = _known_keys(
            spec.config["evaluation_config"], defaults, f"{where}: evaluation_config", spec.notes
        )
    _reserve_threads(spec, defaults, where)
    checked = list(variants(spec.config, where))
    for variant in checked:
        _validate(config_class, variant, where)
    _check_search(spec, config_class, defaults)
    return checked


def _reserve_threads(spec: ExperimentSpec, defaults: Mapping[str, Any], where: str) -> None:
    """Asks Ray for as many CPUs as a learner has threads, unless the file says how many.

    Ray starts trials until the CPUs they ask for are used up, whatever they really use.
    """
    threads = all_values(spec.config.get("num_threads_per_learner"), where)
    most = max((number for number in threads if isinstance(number, int)), default=1)
    remote = any(all_values(spec.config.get("num_learners", 0), where))
    key = "num_cpus_per_learner" if remote else "num_cpus_for_main_process"
    if most > 1 and spec.config.get(key, defaults[key]) == defaults[key]:
        spec.config[key] = most


def _check_search(
    spec: ExperimentSpec, config_class: type[Any], defaults: Mapping[str, Any]
) -> None:
    """Checks the scheduler, and every value to which it may change a config."""
    spec.search.make_scheduler()
    where = f"{spec.source}: scheduler: hyperparam_mutations"
    mutated = spec.search.mutated()
    for key in mutated:
        if key not in defaults:
            raise UserError(f"{where}: unknown key {key!r}. {nearest(str(key), defaults)}")
    mutated = {k: _typed(k, value, defaults.get(k), where) for k, value in mutated.items()}
    networks = []
    for variant in variants({**spec.config, **mutated}, where) if mutated else ():
        config = _validate(config_class, variant, where)
        networks.append(config.get_default_rl_module_spec().model_config)
    if any(network != networks[0] for network in networks):
        raise UserError(
            f"{where}: not all of these values belong to one and the same network, and pbt copies "
            "the weights of one trial to another; search over the network with a grid."
        )
    seed = spec.config.get("seed")
    if spec.num_samples > 1 and isinstance(seed, int) and not mutated and not _draws(spec.config):
        spec.notes.append(
            f"{spec.source}: all {spec.num_samples} samples have the seed {seed}, so that they "
            "will be equal; write 'seed: !grid [1, 2, 3]' in place of num_samples."
        )


def _draws(value: Any) -> bool:
    """Whether anything in a config is drawn anew for every sample."""
    if isinstance(value, Mapping):
        return any(map(_draws, value.values()))
    return is_sampler(value)


def _defaults(config: Any) -> dict[str, Any]:
    """Every key that a config takes, with its default: RLlib writes some under older names."""
    attributes = {key: value for key, value in vars(config).items() if not key.startswith("_")}
    return {**config.to_dict(), **attributes}


def _known_keys(
    config: Mapping[str, Any], defaults: Mapping[str, Any], where: str, notes: list[str]
) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for key, value in config.items():
        if key in _REFUSED_KEYS and key not in defaults:
            raise UserError(f"{where}: {key!r} is not supported: {_REFUSED_KEYS[key]}.")
        name = key
        if OLD_KEYS.get(key) in defaults:
            name = OLD_KEYS[key]
            if name in config:
                raise UserError(f"{where}: {key!r} and {name!r} mean the same; keep one.")
            if key != "lambda":  # RLlib's own dicts say so, because of Python's keyword
                notes.append(f"{where}: {key!r} is called {name!r} now.")
        if name not in defaults:
            raise UserError(
                f"{where}: unknown key {key!r}. {nearest(str(key), (*defaults, *OLD_KEYS))}"
            )
        if name in _WITHOUT_EFFECT:
            values, advice = _WITHOUT_EFFECT[name]
            if value not in values and value != defaults[name]:
                raise UserError(f"{where}: {name!r} has no effect any more: {advice}.")
        known[name] = value
    if known.get("env_config", {}) is None:  # `env_config:` with nothing below it
        del known["env_config"]
    return known


def _typed(key: str, value: Any, default: Any, where: str) -> Any:
    """``value`` with whole numbers as int where the default is one; a `UserError` if wrong."""
    if isinstance(value, Mapping) and GRID in value:
        values = grid_values(value, f"{where}: {key}")
        return {GRID: [_typed(key, item, default, where) for item in values]}

    if is_sampler(value):
        values = [_typed(key, item, default, where) for item in candidates(value)]
        choice = isinstance(value, Sampler) and value.tag == "choice"
        return Sampler("choice", values) if choice else value

    def refusal(expected: str) -> UserError:
        return UserError(f"{where}: {key!r} must be {expected}, got {kind(value)}.")

    number = isinstance(value, int | float) and not isinstance(value, bool)
    if default is None:
        if key in _WHOLE_OR_NONE and value is not None:
            if not number or value != int(value):
                raise refusal("a whole number or null")
            return int(value)
        if key in _MAPPINGS_OR_NONE and not (isinstance(value, Mapping) or value is None):
            raise refusal("a mapping")
    elif isinstance(default, bool):
        if isinstance(value, int | float | str | list | Mapping) and not isinstance(value, bool):
            raise refusal("true or false")
    elif isinstance(default, int | float):
        if isinstance(value, bool | Mapping) or (isinstance(value, str) and value != "auto"):
            raise refusal("a number")
        if isinstance(default, int) and isinstance(value, list):
            raise refusal("a whole number")
        if isinstance(default, int) and isinstance(value, float):
            if value.is_integer():
                return int(value)
            if not key.startswith(_FRACTIONS):
                raise refusal("a whole number")
    elif isinstance(default, str):
        if isinstance(value, bool | list) or (number and default != "auto"):
            raise refusal("text")
    elif isinstance(default, Mapping) and not (isinstance(value, Mapping) or value is None):
        raise refusal("a mapping")
    return value


def _validate(config_class: type[Any], variant: Mapping[str, Any], where: str) -> Any:
    try:
        config = config_class().update_from_dict(copy.copy(dict(variant)))
        config.validate()
        return config
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, ImportError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(f"{where}: {' '.join(lines) or type(error).__name__}") from error
