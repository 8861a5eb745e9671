"""Names of the metrics that an experiment may stop at, or rank its trials and checkpoints by.

RLlib runs for ever when a stop key is never reported. The names are therefore checked before
anything starts: those that every trial reports stand here, those of the environment in its class
(``metric_names``). What only a running trial can tell is checked by its first results
(:func:`never_reported`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from inspect import isabstract
from typing import Any, get_args, get_type_hints

from rllib_seqmarl import registry
from rllib_seqmarl.envs.core.contract import METRIC_NAMES
from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.experiments.spec.grids import all_values, variants

#: Names that Ray <= 2.40 reported (old API stack) -> the names of today.
OLD_NAMES: dict[str, str] = {
    "timesteps_total": "num_env_steps_sampled_lifetime",
    "num_env_steps_sampled": "num_env_steps_sampled_lifetime",
    "num_env_steps_trained": "num_env_steps_sampled_lifetime",
    "agent_timesteps_total": "num_env_steps_sampled_lifetime",
    "iterations_total": "training_iteration",
    "episode_reward_mean": "env_runners/episode_return_mean",
    "episode_reward_max": "env_runners/episode_return_max",
    "episode_reward_min": "env_runners/episode_return_min",
    "episodes_total": "env_runners/num_episodes_lifetime",
    "env_runners/episode_reward_mean": "env_runners/episode_return_mean",
    "sampler_results/episode_reward_mean": "env_runners/episode_return_mean",
    "evaluation/episode_reward_mean": "evaluation/env_runners/episode_return_mean",
}

_TOP = (
    "training_iteration",
    "time_total_s",
    "time_this_iter_s",
    "time_since_restore",
    "cpu_time_total_s",
    "cpu_time_this_iter_s",
    "iterations_since_restore",
    "num_env_steps_sampled_lifetime",
)
_EPISODES = (
    "episode_return_mean",
    "episode_return_max",
    "episode_return_min",
    "episode_len_mean",
    "episode_len_max",
    "episode_len_min",
    "num_episodes",
    "num_episodes_cut",
    "num_episodes_lifetime",
    "num_env_steps_sampled",
    "num_env_steps_sampled_lifetime",
)

#: Groups whose members depend on the algorithm; the first results tell whether a name exists.
_OPEN_GROUPS = ("learners/", "time_split/", "timers/", "perf/", "fault_tolerance/")

_SAMPLING = "env_runners/"
_EVALUATION = "evaluation/"


def flatten(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a/b": 1}``, the way in which Ray Tune names metrics."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}/{inner}": v for inner, v in flatten(value).items()})
        else:
            flat[str(key)] = value
    return flat


def of_environment(env: str, env_config: Mapping[str, Any]) -> frozenset[str] | None:
    """The metrics per episode of an environment, by name or import path; starts no simulator.

    Where a function makes the environment, they are those that ``metric_names(config)`` beside it
    returns, else those of the classes that the function is declared to return.

    Returns:
        Their names in results; None where only running it can tell.
    """
    if env not in registry.ENVIRONMENTS and not registry.is_import_path(env):
        return None  # the user's own, by tune.register_env
    entry = registry.environment(env)
    if entry.adapter is not None:
        entry = registry.ENVIRONMENTS[entry.adapter]
    target = registry.import_target(entry.env, "environment")
    beside = getattr(sys.modules[target.__module__], "metric_names", None)
    if isinstance(target, type):
        groups = [_of_class(target)]
    elif beside is not None:
        groups = [beside(entry.read(env_config))]
    else:
        try:
            returned = get_type_hints(target).get("return")
        except (NameError, TypeError):
            return None
        groups = [_of_class(cls) for cls in get_args(returned) or (returned,)]
    if not all(isinstance(group, tuple) for group in groups):
        return None
    return frozenset(METRIC_NAMES.get(name, name) for group in groups for name in group or ())


def _of_class(cls: object) -> tuple[str, ...] | None:
    return None if isabstract(cls) else getattr(cls, "metric_names", None)


@dataclass(frozen=True)
class Metrics:
    """The metrics that the trials of an experiment report.

    Attributes:
        own: those of its environments, None where only running them can tell.
        evaluation_interval: iterations between evaluations; None or 0: there are none.
        custom: the experiment has callbacks, which can report metrics of any name.
    """

    own: frozenset[str] | None = frozenset()
    evaluation_interval: int | None = None
    custom: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str) -> Metrics:
        """Those of an experiment's config, with all values of grids and samplers in it."""
        settings = {key: config[key] for key in ("env", "env_config") if key in config}
        own = [
            of_environment(str(variant.get("env")), variant.get("env_config") or {})
            for variant in variants(settings, where)
        ]
        intervals = all_values(config.get("evaluation_interval"), where)
        # RLlib's own callback class, a Python file's default, reports nothing.
        custom = any(
            key.startswith("callbacks") and getattr(value, "__module__", "").split(".")[0] != "ray"
            for key, value in config.items()
            if value
        )
        return cls(
            None if None in own else frozenset().union(*filter(None, own)),
            min((interval for interval in intervals if isinstance(interval, int)), default=None),
            custom,
        )

    def known(self) -> tuple[str, ...]:
        """All names that are known before a trial runs."""
        episodes = (*_EPISODES, *sorted(self.own or ()))
        return (
            *_TOP,
            *(f"{_SAMPLING}{name}" for name in episodes),
            *(f"{_EVALUATION}{_SAMPLING}{name}" for name in episodes),
        )

    def name(self, given: str, where: str) -> str:
        """The name in results of a metric; ``win_rate`` means ``env_runners/win_rate``.

        Args:
            given: as written, nested names joined by ``/``.
            where: begins the error message.

        Raises:
            UserError: no such metric is ever reported.
        """
        known = self.known()
        name = self._complete(OLD_NAMES.get(given, given), known)
        if name.startswith(_EVALUATION) and not self.evaluation_interval:
            raise UserError(
                f"{where}: {given!r} is never reported, because 'evaluation_interval' is not set "
                f"in the config. Set it (e.g. 25), or use {name.removeprefix(_EVALUATION)!r}."
            )
        # Deeper names are of timers and of single agents.
        group, _, last = name.removeprefix(_EVALUATION).partition("/")
        is_open = name.startswith(_OPEN_GROUPS) or "/" in last
        is_open |= self.own is None and bool(last) and f"{group}/" == _SAMPLING
        if name in known or self.custom or is_open:
            return name
        hint = nearest(given, (*known, *OLD_NAMES, *(self.own or ())))
        for old, today in OLD_NAMES.items():
            hint = hint.replace(repr(old), repr(today))
        if not hint.startswith("Did"):
            own = (f"{_SAMPLING}{name}" for name in (_EPISODES[0], *sorted(self.own or ())))
            hint = f"Known: {', '.join((*_TOP, *own))}, ..."
        raise UserError(f"{where}: {given!r} is never reported. {hint}")

    def _complete(self, name: str, known: Iterable[str]) -> str:
        """The name with the group in which RLlib reports it, which need not be written."""
        group = _EVALUATION if name.startswith(_EVALUATION) else ""
        last = name.removeprefix(group).removeprefix(_SAMPLING)
        in_results = f"{group}{_SAMPLING}{METRIC_NAMES.get(last, last)}"
        return in_results if name not in known and in_results in known else name


