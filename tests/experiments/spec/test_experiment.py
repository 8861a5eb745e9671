"""Experiment files and options become checked specifications, or one clear line."""

from __future__ import annotations

import pytest

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.examples import examples
from rllib_seqmarl.experiments.spec.experiment import Overrides, from_command_line, load_file

GOOD = """\
good:
  run: MAT
  env: distinct_actions
  stop: {training_iteration: 3}
  config:
    num_env_runners: 0
    lr: 5e-4
"""


@pytest.fixture
def load(tmp_path):
    def load(text, **overrides):
        file = tmp_path / "f.yaml"
        file.write_text(text)
        return load_file(str(file), Overrides(**overrides))

    return load


def test_a_file_as_it_stands(load):
    (spec,) = load(GOOD)

    assert spec.name == "good"
    assert spec.run == "MAT"
    assert spec.config == {"num_env_runners": 0, "lr": 5e-4, "env": "distinct_actions"}
    assert spec.stop == {"training_iteration": 3}
    assert (spec.num_samples, spec.max_failures, spec.restore) == (1, 0, None)
    assert spec.notes == []


def test_aliases_and_env_below_config(load):
    (spec,) = load("a: {run: srsv, config: {env: distinct_actions}}")

    assert spec.run == "SrSv"
    assert spec.config["env"] == "distinct_actions"


def test_several_experiments(load):
    text = GOOD + GOOD.replace("good:", "other:").replace("MAT", "SrSv")

    assert [(spec.name, spec.algorithm) for spec in load(text)] == [
        ("good", "MAT"),
        ("other", "SrSv"),
    ]
    with pytest.raises(UserError, match="--storage-path"):
        load(text, experiment_name="x")


def test_the_command_line_overrides_the_file(load):
    (spec,) = load(
        GOOD,
        env="smac",
        stop={"episode_reward_mean": 1},
        experiment_name="mine",
        num_samples=4,
        storage_path="/there",
        max_failures=2,
        config={"seed": 7, "lr": 1e-3},
    )

    assert spec.config == {"num_env_runners": 0, "lr": 1e-3, "seed": 7, "env": "smac"}
    assert spec.stop == {"env_runners/episode_return_mean": 1}
    assert (spec.name, spec.num_samples, spec.storage_path) == ("mine", 4, "/there")
    assert spec.max_failures == 2
    assert "'episode_reward_mean' is called 'env_runners/episode_return_mean' now" in spec.notes[0]


def test_without_a_file():
    spec = from_command_line("mat", Overrides(env="distinct_actions", config={"lr": 0.1}))

    assert (spec.name, spec.run, spec.config["lr"]) == ("default", "MAT", 0.1)
    with pytest.raises(UserError, match="'env'"):
        from_command_line("mat", Overrides())


def test_nested_stop_is_flattened(load):
    (spec,) = load(GOOD.replace("{training_iteration: 3}", "{env_runners: {distinct_ratio: 0.9}}"))

    assert spec.stop == {"env_runners/distinct_ratio": 0.9}


@pytest.mark.parametrize(
    ("addition", "overrides", "expected"),
    [
        # (frequency, at_end, num_to_keep)
        ("", {}, (10, True, 3)),
        ("checkpoint_config: {checkpoint_frequency: 5}", {}, (5, True, None)),
        ("checkpoint_config: {num_to_keep: 2}", {}, (10, True, 2)),
        ("checkpoint_config: {num_to_keep: null}", {}, (10, True, None)),
        ("checkpoint_config: {checkpoint_at_end: false}", {}, (10, False, 3)),
        (
            "checkpoint_config: {checkpoint_frequency: 5, num_to_keep: 2}",
            {"checkpoint_frequency": 7},
            (7, True, 2),
        ),
        ("", {"checkpoint_frequency": 0}, (0, True, None)),
        ("", {"checkpoint_at_end": False, "num_to_keep": 1}, (10, False, 1)),
        ("checkpoint_freq: 4", {}, (4, True, None)),
        ("keep_checkpoints_num: 4", {}, (10, True, 4)),
    ],
)
def test_checkpoint_settings(load, addition, overrides, expected):
    (spec,) = load(GOOD + (f"  {addition}\n" if addition else ""), **overrides)
    settings = spec.checkpoints

    assert (settings.frequency, settings.at_end, settings.num_to_keep) == expected


def test_checkpoint_score(load):
    (spec,) = load(GOOD + "  checkpoint_score_attr: min-episode_len_mean\n")

    assert spec.checkpoints.score_attribute == "env_runners/episode_len_mean"
    assert spec.checkpoints.score_order == "min"


def test_old_keys_are_translated_and_said(load):
    (spec,) = load(GOOD + "  local_dir: /there\n  checkpoint_freq: 2\n")

    assert spec.storage_path == "/there"
    assert len(spec.notes) == 2


def test_grid_search_for_the_environment(load):
    (spec,) = load(
        GOOD.replace("env: distinct_actions", "env: {grid_search: [distinct_actions, smac]}")
    )

    assert spec.config["env"] == {"grid_search": ["distinct_actions", "smac"]}
    with pytest.raises(UserError, match="unknown environment 'smca'"):
        load(GOOD.replace("env: distinct_actions", "env: {grid_search: [smac, smca]}"))


