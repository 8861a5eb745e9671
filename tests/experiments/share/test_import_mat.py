"""``rllib import-mat`` on outputs of the official network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ray.rllib.core.rl_module import RLModule

from rllib_seqmarl.cli import main
from rllib_seqmarl.experiments.evaluate.evaluation import MODULE_PATH

REFERENCE = Path(__file__).parents[2] / "data" / "official_mat_discrete.npz"
#: An environment with the reference's sizes: 5 agents, observations of 11 numbers, 7 actions.
GAME = '{"num_agents": 5, "num_actions": 7, "episode_length": 9}'


@pytest.fixture
def official(tmp_path: Path, no_ray: None) -> Path:
    """A file as the official code saves it."""
    with np.load(REFERENCE) as reference:
        weights = {
            name.removeprefix("weights/"): torch.from_numpy(reference[name].astype(np.float32))
            for name in reference.files
            if name.startswith("weights/")
        }
    torch.save(weights, tmp_path / "transformer_0.pt")
    return tmp_path / "transformer_0.pt"


def run(official: Path, out: Path, heads: int = 2, env_config: str = GAME) -> int:
    return main(
        [
            *("import-mat", str(official), str(out), "--env", "distinct_actions"),
            *("--env-config", env_config, "--heads", str(heads)),
        ]
    )


def test_checkpoint_acts_like_the_official_network(official: Path, tmp_path: Path) -> None:
    assert run(official, tmp_path / "imported") == 0
    module = RLModule.from_checkpoint(str(tmp_path / "imported" / MODULE_PATH))
    with np.load(REFERENCE) as reference:
        obs = torch.from_numpy(reference["obs"].astype(np.float32))
        mask = torch.from_numpy(reference["action_mask"])
        out = module.forward_inference({"obs": {"obs": obs, "action_mask": mask}})
        np.testing.assert_array_equal(out["actions"].numpy(), reference["greedy_actions"])
        values = module.policy.values(obs, out["actions"], None, None)
        np.testing.assert_allclose(values.detach().numpy(), reference["values"], atol=1e-5)
    assert main(["evaluate", str(tmp_path / "imported"), "--episodes", "3"]) == 0
    assert run(official, tmp_path / "imported") == 2  # nothing is overwritten


@pytest.mark.parametrize(
    ("heads", "env_config", "message"),
    [
        (2, '{"num_agents": 5, "num_actions": 8, "episode_length": 9}', "does not fit"),
        (3, GAME, "heads=3 does not divide"),
    ],
)
def test_what_does_not_fit(
    heads: int,
    env_config: str,
    message: str,
    official: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(official, tmp_path / "imported", heads, env_config) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "imported").exists()
