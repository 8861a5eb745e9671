"""Schedulers in YAML: what they are made of, and what is refused before any trial starts."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search.sample import Float

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.spec import check as configs
from rllib_seqmarl.experiments.spec.experiment import Overrides, load_file
from rllib_seqmarl.experiments.spec.search import stay_in_range
from rllib_seqmarl.experiments.train.shutdown import Signals, TrialControl

GOOD = """\
a:
  run: MAT
  env: distinct_actions
  num_samples: 4
  config: {num_env_runners: 0, lr: 1e-3}
"""
PBT = "type: pbt, perturbation_interval: 5, hyperparam_mutations: "


@pytest.fixture
def load(tmp_path):
    def load(addition="", **overrides):
        file = tmp_path / "f.yaml"
        file.write_text(GOOD + (f"  {addition}\n" if addition else ""))
        (spec,) = load_file(str(file), Overrides(**overrides))
        return spec

    return load


def test_without_a_word_every_trial_runs_to_its_end(load):
    search = load().search

    assert (search.metric, search.mode) == ("env_runners/episode_return_mean", "max")
    assert search.max_concurrent_trials is None
    assert search.make_scheduler() is None


@pytest.mark.parametrize(
    ("text", "kind", "attributes"),
    [
        (
            "{type: asha, max_t: 40, grace_period: 2, reduction_factor: 3}",
            AsyncHyperBandScheduler,
            {"_max_t": 40, "_reduction_factor": 3, "_time_attr": "training_iteration"},
        ),
        ("{type: ASYNC_HYPERBAND, max_t: 4}", AsyncHyperBandScheduler, {"_max_t": 4}),
        ("{type: hyperband, max_t: 9}", HyperBandScheduler, {"_max_t_attr": 9}),
        (
            "{type: median, grace_period: 60, time_attr: time_total_s, hard_stop: false}",
            MedianStoppingRule,
            {"_grace_period": 60, "_time_attr": "time_total_s", "_hard_stop": False},
        ),
        (
            f"{{{PBT}{{lr: !loguniform [1e-4, 1e-2]}}, quantile_fraction: 0.5}}",
            PopulationBasedTraining,
            {"_perturbation_interval": 5, "_quantile_fraction": 0.5, "_synch": False},
        ),
    ],
)
def test_schedulers_are_those_of_tune(load, text, kind, attributes):
    scheduler = load(
        f"scheduler: {text}\n  metric: distinct_ratio\n  mode: min"
    ).search.make_scheduler()

    assert type(scheduler) is kind
    assert (scheduler._metric, scheduler._mode) == ("env_runners/distinct_ratio", "min")
    assert {name: getattr(scheduler, name) for name in attributes} == attributes


def test_pbt_changes_ranges_by_factors_and_sets_step_by_step(load):
    mutations = "{lr: !loguniform [1e-4, 1e-2], gamma: !choice [0.9, 0.99], num_epochs: [5, 10]}"
    scheduler = load(f"scheduler: {{{PBT}{mutations}}}").search.make_scheduler()

    assert isinstance(scheduler._hyperparam_mutations["lr"], Float)
    assert scheduler._hyperparam_mutations["gamma"] == [0.9, 0.99]
    assert scheduler._hyperparam_mutations["num_epochs"] == [5, 10]
    explored = scheduler._custom_explore_fn({"lr": 1.2e-2, "gamma": 0.99, "other": 1})
    assert explored == {"lr": 1e-2, "gamma": 0.99, "other": 1}
    assert stay_in_range({"lr": (1e-4, 1e-2)}, {"lr": 1e-5})["lr"] == 1e-4


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        ("scheduler: asha", "expected a mapping such as"),
        ("scheduler: {type: ahsa, max_t: 3}", "unknown 'type' 'ahsa'. Did you mean 'asha'"),
        ("scheduler: {max_t: 3}", "unknown 'type'"),
        ("scheduler: {type: asha}", "asha needs 'max_t'"),
        ("scheduler: {type: asha, max_t: 3, grace_perod: 1}", "Did you mean 'grace_period'"),
        ("scheduler: {type: asha, max_t: 0}", "'max_t' must be a number above 0"),
        ("scheduler: {type: asha, max_t: 3, reduction_factor: 1}", "must be a number above 1"),
        ("scheduler: {type: asha, max_t: 3, brackets: 1.5}", "'brackets' must be a whole number"),
        ("scheduler: {type: asha, max_t: 3, time_attr: steps}", "'time_attr' must be one of"),
        ("scheduler: {type: median}", "median needs 'grace_period'"),
        ("scheduler: {type: pbt, perturbation_interval: 2}", "needs 'hyperparam_mutations'"),
        (f"scheduler: {{{PBT}{{}}}}", "'hyperparam_mutations' must be a mapping"),
        (f"scheduler: {{{PBT}{{lr: 3}}}}", "hyperparam_mutations: lr: expected !uniform"),
        (f"scheduler: {{{PBT}{{lr: !uniform [2, 1]}}}}", "lower < upper"),
        (f"scheduler: {{{PBT}{{lr: [1, 2]}}, quantile_fraction: 0.6}}", "from 0 to 0.5"),
        (f"scheduler: {{{PBT}{{lr: [1, 2]}}}}\n  max_concurrent_trials: 2", "--ray-num-cpus"),
        (f"scheduler: {{{PBT}{{lr: [1, 2]}}}}\n  keep_checkpoints_num: 2", "at least 3 with pbt"),
        ("metric: wins", "'wins' is never reported"),
        ("metric: evaluation/distinct_ratio", "'evaluation_interval' is not set"),
        ("mode: best", "'mode' must be 'max' or 'min'"),
        ("max_concurrent_trials: 0", "'max_concurrent_trials' must be a whole number"),
        ("schedular: {}", "Did you mean 'scheduler'"),
    ],
)
def test_bad_searches_give_one_line(load, addition, expected):
    with pytest.raises(UserError) as caught:
        load(addition)

    message = str(caught.value)
    assert expected in message
    assert "f.yaml" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        ("scheduler: {type: asha, max_t: 3, grace_period: 4}", "grace_period must be <= max_t"),
        (f"scheduler: {{{PBT}{{gama: [0.9, 0.99]}}}}", "Did you mean 'gamma'"),
        (f"scheduler: {{{PBT}{{gamma: !uniform [0.9, 1.1]}}}}", "between 0 and 1, got 1.1"),
        (f"scheduler: {{{PBT}{{num_epochs: !uniform [1, 4]}}}}", "must be a whole number"),
        (f"scheduler: {{{PBT}{{embed_dim: [16, 32]}}}}", "one and the same network"),
    ],
)
def test_what_only_the_algorithm_knows_is_checked_before_ray_starts(load, addition, expected):
    with pytest.raises(UserError, match=expected) as caught:
        configs.check(load(addition))

    assert "f.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_equal_samples_are_said(load):
    spec = load(config={"seed": 1})
    configs.check(spec)
    assert "all 4 samples have the seed 1" in spec.notes[0]

    spec = load(config={"seed": 1, "lr": {"grid_search": [1e-3]}}, num_samples=1)
    configs.check(spec)
    assert spec.notes == []


def test_python_files_say_the_same_by_the_same_names(tmp_path):
    file = tmp_path / "f.py"
    file.write_text(
        "from ray import tune\n"
        "from rllib_seqmarl import MATConfig\n"
        "config = MATConfig().environment('distinct_actions')\n"
        "num_samples = 3\n"
        "metric, mode = 'episode_len_mean', 'min'\n"
        "scheduler = {'type': 'pbt', 'perturbation_interval': 2,\n"
        "    'hyperparam_mutations': {'lr': tune.uniform(1e-4, 1e-3)}}\n"
    )

    (spec,) = load_file(str(file), Overrides())
    configs.check(spec)

    assert (spec.num_samples, spec.search.metric) == (3, "env_runners/episode_len_mean")
    explored = spec.search.make_scheduler()._custom_explore_fn({"lr": 1.0})
    assert explored == {"lr": 1e-3}


def trial(name):
    return SimpleNamespace(
        trial_id=name,
        status=Trial.RUNNING,
        config={},
        stopping_criterion={},
        is_finished=lambda: False,
    )


def result(iteration, value=None):
    metric = {} if value is None else {"env_runners/episode_return_mean": value}
    return {"training_iteration": iteration, "iterations_since_restore": iteration, **metric}


def test_the_scheduler_decides_by_the_last_known_metric(load):
    spec = load("scheduler: {type: asha, max_t: 9, grace_period: 2, reduction_factor: 2}")
    control = TrialControl(spec, Signals(""), ())
    good, bad, silent = trial("good"), trial("bad"), trial("silent")
    for one in (good, bad, silent):
        control.on_trial_add(None, one)

    def tell(*arguments):
        return control.on_trial_result(None, *arguments)

    assert tell(good, result(1, 1.0)) == TrialScheduler.CONTINUE
    assert tell(good, result(2)) == TrialScheduler.CONTINUE  # 1.0 holds
    assert tell(bad, result(1, 0.5)) == TrialScheduler.CONTINUE
    assert tell(bad, result(2, math.nan)) == TrialScheduler.STOP  # 0.5 holds
    assert tell(silent, result(2)) == TrialScheduler.CONTINUE
    assert tell(good, result(9, 2.0)) == TrialScheduler.STOP  # max_t


def test_trials_of_a_population_take_turns(load):
    spec = load(f"scheduler: {{{PBT}{{lr: [1e-3, 1e-4]}}}}")
    control = TrialControl(spec, Signals(""), ())
    trials = [trial(name) for name in "abc"]
    controller = SimpleNamespace(get_trials=lambda: trials, search_alg=None)
    chosen = []
    for one in trials:
        one.status = Trial.PAUSED
    for _ in range(6):
        chosen.append(control.choose_trial_to_run(controller))
        assert control.choose_trial_to_run(controller) is chosen[-1]
        # It makes no progress, as if it were set back to a copy again and again.
        assert control.on_trial_result(controller, chosen[-1], result(1)) == TrialScheduler.CONTINUE

    assert [one.trial_id for one in chosen] == list("abcabc")


def test_a_metric_that_is_never_reported_ends_the_trial(load):
    spec = load("scheduler: {type: asha, max_t: 9}\n  metric: learners/default_policy/loss")
    control = TrialControl(spec, Signals(""), ())

    assert control.on_trial_result(None, trial("a"), result(1, 1.0)) == TrialScheduler.STOP
