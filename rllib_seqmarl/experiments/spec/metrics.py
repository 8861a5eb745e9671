"""Names of the metrics that an experiment may stop at, or rank its checkpoints by.

RLlib runs for ever when a stop key is never reported. The names are therefore checked before
anything starts; what only a running trial can tell is checked by its first results
(:func:`never_reported`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rllib_seqmarl.errors import UserError, nearest

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
    "episode_return_mean": "env_runners/episode_return_mean",
    "episode_len_mean": "env_runners/episode_len_mean",
    "episodes_total": "env_runners/num_episodes_lifetime",
    "win_rate": "env_runners/win_rate",
    "env_runners/episode_reward_mean": "env_runners/episode_return_mean",
    "sampler_results/episode_reward_mean": "env_runners/episode_return_mean",
    "evaluation/episode_reward_mean": "evaluation/env_runners/episode_return_mean",
    "evaluation/win_rate": "evaluation/env_runners/win_rate",
}

_TOP = (
    "training_iteration",
    "time_total_s",
    "time_this_iter_s",
    "time_since_restore",
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
    "num_episodes_lifetime",
    "num_env_steps_sampled",
    "num_env_steps_sampled_lifetime",
    "win_rate",
    "dead_ratio",
    "distinct_ratio",
)
KNOWN = (
    *_TOP,
    *(f"env_runners/{name}" for name in _EPISODES),
    *(f"evaluation/env_runners/{name}" for name in _EPISODES),
)

#: Groups whose members depend on the algorithm; the first results tell whether a name exists.
_OPEN_GROUPS = ("learners/", "time_split/", "timers/", "perf/")

_SAMPLING = "env_runners/"
_EVALUATION = "evaluation/"
_EPISODE_SIGNS = ("episode_return_mean", "num_episodes")


def flatten(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a/b": 1}``, the way in which Ray Tune names metrics."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}/{inner}": v for inner, v in flatten(value).items()})
        else:
            flat[str(key)] = value
    return flat


def check_name(
    name: str, where: str, *, evaluation_interval: int | None, custom: bool = False
) -> str:
    """Today's name of a metric.

    Args:
        name: as written, nested names joined by ``/``.
        where: begins the error message.
        evaluation_interval: iterations between evaluations; None or 0: there are none.
        custom: the experiment has callbacks, which can report metrics of any name.

    Raises:
        UserError: no such metric is ever reported.
    """
    known = OLD_NAMES.get(name, name)
    if known.startswith(_EVALUATION) and not evaluation_interval:
        raise UserError(
            f"{where}: {name!r} is never reported, because 'evaluation_interval' is not set in "
            f"the config. Set it (e.g. 25), or use {known.removeprefix(_EVALUATION)!r}."
        )
    if known in KNOWN or custom or known.startswith(_OPEN_GROUPS):
        return known
    hint = nearest(name, (*KNOWN, *OLD_NAMES))
    for old, today in OLD_NAMES.items():
        hint = hint.replace(repr(old), repr(today))
    if not hint.startswith("Did"):
        hint = f"Known: {', '.join(KNOWN[: len(_TOP) + 4])}, ..."
    raise UserError(f"{where}: {name!r} is never reported. {hint}")


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
            due = iterations > 2 * (evaluation_interval or 0) + 1 or any(
                f"{_EVALUATION}{_SAMPLING}{sign}" in result for sign in _EPISODE_SIGNS
            )
        elif name.startswith(_SAMPLING):
            due = any(f"{_SAMPLING}{sign}" in result for sign in _EPISODE_SIGNS)
        else:
            due = True
        if due:
            return name
    return None
