"""Damaged files of checkpoints, experiments, results and policies are told in one line each."""

from __future__ import annotations

import json
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.result_files import row, write_run
from helpers.running import rllib
from pyarrow.fs import LocalFileSystem
from safetensors import safe_open
from safetensors.torch import save_file

from rllib_seqmarl import UserError, load_policy, manifest
from rllib_seqmarl.cli import main
from rllib_seqmarl.errors import why_not_loaded
from rllib_seqmarl.experiments.checkpoints import find as checkpoints
from rllib_seqmarl.experiments.checkpoints.storage import ExperimentFolder
from rllib_seqmarl.experiments.compare.runs import read_all
from rllib_seqmarl.experiments.evaluate.evaluation import evaluate_checkpoint
from rllib_seqmarl.experiments.share.policy_file import export
from rllib_seqmarl.experiments.spec.experiment import ExperimentSpec

MODULE = "learner_group/learner/rl_module/default_policy"
WEIGHTS = f"{MODULE}/module_state.pkl"
FILES = (
    "rllib_checkpoint.json",
    "class_and_ctor_args.pkl",
    "algorithm_state.pkl",
    "env_runner/state.pkl",
    "learner_group/learner/state.pkl",
    f"{MODULE}/class_and_ctor_args.pkl",
    WEIGHTS,
    "files.json",
)


def of_another_type(file: Path) -> None:
    value = [1, 2]
    file.write_bytes(json.dumps(value).encode() if ".json" in file.name else pickle.dumps(value))


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


#: What can happen to any file.
DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut short": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "empty": lambda file: file.write_bytes(b""),
    "bytes of something else": lambda file: file.write_bytes(b"\x89PNG\r\n" + bytes(range(256))),
    "of another type": of_another_type,
    "missing": Path.unlink,
    "a folder": a_folder,
}
ROWS = [
    pytest.param(file, damage, listed, id=f"{damage}-{file}-{'' if listed else 'un'}listed")
    for file in FILES
    for damage in DAMAGE
    for listed in (True, False)
    # A list that is gone cannot be told apart from one that never was, but by the metadata.
    if listed or file not in ("files.json",)
]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of PMAT."""
    folder = tmp_path_factory.mktemp("stored")
    archive = Path(__file__).parent / "data" / "checkpoints_0.1" / "PMAT.tar.xz"
    with tarfile.open(archive) as content:
        content.extractall(folder, filter="data")
    return folder / "PMAT"


@pytest.fixture(scope="module")
def shared(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its policy in a file."""
    file = tmp_path_factory.mktemp("shared") / "policy.safetensors"
    export(stored, file)
    return file


def unlist(checkpoint: Path) -> None:
    """As checkpoints are that Ray wrote alone: without a list of files."""
    (checkpoint / "files.json").unlink()
    metadata = json.loads((checkpoint / "rllib_checkpoint.json").read_text())
    del metadata["manifest"]
    (checkpoint / "rllib_checkpoint.json").write_text(json.dumps(metadata))


def list_again(checkpoint: Path) -> None:
    (checkpoint / "files.json").unlink()
    manifest.write(str(checkpoint), LocalFileSystem())


