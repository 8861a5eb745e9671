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

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_seqmarl import _ray_compat, registry
from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.experiments.spec.experiment import KEYS, ExperimentSpec
from rllib_seqmarl.experiments.spec.grids import GRID, all_values, grid_values, variants
from rllib_seqmarl.experiments.spec.sampling import Sampler, candidates, is_sampler
from rllib_seqmarl.learning.base.config import (
    TeamConfig,
    check_setting,
    declared_settings,
    todays_names,
)
from rllib_seqmarl.learning.base.module import TeamModule
from rllib_seqmarl.learning.base.rllib_settings import WITHOUT_MEANING
from rllib_seqmarl.learning.base.trial_check import module_of
from rllib_seqmarl.settings import settings_of

#: Names that other libraries have for settings of this one.
_OTHERS_NAMES = {
    "learning_rate": "lr",
    "discount": "gamma",
    "gae_lambda": "lambda",
    "n_envs": "num_envs_per_env_runner",
    "num_envs": "num_envs_per_env_runner",
    "n_steps": "rollout_fragment_length",
    "batch_size": "minibatch_size",
    "train_batch_size_per_learner": "rollout_fragment_length",
    "max_grad_norm": "grad_clip",
    "clip_range": "clip_param",
}

_REFUSED_KEYS: dict[str, str] = {
    "horizon": "the length of an episode belongs to the environment: env_config",
    "multiagent": "the team is one agent here; remove it",
}


def algorithm_class(spec: ExperimentSpec) -> type[Any]:
    """The class that an experiment trains.

    Raises:
        UserError: an import path that names no algorithm; the line names the experiment.
    """
    if not isinstance(spec.run, str):
        return spec.run
    try:
        algorithm = registry.algorithm_class(spec.run)
    except UserError as error:
        raise UserError(f"{spec.source}: {error}") from None
    if not hasattr(algorithm, "get_default_config"):
        raise UserError(f"{spec.source}: 'run': {spec.run!r} is no algorithm of RLlib.")
    return algorithm


def check(spec: ExperimentSpec) -> list[dict[str, Any]]:
    """Checks ``spec.config`` and repairs old key names and whole numbers written as 1e6.

    Returns:
        The configs that were looked at (see :func:`grids.variants`).

    Raises:
        UserError: unknown key, wrong type or value; the line names the experiment.
    """
    config = type(algorithm_class(spec).get_default_config())()
    where = f"{spec.source}: config"
    spec.config = _known_keys(spec.config, config, where, spec.notes)
    spec.config = {key: _checked(config, key, value, where) for key, value in spec.config.items()}
    if spec.config.get("evaluation_config"):
        within = f"{where}: evaluation_config"
        different = _known_keys(spec.config["evaluation_config"], config, within, spec.notes)
        spec.config["evaluation_config"] = {
            key: _checked(config, key, value, within) for key, value in different.items()
        }
    _reserve_threads(spec, _defaults(config), where)
    checked = list(variants(spec.config, where))
    for variant in checked:
        _validate(config, variant, where)
    _check_search(spec, config)
    return checked


def module_of_trial(spec: ExperimentSpec, variant: Mapping[str, Any]) -> TeamModule | None:
    """The network with which a checked trial begins; None where only the trial can build it."""
    config = type(algorithm_class(spec).get_default_config())()
    if not isinstance(config, TeamConfig):
        return None
    config.update_from_dict(copy.copy(dict(variant)))
    config.check()
    module = module_of(config)
    return module if isinstance(module, TeamModule) else None


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


def _check_search(spec: ExperimentSpec, config: AlgorithmConfig) -> None:
    """Checks the scheduler, and every value to which it may change a config."""
    spec.search.make_scheduler()
    where = f"{spec.source}: scheduler: hyperparam_mutations"
    mutated = spec.search.mutated()
    defaults = _defaults(config)
    for key in mutated:
        if key not in defaults:
            raise UserError(f"{where}: unknown key {key!r}. {nearest(str(key), defaults)}")
    mutated = {key: _checked(config, key, value, where) for key, value in mutated.items()}
    networks = []
    for variant in variants({**spec.config, **mutated}, where) if mutated else ():
        mutant = _validate(config, variant, where)
        networks.append(mutant.get_default_rl_module_spec().model_config)
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
    """Whether anything in a config is drawn for every sample."""
    if isinstance(value, Mapping):
        return any(map(_draws, value.values()))
    return is_sampler(value)


def _defaults(config: AlgorithmConfig) -> dict[str, Any]:
    """Every key that a config takes, with its default: RLlib writes some under older names."""
    attributes = {key: value for key, value in vars(config).items() if not key.startswith("_")}
    return {**config.to_dict(), **attributes}


def _known_keys(
    given: Mapping[str, Any], config: AlgorithmConfig, where: str, notes: list[str]
) -> dict[str, Any]:
    """``given`` with today's names of its keys, all of which the config knows."""
    defaults = _defaults(config)
    translated, told = todays_names(config, given, f"{where}:")
    notes += told
    known: dict[str, Any] = {}
    for key, value in translated.items():
        if key in _REFUSED_KEYS and key not in defaults:
            raise UserError(f"{where}: {key!r} is not supported: {_REFUSED_KEYS[key]}.")
        name = "lambda_" if key == "lambda" and "lambda_" in defaults else key
        if name not in defaults:
            raise UserError(f"{where}: unknown key {key!r}. {_hint(key, config, given)}")
        removed = _ray_compat.is_deprecated(defaults[name]) and name not in WITHOUT_MEANING
        if removed and value is not None and not _ray_compat.is_deprecated(value):
            raise UserError(f"{where}: {key!r} is no setting of RLlib any more: remove it.")
        known[name] = value
    if known.get("env_config", {}) is None:  # `env_config:` with nothing below it
        del known["env_config"]
    return known


def _hint(key: str, config: AlgorithmConfig, given: Mapping[str, Any]) -> str:
    """Where an unknown key belongs, or the nearest setting that is described somewhere."""
    if key in KEYS:
        return "It belongs to the experiment, beside 'config'."
    name = given.get("env")
    if isinstance(name, str) and registry.ENVIRONMENTS.knows(name):
        cls = registry.environment(name).settings_class()
        if cls is not None and key in settings_of(cls):
            return "It belongs into 'env_config'."
    if key in _OTHERS_NAMES:
        return f"Did you mean {_OTHERS_NAMES[key]!r}?"
    return nearest(key, declared_settings(type(config)))


def _checked(config: AlgorithmConfig, key: str, value: object, where: str) -> Any:
    """``value`` as it is used; of a grid or a sampler, each of its values."""
    if isinstance(value, Mapping) and GRID in value:
        values = grid_values(value, f"{where}: {key}")
        return {GRID: [_checked(config, key, item, where) for item in values]}
    if is_sampler(value):
        values = [_checked(config, key, item, where) for item in candidates(value)]
        choice = isinstance(value, Sampler) and value.tag == "choice"
        return Sampler("choice", values) if choice else value
    return check_setting(config, key, value, f"{where}:")


def _validate(config: AlgorithmConfig, variant: Mapping[str, Any], where: str) -> AlgorithmConfig:
    try:
        filled = type(config)().update_from_dict(copy.copy(dict(variant)))
        filled.validate()
        return filled
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, ImportError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # RLlib goes on with how not to be told.
        message = " ".join(lines).partition(" To suppress all validation errors")[0]
        message = message.removeprefix("config key ") or type(error).__name__
        raise UserError(f"{where}: {message}") from error
