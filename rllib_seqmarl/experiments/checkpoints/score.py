"""Which checkpoints are the best: Ray Tune compares only metrics at the top level of a result.

Given a nested name such as ``env_runners/win_rate`` it keeps the latest ones and says nothing. A
callback of the algorithm therefore reports the metric under a name of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from rllib_seqmarl.experiments.checkpoints.find import SCORE as SCORE
from rllib_seqmarl.experiments.spec.metrics import flatten

_CALLBACKS = "callbacks_on_train_result"


def report_score(metric: str, *, result: dict[str, Any], **rest: object) -> None:
    """RLlib's ``on_train_result``: adds the score, NaN where the metric is not in the result.

    Tune ranks NaN below every number, and a missing score above.
    """
    result[SCORE] = flatten(result).get(metric, math.nan)


def with_score(config: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """A config whose results have ``SCORE``."""
    callbacks = config.get(_CALLBACKS) or []
    callbacks = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
    return {**config, _CALLBACKS: [*callbacks, partial(report_score, metric)]}
