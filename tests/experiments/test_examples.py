"""The tuned examples are found, described, and part of the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import rllib_seqmarl
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.examples import example, examples


def test_every_example_has_a_description():
    for found in examples():
        assert 10 < len(found.description) < 100, found.name
        assert found.path.exists()


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
