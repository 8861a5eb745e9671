"""The arguments of the ``rllib`` command, and what it says to wrong ones before Ray starts."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.running import EXAMPLE, ROOT, SMALL, environment

from rllib_seqmarl.cli import main


def error_of(capsys, *arguments):
    """Runs the command in this process; its one line on standard error."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == ""
    return line.removeprefix("rllib: error: ")


# --- without training --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("train", "--help"), ("train", "file", "--help"), ("example", "list")],
    ids=" ".join,
)
def test_help_is_quick_and_imports_neither_torch_nor_ray(arguments):
    code = (
        "import sys; sys.argv[0] = 'rllib'\n"
        "from rllib_seqmarl.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print(sorted({'ray', 'torch', 'jax', 'numpy'} & set(sys.modules)))"
    )
    began = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment(), capture_output=True, text=True
    )

    assert time.monotonic() - began < 2.0
    assert run.returncode == 0
    assert run.stdout.splitlines()[-1] == "[]"
    assert len(run.stdout.splitlines()) > 5


@pytest.fixture
def no_ray(monkeypatch, tmp_path):
    """Ray must not start, and nothing may be written."""
    import ray

    def refuse(*args, **kwargs):
        raise AssertionError("ray.init was called")

    monkeypatch.setattr(ray, "init", refuse)
    yield
    assert not (tmp_path / "results").exists()


