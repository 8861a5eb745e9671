"""What all algorithms of this package share in their configuration.

RLlib accepts unknown keys and wrong types silently, and some of its own settings have no meaning
for blocks of columns; here all of these are refused with one line before anything starts.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, cast

from ray import tune
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils import force_list
from torch import Tensor
from typing_extensions import Self

from rllib_seqmarl import _ray_compat, registry
from rllib_seqmarl._ray_compat import PRIVATE_SETTINGS
from rllib_seqmarl.envs.adapters.rllib import try_creator
from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.layout import REMEDIES, Layout
from rllib_seqmarl.learning.base.explanation import Explanation
from rllib_seqmarl.learning.base.rllib_settings import (
    NETWORK,
    ONE_TEAM,
    RAY_KEYS,
    WITHOUT_MEANING,
    RLlibSettings,
    undeclared,
)
from rllib_seqmarl.learning.base.trial_check import check_trial
from rllib_seqmarl.matmul import Choice as MatmulChoice
from rllib_seqmarl.rollout.runner import TeamEnvRunner
from rllib_seqmarl.settings import (
    MOST_WHOLE,
    Choice,
    Doc,
    Ge,
    Gt,
    Le,
    OldName,
    Schedulable,
    Setting,
    as_dict,
    settings,
    settings_of,
    tell_once,
    training_method,
    translate,
)

_ray_compat.leave_out_pointless_lines()

#: Callbacks for every step or start of an episode, which a columnar runner does not make.
_UNSUPPORTED_CALLBACKS = ("on_episode_created", "on_episode_start", "on_episode_step")

#: Settings that version 0.1 had in every algorithm of MAT's family -> whose they are.
_MOVED = {
    "successors": "SrSv",
    "value_chunk_size": "SrSv",
    "value_agents": "SrSv",
    "ranking_coeff": "PMAT",
    "ranking_layers": "PMAT",
    "share_hidden": "PMAT",
    "next_agent_head": "AOAD-MAT",
    "first_agent": "AOAD-MAT",
    "next_agent_loss": "AOAD-MAT",
    "next_agent_advantage": "AOAD-MAT",
    "alpha1": "AOAD-MAT",
    "alpha2": "AOAD-MAT",
    "order_entropy_coeff": "PMAT or AOAD-MAT",
}


@settings
class TeamSettings:
    """Settings of ``training()`` that every algorithm has."""

    observation_encoder: Annotated[
        str | None,
        Choice("observation encoder"),
        Doc("""what reads observations in front of the networks: ``cnn`` for images, ``mlp`` for
        anything, or a torch module of your own; null: the networks read vectors themselves."""),
    ] = None
    lr: Annotated[Schedulable, Ge(0), Doc("step size.")] = 1e-3
    gamma: Annotated[float, Ge(0), Le(1), Doc("discount.")] = 0.99
    num_epochs: Annotated[int, Gt(0), OldName("num_sgd_iter"), Doc("passes over each rollout.")] = 1
    minibatch_size: Annotated[
        int | None,
        Gt(0),
        OldName("sgd_minibatch_size"),
        Doc("environment steps per gradient step and learner; null: all."),
    ] = None
    micro_batch_size: Annotated[
        int | None,
        Gt(0),
        Doc("""environment steps per forward and backward pass. Bounds memory and fits a processor's
        cache; the gradient is the same. null: the minibatch at once."""),
    ] = 400
    grad_clip: Annotated[float | None, Gt(0), Doc("bound of the gradient; null: none.")] = None
    grad_clip_by: Annotated[
        Literal["value", "norm", "global_norm"], Doc("what grad_clip bounds.")
    ] = "global_norm"
    adam_epsilon: Annotated[float, Gt(0), Doc("epsilon of Adam.")] = 1e-5
    num_threads_per_learner: Annotated[
        int | None,
        Gt(0),
        Le(4_096),
        Doc("torch threads while training; null: torch's own setting."),
    ] = 1
    matmul: Annotated[
        MatmulChoice,
        Doc("""what multiplies matrices on the CPU, in float32: torch's BLAS, oneDNN, or (auto)
        oneDNN on processors where it is exact and MKL makes no use of AVX-512."""),
    ] = "auto"
    time_limit: Annotated[
        Literal["bootstrap", "terminate", "drop"],
        Doc("""what a truncated episode is taken for: its value is bootstrapped from its last
        observation, it is taken for terminated, or its last step is dropped."""),
    ] = "bootstrap"
    use_policy_active_mask: Annotated[
        bool, Doc("dead agents are left out of the policy loss and the entropy.")
    ] = True
    use_value_active_mask: Annotated[
        bool,
        Doc("""dead agents are left out of the value loss. Their values then stay untrained while
        agents that die still bootstrap from them: where dying costs the team reward for long, a
        policy may learn to seek it."""),
    ] = False
    async_sampling: Annotated[
        bool,
        OldName("sample_ahead"),
        Doc("""runners in other processes play the next rollout while the learner trains on the last
        one, so that its policy is one update older. Log-probs are of the policy that acted; what
        corrects for it is the ratio, of algorithms that have one."""),
    ] = False
    evaluation_max_episode_steps: Annotated[
        int | None,
        Gt(0),
        Doc("""after so many steps an evaluation cuts an episode short, as truncated, and says so;
        null: the environment's own limit or, where it has none, 10,000."""),
    ] = None
    learner_class: Annotated[
        type[Learner] | None, Doc("a Learner class of your own; null: the algorithm's.")
    ] = None


