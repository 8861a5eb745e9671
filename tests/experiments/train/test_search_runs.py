"""Searches as they run: who is stopped, and who takes over from whom."""

from __future__ import annotations

import json
import re

import pytest

from rllib_seqmarl.cli import main

#: How long episodes are stands for how good a trial is: it needs no learning, and no luck.
HEAD = """\
search:
  run: MAT
  env: distinct_actions
  metric: episode_len_mean
  config:
    num_env_runners: 0
    num_envs_per_env_runner: 2
    rollout_fragment_length: 8
    num_epochs: 1
    embed_dim: 8
    lr: 1e-3
    env_config: {episode_length: !grid %s}
"""


@pytest.fixture
def search(tmp_path, no_ray, capfd):
    """Runs a search on one core, so one trial after the other; results of each, and the text."""

    def search(lengths, *lines):
        file = tmp_path / "f.yaml"
        file.write_text(HEAD % lengths + "".join(f"  {line}\n" for line in lines))
        storage = ("--storage-path", str(tmp_path / "results"))
        assert main(["train", "file", str(file), *storage, "--ray-num-cpus", "1"]) == 0
        results = [
            [json.loads(line) for line in path.read_text().splitlines()]
            for path in sorted((tmp_path / "results" / "search").glob("*/result.json"))
        ]
        return results, capfd.readouterr().out

    return search


def test_asha_stops_the_worse_trials_early(search, tmp_path):
    results, text = search(
        "[8, 4, 2]",
        "stop: {training_iteration: 4}",
        "scheduler: {type: asha, max_t: 4, grace_period: 1, reduction_factor: 2}",
    )

    assert [trial[0]["config"]["env_config"]["episode_length"] for trial in results] == [8, 4, 2]
    assert [trial[-1]["training_iteration"] for trial in results] == [4, 1, 1]
    assert re.search(r"^Best of 3 trials of search: MAT_\w{5}_00000 \(", text, re.M)
    (folder,) = (tmp_path / "results" / "search").glob("MAT_*_00001")
    assert re.fullmatch(r"MAT_\w{5}_00001", folder.name)
    params = json.loads((folder / "params.json").read_text())
    assert params["env_config"]["episode_length"] == 4
    assert "(env_runners/episode_len_mean 8, episode_length 8)" in text


def test_pbt_lets_the_worse_trial_go_on_from_the_better_one(search):
    results, text = search(
        "[8, 2]",
        "stop: {training_iteration: 3}",
        "scheduler:",
        "  type: pbt",
        "  perturbation_interval: 1",
        "  quantile_fraction: 0.5",
        "  resample_probability: 0.0",
        "  hyperparam_mutations: {lr: !uniform [9e-4, 1e-3]}",
    )

    better, worse = results
    # They take turns, and what the better one knows after its second turn is taken over.
    assert [result["training_iteration"] for result in better] == [1, 2, 3]
    assert [result["training_iteration"] for result in worse] == [1, 2, 3]
    lengths = [result["config"]["env_config"]["episode_length"] for result in worse]
    assert lengths == [2, 2, 8]
    assert {result["config"]["lr"] for result in better} == {1e-3}
    # 1e-3 times 0.8 or 1.2, and then within the range.
    lr = worse[-1]["config"]["lr"]
    assert lr in (9e-4, 1e-3)
    learned = worse[-1]["learners"]["default_policy"]
    assert learned["default_optimizer_learning_rate"] == pytest.approx(lr)
    assert "Your training finished." in text
