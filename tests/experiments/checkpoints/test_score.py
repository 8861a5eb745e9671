"""Nested metrics can rank checkpoints."""

from __future__ import annotations

import math
import pickle

from rllib_seqmarl.experiments.checkpoints.score import SCORE, with_score


def test_the_metric_is_reported_at_the_top_level():
    config = with_score({"lr": 0.1}, "env_runners/win_rate")
    (callback,) = pickle.loads(pickle.dumps(config["callbacks_on_train_result"]))
    result = {"env_runners": {"win_rate": 0.75}}

    callback(algorithm=None, result=result)
    assert result[SCORE] == 0.75

    result = {}
    callback(algorithm=None, result=result)
    assert math.isnan(result[SCORE])


def test_callbacks_of_the_user_stay():
    for given in (print, [print]):
        config = with_score({"callbacks_on_train_result": given}, "training_iteration")

        assert config["callbacks_on_train_result"][0] is print
        assert len(config["callbacks_on_train_result"]) == 2