BAD_FILES = {
    "algorithm": (SMALL.replace("MAT", "MATT"), "Did you mean 'MAT'?"),
    "environment": (SMALL.replace("distinct_actions", "smca"), "Did you mean 'smac'?"),
    "map": (
        SMALL.replace("distinct_actions", "smac") + "    env_config: {map_name: 3s5s}\n",
        "Did you mean '3s5z'?",
    ),
    "reward": (
        SMALL.replace("MAT", "LICA").replace("distinct_actions", "mpe")
        + "    env_config: {reward: per_agent, state: true}\n",
        "LICA learns from one reward for the team",
    ),
    "key": (SMALL.replace("stop", "stp"), "Did you mean 'stop'?"),
    "config key": (SMALL.replace("num_epochs", "num_epoch"), "Did you mean 'num_epochs'?"),
    "config type": (SMALL.replace("5e-4", "fast"), "'lr' must be a number"),
    "stop key": (SMALL.replace("training_it", "trainig_it"), "Did you mean 'training_iteration'?"),
    "a tag that runs code": (
        SMALL.replace("5e-4", "!!python/object/apply:os.getcwd []"),
        "unknown tag '!!python/object/apply:os.getcwd'",
    ),
    "what Tune would evaluate": (SMALL.replace("5e-4", "{eval: '1'}"), "as Python code"),
    "a wrong choice": (SMALL.replace("5e-4", "!choice [1e-3, fast]"), "'lr' must be a number"),
    "scheduler": (SMALL + "  scheduler: {type: ash, max_t: 9}\n", "Did you mean 'asha'?"),
    "not a mapping": ("- 1\n", "expected a mapping"),
    "syntax": (SMALL.replace("MAT", "[MAT"), "line 3"),
    "restore": (SMALL + "  restore: nowhere\n", "no such checkpoint: nowhere"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused_in_one_line_before_ray_starts(case, capsys, tmp_path, no_ray):
    text, expected = BAD_FILES[case]
    file = tmp_path / "f.yaml"
    file.write_text(text)

    line = error_of(capsys, "train", "file", str(file), "--storage-path", str(tmp_path / "results"))

    assert line.startswith(str(file))
    assert expected in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("trian",), "invalid choice: 'trian'"),
        ((), "required: COMMAND"),
        (("train",), "--algo"),
        (("train", "file"), "required: FILE"),
        (("train", "file", "nowhere.yaml"), "no such file: nowhere.yaml"),
        (("train", "file", EXAMPLE, "--stop", "{x"), "--stop: not valid JSON"),
        (("train", "file", EXAMPLE, "--stop", '{"win": 1}'), "--stop: 'win' is never reported"),
        (("train", "file", EXAMPLE, "--env", "smca"), "Did you mean 'smac'?"),
        (
            ("train", "file", EXAMPLE, "--seed", "x"),
            "--seed: a whole number from 0",
        ),
        (
            ("train", "file", EXAMPLE, "--num-samples", "0"),
            "--num-samples: a whole number",
        ),
        (("train", "file", EXAMPLE, "--sed", "1"), "unrecognized arguments: --sed"),
        (("train", "file", EXAMPLE, "--ray-address", "ray://here:10001"), "ray job submit"),
        (("train", "file", EXAMPLE, "--ray-address", "127.0.0.1:9"), "no Ray cluster answers"),
        (("train", "--algo", "MAT"), "'env'"),
        (("train", "--algo", "MAT", "--config", "[1]"), "--config: expected a JSON object"),
        (("train", "--algo", "MATT", "--env", "smac"), "Did you mean 'MAT'?"),
        (("evaluate", "nowhere"), "no such checkpoint: nowhere"),
        (("evaluate", str(ROOT)), "is not a checkpoint"),
        (("evaluate", "nowhere.safetensors"), "no such file: nowhere.safetensors"),
        (("export", "nowhere", "policy.safetensors"), "no such checkpoint: nowhere"),
        (("export", "nowhere", "policy.pt"), "must end with .safetensors"),
        (("evaluate", "nowhere", "--render", "video.mp4"), "must end with .gif or .png"),
        (("evaluate", "nowhere", "--render", "nowhere/a.gif"), "--render: the folder of nowhere/a"),
        (
            ("evaluate", "nowhere", "--render", "a.gif", "--render-every", "0"),
            "a whole number from 1 to",
        ),
        (("example", "get", "mat_smca"), "Did you mean 'mat_smac'?"),
        (("example", "list", "--filter", "zzz"), "there is no such example"),
        (("train", "file", EXAMPLE, "--ray-num-cpus", "-2"), "from 1 to 2,147,483,647, got '-2'"),
        (("train", "file", EXAMPLE, "--seed", "9999999999"), "--seed: a whole number from 0"),
        (("train", "file", EXAMPLE, "--experiment-name", ".."), "'..' is also its folder's name"),
        (("train", "file", EXAMPLE, "--experiment-name", ""), "cannot be empty"),
        (("evaluate", "nowhere", "--seed", "-1"), "a whole number from 0 to"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(
    arguments, expected, capsys, tmp_path, no_ray, monkeypatch
):
    if arguments[:1] == ("train",):
        monkeypatch.setenv("HOME", str(tmp_path))
        if "file" in arguments or "--env" in arguments:
            arguments = (*arguments, "--storage-path", str(tmp_path / "results"))

    assert expected in error_of(capsys, *arguments)


def test_example_get_prints_the_file(capsys):
    assert main(["example", "get", "mat_distinct_actions"]) == 0
    assert capsys.readouterr().out == Path(EXAMPLE).read_text()


def test_the_former_option_of_scripted_policies_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "no-such-folder", "--controllers", "none"]) == 2
    assert "--controllers is called --scripted-policies now" in capsys.readouterr().err
    assert main(["evaluate", "no-such-folder", "--scripted-policies", "none"]) == 2
    assert "is called" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("algorithm", "config", "message"),
    [
        ("COMA", '{"env_config": {"continuous": true}, "state": "observations"}', "are continuous"),
        ("AOAD-MAT", '{"first_agent": 7}', "first_agent is 7, and the 4 agents count from 0"),
        ("MAT", '{"attention": "neighbours"}', "needs an environment that names them"),
        ("MAT", '{"num_gpus_per_learner": 1000}', "needs 1000 GPUs, and this machine has"),
    ],
)
def test_what_a_trial_alone_would_find_leaves_nothing_behind(
    algorithm, config, message, tmp_path, capsys, no_ray
):
    results = tmp_path / "results"
    command = ("train", "--algo", algorithm, "--env", "distinct_actions", "--config", config)
    assert message in error_of(capsys, *command, "--storage-path", str(results))
    assert not results.exists()
