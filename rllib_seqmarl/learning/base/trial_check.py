"""What only a trial would find out, found before one begins.

Whether networks fit an environment, its spaces say. So one environment is built in the driver, once
per process, and the trial's own networks are built for it and thrown away: what refuses a config
there is what would refuse it in the trial.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModule

from rllib_seqmarl import _ray_compat, registry
from rllib_seqmarl.envs.adapters.rllib import make_by_creator
from rllib_seqmarl.envs.adapters.snapshot import exact_key
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.names import Place, reason_of


class _Seen(NamedTuple):
    """What an environment says of itself when it is built."""

    observation: spaces.Dict
    action: spaces.Space[Any]
    reward_per_agent: bool


#: `exact_key` of environment and ``env_config`` -> what was seen of it in this process.
_seen: dict[bytes, _Seen] = {}
#: `exact_key` of environments and networks that fit each other.
_fitting: set[bytes] = set()


def check_trial(config: AlgorithmConfig, check_reward_per_agent: Callable[[], None]) -> None:
    """Refuses what the spaces of the environment would refuse in a trial.

    Environments that start a program of their own are not built. Where a cluster runs the trials,
    this machine need not have the simulator, and what cannot be built here is left to the trial.
    Ray's workers, whose driver has looked, do not look again.

    Args:
        config: of the trial; its settings are checked already.
        check_reward_per_agent: raises where the algorithm cannot use rewards of every agent.

    Raises:
        UserError: an environment that cannot be built, or networks that do not fit it.
    """
    if _ray_compat.is_worker():
        return
    _check_gpus(config)
    evaluation, played = config.get_evaluation_config_object(), None
    try:
        evaluation.validate()
        played = _look_at(evaluation) if config.evaluation_interval else None
    except UserError as error:
        if not config.evaluation_config:  # the same line would come without an evaluation
            raise
        raise UserError(f"evaluation_config: {str(error).removeprefix('config key ')}") from None
    seen = _look_at(config)
    if seen is None:
        return
    if seen.reward_per_agent:
        check_reward_per_agent()
    spec = _ray_compat.module_spec_of_user(config)
    if spec is None:
        if type(config).get_default_rl_module_spec is AlgorithmConfig.get_default_rl_module_spec:
            return  # settings alone, which no algorithm has
        spec = config.get_default_rl_module_spec()
    about: list[object] = [_about(config), spec.module_class, spec.model_config]
    if played:
        evaluated = evaluation.get_rl_module_spec(spaces=_spaces(played), inference_only=True)
        about += [_about(evaluation), evaluated.module_class, evaluated.model_config]
    fitting = exact_key(*about)
    if fitting in _fitting:
        return
    module = build_module(config, seen)
    if module is not None and played:
        evaluating = build_module(evaluation, played, inference_only=True)
        if evaluating is not None:
            _check_same(module, evaluating)
    if fitting is not None:
        _fitting.add(fitting)


def module_of(config: AlgorithmConfig) -> RLModule | None:
    """The network that a trial of ``config`` begins with; None where only a trial can build it.

    Raises:
        UserError: as of `check_trial`.
    """
    seen = _look_at(config)
    return None if seen is None else build_module(config, seen)


def _check_gpus(config: AlgorithmConfig) -> None:
    """Refuses what would wait for ever, or fail, on the one machine that there is."""
    learners = max(1, config.num_learners) * config.num_gpus_per_learner
    evaluation = config.evaluation_num_env_runners if config.evaluation_interval else 0
    runners = (config.num_env_runners + evaluation) * config.num_gpus_per_env_runner
    if not (needed := learners + runners):
        return
    there = _ray_compat.gpus_of_machine()
    if there is not None and needed > there:
        name = "num_gpus_per_learner" if learners else "num_gpus_per_env_runner"
        raise UserError(
            f"config key {name!r} is {getattr(config, name):g}, with which a trial needs "
            f"{needed:g} GPUs, and this machine has {there:g}: lower it (0: the CPU)."
        )


def _spaces(seen: _Seen) -> dict[str, tuple[spaces.Space[Any], spaces.Space[Any]]]:
    return {DEFAULT_MODULE_ID: (seen.observation, seen.action)}


def build_module(
    config: AlgorithmConfig, seen: _Seen, inference_only: bool = False
) -> RLModule | None:
    """A network with random weights; None where only a trial in a cluster may be able to build it.

    PyTorch's generator is not advanced.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            spec = config.get_rl_module_spec(spaces=_spaces(seen), inference_only=inference_only)
            module: RLModule = spec.build()
        except UserError:
            raise
        except Exception as error:  # networks from outside may fail in any way
            if not _ray_compat.is_one_machine():
                return None
            raise UserError(
                f"its network cannot be built for environment {config.env!r}: "
                f"{reason_of(error).rstrip('.')}."
            ) from error
    return module


def _look_at(config: AlgorithmConfig) -> _Seen | None:
    """The environment of a config; None where it is not to be built here."""
    key = exact_key(*_about(config))
    if key in _seen:
        return _seen[key]
    if not _may_build(config):
        return None
    try:
        env = make_by_creator(
            _ray_compat.registered_environment(config.env),
            *(config.env, config.env_config, 1, Place()),
        )
        seen = _Seen(env.single_observation_space, env.single_action_space, env.reward_per_agent)
    except (Exception, SystemExit) as error:  # one from outside may fail in any way
        if not _ray_compat.is_one_machine():
            return None
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"environment {config.env!r} with env_config {dict(config.env_config)!r} cannot be "
            f"built: {reason_of(error).rstrip('.')}."
        ) from error
    with contextlib.suppress(Exception, SystemExit):  # a runner says what its `close` raises
        env.close()
    if key is not None:
        _seen[key] = seen
    return seen


def _may_build(config: AlgorithmConfig) -> bool:
    if registry.is_of_user(config.env):
        return True
    settings = registry.environment(config.env).read(config.env_config)
    return not getattr(settings, "starts_program", False)


def _about(config: AlgorithmConfig) -> tuple[object, ...]:
    """What its environment depends on; a name may be registered again."""
    creator = _ray_compat.registered_environment(config.env)
    return config.env, dict(config.env_config), creator


def _check_same(trained: RLModule, evaluated: RLModule) -> None:
    """Makes sure that an evaluation can take the weights that are trained.

    Raises:
        UserError: its environment has other sizes.
    """
    try:
        evaluated.set_state(trained.get_state(inference_only=True))
    except (UserError, RuntimeError) as error:
        raise UserError(
            "evaluation_config: its environment has other sizes than that of training, which the "
            f"policy does not fit ({reason_of(error).rstrip('.')}): evaluate on the same team."
        ) from None
