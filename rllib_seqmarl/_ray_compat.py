"""Every private part of Ray that this package uses, each with the reason.

None of these has a public counterpart in Ray 2.60. Where a new version of Ray renames one, this
file is the only one to change. Ray is imported inside the functions, so that importing this module
does not import Ray.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

if TYPE_CHECKING:
    from ray.job_config import JobConfig
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec
    from ray.rllib.env.env_runner_group import EnvRunnerGroup
    from ray.train._internal.session import _TrainingResult
    from ray.train._internal.storage import StorageContext
    from ray.tune import Checkpoint, Trainable

    from rllib_seqmarl.envs.core.contract import TeamVectorEnv

#: What Ray's base classes offer to their subclasses under a private name, and ours use or override:
#: import path of the class -> names.
INHERITED: dict[str, tuple[str, ...]] = {
    # The seed of one runner among all; steps and resets that restart an environment that failed;
    # RLlib's count of steps for Prometheus.
    "ray.rllib.env.env_runner:EnvRunner": (
        "_seed",
        "_try_env_reset",
        "_try_env_step",
        "_log_env_steps",
        "_metrics_num_env_steps_sampled",
    ),
    # Parameters and optimisers by RLlib's references, which `apply_gradients` expects.
    "ray.rllib.core.learner.learner:Learner": (
        "_weights_seq_no",
        "_params",
        "_optimizer_parameters",
        "_optimizer_lr_schedules",
        "_set_optimizer_lr",
    ),
    # Whether `get_state` is asked for a component.
    "ray.rllib.utils.checkpoints:Checkpointable": ("_check_component",),
    # Overridden: RLlib's own waits for runners that hang.
    "ray.rllib.algorithms.algorithm:Algorithm": ("_evaluate_with_fixed_duration",),
    # The private names of settings, and the new names of renamed ones.
    "ray.rllib.algorithms.algorithm_config:AlgorithmConfig": ("_translate_special_keys",),
    # Fetches the file of a trial that goes on on another machine.
    "ray.tune.logger.logger:LoggerCallback": ("_restore_from_remote",),
}

#: Settings that RLlib's configs keep under a private name, with a read-only property of this one.
PRIVATE_SETTINGS = {
    "learner_class": "_learner_class",
    "model_config": "_model_config",
    "rl_module_spec": "_rl_module_spec",
}


def call_after_init(function: Callable[[], None]) -> None:
    """Calls ``function`` after every later ``ray.init``.

    Ray forgets the names of algorithms and environments at ``ray.shutdown``.
    """
    from ray._private import worker

    worker._post_init_hooks.append(function)


class _Finder(MetaPathFinder):
    """Calls a function when a module has been imported."""

    def __init__(self, module: str, callback: Callable[[], None]) -> None:
        self.module = module
        self.callback = callback

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def then_call_back(module: ModuleType) -> None:
            execute(module)
            self.callback()

        spec.loader.exec_module = then_call_back  # type: ignore[method-assign]
        return spec


def when_tune_is_imported(callback: Callable[[], None]) -> None:
    """Calls ``callback`` now if Ray Tune is in use, and otherwise when somebody imports it.

    Names of algorithms and environments are needed where `ray.tune` is used. Importing it here
    would make everybody wait for it who asks for a network or for ``rllib --help``.
    """
    _when_imported("ray.tune.registry", callback)


def _when_imported(module: str, callback: Callable[[], None]) -> None:
    """Calls ``callback`` now, or when the module is imported; only the first one waits for it."""
    waiting = [finder.module for finder in sys.meta_path if isinstance(finder, _Finder)]
    if module in sys.modules:
        callback()
    elif module not in waiting:
        sys.meta_path.insert(0, _Finder(module, callback))


def import_rllib() -> None:
    """Imports RLlib, without JAX where nobody has imported that.

    RLlib looks for JAX and Flax in order to compare their arrays in its tests, which takes a
    second; Flax, which it imports first, is hidden from it.
    """
    hidden = not {"flax", "ray.rllib"} & sys.modules.keys()
    if hidden:
        sys.modules["flax"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("ray.rllib")
    finally:
        if hidden:
            del sys.modules["flax"]
    _seed_without_compiler()


def _seed_without_compiler() -> None:
    """Lets RLlib's seeding make torch deterministic without importing torch's compiler.

    ``torch.use_deterministic_algorithms`` imports it, which takes two seconds, in order to set an
    option of it; the option is set when somebody else imports the compiler.
    """
    from ray.rllib.utils.debug import deterministic

    original = deterministic.set_torch_seed
    if original.__module__ == __name__:
        return

    def set_torch_seed(seed: int | None = None) -> None:
        import torch

        with mock.patch.object(torch, "use_deterministic_algorithms", _use_deterministic):
            original(seed)

    deterministic.set_torch_seed = set_torch_seed


def _use_deterministic(mode: bool) -> None:
    import torch

    def tell_compiler() -> None:
        config: Any = sys.modules["torch._inductor.config"]
        config.deterministic = torch.are_deterministic_algorithms_enabled()

    torch.set_deterministic_debug_mode("error" if mode else "default")
    _when_imported("torch._inductor.config", tell_compiler)


def job_config(module_folders: Sequence[str]) -> JobConfig:
    """What tells Ray's processes to look for modules in these folders, too.

    Ray does so with the folder of a script; the command ``rllib`` stands in another one.
    """
    from ray.job_config import JobConfig

    return JobConfig(_py_driver_sys_path=list(module_folders))


def start_local(
    *,
    num_cpus: int | None,
    log_to_driver: bool,
    logging_level: int,
    address: str | None,
    module_folders: Sequence[str] = (),
) -> None:
    """``ray.init`` of a Ray of this machine, with the processes that a training needs.

    Whatever ``include_dashboard`` says, Ray also starts a server for the dashboard, which waits,
    the autoscaler's monitor, and one that reads log files; each imports Ray, and ``ray.init`` waits
    for the first. The agent of the node, which Ray cannot do without, is started as where the
    packages of the dashboard are not installed. Workers are not started ahead: Ray Tune gives those
    of its trials an environment of their own, so that they are new ones.
    """
    import ray
    from ray._private import services, utils
    from ray._private.node import Node

    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    not_wanted = ImportError("the dashboard is not wanted")
    patch = mock.patch.object
    with ExitStack() as without:
        without.enter_context(patch(services, "start_api_server", return_value=("", None)))
        without.enter_context(
            patch(utils, "get_dashboard_dependency_error", return_value=not_wanted)
        )
        without.enter_context(patch(Node, "start_monitor"))
        if not log_to_driver:
            without.enter_context(patch(Node, "start_log_monitor"))
        ray.init(
            address=address,
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=log_to_driver,
            logging_level=logging_level,
            job_config=job_config(module_folders),
        )


#: Lines that RLlib logs whatever a user of this package does, by logger: how to go back to its old
#: API stack, which no algorithm here has, and that RLlib's own module builds a deprecated object.
_POINTLESS = {
    "ray.rllib.algorithms.algorithm_config": " on the new API stack! This is the new default",
    "ray._common.deprecation": "`RLModule(config=[RLModuleConfig object])` has been deprecated",
}


def leave_out_pointless_lines() -> None:
    """Keeps `_POINTLESS` out of the log; warnings about what a user does stay."""
    for name, text in _POINTLESS.items():
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Without) for each in logger.filters):
            logger.addFilter(_Without(text))


class _Without(logging.Filter):
    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def filter(self, record: logging.LogRecord) -> bool:
        return self._text not in record.getMessage()


_names: dict[tuple[str, str], object] = {}


def register_names(algorithms: Mapping[str, object], environments: Mapping[str, object]) -> None:
    """Puts names into Ray Tune's registry, now and after every later ``ray.init``.

    ``register_trainable`` takes an imported class only; what stands in the registry is pickled, so
    that a class can be imported when it is read. Worker processes find the names where the driver
    put them.
    """
    from ray._private import worker
    from ray.tune.registry import ENV_CREATOR, TRAINABLE_CLASS

    if not _names:
        call_after_init(_put_names)
    for category, targets in ((TRAINABLE_CLASS, algorithms), (ENV_CREATOR, environments)):
        _names.update({(category, name): target for name, target in targets.items()})
    if worker.global_worker.mode != worker.WORKER_MODE:
        _put_names()


def _put_names() -> None:
    from ray.tune.registry import _global_registry

    for (category, name), target in _names.items():
        _global_registry.register(category, name, target)


def is_registered_environment(name: str) -> bool:
    """Whether there is an environment of that name: ``tune.register_env`` has no reading side.

    Imports Ray Tune only where somebody has done so, as who registers a name has.
    """
    if "ray.tune.registry" not in sys.modules:
        return False
    from ray.tune.registry import ENV_CREATOR, _global_registry

    return bool(_global_registry.contains(ENV_CREATOR, name))


def register_environment_once(name: str, creator: Callable[..., object]) -> object:
    """Registers a creator unless there is one of that name; returns that one, or None.

    ``tune.register_env`` puts another one in its place, in all processes of the cluster.
    """
    from ray import cloudpickle
    from ray.experimental.internal_kv import _internal_kv_initialized, _internal_kv_put
    from ray.tune.registry import ENV_CREATOR, _global_registry, _make_key

    if _internal_kv_initialized():
        key = _make_key(_global_registry.prefix, ENV_CREATOR, name)
        there = _internal_kv_put(key, cloudpickle.dumps(creator), overwrite=False)
    else:
        there = _global_registry.contains(ENV_CREATOR, name)
        if not there:
            _global_registry.register(ENV_CREATOR, name, creator)
    return _global_registry.get(ENV_CREATOR, name) if there else None


def registered_environment(name: str) -> Callable[[Mapping[str, Any]], TeamVectorEnv]:
    """The creator that ``tune.register_env`` was given under this name."""
    from ray.tune.registry import ENV_CREATOR, _global_registry

    creator = _global_registry.get(ENV_CREATOR, name)
    return cast("Callable[[Mapping[str, Any]], TeamVectorEnv]", creator)


def is_deprecated(default: object) -> bool:
    """Whether a setting with this default only stands for one that is no longer there."""
    from ray._common.deprecation import DEPRECATED_VALUE

    return bool(default == DEPRECATED_VALUE)


def is_worker() -> bool:
    """Whether this process is one that Ray started for a trial, a runner or a learner."""
    from ray._private import worker

    return bool(worker.global_worker.mode == worker.WORKER_MODE)


_cluster_is_named: bool | None = None


def expect_cluster(named: bool) -> None:
    """Says beforehand whether this process is going to connect to a running cluster."""
    global _cluster_is_named
    _cluster_is_named = named


def is_one_machine() -> bool:
    """Whether trials of this process can run on this machine only.

    They can run elsewhere in a cluster that somebody else has started, whether this process is
    connected to it already or Ray would find it, and then that may have what this machine lacks.
    """
    import ray
    from ray._private import utils, worker

    if ray.is_initialized():
        node = worker._global_node
        return not is_worker() and node is not None and bool(node.head)
    if _cluster_is_named is not None:
        return not _cluster_is_named
    address = os.environ.get("RAY_ADDRESS") or utils.read_ray_address()
    return address in (None, "local")


def gpus_of_machine() -> float | None:
    """The GPUs that trials of this process can have; None where they can run elsewhere."""
    if not is_one_machine():
        return None
    import ray

    if ray.is_initialized():
        return float(ray.cluster_resources().get("GPU", 0))
    import torch

    return float(torch.cuda.device_count())


def module_spec_of_user(config: AlgorithmConfig) -> RLModuleSpec | None:
    """The ``rl_module_spec`` that was set; the public property completes it with defaults."""
    return config._rl_module_spec


def batch_size_of_user(config: AlgorithmConfig) -> int | None:
    """The ``train_batch_size_per_learner`` that was set; the public property derives one."""
    return cast("int | None", config._train_batch_size_per_learner)


def restart_runner(group: EnvRunnerGroup, runner: int) -> None:
    """Ends the process of a runner that hangs; Ray starts it again where the config wants that.

    RLlib takes a runner that does not answer for a healthy one, and offers no way to end it.
    """
    import ray

    manager = group._worker_manager
    ray.kill(manager.actors()[runner], no_restart=False)
    manager.set_actor_state(runner, healthy=False)


def storage_of_trial(trainable: Trainable) -> StorageContext | None:
    """Where the checkpoints of a trial go; None without Ray Tune."""
    return trainable._storage


def checkpoint_result(checkpoint: Checkpoint, metrics: Mapping[str, Any]) -> _TrainingResult:
    """A checkpoint with the result after which it was written, for Ray Tune's list of them.

    A checkpoint that Ray Tune had not noted before it was killed is found on disk, and entered.
    """
    from ray.train._internal.session import _TrainingResult

    return _TrainingResult(checkpoint, dict(metrics))
