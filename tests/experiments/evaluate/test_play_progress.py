"""An evaluation shows that it plays."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from rllib_seqmarl.experiments.evaluate import progress as shown
from rllib_seqmarl.experiments.evaluate.evaluation import evaluate_checkpoint
from rllib_seqmarl.experiments.evaluate.progress import PlayProgress


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    from rllib_seqmarl import MATConfig

    config = MATConfig().environment("distinct_actions", env_config={"episode_length": 5})
    config.update_from_dict({"num_envs_per_env_runner": 2, "embed_dim": 8})
    algorithm = config.build_algo()
    path: str = algorithm.save_to_path(str(tmp_path_factory.mktemp("checkpoint")))
    algorithm.stop()
    return path


@pytest.mark.parametrize("terminal", [False, True])
def test_episodes_steps_and_time_to_go(
    terminal: bool, checkpoint: str, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown, "_REFRESH_S", 0.0)
    monkeypatch.setattr(shown, "_LINE_EVERY_S", 0.0)
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with PlayProgress(console) as progress:
        evaluate_checkpoint(checkpoint, episodes=6, progress=progress)
    text = console.file.getvalue()
    if terminal:
        assert re.search(r"policy: \d / 6 episodes, [\d,]+ steps/s", text)
        assert text.endswith("\x1b[2K")  # the line is gone
    else:
        lines = text.splitlines()
        # Two environments play three episodes of five steps each; the clock starts after the first.
        for done, line in zip([0] * 3 + [2] * 5 + [4] * 5 + [6], lines, strict=True):
            pattern = rf"policy: {done} / 6 episodes, [\d,]+ steps/s"
            pattern += r", ETA 0:00:0\d" if done else ""
            assert re.fullmatch(pattern, line)
