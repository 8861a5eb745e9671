"""The tuned examples are found, described, and part of the package."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import rllib_seqmarl
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.examples import example, examples, find
from rllib_seqmarl.experiments.spec.check import algorithm_class, check
from rllib_seqmarl.experiments.spec.experiment import Overrides, from_mapping
from rllib_seqmarl.experiments.spec.files import load_yaml
from rllib_seqmarl.experiments.spec.grids import GRID

#: What names the task stays in a file, also where it is the default.
TASK = ("run", "env", "map_name", "scenario", "partition", "task")


def test_every_example_has_a_description():
    for found in examples():
        assert 10 < len(found.description) < 100, found.name
        assert found.path.exists()


def test_examples_of_an_algorithm_and_of_an_environment():
    of_seca = {found.name for found in examples(algorithm="seca", environment="mpe")}
    assert of_seca == {"seca_mpe_cooperative_navigation", "seca_mpe_predator_prey"}
    assert "pbt_mat_smac_2s3z" in {found.name for found in examples(algorithm="MAT")}
    assert "pbt_mat_smac_2s3z" in {found.name for found in examples(environment="smac")}
    for found in examples():
        assert found.algorithms, found.name
        assert found.environments, found.name
    with pytest.raises(UserError, match="Did you mean 'mpe'"):
        examples(environment="mp")
    with pytest.raises(UserError, match="Did you mean 'SeCA'"):
        examples(algorithm="SecaA")


def test_what_is_expected_of_an_example_stands_in_its_head():
    known = {found.name: found.expected for found in examples() if found.expected}
    assert len(known) > 25
    assert known["pmat_private_cue"].startswith("return 1.00 after 96,000 env steps")


def test_an_example_by_its_name_in_place_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find("mat_smac") == find("mat_smac.yaml") == str(example("mat_smac").path)
    assert find("elsewhere/mat_smac.yaml") == "elsewhere/mat_smac.yaml"
    (tmp_path / "mat_smac.yaml").touch()
    assert find("mat_smac.yaml") == "mat_smac.yaml"
    with pytest.raises(UserError, match="Did you mean 'mat_smac'"):
        find("mat_smak")


def test_filter_and_lookup():
    assert [found.name for found in examples("counterattack")] == [
        "aoad_mat_football_counterattack_easy",
        "mat_football_counterattack_easy",
        "pmat_football_counterattack_easy",
    ]
    assert examples("no such thing") == []
    assert example("mat_smac").path.name == "mat_smac.yaml"
    assert example("mat_smac.yaml") == example("mat_smac")
    with pytest.raises(UserError, match="Did you mean 'mat_smac'"):
        example("mat_smca")


def test_the_wheel_holds_every_package():
    root = Path(rllib_seqmarl.__file__).parent
    folders = {".".join(file.parent.relative_to(root.parent).parts) for file in root.rglob("*.py")}
    listed = re.search(
        r"^packages = \[(.*?)\]", (root.parent / "pyproject.toml").read_text(), re.M | re.S
    )

    assert listed is not None
    assert set(re.findall(r'"(.+?)"', listed[1])) == folders | {"rllib_seqmarl.tuned_examples"}


def paths(value: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of nested mappings, by the keys above it."""
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        if key not in TASK and key != GRID:
            yield (*above, key)
        yield from paths(inner, (*above, key))


def resolved(experiment: Mapping[str, Any]) -> list[str]:
    """All that an experiment means, defaults filled in."""
    spec = from_mapping("example", copy.deepcopy(experiment), "example", Overrides())
    text = []
    for variant in check(spec):
        config = type(algorithm_class(spec).get_default_config())().update_from_dict(variant)
        config.validate()
        text.append(repr(config.to_dict()))
        if config.evaluation_interval:
            text.append(repr(config.get_evaluation_config_object().to_dict()))
    spec.config = {key: repr(value) for key, value in spec.config.items() if "!" in repr(value)}
    spec.source = ""
    return [*text, repr(spec)]


YAML = [found for found in examples() if found.path.suffix == ".yaml"]


@pytest.mark.parametrize("found", YAML, ids=lambda found: found.name)
def test_no_example_repeats_a_default(found, starcraft2_installed, where_installed):
    content = load_yaml(found.path.read_text(), found.name)
    for experiment in content.values():
        with where_installed():
            meaning = resolved(experiment)
        for path in paths(experiment):
            shorter = copy.deepcopy(experiment)
            parent = shorter
            for key in path[:-1]:
                parent = parent[key]
            if isinstance(parent.pop(path[-1]), Mapping) and path[-1] in ("config", "env_config"):
                continue  # looked at key by key, and may hold nothing but the task
            try:
                same = resolved(shorter) == meaning
            except UserError:
                same = False  # without it something else is wrong
            assert not same, f"{'/'.join(path)} is the default"