BAD = {
    "empty": ("", "got nothing"),
    "list": ("- a\n", "got a list"),
    "no name": ("run: MAT\nenv: smac\n", "has no name"),
    "not a mapping": ("a: 1\n", "expected a mapping"),
    "algorithm": (GOOD.replace("MAT", "MATT"), r"'MATT'\. Did you mean 'MAT'"),
    "no algorithm": (GOOD.replace("  run: MAT\n", ""), "'run'"),
    "algorithm's type": (GOOD.replace("MAT", "3"), "'run' must be"),
    "environment": (GOOD.replace("distinct_actions", "distinct_action"), "Did you mean 'distinct_"),
    "no environment": (GOOD.replace("  env: distinct_actions\n", ""), "'env'"),
    "two environments": (GOOD + "    env: smac\n", "keep one"),
    "map": (
        GOOD.replace("distinct_actions", "smac") + "    env_config: {map_name: 3s5s}\n",
        "'3s5s'. Did you mean '3s5z'",
    ),
    "env_config key": (GOOD + "    env_config: {num_agent: 3}\n", "Did you mean 'num_agents'"),
    "env_config type": (GOOD + "    env_config: 3\n", "'env_config' must be a mapping, got 3"),
    "env_config grid": (
        GOOD + "    env_config: {num_agents: {grid_search: [3, 1]}}\n",
        "'num_agents' must be at least 2",
    ),
    "key": (GOOD.replace("stop:", "stp:"), r"unknown key 'stp'\. Did you mean 'stop'"),
    "stop key": (GOOD.replace("training_iteration", "traning_iteration"), "never reported"),
    "stop value": (GOOD.replace("iteration: 3", "iteration: many"), "must be a finite number"),
    "stop type": (GOOD.replace("{training_iteration: 3}", "3"), "expected a mapping"),
    "stop without evaluation": (
        GOOD.replace("training_iteration", "evaluation/env_runners/distinct_ratio"),
        "evaluation_interval",
    ),
    "config type": (GOOD.partition("  config")[0] + "  config: 3\n", "'config' must be a mapping"),
    "num_samples": (GOOD + "  num_samples: 0\n", "'num_samples' must be a whole number"),
    "num_samples type": (GOOD + "  num_samples: 1.5\n", "'num_samples' must be a whole number"),
    "max_failures": (GOOD + "  max_failures: -2\n", "'max_failures'"),
    "time_budget_s": (GOOD + "  time_budget_s: 0\n", "'time_budget_s' must be a positive"),
    "restore": (GOOD + "  restore: 3\n", "'restore' must be text"),
    "resources": (GOOD + "  resources_per_trial: {cpu: 1}\n", "'resources_per_trial' is not supp"),
    "checkpoint key": (
        GOOD + "  checkpoint_config: {chekpoint_frequency: 1}\n",
        "Did you mean 'checkpoint_frequency'",
    ),
    "checkpoint type": (GOOD + "  checkpoint_config: 3\n", "'checkpoint_config' must be a mapping"),
    "checkpoint value": (
        GOOD + "  checkpoint_config: {num_to_keep: 0}\n",
        "'num_to_keep' must be a whole number",
    ),
    "checkpoint truth": (
        GOOD + "  checkpoint_config: {checkpoint_at_end: 1}\n",
        "'checkpoint_at_end' must be true or false",
    ),
    "checkpoint order": (
        GOOD + "  checkpoint_config: {checkpoint_score_order: most}\n",
        "must be 'max' or 'min'",
    ),
    "checkpoint score": (
        GOOD + "  checkpoint_config: {checkpoint_score_attribute: wins}\n",
        "'wins' is never reported",
    ),
    "two words for one": (
        GOOD + "  checkpoint_freq: 1\n  checkpoint_config: {checkpoint_frequency: 1}\n",
        "keep one",
    ),
    "two storages": (GOOD + "  local_dir: /a\n  storage_path: /b\n", "keep one"),
    "name": (GOOD.replace("good:", "a/b:"), "path separator"),
    "parent as a name": (GOOD.replace("good:", "..:"), "'..'"),
    "folder as a name": (GOOD.replace("good:", ".:"), "'.'"),
    "empty name": (GOOD.replace("good:", "'':"), "cannot be empty"),
    "NUL in a name": (GOOD.replace("good:", '"a\\0":'), "a\\\\x00"),
    "null as a name": (GOOD.replace("good:", "null:"), "null is none"),
    "grid": (
        GOOD.replace("env: distinct_actions", "env: {grid_search: smac}"),
        "takes a list of values",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_give_one_line_that_names_the_place(load, case):
    text, expected = BAD[case]

    with pytest.raises(UserError, match=expected) as caught:
        load(text)

    message = str(caught.value)
    assert "f.yaml" in message
    assert "\n" not in message


def test_unknown_kind_of_file():
    with pytest.raises(UserError, match=r"ends in \.yaml"):
        load_file("experiment.json", Overrides())


def test_python_files(tmp_path):
    file = tmp_path / "mine.py"
    good = (
        "from rllib_seqmarl import SrSvConfig\n"
        "config = SrSvConfig().environment('distinct_actions')\n"
    )
    file.write_text(good + "stop = {'training_iteration': 2}\n")

    (spec,) = load_file(str(file), Overrides())

    assert (spec.name, spec.run) == ("mine", "SrSv")
    assert spec.stop == {"training_iteration": 2}
    for text, expected in (
        ("x = 1\n", "defines no 'config'"),
        ("config = {}\n", "must be an AlgorithmConfig"),
        (good + "stop = {'traning': 2}\n", "never reported"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=expected):
            load_file(str(file), Overrides())


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_tuned_examples_load_without_a_note(example, starcraft2_installed, where_installed):
    with where_installed():
        specs = load_file(str(example.path), Overrides())

    assert specs
    for spec in specs:
        assert spec.notes == []
        assert spec.stop
