"""What all algorithms of this package share in their configuration.

RLlib accepts unknown keys and wrong types silently, and some of its own settings have no meaning
for blocks of columns; here all of these are refused with one line before anything starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ray import tune
from ray._common.deprecation import DEPRECATED_VALUE
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils import force_list

from rllib_seqmarl import registry
from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.rollout.runner import TeamEnvRunner

#: Keys that Ray itself puts into a config dict, beside those that begin with "__".
_RAY_KEYS = {"class", "_enable_new_api_stack", "multiagent"}

#: Callbacks that would be called for every step or start of an episode, which a columnar
#: runner does not do.
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
        time_limit: what a truncated episode is taken for, one of `returns.TIME_LIMITS`.
        use_policy_active_mask: dead agents are left out of the policy loss and the entropy.
        use_value_active_mask: dead agents are left out of the value loss.
    """

    #: Own settings that may be None.
    _OPTIONAL: ClassVar[set[str]] = {"minibatch_size", "micro_batch_size", "grad_clip", "seed"}
    #: Own settings with a fixed set of values.
    _CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {}
    #: Settings that must be above zero, and that must lie between 0 and 1.
    _POSITIVE: ClassVar[set[str]] = {
        "rollout_fragment_length",
        "num_envs_per_env_runner",
        "num_epochs",
        "minibatch_size",
        "micro_batch_size",
        "num_threads_per_learner",
        "adam_epsilon",
    }
    _UNIT_INTERVAL: ClassVar[set[str]] = {"gamma"}
    #: Settings that count something.
    _WHOLE: ClassVar[set[str]] = {
        "rollout_fragment_length",
        "num_envs_per_env_runner",
        "num_env_runners",
        "num_learners",
        "num_epochs",
        "minibatch_size",
        "micro_batch_size",
        "num_threads_per_learner",
    }

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
        self.time_limit = "bootstrap"
        self.use_policy_active_mask = True
        self.use_value_active_mask = True
        # A slow simulator must not lose its rollout to RLlib's 60 seconds.
        self.sample_timeout_s = 600.0
        self.evaluation_sample_timeout_s = 1200.0

    # -- setting -----------------------------------------------------------------------------

    def training(self, **settings: Any) -> TeamConfig:
        """Sets RLlib's and this package's training settings by name.

        Raises:
            UserError: no such setting.
        """
        own = set(vars(type(self)())) - set(vars(AlgorithmConfig()))
        base = {}
        for name, value in settings.items():
            if name in own:
                setattr(self, name, value)
            else:
                self._check_known(name)
                base[name] = value
        super().training(**base)
        return self

    def update_from_dict(self, config_dict: Mapping[str, Any]) -> TeamConfig:
        """Sets what a dict names, as YAML files and Ray Tune do.

        Raises:
            UserError: an unknown key; the line names the nearest known one.
        """
        for name in config_dict:
            if name not in _RAY_KEYS and not name.startswith("__"):
                self._check_known(name)
        settings = {k: v for k, v in config_dict.items() if not k.startswith("__")}
        super().update_from_dict(settings)
        return self

    def _check_known(self, name: str) -> None:
        translated = self._translate_special_keys(name, warn_deprecated=False)
        known = {key for key in vars(self) if not key.startswith("_")}
        known |= {"model_config", "train_batch_size_per_learner"}
        if translated not in known and name not in vars(self):
            raise UserError(f"unknown config key {name!r}. {nearest(name, known)}")

    # -- validation --------------------------------------------------------------------------

    def validate(self) -> None:
        """Refuses what cannot work, and completes ``env_config`` with its defaults.

        Raises:
            UserError: one line on what is wrong and what to do.
        """
        self._check_types()
        self._check_values()
        self._check_batch()
        self._check_callbacks()
        if not self.env:
            raise UserError("no environment is set: give `env`, for example 'smac'.")
        if isinstance(self.env, str) and self.env in registry.ENVIRONMENTS:
            self.env_config = registry.environment(self.env).check(self.env_config)
        elif registry.is_import_path(self.env):
            # RLlib knows names and class paths; an own environment becomes a name here.
            tune.register_env(self.env, registry.environment_creator(self.env))
        super().validate()

    def _check_types(self) -> None:
        for name, default in vars(type(self)()).items():
            value = getattr(self, name)
            if name.startswith("_") or default == DEPRECATED_VALUE:
                continue
            if value is None and (default is None or name in self._OPTIONAL):
                continue
            if name in self._OPTIONAL and default is None:
                default = 1
            if name in ("lr", "entropy_coeff") and isinstance(value, list):
                continue  # a schedule
            if isinstance(default, bool):
                expected, fits = "true or false", isinstance(value, bool)
            elif name in self._WHOLE:
                expected = "a whole number"
                fits = isinstance(value, int) and not isinstance(value, bool)
            elif isinstance(default, int | float):
                expected = "a number"
                fits = isinstance(value, int | float) and not isinstance(value, bool)
            else:
                continue
            if not fits:
                raise UserError(f"config key {name!r} must be {expected}, got {value!r}.")

    def _check_values(self) -> None:
        for name, choices in self._CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise UserError(
                    f"config key {name!r} must be one of {', '.join(choices)}, got {value!r}."
                )
        for name in self._POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"config key {name!r} must be above 0, got {value!r}.")
        for name in self._UNIT_INTERVAL:
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UserError(f"config key {name!r} must lie between 0 and 1, got {value!r}.")

    def _check_batch(self) -> None:
        if self.batch_mode != "truncate_episodes" and not self.in_evaluation:
            raise UserError(
                "blocks of columns have a fixed length: set rollout_fragment_length "
                "and leave batch_mode at 'truncate_episodes'."
            )
        default = AlgorithmConfig()
        if self.train_batch_size != default.train_batch_size or self._train_batch_size_per_learner:
            raise UserError(
                "the batch is rollout_fragment_length x num_envs_per_env_runner x "
                "max(1, num_env_runners): set these and leave train_batch_size out."
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
