"""Wrong inputs of every kind: one line that names the place, and exit status 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.running import SMALL

import rllib_seqmarl
from rllib_seqmarl import MATConfig, make_environment, registry
from rllib_seqmarl.cli import main
from rllib_seqmarl.envs.core.env_checker import check_team_env
from rllib_seqmarl.errors import UserError

TRAIN = ("train", "file", "small.yaml")
ALONE = ("train", "--algo", "MAT", "--env", "mpe")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may start, and nothing be written elsewhere."""
    import ray

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("ray.init was called")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "small.yaml").write_text(SMALL)


ARGUMENTS: list[tuple[tuple[str, ...], str]] = [
    ((*TRAIN, "--sed", "1"), "unrecognized arguments: --sed 1. Did you mean --seed? (see 'rllib t"),
    ((*TRAIN, "--num_env_runners", "1"), "Did you mean --num-env-runners?"),
    (("evaluate", "x", "--episode=3"), "Did you mean --episodes?"),
    (("train", "small.yaml"), "'small.yaml' is no option of rllib train: of a file, write 'rllib"),
    (("train", "file", ""), "the path is empty"),
    ((*TRAIN, "--env", ""), "--env is empty"),
    ((*TRAIN, "--storage-path", ""), "--storage-path is empty"),
    ((*TRAIN, "--checkpoint-score-attr", ""), "--checkpoint-score-attr is empty"),
    ((*TRAIN, "--ray-address", ""), "--ray-address is empty"),
    ((*TRAIN, "--storage-path", "s4://there"), "there is no storage 's4'"),
    ((*TRAIN, "--storage-path", "~nosuchuser/x"), "there is no user 'nosuchuser'"),
    ((*TRAIN, "--experiment-name", " "), "nor hold a path separator, spaces at an end"),
    ((*TRAIN, "--experiment-name", "a\nb"), "a character that is not printed"),
    ((*TRAIN, "--experiment-name", "n" * 256), "has 256 bytes"),
    ((*ALONE, "--config", '{"env": "smac"}'), "--env is 'mpe' and --config says 'env': 'smac'"),
    (("evaluate", "x", "--env-config", ""), "--env-config: not valid JSON"),
    (("evaluate", ""), "the path is empty"),
    (("evaluate", "x", "--out", "a.png", "--render", "a.png"), "must name different files"),
    (("evaluate", "x", "--out", "."), "--out: . is a folder"),
    (("evaluate", "s3://there"), "is a URI"),
    (("evaluate", "a\nb"), "no such checkpoint: a\\nb"),
    (("export", "x", "small.yaml/a.pt2"), "is a file, so a.pt2 cannot be in it"),
    (("compare", "~nosuchuser", "--out", "c"), "there is no user 'nosuchuser'"),
    (("plot", "n" * 300), "File name too long"),
    ((*TRAIN, "--ray-address", ":"), "':' is no address of a cluster"),
    ((*TRAIN, "--ray-address", "127.0.0.1:99999"), "is no address of a cluster"),
    (
        ("import-mat", "small.yaml", "o", "-e", "mpe", "--heads", "1"),
        "Cannot read the official MAT model",
    ),
    (("import-mat", "small.pt", "o", "-e", "mpe"), "the following arguments are required: --heads"),
    (("algo", "show", "os:path"), "'os:path' is no algorithm of RLlib"),
    (("env", "show", "os:path"), "is a module, which is no team"),
]


