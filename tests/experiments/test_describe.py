"""`rllib algo` and `rllib env`: every setting with type, default and sentence, in 80 columns."""

from __future__ import annotations

import inspect

import pytest

from rllib_seqmarl import cli, registry
from rllib_seqmarl.learning.base.rllib_settings import RLlibSettings
from rllib_seqmarl.settings import describe, settings_of


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(arguments) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    return output


@pytest.mark.parametrize(("command", "kind"), [("algo", "algorithm"), ("env", "environment")])
def test_lists(command: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    output = run(capsys, command, "list")
    starts = {line.split()[0] for line in output.splitlines() if line.strip()}
    assert set(registry.table(kind)) <= starts


@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_settings_of_an_algorithm(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "algo", "show", name, "--all").splitlines()
    config = registry.config_class(name)
    for setting in (*describe(config), *describe(RLlibSettings)):
        assert any(line.startswith(f"{setting.name}: ") for line in lines), setting.name
        assert setting.doc, setting.name


def test_one_setting(capsys: pytest.CaptureFixture[str]) -> None:
    output = run(capsys, "algo", "show", "srsv")
    assert "\nclip_param: a number, or a schedule (above 0), default 0.05\n    eps, of" in output
    assert "successors: choice (greedy, greedy_per_minibatch, teacher_forced)" in output
    assert "num_env_runners" not in output


@pytest.mark.parametrize("name", registry.ENVIRONMENTS)
def test_settings_of_an_environment(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "env", "show", name).splitlines()
    for setting in settings_of(registry.environment(name).settings_class()).values():
        assert any(line.startswith(f"{setting.name}: ") for line in lines), setting.name
        assert setting.doc, setting.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("algo", "show", "SrSw"), "unknown algorithm 'SrSw'. Did you mean 'SrSv'?"),
        (("env", "show", "dubinscar"), "Did you mean 'dubins_car'?"),
        (("env", "show", "no.such:Env"), "environment 'no.such:Env' cannot be imported"),
    ],
)
def test_unknown_names(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_training_has_a_keyword_for_each_setting(name: str) -> None:
    config = registry.config_class(name)
    parameters = inspect.signature(config.training).parameters
    assert set(parameters) - {"self"} == set(settings_of(config))
    assert all(parameters[key].default == s.default for key, s in settings_of(config).items())