class TeamConfig(AlgorithmConfig, TeamSettings):
    """The config of every algorithm of this package, on top of RLlib's.

    A subclass also derives from its class of settings, whose defaults its instances get, and takes
    the keywords of ``training`` from there.
    """

    #: Whether actions may be continuous, beside discrete ones.
    continuous_actions: ClassVar[bool] = True

    env: Any
    env_config: dict[str, Any]

    def __init__(self, algo_class: type | None = None) -> None:
        AlgorithmConfig.__init__(self, algo_class)
        self.env_runner_cls = TeamEnvRunner
        self.__dict__.update(_defaults(type(self)))

    @training_method(TeamSettings)
    def training(self) -> None:
        """See `TeamSettings`."""

    # -- setting -----------------------------------------------------------------------------

    def set_training(self, values: Mapping[str, Any]) -> Self:
        """Sets RLlib's and this package's training settings by name; see `training`.

        Raises:
            UserError: no such setting, or one that belongs to another method.
        """
        own = set(settings_of(type(self))) - set(PRIVATE_SETTINGS)
        rllibs = set(inspect.signature(AlgorithmConfig.training).parameters) - {"self"}
        base = {}
        for name, value in _todays_names(self, values).items():
            if name in own:
                setattr(self, name, value)
            elif name in rllibs:
                base[name] = value
            else:
                self._check_known(name)
                raise UserError(f"{name!r} is not a training setting: give it to {_method(name)}.")
        AlgorithmConfig.training(self, **base)
        return self

    def environment(self, *args: Any, **settings: Any) -> Self:
        """RLlib's method; an ``env_config`` of None is an empty one.

        Raises:
            UserError: ``env_config`` is not a mapping.
        """
        if "env_config" in settings:
            settings["env_config"] = _mapping(settings["env_config"])
        super().environment(*args, **settings)
        return self

    def evaluation(self, **settings: object) -> Self:
        """RLlib's method, which `update_from_dict` calls; the bound of episodes is ours."""
        bound = "evaluation_max_episode_steps"
        if bound in settings:
            setattr(self, bound, settings.pop(bound))
        super().evaluation(**cast("dict[str, Any]", settings))
        return self

    def update_from_dict(self, config_dict: Mapping[str, Any]) -> Self:
        """Sets what a dict names, as YAML files and Ray Tune do.

        Raises:
            UserError: an unknown key; the line names the nearest known one.
        """
        if not isinstance(config_dict, Mapping):
            raise UserError(f"a config must be a mapping of settings, got {config_dict!r}.")
        for name in config_dict:
            if not isinstance(name, str):
                raise UserError(f"the config key {name!r} must be text.")
        values = {}
        for name, value in _todays_names(self, config_dict).items():
            if name.startswith("__"):
                continue
            if name not in RAY_KEYS:
                self._check_known(name)
            values[PRIVATE_SETTINGS.get(name, name)] = value
        super().update_from_dict(values)
        return self

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """RLlib's method; takes states of version 0.1 as well."""
        return super().from_state(_todays_state(state.get("class", cls), state))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes pickles of version 0.1 as well."""
        self.__dict__.update(_defaults(type(self)))
        self.__dict__.update(_todays_state(type(self), state))

    def _check_known(self, name: str) -> None:
        if name in _MOVED and name not in vars(self):
            raise UserError(f"config key {name!r} belongs to {_MOVED[name]}: run that.")
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
        self.check()
        super().validate()
        if not self.in_evaluation:
            check_trial(self, self.check_reward_per_agent)

    def check(self) -> None:
        """Refuses settings that cannot work; a subclass adds what its own settings demand.

        Raises:
            UserError: one line on what is wrong and what to do.
        """
        self._check_meaning()
        self._check_settings()
        self._check_batch()
        self._check_devices()
        self._check_callbacks()
        self._check_environment()

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

    def _check_settings(self) -> None:
        for name in _default_config(self):
            if not name.startswith("_"):
                value = getattr(self, name)
                checked = check_setting(self, name, value, "config key")
                if checked is not value:
                    setattr(self, name, checked)

    def _check_environment(self) -> None:
        if not self.env:
            raise UserError("no environment is set: give `env`, for example 'smac'.")
        self.env_config = _mapping(self.env_config)
        if isinstance(self.env, type):
            self.env = registry.register_class(self.env)
        elif not isinstance(self.env, str):
            raise registry.not_a_team(f"`env` is {self.env!r}")
        if registry.is_of_user(self.env):
            creator = _ray_compat.registered_environment(self.env)
            self._check_layout(try_creator(creator, self.env, self.env_config))
            return
        entry = registry.environment(self.env)
        config = entry.read(self.env_config)
        self._check_layout(entry.observation_layout(self.env_config))
        self._check_evaluation_config(entry)
        self.env = entry.name
        self.env_config = config if isinstance(config, dict) else as_dict(config)
        if getattr(config, "reward_per_agent", False) and not self.in_evaluation:
            self.check_reward_per_agent()
        # Processes that load a checkpoint may never have imported this package's names, and
        # an import path becomes a name that RLlib knows.
        tune.register_env(self.env, registry.environment_creator(self.env))

    def _check_layout(self, layout: Layout | None) -> None:
        if layout is not None and self.observation_encoder is None:
            layout.require_flat(f"{self.env}: the observation", REMEDIES)

    def _check_evaluation_config(self, environment: registry.Environment) -> None:
        given = self.evaluation_config
        if given is None or self.in_evaluation:
            return
        for name, value in _todays_names(self, given).items():
            self._check_known(name)
            check_setting(self, name, value, "config key 'evaluation_config':")
        if given.get("env_config") and "env" not in given:
            try:
                environment.read({**self.env_config, **given["env_config"]})
            except UserError as error:
                raise UserError(f"evaluation_config: {error}") from None

    def check_reward_per_agent(self) -> None:
        """Called where the environment pays every agent; an algorithm that can use it overrides it.

        Raises:
            UserError: the algorithm learns from one reward for the team.
        """
        class_name = getattr(self.algo_class, "__name__", "this algorithm")
        raise UserError(
            f"{registry.name_of_class(class_name) or class_name} learns from one reward for the "
            "team, and this environment pays every agent: leave env_config 'reward' at 'team' (or "
            "'mean'), or run MAT or MAPPO."
        )

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
        if self.steps_to_train_on() > MOST_WHOLE:
            raise UserError(
                f"an iteration of {self.steps_to_train_on():,} environment steps "
                "(rollout_fragment_length x num_envs_per_env_runner x max(1, num_env_runners)) "
                "fits no memory: lower them."
            )
        if not self.in_evaluation and (self.minibatch_size or 0) > self.steps_to_train_on():
            raise UserError(
                f"minibatch_size is {self.minibatch_size}, and an iteration trains on "
                f"{self.steps_to_train_on()} environment steps (rollout_fragment_length x "
                "num_envs_per_env_runner x max(1, num_env_runners)): lower it, or null for all."
            )
        if self.async_sampling and not self.num_env_runners and not self.in_evaluation:
            raise UserError(
                "async_sampling needs runners in other processes: set num_env_runners to 1 or more."
            )

    def steps_to_train_on(self) -> int:
        """Environment steps in the largest batch of an iteration."""
        runners = max(1, self.num_env_runners)
        steps: int = self.rollout_fragment_length * self.num_envs_per_env_runner * runners
        return steps

    def _check_devices(self) -> None:
        learners_gpu = self.num_gpus_per_learner and not self.num_learners
        own_runner = not self.num_env_runners and not self.in_evaluation
        if own_runner and self.num_gpus_per_env_runner and not learners_gpu:
            raise UserError(
                "the trial's own process has the GPU of its learner only: for a runner there that "
                "acts on it set num_gpus_per_learner to 1 (and num_learners to 0), or leave "
                "num_gpus_per_env_runner at 0."
            )

    def _check_callbacks(self) -> None:
        code = [
            ("env_runner_cls", self.env_runner_cls, EnvRunner),
            ("learner_class", getattr(self, PRIVATE_SETTINGS["learner_class"]), Learner),
            *(("callbacks_class", cls, RLlibCallback) for cls in force_list(self.callbacks_class)),
        ]
        for name, cls, base in code:
            if cls is None or (isinstance(cls, type) and issubclass(cls, base)):
                continue
            if base is RLlibCallback and callable(cls) and not isinstance(cls, type):
                continue  # what makes callbacks
            raise UserError(
                f"config key {name!r} must be a class derived from {base.__name__}, got {cls!r}."
            )
        for name, value in vars(self).items():
            called = name.startswith("callbacks_on_") or name == "custom_evaluation_function"
            if called and not all(callable(one) for one in force_list(value)):
                name = name.removeprefix("callbacks_")
                raise UserError(f"config key {name!r} must be a function, got {value!r}.")
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

    def get_evaluation_config_object(self) -> Self | None:
        """RLlib's evaluation config, greedy unless ``evaluation_config`` says ``explore``."""
        config = super().get_evaluation_config_object()
        overrides = self.evaluation_config or {}
        if config is not None and "explore" not in overrides:
            config.explore = False
        return config

    def explain(self, module: RLModule, columns: dict[str, Tensor]) -> Explanation:
        """What the policy, and the algorithm's loss, say of an episode; see `TeamModule.explain`.

        An algorithm whose loss gives agents a credit adds it here.
        """
        explanation: Explanation = module.explain(columns)
        return explanation

    @property
    def simulator(self) -> str:
        """What computes the environments: their simulator, or its name where it has none."""
        return str(self.env_config.get("simulator", self.env))


