"""How the trials of an experiment are compared, and which of them may go on.

In a file, beside ``num_samples``:

- ``metric`` and ``mode``: what a good trial is; ``env_runners/episode_return_mean`` and ``max``.
- ``max_concurrent_trials``: how many run at a time. Without it, as many as there are cores for.
- ``scheduler: {type: asha, ...}``: a scheduler of Ray Tune and its settings, by Tune's names. Time
  is counted in training iterations unless ``time_attr`` says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.experiments.spec.fields import Fields, kind
from rllib_seqmarl.experiments.spec.grids import GRID
from rllib_seqmarl.experiments.spec.sampling import (
    Sampler,
    candidates,
    check_values,
    is_number,
    is_sampler,
    with_domains,
)

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

DEFAULT_METRIC = "env_runners/episode_return_mean"
#: What PBT copies a trial from must still be there when it is copied.
LEAST_CHECKPOINTS_FOR_PBT = 3

_MUTATIONS = "hyperparam_mutations"
_TIMES = ("training_iteration", "num_env_steps_sampled_lifetime", "time_total_s")


_TIME = (f"one of {', '.join(_TIMES)}", lambda value: value in _TIMES)
_POSITIVE = ("a number above 0", lambda value: is_number(value) and value > 0)
_NOT_NEGATIVE = ("a number of at least 0", lambda value: is_number(value) and value >= 0)
_ABOVE_ONE = ("a number above 1", lambda value: is_number(value) and value > 1)
_COUNT = (
    "a whole number of at least 1",
    lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 1,
)
_PROBABILITY = ("a number from 0 to 1", lambda value: is_number(value) and 0 <= value <= 1)
_HALF = ("a number from 0 to 0.5", lambda value: is_number(value) and 0 <= value <= 0.5)
_TRUTH = ("true or false", lambda value: isinstance(value, bool))
_FACTORS = (
    "a list of two numbers above 0",
    lambda value: isinstance(value, list) and len(value) == 2 and all(map(_POSITIVE[1], value)),
)
_MAPPING = (
    "a mapping from config keys to !uniform, !loguniform, !randint, !choice or lists of values",
    lambda value: isinstance(value, Mapping) and bool(value),
)
_Check = tuple[str, Callable[[Any], bool]]


@dataclass(frozen=True)
class _Kind:
    """A scheduler: Ray Tune's name of it, what must be said, and what may be said."""

    name: str
    required: tuple[str, ...]
    settings: dict[str, _Check]


#: Required is what decides when a trial ends, where Ray Tune's default would end trials too early.
#: Tune's ``synch`` of pbt is left out: the others wait for ever for a trial that met its stop key.
_KINDS: dict[str, _Kind] = {
    "asha": _Kind(
        "async_hyperband",
        ("max_t",),
        {
            "time_attr": _TIME,
            "max_t": _POSITIVE,
            "grace_period": _POSITIVE,
            "reduction_factor": _ABOVE_ONE,
            "brackets": _COUNT,
            "stop_last_trials": _TRUTH,
        },
    ),
    "hyperband": _Kind(
        "hyperband",
        ("max_t",),
        {
            "time_attr": _TIME,
            "max_t": _COUNT,
            "reduction_factor": _ABOVE_ONE,
            "stop_last_trials": _TRUTH,
        },
    ),
    "median": _Kind(
        "median_stopping_rule",
        ("grace_period",),
        {
            "time_attr": _TIME,
            "grace_period": _POSITIVE,
            "min_samples_required": _COUNT,
            "min_time_slice": _NOT_NEGATIVE,
            "hard_stop": _TRUTH,
        },
    ),
    "pbt": _Kind(
        "pbt",
        ("perturbation_interval", _MUTATIONS),
        {
            "time_attr": _TIME,
            "perturbation_interval": _POSITIVE,
            "burn_in_period": _NOT_NEGATIVE,
            _MUTATIONS: _MAPPING,
            "quantile_fraction": _HALF,
            "resample_probability": _PROBABILITY,
            "perturbation_factors": _FACTORS,
        },
    ),
}
#: Ray Tune's names of the same.
_ALIASES = {
    "async_hyperband": "asha",
    "asynchyperband": "asha",
    "median_stopping_rule": "median",
    "medianstopping": "median",
    "population_based_training": "pbt",
}
#: Schedulers for whom all trials must be there from the start.
_POPULATIONS = ("hyperband", "pbt")