@pytest.mark.parametrize(("arguments", "expected"), ARGUMENTS, ids=lambda case: str(case)[:60])
def test_arguments(
    arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rllib: error: ")
    assert expected in line
    assert len(line) < 400


CONFIGS: list[tuple[str, str]] = [
    ("1: 2", "config: the key 1 must be text"),
    ("null: 2", "config: the key None must be text"),
    ("env_config: {1: 2}", "unknown env_config key 1"),
    ("num_agents: 3", "unknown key 'num_agents'. It belongs into 'env_config'."),
    ("max_failures: 1", "unknown key 'max_failures'. It belongs to the experiment, beside 'conf"),
    ("learning_rate: 1e-3", "unknown key 'learning_rate'. Did you mean 'lr'?"),
    ("learning_starts: 3", "'learning_starts' is no setting of RLlib any more"),
    ("rl_module_spec: x", "unknown key 'rl_module_spec'"),
    ("log_level: LOUD", "'log_level' must be"),
    ("placement_strategy: NOPE", "'placement_strategy' must be"),
    ("min_time_s_per_iteration: x", "'min_time_s_per_iteration' must be"),
    ("env_runner_cls: x", "'env_runner_cls' must be a class derived from EnvRunner, got 'x'"),
    ("evaluation_config: {lr: x}", "evaluation_config: 'lr' must be a number, got 'x'"),
    ("evaluation_config: {explore: 3}", "evaluation_config: 'explore' must be true or false"),
    (
        "evaluation_config: {env_config: {nope: 1}}",
        "evaluation_config: distinct_actions: unknown env_config key 'nope'",
    ),
    ("evaluation_parallel_to_training: true", "setting `config.evaluation_parallel_to_training`"),
]


@pytest.mark.parametrize(("line", "expected"), CONFIGS)
def test_keys_of_a_config(line: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("small.yaml").write_text(f"{SMALL}    {line}\n")
    assert main(TRAIN) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert expected in told
    assert "suppress" not in told


@pytest.mark.parametrize("line", ["lr: 1e-3", "env_config: {num_agents: 3}", "num_env_runners: 1"])
def test_keys_of_an_experiment(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("small.yaml").write_text(f"{SMALL}  {line}\n")
    assert main(TRAIN) == 2
    assert "It belongs into 'config'." in capsys.readouterr().err


CALLS: dict[str, tuple[Callable[[], Any], str]] = {
    "a name that is none": (lambda: rllib_seqmarl.register_order("", "a:B"), "must be text"),
    "a name with spaces": (lambda: rllib_seqmarl.register_value(" a", "a:B"), "must be text"),
    "a number as a name": (lambda: rllib_seqmarl.register_network(3, "a:B"), "must be text"),  # type: ignore[arg-type]
    "a list as a name": (lambda: rllib_seqmarl.register_encoder(["a"], "a:B"), "must be text"),  # type: ignore[arg-type]
    "no target": (lambda: rllib_seqmarl.register_algorithm("own", None), "got None"),  # type: ignore[arg-type]
    "a number as a target": (lambda: rllib_seqmarl.register_encoder("own", 3), "got 3"),  # type: ignore[arg-type]
    "a path without a colon": (
        lambda: rllib_seqmarl.register_environment("own", "package.Game"),
        "is no import path",
    ),
    "a path without a name": (
        lambda: rllib_seqmarl.register_order("own", "package:"),
        "is no import path",
    ),
    "an environment that is a module": (
        lambda: MATConfig().environment("os:path").validate(),
        "is a module, which is no team",
    ),
    "a number as an environment": (lambda: make_environment(3), "name must be text"),  # type: ignore[arg-type]
    "no environments": (lambda: make_environment("mpe", 0), "num_envs must be a whole number"),
    "half an environment": (lambda: make_environment("mpe", 1.5), "num_envs must be"),  # type: ignore[arg-type]
    "settings in the place of a number": (
        lambda: make_environment("mpe", {"task": "spread"}),  # type: ignore[arg-type]
        "num_envs must be",
    ),
    "settings that are a list": (lambda: make_environment("mpe", 1, [1]), "must be a mapping"),  # type: ignore[arg-type]
    "a config that is a list": (
        lambda: MATConfig().update_from_dict([("lr", 1)]),  # type: ignore[arg-type]
        "must be a mapping",
    ),
    "a number as a config key": (
        lambda: MATConfig().update_from_dict({1: 2}),  # type: ignore[dict-item]
        "key 1 must be text",
    ),
    "an algorithm that is a module": (lambda: registry.config_class("os:path"), "is no algorithm"),
    "a learner that is none": (
        lambda: MATConfig().environment("mpe").training(learner_class=3).validate(),
        "'learner_class' must be a class derived from Learner, got 3",
    ),
    "callbacks that are none": (
        lambda: MATConfig().environment("mpe").callbacks(int).validate(),  # type: ignore[arg-type]
        "'callbacks_class' must be a class derived from RLlibCallback",
    ),
    "a callback that is none": (
        lambda: MATConfig().environment("mpe").callbacks(on_train_result=3).validate(),  # type: ignore[arg-type]
        "'on_train_result' must be a function, got 3",
    ),
    "an unknown key of the evaluation": (
        lambda: MATConfig().environment("mpe").evaluation(evaluation_config={"nope": 1}).validate(),
        "unknown config key 'nope'",
    ),
    "a check of no steps": (
        lambda: check_team_env(make_environment("distinct_actions"), num_steps=0),
        "num_steps must be a whole number from 1",
    ),
    "a number as a path": (lambda: rllib_seqmarl.load_policy(3), "path must be text or a Path"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", CALLS)
def test_calls(case: str) -> None:
    call, expected = CALLS[case]
    with pytest.raises(UserError, match=expected) as raised:
        call()
    assert "\n" not in str(raised.value)