def todays_names(
    config: AlgorithmConfig, values: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], list[str]]:
    """``values`` with today's names in place of old ones, and a line for each of these.

    Raises:
        UserError: both an old name and today's are given.
    """
    values, notes = translate(RLlibSettings, values, where)
    if isinstance(config, TeamConfig):
        values, more = translate(type(config), values, where)
        notes += more
    return values, notes


def _todays_names(config: TeamConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    values, notes = todays_names(config, values, "config key")
    for note in notes:
        tell_once(note)
    return values


def check_setting(config: AlgorithmConfig, name: str, value: object, where: str) -> Any:
    """The value of one setting as it is used: a whole number as int, a name in its spelling.

    Args:
        config: the config whose setting it is, of this package or another of RLlib's.
        name: the setting.
        value: what was given.
        where: begins the message, e.g. ``config key``.

    Raises:
        UserError: wrong type or value, in one line.
    """
    default = _default_config(config).get(name)
    if name in WITHOUT_MEANING or _ray_compat.is_deprecated(default):
        return value
    setting = _declared(type(config)).get(name)
    if setting is None:
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{where} {name!r} must be a finite number, got {value!r}.")
        setting = undeclared(name, default)
    checked = setting.check(value, where)
    # An int where a number is asked for stays what it is.
    return value if checked == value and not isinstance(value, float) else checked


def declared_settings(cls: type) -> list[str]:
    """The names of the settings of a config that are described in ``rllib algo show``."""
    return [name for name in _declared(cls) if name not in PRIVATE_SETTINGS]


def _declared(cls: type) -> dict[str, Setting]:
    """Every setting that is declared, RLlib's included, by name."""
    own = settings_of(cls) if issubclass(cls, TeamConfig) else {}
    return settings_of(RLlibSettings) | own


def _defaults(cls: type) -> dict[str, Any]:
    """A new copy of the default of every declared setting, by the attribute that holds it."""
    return {
        PRIVATE_SETTINGS.get(name, name): copy.copy(setting.default)
        for name, setting in _declared(cls).items()
    }


def _default_config(config: AlgorithmConfig) -> dict[str, Any]:
    """The attributes of a new config of the same class."""
    cls: Any = type(config)
    return _new_config(cls)


def _todays_state(cls: type, state: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a config of version 0.1 under today's names, without others' settings."""
    values, _ = translate(cls, state, "config key")
    known = _declared(cls)
    return {name: value for name, value in values.items() if name in known or name not in _MOVED}


@cache
def _new_config(cls: Any) -> dict[str, Any]:
    return dict(vars(cls()))


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
