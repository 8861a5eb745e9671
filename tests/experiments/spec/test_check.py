"""RLlib configs are checked key by key, with every value of every grid_search."""

from __future__ import annotations

import pytest

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.examples import examples
from rllib_seqmarl.experiments.spec import check as configs
from rllib_seqmarl.experiments.spec.experiment import ExperimentSpec, Overrides, load_file
from rllib_seqmarl.experiments.spec.grids import variants
from rllib_seqmarl.experiments.spec.sampling import Sampler


def spec(**config):
    return ExperimentSpec("x", "f.yaml", "MAT", {"env": "distinct_actions", **config})


def test_a_good_config_is_kept():
    given = spec(lr=5e-4, num_epochs=3, lambda_=0.9, evaluation_interval=5, minibatch_size=None)
    before = dict(given.config)

    configs.check(given)

    assert given.config == before
    assert given.notes == []


def test_whole_numbers_may_be_written_with_an_exponent():
    given = spec(
        minibatch_size=8, rollout_fragment_length=1e2, num_epochs={"grid_search": [1e0, 2]}
    )

    configs.check(given)

    assert given.config["rollout_fragment_length"] == 100
    assert isinstance(given.config["rollout_fragment_length"], int)
    assert given.config["num_epochs"] == {"grid_search": [1, 2]}
    assert all(isinstance(value, int) for value in given.config["num_epochs"]["grid_search"])


def test_old_keys_are_translated_and_said():
    given = spec(num_workers=2, num_sgd_iter=3, **{"lambda": 0.9})

    configs.check(given)

    assert given.config["num_env_runners"] == 2
    assert given.config["num_epochs"] == 3
    assert given.config["lambda_"] == 0.9
    assert len(given.notes) == 2


def test_old_keys_with_their_only_right_value_are_taken():
    given = spec(framework="torch", num_gpus=0, model={}, env_config=None)

    configs.check(given)

    assert "env_config" not in given.config


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"clip_parm": 0.1}, "unknown key 'clip_parm'. Did you mean 'clip_param'"),
        ({"num_gpus_per_leaner": 1}, "Did you mean 'num_gpus_per_learner'"),
        ({"lr": "fast"}, "'lr' must be a number, got 'fast'"),
        ({"lr": True}, "'lr' must be a number"),
        ({"lr": {"grid_search": [1e-3, "fast"]}}, "'lr' must be a number"),
        ({"lr": {"grid_search": 1e-3}}, "takes a list of values"),
        ({"num_env_runners": 1.5}, "'num_env_runners' must be a whole number"),
        ({"num_env_runners": [1]}, "'num_env_runners' must be a whole number"),
        ({"use_policy_active_mask": "yes"}, "'use_policy_active_mask' must be true or false"),
        ({"decode": 3}, "'decode' must be one of"),
        ({"order": 3}, "'order' must be one of"),
        ({"decode": "fastest"}, "'decode' must be one of"),
        ({"order": {"grid_search": ["index", "alphabetical"]}}, "order"),
        ({"evaluation_interval": "often"}, "'evaluation_interval' must be a whole number or null"),
        ({"seed": 1.5}, "'seed' must be a whole number or null"),
        ({"grad_clip": "much"}, "'grad_clip' must be a number"),
        ({"xyzzy": 1}, r"unknown key 'xyzzy'\. Nearest known: "),
        ({"framework": "tf2"}, "'framework' has no meaning here"),
        ({"num_gpus": 1}, "use num_learners"),
        ({"model": {"fcnet_hiddens": [3]}}, "embed_dim"),
        ({"evaluation_config": 3}, "'evaluation_config' must be a mapping"),
        ({"evaluation_config": {"exlore": False}}, "Did you mean 'explore'"),
        ({"num_workers": 1, "num_env_runners": 1}, "mean the same"),
        ({"gamma": 1.5}, "gamma"),
        ({"num_epochs": 0}, "num_epochs"),
        ({"train_batch_size": 4000}, "train_batch_size"),
        ({"buffer_size": 5}, "'buffer_size' is no setting of RLlib any more: remove it"),
        ({"simple_optimizer": True}, "'simple_optimizer' is no setting of RLlib any more"),
        ({"min_iter_time_s": 5}, "'min_iter_time_s' is no setting of RLlib any more"),
        ({"rollout_fragment_length": 10**9}, "environment steps .* fits no memory"),
    ],
)
def test_bad_configs_give_one_line(config, expected):
    with pytest.raises(UserError, match=expected) as caught:
        configs.check(spec(**config))

    message = str(caught.value)
    assert message.startswith("f.yaml: config: ")
    assert "\n" not in message
    assert len(message) < 400


