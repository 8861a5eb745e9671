"""The scripts that play an episode with a trained policy."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SPREAD = {"env": "mpe2.simple_spread_v3:parallel_env"}


@pytest.mark.parametrize(
    ("script", "env", "env_config", "expected"),
    [
        ("play.py", "private_cue", {}, "'episode_return': "),
        ("play.py", "pettingzoo", SPREAD, "'dead_ratio': 0.0"),
        ("play_pettingzoo.py", "pettingzoo", SPREAD, "return -"),
    ],
)
def test_it_plays_an_episode(
    script: str,
    env: str,
    env_config: dict[str, Any],
    expected: str,
    small: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if env == "pettingzoo":
        pytest.importorskip("mpe2")
    algorithm = small("MAT", env, env_config, num_envs_per_env_runner=2).build_algo()
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    algorithm.stop()
    monkeypatch.setattr(sys, "argv", [script, str(tmp_path / "checkpoint")])
    capsys.readouterr()
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    assert expected in capsys.readouterr().out
