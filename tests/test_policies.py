"""tuned_examples/policies: every file plays, as well as its page says."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from rllib_seqmarl.experiments.evaluate.evaluation import evaluate_policy
from rllib_seqmarl.experiments.share.policy_file import SharedPolicy

POLICIES = Path(__file__).parents[1] / "tuned_examples" / "policies"
ROW = re.compile(r"^\| `(\w+)` \| .* \| `(\w+)` \| (\S+) \|$", re.MULTILINE)
ROWS = ROW.findall((POLICIES / "README.md").read_text(encoding="utf-8"))
#: The page's values are of so many episodes.
PUBLISHED, EPISODES = 100, 32


def test_the_page_names_every_file() -> None:
    assert {path.stem for path in POLICIES.glob("*.safetensors")} == {name for name, _, _ in ROWS}


@pytest.mark.parametrize(("name", "metric", "value"), ROWS, ids=[name for name, _, _ in ROWS])
def test_a_policy_plays_as_well_as_its_page_says(name: str, metric: str, value: str) -> None:
    policy = SharedPolicy(POLICIES / f"{name}.safetensors", trust_imports=False)
    if policy.config().env == "smac":
        pytest.importorskip("jaxmarl", reason="needs .[smax]")
    played = evaluate_policy(policy, episodes=EPISODES, seed=7, scripted_policies=())
    # Four standard errors of a share over so many episodes; one of an episode in 100 at least.
    expected = float(value)
    variance = max(expected * (1 - expected), 0.01)
    width = 4 * math.sqrt(variance * (1 / EPISODES + 1 / PUBLISHED))
    assert abs(played["metrics"][metric] - expected) < width