def test_each_value_of_each_grid_is_looked_at():
    grid = {"a": {"grid_search": [1, 2, 3]}, "b": {"c": {"grid_search": ["x", "y"]}}, "d": 4}

    assert list(variants(grid, "f")) == [
        {"a": 1, "b": {"c": "x"}, "d": 4},
        {"a": 2, "b": {"c": "x"}, "d": 4},
        {"a": 3, "b": {"c": "x"}, "d": 4},
        {"a": 1, "b": {"c": "y"}, "d": 4},
    ]
    assert grid["a"] == {"grid_search": [1, 2, 3]}


def test_samplers_are_checked_at_their_ends_and_kept():
    from ray import tune

    given = spec(
        lr=tune.loguniform(1e-5, 1e-3),
        clip_param=Sampler("choice", [0.1, 0.2]),
        num_epochs=Sampler("choice", [1e0, 5]),
    )

    checked = configs.check(given)

    assert [variant["lr"] for variant in checked[:2]] == [1e-5, 1e-3]
    assert {variant["clip_param"] for variant in checked} == {0.1, 0.2}
    assert {type(variant["num_epochs"]) for variant in checked} == {int}
    assert not isinstance(given.config["lr"], float)
    assert given.config["num_epochs"] == Sampler("choice", [1, 5])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"lr": Sampler("choice", [1e-3, "fast"])}, "'lr' must be a number, got 'fast'"),
        ({"gamma": Sampler("uniform", [0.9, 1.2])}, "'gamma' must lie between 0 and 1, got 1.2"),
        ({"num_epochs": Sampler("uniform", [1, 9])}, "'num_epochs' must be a whole number"),
        ({"num_epochs": Sampler("randint", [0, 3])}, "'num_epochs' must be above 0"),
        ({"decode": Sampler("choice", ["auto", "fastest"])}, "'decode' must be one of"),
        ({"env_config": {"num_agents": Sampler("randint", [1, 4])}}, "'num_agents'"),
    ],
)
def test_a_sampler_that_could_draw_a_wrong_value_is_refused(config, expected):
    with pytest.raises(UserError, match=expected):
        configs.check(spec(**config))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_threads_per_learner": 1}, {}),
        ({"num_threads_per_learner": None}, {}),
        ({"num_threads_per_learner": 3}, {"num_cpus_for_main_process": 3}),
        ({"num_threads_per_learner": {"grid_search": [1, 2]}}, {"num_cpus_for_main_process": 2}),
        ({"num_threads_per_learner": 3, "num_learners": 2}, {"num_cpus_per_learner": 3}),
        (
            {"num_threads_per_learner": 3, "num_cpus_for_main_process": 2},
            {"num_cpus_for_main_process": 2},
        ),
    ],
)
def test_a_trial_asks_for_as_many_cpus_as_its_learner_has_threads(config, expected):
    given = spec(**config)

    checked = configs.check(given)

    cpus = {key: value for key, value in given.config.items() if key.startswith("num_cpus")}
    assert cpus == expected
    request = configs.algorithm_class(given).default_resource_request(checked[0])
    learners = max(1, config.get("num_learners", 0))
    assert request.required_resources["CPU"] >= learners * max(expected.values(), default=1)


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_tuned_examples_are_valid(example, starcraft2_installed, where_installed):
    with where_installed():
        specs = load_file(str(example.path), Overrides())
    for loaded in specs:
        # RLlib writes 'lambda' in the dict of a Python file's config.
        before = {
            "lambda_" if key == "lambda" else key: value for key, value in loaded.config.items()
        }

        configs.check(loaded)

        assert loaded.config == before
        assert loaded.notes == []
