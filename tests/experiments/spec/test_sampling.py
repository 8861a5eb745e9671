"""Samplers in YAML: what is drawn, what is checked, and what is refused."""

from __future__ import annotations

import pytest
import yaml
from ray import tune
from ray.tune.search.sample import Categorical, Float, Integer

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.spec.experiment import Overrides, load_file
from rllib_seqmarl.experiments.spec.files import load_yaml
from rllib_seqmarl.experiments.spec.grids import variants
from rllib_seqmarl.experiments.spec.sampling import (
    TAGS,
    Sampler,
    candidates,
    check_values,
    with_domains,
)

HEAD = "a:\n  run: MAT\n  env: distinct_actions\n  config:\n"


def load(text):
    return load_yaml(f"x: {text}", "f.yaml")["x"]


@pytest.mark.parametrize(
    ("text", "kind", "low", "high"),
    [
        ("!uniform [0.1, 0.2]", Float, 0.1, 0.2),
        ("!loguniform [1e-5, 1e-3]", Float, 1e-5, 1e-3),
        ("!randint [3, 6]", Integer, 3, 5),
        ("!randint [1e0, 1e1]", Integer, 1, 9),
    ],
)
def test_ranges_are_those_of_tune(text, kind, low, high):
    domain = with_domains({"x": load(text)})["x"]
    draws = domain.sample(size=2000, random_state=0)

    assert isinstance(domain, kind)
    assert low <= min(draws) < low + (high - low) / 3
    assert high - (high - low) / 3 < max(draws) <= high
    assert set(candidates(load(text))) >= {low, high}
    if text.startswith("!loguniform"):
        # Half of the draws lie below the geometric mean.
        assert 0.45 < sum(draw < 1e-4 for draw in draws) / len(draws) < 0.55


def test_choice_and_grid():
    domain = load("!choice [1e-3, fast, null]").domain()

    assert isinstance(domain, Categorical)
    assert domain.categories == [1e-3, "fast", None]
    assert load("!grid [1, 2]") == load("{grid_search: [1, 2]}") == tune.grid_search([1, 2])


@pytest.mark.parametrize("tag", [tag for tag in TAGS if tag != "choice"])
@pytest.mark.parametrize("arguments", ["[1]", "[1, 2, 3]", "[2, 1]", "[1, 1]", "[1, x]", "[]"])
def test_wrong_ranges_name_key_and_file(tag, arguments, tmp_path):
    file = tmp_path / "f.yaml"
    file.write_text(f"{HEAD}    lr: !{tag} {arguments}\n")

    with pytest.raises(UserError) as caught:
        load_file(str(file), Overrides())

    message = str(caught.value)
    assert message.startswith(f"{file}: experiment 'a': config: lr: !{tag} takes [lower, upper]")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("!loguniform [0, 1]", "0 < lower"),
        ("!loguniform [-1, 1]", "0 < lower"),
        ("!uniform [0, .inf]", "lower < upper"),
        ("!randint [1.5, 3]", "whole numbers"),
        ("!choice []", "a list of values"),
        ("!grid []", "takes a list of values"),
        ("[1, !uniform [0, 1]]", "stands within a list"),
        ("!choice [1, !uniform [0, 1]]", "stands within a list"),
        ("!grid [1, !uniform [0, 1]]", "stands within a list"),
        ("{eval: \"__import__('os').getcwd()\"}", "as Python code"),
        ("[{eval: 1}]", "as Python code"),
    ],
)
def test_what_cannot_be_drawn(text, expected, tmp_path):
    file = tmp_path / "f.yaml"
    file.write_text(f"{HEAD}    env_config: {{num_agents: {text}}}\n")

    with pytest.raises(UserError, match=expected) as caught:
        load_file(str(file), Overrides())

    message = str(caught.value)
    assert "num_agents" in message
    assert str(file) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("!logunifrm [1, 2]", "unknown tag '!logunifrm': Did you mean '!loguniform'?"),
        ("!!python/object/apply:os.getcwd []", "unknown tag '!!python/object/apply:os.getcwd'"),
        ("!!python/object:pathlib.Path {}", "unknown tag"),
        ("!!python/name:os.system ''", "unknown tag"),
        ("!uniform 3", "!uniform takes a list"),
        ("!grid {a: 1}", "!grid takes a list"),
    ],
)
def test_other_tags_are_refused_in_one_line(text, expected):
    with pytest.raises(UserError) as caught:
        load(text)

    message = str(caught.value)
    assert message.startswith("f.yaml, line 1, column 4: YAML error: ")
    assert expected in message
    assert "\n" not in message


def test_the_safe_loader_of_everybody_else_knows_no_tag_of_ours():
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load("!uniform [1, 2]")


def test_candidates_stand_for_every_draw():
    assert candidates(Sampler("choice", [3, 1])) == [3, 1]
    assert candidates(Sampler("randint", [2, 3])) == [2]
    low, high, between = candidates(Sampler("uniform", [0, 10]))
    assert (low, high) == (0, 10)
    assert low < between < high
    assert not float(between).is_integer()  # so that whole numbers are asked for in vain
    assert candidates(tune.choice(["a", "b"])) == ["a", "b"]
    assert candidates(tune.uniform(0.0, 1.0))[:2] == [0.0, 1.0]
    assert candidates(tune.randint(1, 4)) == [1, 3]
    assert len(candidates(tune.randn())) == 1


def test_variants_hold_each_candidate_once():
    config = {
        "a": Sampler("choice", [1, 2]),
        "b": {"c": Sampler("randint", [5, 8])},
        "d": {"grid_search": ["x", "y"]},
    }

    assert list(variants(config, "f")) == [
        {"a": 1, "b": {"c": 5}, "d": "x"},
        {"a": 2, "b": {"c": 5}, "d": "x"},
        {"a": 1, "b": {"c": 7}, "d": "x"},
        {"a": 1, "b": {"c": 5}, "d": "y"},
    ]


def test_a_sampler_reads_as_it_was_written():
    sampler = Sampler("loguniform", [1e-5, 1e-3])

    assert repr(sampler) == "!loguniform [1e-05, 0.001]"
    check_values({"lr": sampler}, "f")