def refusals(checkpoint: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What `rllib evaluate`, `rllib export` and `load_policy` say of a checkpoint."""
    lines = []
    path = str(checkpoint)
    for words in (["evaluate", path, "--episodes", "1"], ["export", path, str(target)]):
        assert main(words) == 2
        lines += capsys.readouterr().err.strip().splitlines()
    with pytest.raises(UserError) as caught:
        load_policy(checkpoint)
    assert not target.exists()
    assert len(lines) == 2
    return [*lines, str(caught.value)]


def test_what_is_sound_is_played(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(stored), "--episodes", "1"]) == 0
    assert main(["export", str(stored), str(tmp_path / "p.safetensors")]) == 0
    assert load_policy(stored).algorithm == "PMAT"
    copy = shutil.copytree(stored, tmp_path / "copy")
    unlist(copy)
    assert checkpoints.check(copy) == "PMAT"


@pytest.mark.parametrize(("file", "damage", "listed"), ROWS)
def test_a_damaged_file_of_a_checkpoint(
    file: str,
    damage: str,
    listed: bool,
    stored: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = shutil.copytree(stored, tmp_path / "c")
    if not listed:
        unlist(checkpoint)
    DAMAGE[damage](checkpoint / file)
    for line in refusals(checkpoint, tmp_path / "p.safetensors", capsys):
        assert str(checkpoint) in line
        assert "is damaged" in line or "needs code" in line
        assert Path(file).stem in line
        assert "\n" not in line
        assert "Give another checkpoint" in line
    assert checkpoints.problem(checkpoint) is not None


def change(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: {**content, **values}


def first_of(content: dict[str, Any]) -> str:
    return next(name for name, value in content.items() if np.ndim(value) == 2)


#: Contents of another shape: file, what is made of its content, what is said.
SHAPES: dict[str, tuple[str, Callable[[dict[str, Any]], Any], str]] = {
    "iteration as text": (
        "rllib_checkpoint.json",
        change(training_iteration="3"),
        "'training_iteration' must be a whole number, got '3'",
    ),
    "no class": ("class_and_ctor_args.pkl", lambda content: {}, "names no class"),
    "class as text": ("class_and_ctor_args.pkl", change(**{"class": "PMAT"}), "names no class"),
    "NaN": (
        WEIGHTS,
        lambda content: content | {first_of(content): content[first_of(content)] * np.nan},
        "weights 'policy.*' are not finite",
    ),
    "an entry of the list": (
        "files.json",
        lambda content: content | {"class_and_ctor_args.pkl": 7},
        "the entry of class_and_ctor_args.pkl must have 'bytes'",
    ),
    "an empty list": ("files.json", lambda content: {}, "must hold a mapping with an entry"),
    "a file that is not listed": (
        "files.json",
        lambda content: {k: v for k, v in content.items() if k != WEIGHTS},
        "module_state.pkl is not in files.json",
    ),
}
#: These only what plays with them can tell, as a network of one's own may have infinite masks: what
#: is made of the content of the weights.
PLAYED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "infinite": (
        lambda content: content | {first_of(content): content[first_of(content)] + np.inf},
        "weights 'policy.*' are not finite",
    ),
    "text in place of weights": (
        lambda content: content | {first_of(content): "weights"},
        "is damaged: .*('policy.*' is no array of numbers|can't convert np.ndarray)",
    ),
    "missing": (
        lambda content: {k: v for k, v in content.items() if k != first_of(content)},
        "(lacks the weights |is missing keys: .)'policy",
    ),
    "of another shape": (
        lambda content: content | {first_of(content): content[first_of(content)][:1]},
        "size mismatch for policy",
    ),
}


def rewrite(file: Path, alter: Callable[[dict[str, Any]], Any]) -> None:
    if file.suffix == ".json":
        file.write_text(json.dumps(alter(json.loads(file.read_text()))))
    else:
        file.write_bytes(pickle.dumps(alter(pickle.loads(file.read_bytes()))))


def of_another_shape(case: str, stored: Path, tmp_path: Path) -> tuple[Path, str]:
    """A copy of the checkpoint with that content, listed as it is now, and what is said of it."""
    checkpoint = shutil.copytree(stored, tmp_path / "c")
    file, alter, expected = SHAPES[case]
    rewrite(checkpoint / file, alter)
    if file != "files.json":
        list_again(checkpoint)
    return checkpoint, expected


@pytest.mark.parametrize("case", SHAPES)
def test_content_of_another_shape(
    case: str, stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, expected = of_another_shape(case, stored, tmp_path)
    for line in refusals(checkpoint, tmp_path / "p.safetensors", capsys):
        assert_matches(line, expected)
        assert line.endswith("Give another checkpoint.")


@pytest.mark.parametrize("case", ["NaN", "class as text", "iteration as text", "an empty list"])
def test_training_does_not_begin_with_it(
    case: str, stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, expected = of_another_shape(case, stored, tmp_path)
    words = ["train", "--algo", "PMAT", "--env", "distinct_actions", "--restore", str(checkpoint)]
    stop = ["--stop", '{"training_iteration": 9}', "--storage-path", str(tmp_path / "results")]
    assert main([*words, *stop]) == 2
    assert_matches(capsys.readouterr().err.splitlines()[-1], f"restore: .*{expected}")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("case", PLAYED)
def test_weights_that_do_not_fit(
    case: str, stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = shutil.copytree(stored, tmp_path / "c")
    alter, expected = PLAYED[case]
    rewrite(checkpoint / WEIGHTS, alter)
    list_again(checkpoint)
    for line in refusals(checkpoint, tmp_path / "p.safetensors", capsys):
        assert_matches(line, expected)


@pytest.mark.parametrize("case", ["NaN", "class as text", "no class"])
def test_from_python_too(case: str, stored: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(stored, tmp_path / "c")
    file, alter, expected = SHAPES[case]
    rewrite(checkpoint / file, alter)
    if "class" in case:
        rewrite(checkpoint / file, lambda content: {"class": content.get("class")})
        expected = "is not a checkpoint, or it is damaged"
    with pytest.raises(UserError, match=expected) as caught:
        evaluate_checkpoint(str(checkpoint), episodes=1, scripted_policies=[])
    assert "\n" not in str(caught.value)


def assert_matches(line: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        raise UserError(line)


# --- what is recommended, and what a trial stands for --------------------------------------------


@pytest.fixture
def trial(stored: Path, tmp_path: Path) -> Path:
    """A trial of three checkpoints after iterations 1, 2 and 3."""
    folder = tmp_path / "experiment" / "trial"
    for number in range(3):
        path = shutil.copytree(stored, folder / f"checkpoint_00000{number}")
        rewrite(path / "rllib_checkpoint.json", change(training_iteration=number + 1))
        list_again(path)
    return folder


def test_the_newest_that_can_be_read_is_recommended(
    trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = trial / "checkpoint_000002"
    rewrite(newest / WEIGHTS, SHAPES["NaN"][1])
    list_again(newest)
    (trial / "checkpoint_000001" / "algorithm_state.pkl").unlink()
    sound = trial / "checkpoint_000000"
    for line in refusals(newest, tmp_path / "p.safetensors", capsys):
        assert line.endswith(f"The newest one there that can be read is {sound}.")
    assert checkpoints.newest_sound(trial) == sound
    shutil.rmtree(sound)
    for line in refusals(newest, tmp_path / "p.safetensors", capsys):
        assert f"No checkpoint in {trial} can be read" in line


@pytest.mark.parametrize("scored", [True, False])
def test_a_trial_stands_for_one_checkpoint_everywhere(
    scored: bool, trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: Any
) -> None:
    if scored:
        settings = {"checkpoint_config": {"score_order": "max"}}
        (trial.parent / "experiment.json").write_text(json.dumps(settings))
        scores = [
            json.dumps({"training_iteration": number, "checkpoint_score": score})
            for number, score in ((1, 0.5), (2, 0.9), (3, 0.7))
        ]
        (trial / "result.json").write_text("\n".join([*scores, "[]", '{"training_iteration": "']))
    line = f"Latest checkpoint there: {trial}/checkpoint_000002"
    if scored:
        line = f"Best checkpoint by its score there: {trial}/checkpoint_000001"
    for words in (
        ["evaluate", str(trial), "--episodes", "1"],
        ["export", str(trial), str(tmp_path / "p.safetensors")],
    ):
        assert main(words) == 0
        assert line in capsys.readouterr().out.splitlines()
    load_policy(trial)
    assert line in caplog.text


# --- an experiment that is gone on with ----------------------------------------------------------

SETTINGS_DAMAGE: dict[str, str] = {
    "cut short": '{"algorithm": "MAT", "config": {"lr"',
    "empty": "",
    "a list": "[1]",
    "text": '"config"',
    "without config": '{"algorithm": "MAT"}',
    "config as a list": '{"algorithm": "MAT", "config": ["lr", 0.1]}',
    "nested without end": "[" * 100_000,
    "no text": "\udcff",
}
TRIAL = {"trial_id": "a", "status": "PAUSED", "stopping_criterion": {"training_iteration": 2}}


def state(trial: Any = TRIAL, results: Any = None, **more: Any) -> str:
    pair = [json.dumps(trial), json.dumps({} if results is None else results)]
    return json.dumps({"trial_data": [pair], **more})


STATE_DAMAGE: dict[str, str] = {
    "cut short": state()[:30],
    "empty": "",
    "a list": "[]",
    "no trials": "{}",
    "trials as a number": '{"trial_data": 3}',
    "a trial as a list": state([1]),
    "a trial without status": state({"trial_id": "a"}),
    "an id that is a number": state({**TRIAL, "trial_id": 3}),
    "results as a list": state(results=[1]),
    "a last result as a list": state(results={"last_result": [1]}),
    "a stop as text": state({**TRIAL, "stopping_criterion": "never"}),
    "decisions as a list": state(runner_data=[1]),
    "a trial that is no JSON": json.dumps({"trial_data": [["{", "{}"]]}),
}


def experiment(tmp_path: Path) -> ExperimentFolder:
    settings: dict[str, Any] = {"config": {"lr": 0.1}, "stop": {"training_iteration": 2}}
    spec = ExperimentSpec("mine", "f.yaml", "MAT", storage_path=str(tmp_path), **settings)
    folder = ExperimentFolder(spec)
    assert folder.path is not None
    folder.path.mkdir(exist_ok=True)
    return folder


def write_state(folder: ExperimentFolder, text: str) -> None:
    assert folder.path is not None
    (folder.path / "experiment_state-2026-01-01_00-00-00.json").write_text(text)


@pytest.mark.parametrize("case", SETTINGS_DAMAGE)
def test_damaged_settings_of_an_experiment(case: str, tmp_path: Path) -> None:
    folder = experiment(tmp_path)
    assert folder.path is not None
    write_state(folder, state())
    content = SETTINGS_DAMAGE[case].encode(errors="surrogateescape")
    (folder.path / "experiment.json").write_bytes(content)
    expected = r"experiment\.json .*--resume cannot tell whether settings have changed\. Put back"
    with pytest.raises(UserError, match=expected):
        folder.check_resume()


def test_settings_that_are_gone_are_said(tmp_path: Path) -> None:
    folder = experiment(tmp_path)
    write_state(folder, state())
    assert folder.check_resume() == ["a"]
    assert "there is no experiment.json" in folder.notes[0]


@pytest.mark.parametrize("case", STATE_DAMAGE)
def test_a_damaged_state_of_an_experiment(case: str, tmp_path: Path) -> None:
    folder = experiment(tmp_path)
    folder.note_settings()
    write_state(folder, STATE_DAMAGE[case])
    with pytest.raises(UserError, match=r"is damaged: start a new experiment .*--restore"):
        folder.check_resume()


@pytest.mark.parametrize("damage", ["cut short", "empty", "bytes of something else", "a folder"])
def test_a_damaged_state_of_a_search(damage: str, tmp_path: Path) -> None:
    folder = experiment(tmp_path)
    assert folder.path is not None
    folder.note_settings()
    write_state(folder, state())
    file = folder.path / "basic-variant-state-2026-01-01_00-00-00.json"
    file.write_bytes(pickle.dumps({"counter": 3}))
    assert folder.check_resume() == ["a"]
    DAMAGE[damage](file)
    with pytest.raises(UserError, match=rf"{file.name}.* is damaged: start a new experiment"):
        folder.check_resume()


# --- results ------------------------------------------------------------------------------------

LINES: dict[str, str] = {
    "cut": '{"training_iteration": 2, "num_env_st',
    "a list": "[1, 2]",
    "a number": "7",
    "an iteration as text": json.dumps({**row(2, 1.0), "training_iteration": "2"}),
    "steps as a list": json.dumps({**row(2, 1.0), "num_env_steps_sampled_lifetime": [1]}),
    "settings as a list": json.dumps({**row(2, 1.0), "config": ["lr"]}),
    "an algorithm as a number": json.dumps({**row(2, 1.0), "algorithm": 3}),
    "nested without end": "[" * 100_000,
}


@pytest.mark.parametrize("case", LINES)
def test_a_line_of_results_that_cannot_be_read(case: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "trial", [1.0, 3.0])
    first, last = (folder / "result.json").read_text().splitlines()
    (folder / "result.json").write_text(f"{first}\n{LINES[case]}\n{last}\n")
    said: list[str] = []
    (run,) = read_all([str(folder)], said.append)
    assert [row["training_iteration"] for row in run.rows] == [1, 2]
    assert said == [f"{folder / 'result.json'}: lines that cannot be read and are left out: 1."]


def test_results_of_which_nothing_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "result.json").write_text("[1]\n")
    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "c")]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line == f"rllib: error: no results yet in {tmp_path}."


# --- files of policies ---------------------------------------------------------------------------

Weights = dict[str, torch.Tensor]


def matrix(weights: Weights) -> str:
    return next(name for name, value in weights.items() if value.ndim == 2)


TENSORS: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "NaN": (lambda w: w | {matrix(w): w[matrix(w)] * torch.nan}, "not finite"),
    "infinite": (lambda w: w | {matrix(w): w[matrix(w)] + torch.inf}, "not finite"),
    "missing": (lambda w: {k: v for k, v in w.items() if k != matrix(w)}, "lacks the weights"),
    "one more": (lambda w: w | {"more": torch.zeros(1)}, "has no 'more'"),
    "of another type": (lambda w: w | {matrix(w): w[matrix(w)].double()}, "is torch.float64"),
    "whole numbers": (lambda w: w | {matrix(w): w[matrix(w)].int()}, "is torch.int32"),
    "of another shape": (lambda w: w | {matrix(w): w[matrix(w)][:1].clone()}, "has shape"),
}
HEADERS: dict[str, str] = {
    "a list": "[1]",
    "cut short": '{"format": 2, "version"',
    "empty": "",
    "a format as text": '{"format": "2"}',
    "nested without end": "[" * 5_000,
}


def policy_refusals(
    file: Path, target: Path, capsys: pytest.CaptureFixture[str], expected: str
) -> None:
    """What `rllib evaluate`, `rllib export` and `load_policy` say of a file."""
    for words in (["evaluate", str(file), "--episodes", "1"], ["export", str(file), str(target)]):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert str(file) in line
        assert expected in line
    with pytest.raises(UserError, match=expected):
        load_policy(file)
    assert not target.exists()


def parts(file: Path) -> tuple[Weights, str]:
    with safe_open(str(file), framework="pt") as content:
        weights = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        return weights, content.metadata()["rllib_seqmarl"]


@pytest.mark.parametrize("case", TENSORS)
def test_damaged_weights_in_a_file(
    case: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, header = parts(shared)
    alter, expected = TENSORS[case]
    file = tmp_path / "f.safetensors"
    save_file(alter(weights), file, {"rllib_seqmarl": header})
    policy_refusals(file, tmp_path / "p.onnx", capsys, expected)


@pytest.mark.parametrize("case", HEADERS)
def test_a_damaged_header(
    case: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "f.safetensors"
    save_file(parts(shared)[0], file, {"rllib_seqmarl": HEADERS[case]})
    policy_refusals(file, tmp_path / "p.onnx", capsys, "is damaged")


@pytest.mark.parametrize("value", [3.5, None, -1, True, 10**9, [1], "x"])
@pytest.mark.parametrize("name", ["network", "embed_dim", "num_blocks", "order"])
def test_a_damaged_setting_of_the_network(
    name: str, value: object, shared: Path, tmp_path: Path
) -> None:
    file = tmp_path / "f.safetensors"
    weights, text = parts(shared)
    header = json.loads(text)
    header["actor"]["settings"][name] = value
    save_file(weights, file, {"rllib_seqmarl": json.dumps(header)})
    if (name, value) == ("num_blocks", True):
        load_policy(file)  # JSON's true is a 1
        return
    with pytest.raises(UserError) as caught:
        load_policy(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut short", "empty", "bytes of something else", "a folder"])
def test_a_damaged_file_of_a_policy(
    damage: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "f.safetensors"
    shutil.copy(shared, file)
    DAMAGE[damage](file)
    expected = "it is a folder" if damage == "a folder" else "it is damaged"
    policy_refusals(file, tmp_path / "p.onnx", capsys, expected)


# --- torch's reasons -----------------------------------------------------------------------------


def test_torch_is_quoted_by_its_reason_and_not_by_its_advice(tmp_path: Path) -> None:
    class Own(torch.nn.Linear):
        pass

    with pytest.raises(RuntimeError) as caught:
        Own(2, 3).load_state_dict({"weight": torch.zeros(9, 9), "bias": torch.zeros(4)})
    line = why_not_loaded(caught.value)
    assert line.startswith("size mismatch for weight: copying a param with shape")
    assert line.endswith("(and 1 more)")
    torch.save({"path": Path("x")}, tmp_path / "a.pt")
    with pytest.raises(pickle.UnpicklingError) as refused:
        torch.load(tmp_path / "a.pt", weights_only=True)
    line = why_not_loaded(refused.value)
    assert "weights_only" not in line
    assert "pathlib" in line


def test_the_command_itself(stored: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(stored, tmp_path / "c")
    rewrite(checkpoint / WEIGHTS, SHAPES["NaN"][1])
    list_again(checkpoint)
    ran = rllib("evaluate", str(checkpoint), "--episodes", "1")
    assert ran.returncode == 2
    assert "Traceback" not in ran.stdout
    assert "are not finite" in ran.stdout.splitlines()[-1]
