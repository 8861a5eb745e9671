"""Playing with a checkpoint: what is refused, each with one line."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.rllib.utils.checkpoints import Checkpointable

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.rollout.evaluation import evaluate_checkpoint

CONFIG_FILE = Checkpointable.CLASS_AND_CTOR_ARGS_FILE_NAME


def refusal(path: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        evaluate_checkpoint(str(path), **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("episodes", [0, -3])
def test_no_episodes(episodes: int, tmp_path: Path) -> None:
    """Said before the checkpoint, which is missing here, is looked at."""
    message = refusal(tmp_path, episodes=episodes)
    assert message == f"episodes must be at least 1, got {episodes}."


def test_not_a_checkpoint(tmp_path: Path) -> None:
    assert f"{tmp_path} is not a checkpoint" in refusal(tmp_path)
    (tmp_path / CONFIG_FILE).write_bytes(b"rubbish")
    assert f"{tmp_path} is not a checkpoint, or it is damaged" in refusal(tmp_path)


def forget_module(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, name)


def forget_class(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules[name], "Own")


@pytest.mark.parametrize("forget", [forget_module, forget_class])
def test_code_that_is_not_here(
    forget: Callable[[str, pytest.MonkeyPatch], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "code_of_another_machine"
    module = types.ModuleType(name)
    module.Own = type("Own", (), {"__module__": name})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    state = {"ctor_args_and_kwargs": (({"callbacks_class": module.Own},), {})}
    (tmp_path / CONFIG_FILE).write_bytes(pickle.dumps(state))
    forget(name, monkeypatch)
    message = refusal(tmp_path)
    assert "needs code that cannot be imported here" in message
    assert name in message


def test_an_environment_that_does_not_fit_the_policy(small: Any, tmp_path: Path) -> None:
    algorithm = small("MAT", env_config={"num_agents": 3}).build_algo()
    algorithm.save_to_path(str(tmp_path))
    algorithm.stop()
    assert evaluate_checkpoint(str(tmp_path), episodes=2)["episodes"] == 2
    message = refusal(tmp_path, episodes=2, env_config={"num_agents": 5, "num_actions": 5})
    assert f"the policy of {tmp_path} does not fit this environment" in message
    assert "num_agnets" in refusal(tmp_path, episodes=2, env_config={"num_agnets": 5})