def counts_up(name: str) -> bool:
    """Whether a metric begins at 0 and grows: iterations, seconds, steps, episodes of a run."""
    return name in _TOP or name.endswith("_lifetime")


def never_reported(
    names: Iterable[str],
    result: Mapping[str, Any],
    *,
    iterations: int,
    evaluation_interval: int | None,
) -> str | None:
    """The first of ``names`` that should stand in ``result`` by now and does not.

    Metrics of episodes appear when the first episode ended, metrics of the evaluation when it
    first ran, all others with the first iteration.

    Args:
        names: metrics that the experiment stops at.
        result: a flat result of a trial.
        iterations: how many iterations the trial has run.
        evaluation_interval: iterations between evaluations.
    """
    for name in names:
        if name in result:
            continue
        if name.startswith(_EVALUATION):
            # With evaluation beside training its metrics come one iteration later.
            due = iterations > 2 * (evaluation_interval or 0) + 1 or _played(
                result, f"{_EVALUATION}{_SAMPLING}"
            )
        elif name.startswith(_SAMPLING):
            due = _played(result, _SAMPLING)
        else:
            due = True
        if due:
            return name
    return None


def _played(result: Mapping[str, Any], group: str) -> bool:
    """Whether an episode has ended; their number stands in every result, and is 0 before."""
    return f"{group}episode_return_mean" in result or result.get(f"{group}num_episodes", 0) > 0
