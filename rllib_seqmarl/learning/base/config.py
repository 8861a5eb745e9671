"""What all algorithms of this package share in their configuration.

RLlib accepts unknown keys and wrong types silently, and some of its own settings have no meaning
for blocks of columns; here all of these are refused with one line before anything starts.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from ray import tune
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils import force_list
from ray.rllib.utils.schedules.scheduler import Scheduler
from typing_extensions import Self

from rllib_seqmarl import _ray_compat, registry
from rllib_seqmarl._ray_compat import PRIVATE_SETTINGS
from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.learning.base.rllib_settings import (
    NETWORK,
    ONE_TEAM,
    RAY_KEYS,
    WITHOUT_MEANING,
)
from rllib_seqmarl.rollout.runner import TeamEnvRunner

#: RLlib's settings with a fixed set of values.
_RLLIB_CHOICES: dict[str, tuple[str, ...]] = {
    "grad_clip_by": ("value", "norm", "global_norm"),
    "evaluation_duration_unit": ("episodes", "timesteps"),
}

#: Settings that may be a schedule ``[[env_step, value], ...]``.
_SCHEDULES = ("lr", "critic_lr", "entropy_coeff", "clip_param", "epsilon")

#: Callbacks for every step or start of an episode, which a columnar runner does not make.
_UNSUPPORTED_CALLBACKS = ("on_episode_created", "on_episode_start", "on_episode_step")


class TeamConfig(AlgorithmConfig):
    """Settings of every algorithm of this package, on top of RLlib's.

    Attributes:
        rollout_fragment_length: steps T of every world per iteration.
        num_envs_per_env_runner: worlds E per runner. One iteration learns from T x E x
            max(1, num_env_runners) environment steps.
        minibatch_size: environment steps per gradient step and learner; None takes all.
        micro_batch_size: environment steps per forward and backward pass. Bounds memory and fits
            a processor's cache; the gradient is the same. None takes the minibatch at once.
        num_threads_per_learner: torch threads while learning; None leaves torch's setting.
        adam_epsilon: epsilon of Adam.
        sample_ahead: runners in other processes play the next rollout while the learner learns
            from the last one, so that its policy is one update older. Log-probs are of the policy
            that acted; what corrects for it is the ratio, of algorithms that have one.
        sample_timeout_s: seconds after which a runner in another process is taken to hang. It is
            named, ended and restarted, and the iteration learns from what the others sampled. An
            environment that hangs in the trial's own process (``num_env_runners: 0``) hangs the
            trial: nothing is left that could notice. None waits for ever.
        evaluation_sample_timeout_s: the same for runners that evaluate; the others play on in
            their place.
        time_limit: what a truncated episode is taken for, one of `returns.TIME_LIMITS`.
        use_policy_active_mask: dead agents are left out of the policy loss and the entropy.
        use_value_active_mask: dead agents are left out of the value loss. Their values then stay
            unlearned while agents that die still bootstrap from them: where dying costs the team
            reward for long, a policy may learn to seek it.
    """

    #: Whether actions may be continuous, beside discrete ones.
    continuous_actions: ClassVar[bool] = True
    #: Numbers that may be None.
    _OPTIONAL: ClassVar[set[str]] = {
        "minibatch_size",
        "micro_batch_size",
        "num_threads_per_learner",
        "grad_clip",
        "seed",
        "evaluation_interval",
        "sample_timeout_s",
        "evaluation_sample_timeout_s",
    }
    #: Own settings with a fixed set of values.
    _CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {}
    #: Numbers of things of which there must be some, or may be none.
    _COUNTS: ClassVar[set[str]] = {
        "rollout_fragment_length",
        "num_envs_per_env_runner",
        "num_epochs",
        "minibatch_size",
        "micro_batch_size",
        "num_threads_per_learner",
        "evaluation_interval",
        "evaluation_duration",
        "metrics_num_episodes_for_smoothing",
    }
    _FROM_ZERO: ClassVar[set[str]] = {
        "seed",
        "num_env_runners",
        "evaluation_num_env_runners",
        "num_learners",
    }
    #: Settings that must be whole, above zero, at least zero, and between 0 and 1.
    _WHOLE: ClassVar[set[str]] = _COUNTS | _FROM_ZERO
    _POSITIVE: ClassVar[set[str]] = _COUNTS | {
        "adam_epsilon",
        "grad_clip",
        "sample_timeout_s",
        "evaluation_sample_timeout_s",
    }
    _NOT_NEGATIVE: ClassVar[set[str]] = _FROM_ZERO | {"lr", "entropy_coeff", "vf_loss_coeff"}
    _UNIT_INTERVAL: ClassVar[set[str]] = {"gamma"}

    env: Any
    env_config: dict[str, Any]

    def __init__(self, algo_class: type[Any] | None = None) -> None:
        super().__init__(algo_class)
        self.env_runner_cls = TeamEnvRunner
        self.rollout_fragment_length = 100
        self.num_envs_per_env_runner = 32
        self.minibatch_size = None
        self.micro_batch_size: int | None = 400
        self.num_threads_per_learner: int | None = 1
        self.adam_epsilon = 1e-5
        self.sample_ahead = False
        self.time_limit = "bootstrap"
        self.use_policy_active_mask = True
        self.use_value_active_mask = False
        # A slow simulator must not lose its rollout to RLlib's 60 seconds.
        self.sample_timeout_s = 600.0
        self.evaluation_sample_timeout_s = 1200.0

    # -- setting -----------------------------------------------------------------------------

    def training(self, **settings: Any) -> TeamConfig:
        """Sets RLlib's and this package's training settings by name.

        Raises:
            UserError: no such setting, or one that belongs to another method.
        """
        own = set(vars(type(self)())) - set(vars(AlgorithmConfig()))
        rllibs = set(inspect.signature(AlgorithmConfig.training).parameters) - {"self"}
        base = {}
        for name, value in settings.items():
            if name in own:
                setattr(self, name, value)
            elif name in rllibs:
                base[name] = value
            else:
                self._check_known(name)
                raise UserError(f"{name!r} is not a training setting: give it to {_method(name)}.")
        super().training(**base)
        return self

    def environment(self, *args: Any, **settings: Any) -> TeamConfig:
        """RLlib's method; an ``env_config`` of None is an empty one.

        Raises:
            UserError: ``env_config`` is not a mapping.
        """
        if "env_config" in settings:
            settings["env_config"] = _mapping(settings["env_config"])
        super().environment(*args, **settings)
        return self

    def update_from_dict(self, config_dict: Mapping[str, Any]) -> TeamConfig:
        """Sets what a dict names, as YAML files and Ray Tune do.

        Raises:
            UserError: an unknown key; the line names the nearest known one.
        """
        settings = {}
        for name, value in config_dict.items():
            if name.startswith("__"):
                continue
            if name not in RAY_KEYS:
                self._check_known(name)
            settings[PRIVATE_SETTINGS.get(name, name)] = value
        super().update_from_dict(settings)
        return self

    def _check_known(self, name: str) -> None:
        translated = self._translate_special_keys(name, warn_deprecated=False)
        known = {key for key in vars(self) if not key.startswith("_")}
        known |= {*PRIVATE_SETTINGS, "train_batch_size_per_learner"}
        if translated not in known and name not in vars(self):
            raise UserError(f"unknown config key {name!r}. {nearest(name, known)}")

    # -- validation --------------------------------------------------------------------------

    def validate(self) -> None:
        """Refuses what cannot work, and completes ``env_config`` with its defaults.

        Raises:
            UserError: one line on what is wrong and what to do.
        """
        self._check_meaning()
        self._check_types()
        self._check_schedules()
        self._check_values()
        self._check_batch()
        self._check_callbacks()
        self._check_environment()
        super().validate()

    def _check_meaning(self) -> None:
        defaults = vars(AlgorithmConfig())
        for name, advice in WITHOUT_MEANING.items():
            value, default = getattr(self, name), defaults[name]
            # An empty key of a YAML file is None.
            if value != default and not (value is None and not default):
                public = name.strip("_").removesuffix("_str")
                raise UserError(f"config key {public!r} has no meaning here: {advice}.")
        # RLlib fills in the spaces of its one default policy itself.
        if set(self.policies) != set(defaults["policies"]):
            raise UserError(f"config key 'policies' has no meaning here: {ONE_TEAM}.")
        spec = _ray_compat.module_spec_of_user(self)
        if spec is not None and (
            not isinstance(spec, RLModuleSpec) or spec.model_config is not None
        ):
            raise UserError(
                "config key 'rl_module_spec' must be an RLModuleSpec without model_config: "
                f"{NETWORK}."
            )

    def _check_types(self) -> None:
        for name, default in vars(type(self)()).items():
            value = getattr(self, name)
            if (
                name.startswith("_")
                or name in WITHOUT_MEANING
                or _ray_compat.is_deprecated(default)
            ):
                continue
            if value is None and (default is None or name in self._OPTIONAL):
                continue
            if name in _SCHEDULES and isinstance(value, list | tuple):
                continue
            if name == "evaluation_duration" and value == "auto":
                continue
            if name in self._OPTIONAL and default is None:
                default = 1
            if isinstance(default, bool):
                expected, fits = "true or false", isinstance(value, bool)
            elif name in self._WHOLE:
                expected = "a whole number"
                fits = isinstance(value, int) and not isinstance(value, bool)
            elif isinstance(default, int | float):
                expected, fits = "a number", _is_number(value)
            else:
                fits = not isinstance(value, float) or math.isfinite(value)
                expected = "a finite number"
            if not fits:
                raise UserError(f"config key {name!r} must be {expected}, got {value!r}.")

    def _check_schedules(self) -> None:
        for name in _SCHEDULES:
            value = getattr(self, name, None)
            if not isinstance(value, list | tuple):
                continue
            try:
                Scheduler.validate(
                    fixed_value_or_schedule=value, setting_name=name, description=name
                )
                steps = [step for step, _ in value]
                numbers = [number for pair in value for number in pair]
                fits = all(_is_number(n) and n >= 0 for n in numbers) and steps == sorted(steps)
            except (ValueError, TypeError, LookupError):
                fits = False
            if not fits:
                raise UserError(
                    f"config key {name!r} is not a schedule: {value!r}. Write two or more pairs "
                    "[[0, value], [env_step, value], ...] with rising steps and no negative values."
                )

    def _check_values(self) -> None:
        for name, choices in {**_RLLIB_CHOICES, **self._CHOICES}.items():
            value = getattr(self, name)
            if value not in choices:
                raise UserError(
                    f"config key {name!r} must be one of {', '.join(choices)}, got {value!r}."
                )
        for names, words, fits in (
            (self._POSITIVE, "be above 0", lambda value: value > 0),
            (self._NOT_NEGATIVE, "not be negative", lambda value: value >= 0),
            (self._UNIT_INTERVAL, "lie between 0 and 1", lambda value: 0 <= value <= 1),
        ):
            for name in sorted(names):
                value = getattr(self, name, None)
                if _is_number(value) and not fits(value):
                    raise UserError(f"config key {name!r} must {words}, got {value!r}.")

    def _check_environment(self) -> None:
        if not self.env:
            raise UserError("no environment is set: give `env`, for example 'smac'.")
        self.env_config = _mapping(self.env_config)
        if not isinstance(self.env, str):
            return
        if not registry.is_import_path(self.env):
            own = self.env not in registry.ENVIRONMENTS
            if own and _ray_compat.is_registered_environment(self.env):
                return  # the user's own, by tune.register_env
            self.env = registry.environment_name(self.env)
            self.env_config = registry.environment(self.env).check(self.env_config)
        # Processes that load a checkpoint may never have imported this package's names, and
        # an import path becomes a name that RLlib knows.
        tune.register_env(self.env, registry.environment_creator(self.env))

    def _check_batch(self) -> None:
        if self.batch_mode != "truncate_episodes" and not self.in_evaluation:
            raise UserError(
                "blocks of columns have a fixed length: set rollout_fragment_length "
                "and leave batch_mode at 'truncate_episodes'."
            )
        default = AlgorithmConfig()
        if self.train_batch_size != default.train_batch_size or _ray_compat.batch_size_of_user(
            self
        ):
            raise UserError(
                "the batch is rollout_fragment_length x num_envs_per_env_runner x "
                "max(1, num_env_runners): set these and leave train_batch_size out."
            )
        if self.sample_ahead and not self.num_env_runners and not self.in_evaluation:
            raise UserError(
                "sample_ahead needs runners in other processes: set num_env_runners to 1 or more."
            )

    def _check_callbacks(self) -> None:
        for name in _UNSUPPORTED_CALLBACKS:
            if self._has_callback(name):
                raise UserError(
                    f"callback {name!r} is not called by the columnar runner; use "
                    "on_sample_end (whole blocks of columns) or on_episode_end."
                )

    def _has_callback(self, name: str) -> bool:
        overridden = any(
            getattr(cls, name) is not getattr(RLlibCallback, name)
            for cls in force_list(self.callbacks_class)
        )
        return overridden or bool(getattr(self, f"callbacks_{name}"))

    def has_episode_end_callback(self) -> bool:
        """Whether anybody listens to the end of an episode."""
        return self._has_callback("on_episode_end")

    def get_evaluation_config_object(self) -> TeamConfig | None:
        """RLlib's evaluation config, greedy unless ``evaluation_config`` says ``explore``."""
        config = super().get_evaluation_config_object()
        overrides = self.evaluation_config or {}
        if config is not None and "explore" not in overrides:
            config.explore = False
        return config

    @property
    def simulator(self) -> str:
        """What computes the worlds: the environment's simulator, or its name where it has none."""
        return str(self.env_config.get("simulator", self.env))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _method(name: str) -> str:
    """RLlib's builder method that takes the setting ``name``."""
    for method, function in vars(AlgorithmConfig).items():
        if inspect.isfunction(function) and not method.startswith("_"):
            signature = inspect.signature(function)
            if name in signature.parameters and signature.return_annotation is Self:
                return f"{method}()"
    return "update_from_dict()"


def _mapping(env_config: Any) -> dict[str, Any]:
    if env_config is not None and not isinstance(env_config, Mapping):
        raise UserError(f"config key 'env_config' must be a mapping, got {env_config!r}.")
    return dict(env_config or {})
