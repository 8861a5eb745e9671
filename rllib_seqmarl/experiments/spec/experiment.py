"""One experiment of a file or of the command line, checked as far as it can be without Ray.

The YAML format is that of Ray <= 2.40: experiment name -> ``run``, ``env``, ``stop``, ``config``,
``num_samples``, ``checkpoint_config``, ... with ``grid_search`` anywhere below ``config`` and as
``env``. Names of older Ray versions are translated (and the user is told) or refused. What a YAML
file of that time could not say, samplers and schedulers, stands in :mod:`sampling` and
:mod:`search`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rllib_seqmarl import registry
from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.experiments.spec import search
from rllib_seqmarl.experiments.spec.fields import Fields, kind
from rllib_seqmarl.experiments.spec.files import load_yaml, read_text, run_python
from rllib_seqmarl.experiments.spec.grids import variants
from rllib_seqmarl.experiments.spec.legacy import translate
from rllib_seqmarl.experiments.spec.metrics import OLD_NAMES, Metrics, counts_up, flatten
from rllib_seqmarl.experiments.spec.sampling import check_values, is_number
from rllib_seqmarl.files import shown, user_path
from rllib_seqmarl.names import look_for_modules_in

#: Of an experiment that says nothing about checkpoints: every 10 iterations, the last 3 stay.
DEFAULT_CHECKPOINT_FREQUENCY = 10
DEFAULT_CHECKPOINTS_KEPT = 3

#: Keys of an experiment.
KEYS = (
    "run",
    "env",
    "stop",
    "time_budget_s",
    "config",
    "num_samples",
    "metric",
    "mode",
    "scheduler",
    "max_concurrent_trials",
    "storage_path",
    "checkpoint_config",
    "max_failures",
    "restore",
)
#: What a Python file may define beside ``config``, with the meaning that it has in YAML.
_PYTHON_NAMES = (
    "stop",
    "num_samples",
    "metric",
    "mode",
    "scheduler",
    "max_concurrent_trials",
    "checkpoint_config",
)
_CHECKPOINT_KEYS = (
    "num_to_keep",
    "checkpoint_score_attribute",
    "checkpoint_score_order",
    "checkpoint_frequency",
    "checkpoint_at_end",
)


@dataclass
class CheckpointSettings:
    """When a trial writes checkpoints and which of them stay.

    Attributes:
        frequency: in iterations; 0 for only the one at the end.
        at_end: whether a trial that stops writes one.
        num_to_keep: per trial; None keeps all.
        score_attribute: metric by which the ones to keep are chosen; None: the latest.
        score_order: ``max`` or ``min``.
    """

    frequency: int = DEFAULT_CHECKPOINT_FREQUENCY
    at_end: bool = True
    num_to_keep: int | None = DEFAULT_CHECKPOINTS_KEPT
    score_attribute: str | None = None
    score_order: str = "max"


@dataclass
class Overrides:
    """What the command line says in place of the file; None: what the file says."""

    env: str | None = None
    stop: dict[str, Any] | None = None
    experiment_name: str | None = None
    num_samples: int | None = None
    max_concurrent_trials: int | None = None
    storage_path: str | None = None
    restore: str | None = None
    checkpoint_frequency: int | None = None
    checkpoint_at_end: bool | None = None
    num_to_keep: int | None = None
    checkpoint_score_attribute: str | None = None
    max_failures: int | None = None
    time_budget_s: float | None = None
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class ExperimentSpec:
    """A checked experiment.

    Attributes:
        name: also the name of its folder below the storage path.
        name_given: whether the command line says the name; it is taken to the letter then.
        source: the file, and the experiment in it, for error messages.
        run: registered name of the algorithm, its import path "package.module:Class", or an RLlib
            ``Algorithm`` class (Python files).
        config: RLlib config with ``env``; ``grid_search`` mappings and samplers stand for several
            values.
        stop: flat metric name -> value that ends a trial when reached.
        search: how trials are compared, and which of them go on.
        notes: translations of old names, to be shown to the user.
    """

    name: str
    source: str
    run: str | type[Any]
    config: dict[str, Any]
    stop: dict[str, float] = field(default_factory=dict)
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)
    num_samples: int = 1
    search: search.SearchSettings = field(default_factory=search.SearchSettings)
    storage_path: str | None = None
    max_failures: int = 0
    restore: str | None = None
    time_budget_s: float | None = None
    notes: list[str] = field(default_factory=list)
    name_given: bool = False

    @property
    def algorithm(self) -> str:
        """The name of the algorithm, for people."""
        return self.run.rpartition(":")[2] if isinstance(self.run, str) else self.run.__name__


def load_file(path: str, overrides: Overrides) -> list[ExperimentSpec]:
    """The experiments of a ``.yaml``, ``.yml`` or ``.py`` file.

    Import paths may name modules beside it.

    Raises:
        UserError: anything in it that could not run as it was meant.
    """
    file = user_path(path)
    look_for_modules_in(file.parent)
    if file.suffix in {".yaml", ".yml"}:
        specs = list(_from_yaml(file, overrides))
    elif file.suffix == ".py":
        specs = [_from_python(file, overrides)]
    else:
        raise UserError(f"{path}: expected a file that ends in .yaml, .yml or .py.")
    if overrides.experiment_name is not None and len(specs) > 1:
        raise UserError(
            f"--experiment-name: {path} holds {len(specs)} experiments, which cannot share one "
            "name; use --storage-path to keep their results apart."
        )
    return specs


def from_command_line(algo: str, overrides: Overrides) -> ExperimentSpec:
    """The experiment that ``rllib train --algo --env --config ...`` describes."""
    return from_mapping("default", {"run": algo}, "rllib train", overrides)


def _from_yaml(file: Path, overrides: Overrides) -> Iterator[ExperimentSpec]:
    content = load_yaml(read_text(file), str(file))
    if not isinstance(content, Mapping) or not content:
        raise UserError(
            f"{file}: expected a mapping from experiment names to experiments, got {kind(content)}."
        )
    if "run" in content and not isinstance(content["run"], Mapping):
        raise UserError(
            f"{file}: the experiment has no name; put a line such as 'my-experiment:' on top and "
            "indent the rest below it."
        )
    for name, experiment in content.items():
        where = f"{file}: experiment {name!r}"
        if name is None:
            raise UserError(f"{file}: an experiment has no name: null is none.")
        if not isinstance(experiment, Mapping):
            raise UserError(
                f"{where}: expected a mapping with 'run', 'env', ..., got {kind(experiment)}."
            )
        yield from_mapping(str(name), experiment, where, overrides)


def _from_python(file: Path, overrides: Overrides) -> ExperimentSpec:
    names = run_python(file)
    if "config" not in names:
        raise UserError(f"{file}: defines no 'config' (an AlgorithmConfig, e.g. MATConfig()).")
    config = names["config"]
    if not hasattr(config, "to_dict") or getattr(config, "algo_class", None) is None:
        raise UserError(
            f"{file}: 'config' must be an AlgorithmConfig of an algorithm (e.g. MATConfig()), "
            f"got {kind(config)}."
        )
    if isinstance(config.env, type):
        config.env = registry.register_class(config.env)
    algorithm = config.algo_class
    name = registry.name_of_class(algorithm.__name__)
    registered = name is not None and registry.algorithm_class(name) is algorithm
    experiment: dict[str, Any] = {
        "run": name if registered else algorithm,
        "config": config.to_dict(),
    }
    experiment |= {name: names[name] for name in _PYTHON_NAMES if name in names}
    return from_mapping(file.stem, experiment, str(file), overrides)


def from_mapping(
    name: str, experiment: Mapping[str, Any], where: str, overrides: Overrides
) -> ExperimentSpec:
    """The experiment that one entry of a YAML file describes.

    Args:
        name: of the experiment.
        experiment: ``run``, ``env``, ``stop``, ``config``, ...
        where: begins the error messages.
        overrides: what the command line says.

    Raises:
        UserError: anything in it that could not run as it was meant.
    """
    given = dict(experiment)
    notes: list[str] = []
    translate(given, where, notes)
    for key in given:
        if key not in KEYS:
            raise UserError(f"{where}: unknown key {key!r}. {_hint(key, given)}")

    if given.get("run") is None:
        raise UserError(f"{where}: 'run' (the algorithm) is missing. {nearest('', _algorithms())}")
    run = given["run"]
    if isinstance(run, str):
        try:
            run = registry.algorithm_name(run)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    elif not isinstance(run, type):
        raise UserError(f"{where}: 'run' must be the name of an algorithm, got {kind(run)}.")

    config = given.get("config")
    if config is not None and not isinstance(config, Mapping):
        raise UserError(f"{where}: 'config' must be a mapping, got {kind(config)}.")
    config = {**(config or {}), **overrides.config}
    for key in config:
        if not isinstance(key, str):
            raise UserError(f"{where}: config: the key {key!r} must be text.")
    check_values(config, f"{where}: config")
    check_values(given.get("env"), f"{where}: env")
    _set_environment(config, given, overrides, where, registered=isinstance(run, str))

    stop = overrides.stop if overrides.stop is not None else given.get("stop")
    stop_where = "--stop" if overrides.stop is not None else f"{where}: stop"
    check = Fields(given, where)
    metrics = Metrics.of(config, f"{where}: config")
    checkpoints = _checkpoints(given.get("checkpoint_config"), overrides, where, metrics)
    spec = ExperimentSpec(
        name=name if overrides.experiment_name is None else overrides.experiment_name,
        source=where,
        run=run,
        config=config,
        stop=_stop(stop, stop_where, metrics, notes),
        checkpoints=checkpoints,
        num_samples=check.whole("num_samples", overrides.num_samples, 1, least=1),
        search=search.read(
            given,
            where,
            max_concurrent_trials=overrides.max_concurrent_trials,
            num_to_keep=checkpoints.num_to_keep,
            check_metric=metrics.name,
        ),
        storage_path=check.text("storage_path", overrides.storage_path),
        max_failures=check.whole("max_failures", overrides.max_failures, 0, least=-1),
        restore=check.text("restore", overrides.restore),
        time_budget_s=check.seconds("time_budget_s", overrides.time_budget_s),
        notes=notes,
        name_given=overrides.experiment_name is not None,
    )
    name = spec.name
    odd = name in ("", ".", "..") or not name.isprintable() or name != name.strip()
    if odd or Path(name).name != name:
        raise UserError(
            f"{where}: the experiment's name {shown(name)!r} is also its folder's name: it cannot "
            "be empty, '.' or '..', nor hold a path separator, spaces at an end or a character "
            "that is not printed."
        )
    return spec


def _hint(key: object, given: Mapping[str, Any]) -> str:
    """Where an unknown key belongs, or the nearest one that is known."""
    if key == "env_config":
        return "It belongs into 'config'."
    if isinstance(key, str) and isinstance(given.get("run"), str):
        # Only now: this takes seconds.
        with suppress(UserError):
            if registry.has_setting(given["run"], key):
                return "It belongs into 'config'."
    return nearest(str(key), KEYS)


def _algorithms() -> tuple[str, ...]:
    return tuple(registry.ALGORITHMS)


def _set_environment(
    config: dict[str, Any],
    given: Mapping[str, Any],
    overrides: Overrides,
    where: str,
    *,
    registered: bool,
) -> None:
    """Puts the environment into ``config["env"]``, and checks it with its ``env_config``."""
    if "env" in given and config.get("env") is not None and given["env"] != config["env"]:
        raise UserError(
            f"{where}: 'env' is {given['env']!r} and 'config: env' is {config['env']!r}; keep one."
        )
    env = overrides.env or given.get("env") or config.get("env")
    if env is None:
        raise UserError(
            f"{where}: 'env' (the environment) is missing. {nearest('', registry.ENVIRONMENTS)}"
        )
    config["env"] = env
    if not registered:
        return
    settings: dict[str, Any] = {key: config[key] for key in ("env", "env_config") if key in config}
    for variant in variants(settings, f"{where}: config"):
        name, env_config = variant["env"], variant.get("env_config")
        if not isinstance(name, str):
            raise UserError(f"{where}: 'env' must be a name, got {kind(name)}.")
        if not (env_config is None or isinstance(env_config, Mapping)):
            raise UserError(f"{where}: 'env_config' must be a mapping, got {kind(env_config)}.")
        try:
            if registry.is_import_path(name):
                registry.environment_creator(name)
            elif not registry.is_of_user(name):
                registry.environment(name).check(env_config or {})
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def _stop(stop: object, where: str, metrics: Metrics, notes: list[str]) -> dict[str, float]:
    if stop is None:
        return {}
    if not isinstance(stop, Mapping):
        raise UserError(f"{where}: expected a mapping from metrics to values, got {kind(stop)}.")
    checked: dict[str, float] = {}
    for name, value in flatten(stop).items():
        if not is_number(value):
            raise UserError(f"{where}: {name!r} must be a finite number, got {value!r}.")
        today = metrics.name(name, where)
        if counts_up(today) and value <= 0:
            raise UserError(
                f"{where}: {name!r} counts up from 0, so that {value!r} is met before anything is "
                "trained: give a number above 0."
            )
        if name in OLD_NAMES:
            notes.append(f"{where}: {name!r} is called {today!r} now.")
        checked[today] = value
    return checked


def _checkpoints(
    given: object, overrides: Overrides, where: str, metrics: Metrics
) -> CheckpointSettings:
    if given is not None and not isinstance(given, Mapping):
        raise UserError(f"{where}: 'checkpoint_config' must be a mapping, got {kind(given)}.")
    given = dict(given or {})
    for key in given:
        if key not in _CHECKPOINT_KEYS:
            raise UserError(
                f"{where}: checkpoint_config: unknown key {key!r}. "
                f"{nearest(str(key), _CHECKPOINT_KEYS)}"
            )
    check = Fields(given, f"{where}: checkpoint_config")
    # Whoever says how often says how many: RLlib's default, all of them, holds then.
    often = "checkpoint_frequency" in given or overrides.checkpoint_frequency is not None
    keep = overrides.num_to_keep
    if keep is None and given.get("num_to_keep") is None:
        keep = None if often or "num_to_keep" in given else DEFAULT_CHECKPOINTS_KEPT
    else:
        keep = check.whole("num_to_keep", keep, 1, least=1)
    attribute = overrides.checkpoint_score_attribute or check.text(
        "checkpoint_score_attribute", None
    )
    order = given.get("checkpoint_score_order", "max")
    if attribute is not None and attribute.startswith("min-"):  # the old way to say the order
        attribute, order = attribute.removeprefix("min-"), "min"
    if order not in ("max", "min"):
        raise UserError(
            f"{where}: checkpoint_config: 'checkpoint_score_order' must be 'max' or 'min', "
            f"got {order!r}."
        )
    return CheckpointSettings(
        frequency=check.whole(
            "checkpoint_frequency",
            overrides.checkpoint_frequency,
            DEFAULT_CHECKPOINT_FREQUENCY,
            least=0,
        ),
        at_end=check.truth("checkpoint_at_end", overrides.checkpoint_at_end, True),
        num_to_keep=keep,
        score_attribute=attribute and metrics.name(attribute, f"{where}: checkpoint_config"),
        score_order=order,
    )