@dataclass
class SearchSettings:
    """What is said about the trials of one experiment as a whole.

    Attributes:
        metric: by which they are compared.
        mode: ``max`` or ``min``.
        max_concurrent_trials: at most so many run at a time; None: as resources allow.
        scheduler: ``type``, a key of the table above, and its settings; None lets every trial run
            to its end.
    """

    metric: str = DEFAULT_METRIC
    mode: str = "max"
    max_concurrent_trials: int | None = None
    scheduler: dict[str, Any] | None = None
    _where: str = field(default="", repr=False)

    @property
    def takes_turns(self) -> bool:
        """Whether trials that do not fit at once run one interval each in turn."""
        return self.scheduler is not None and self.scheduler["type"] == "pbt"

    def mutated(self) -> dict[str, Any]:
        """Config keys that PBT changes -> a `Sampler`, or a grid of the values of a list."""
        mutations = (self.scheduler or {}).get(_MUTATIONS, {})
        return {k: {GRID: list(v)} if isinstance(v, list) else v for k, v in mutations.items()}

    def make_scheduler(self) -> TrialScheduler | None:
        """Ray Tune's scheduler, None where there is none (imports Ray).

        Raises:
            UserError: settings that do not go together.
        """
        if self.scheduler is None:
            return None
        from ray.tune import TuneError
        from ray.tune.schedulers import create_scheduler

        settings = {key: value for key, value in self.scheduler.items() if key != "type"}
        settings = {"time_attr": _TIMES[0], **settings}
        if _MUTATIONS in settings:
            mutations = settings[_MUTATIONS]
            settings |= {
                _MUTATIONS: {key: _distribution(value) for key, value in mutations.items()},
                "custom_explore_fn": partial(stay_in_range, _ranges(mutations)),
                # A metric of episodes is not there before the first has ended.
                "require_attrs": False,
            }
        name = _KINDS[self.scheduler["type"]].name
        try:
            return create_scheduler(name, metric=self.metric, mode=self.mode, **settings)
        except (AssertionError, TypeError, ValueError, TuneError) as error:
            raise UserError(f"{self._where}: scheduler: {error}") from None


def read(
    given: Mapping[str, Any],
    where: str,
    *,
    max_concurrent_trials: int | None,
    num_to_keep: int | None,
    check_metric: Callable[[str, str], str],
) -> SearchSettings:
    """The settings of an experiment.

    Args:
        given: the experiment as it was written.
        where: its place, for error messages.
        max_concurrent_trials: the command line's value, which replaces the file's.
        num_to_keep: checkpoints that stay per trial; None: all.
        check_metric: today's name of a metric, from its name and its place.

    Raises:
        UserError: an unknown key, or a wrong value.
    """
    check = Fields(given, where)
    most = max_concurrent_trials or given.get("max_concurrent_trials")
    if most is not None:
        most = check.whole("max_concurrent_trials", max_concurrent_trials, 1, least=1)
    mode = check.text("mode", None) or "max"
    if mode not in ("max", "min"):
        raise UserError(f"{where}: 'mode' must be 'max' or 'min', got {mode!r}.")
    metric = check_metric(check.text("metric", None) or DEFAULT_METRIC, f"{where}: metric")
    scheduler = _scheduler(given.get("scheduler"), f"{where}: scheduler")
    if scheduler is not None and scheduler["type"] in _POPULATIONS and most is not None:
        raise UserError(
            f"{where}: 'max_concurrent_trials' has no meaning with {scheduler['type']}, which "
            "needs all trials from the start and lets them take turns; bound what runs at a time "
            "with --ray-num-cpus."
        )
    settings = SearchSettings(metric, mode, most, scheduler, where)
    if settings.takes_turns and num_to_keep is not None and num_to_keep < LEAST_CHECKPOINTS_FOR_PBT:
        raise UserError(
            f"{where}: 'num_to_keep' must be at least {LEAST_CHECKPOINTS_FOR_PBT} with pbt: "
            "a checkpoint must not be deleted before another trial has copied it."
        )
    return settings


def _scheduler(given: object, where: str) -> dict[str, Any] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise UserError(
            f"{where}: expected a mapping such as {{type: asha, max_t: 100}}, got {kind(given)}."
        )
    name = given.get("type")
    name = _ALIASES.get(str(name).lower(), name)
    if name not in _KINDS:
        raise UserError(f"{where}: unknown 'type' {name!r}. {nearest(str(name), _KINDS)}")
    known = _KINDS[name]
    for key, value in given.items():
        if key == "type":
            continue
        if key not in known.settings:
            raise UserError(
                f"{where}: unknown key {key!r} of {name}. {nearest(str(key), known.settings)}"
            )
        words, fits = known.settings[key]
        if not fits(value):
            raise UserError(f"{where}: {key!r} must be {words}, got {value!r}.")
    for key in known.required:
        if key not in given:
            raise UserError(f"{where}: {name} needs {key!r}, {known.settings[key][0]}.")
    for key, value in given.get(_MUTATIONS, {}).items():
        inner = f"{where}: {_MUTATIONS}: {key}"
        check_values(value, inner)
        if not (is_sampler(value) or (isinstance(value, list) and value)):
            raise UserError(f"{inner}: expected {_MAPPING[0].partition(' to ')[2]}, got {value!r}.")
    return {**given, "type": name}


def _distribution(value: object) -> Any:
    """What PBT draws from; of a set of values it goes from one to the next, not by factors."""
    if isinstance(value, list) or _is_choice(value):
        return value if isinstance(value, list) else candidates(value)
    return with_domains(value)


def _is_choice(value: object) -> bool:
    if isinstance(value, Sampler):
        return value.tag == "choice"
    return hasattr(value, "categories")


def _ranges(mutations: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """The ends of what is drawn from a range."""
    ranges = {}
    for key, value in mutations.items():
        if is_sampler(value) and not _is_choice(value):
            numbers = candidates(value)
            if len(numbers) > 1:
                ranges[key] = (min(numbers), max(numbers))
    return ranges


def stay_in_range(
    ranges: Mapping[str, tuple[float, float]], config: dict[str, Any]
) -> dict[str, Any]:
    """A config that PBT has changed, within the ranges that the file gives.

    PBT multiplies numbers without looking at their range: gamma 0.99 would become 1.188.
    """
    inside = {key: min(max(config[key], low), high) for key, (low, high) in ranges.items()}
    return {**config, **inside}
