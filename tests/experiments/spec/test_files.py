"""Reading YAML, JSON and Python files: values, and errors in one line."""

from __future__ import annotations

import math
import os

import pytest

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.spec.experiment import Overrides, load_file
from rllib_seqmarl.experiments.spec.files import load_json_mapping, load_yaml, read_text, run_python


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("1e6", 1e6),
        ("-2E+3", -2000.0),
        ("1.5e3", 1500.0),
        ("0.05", 0.05),
        (".5", 0.5),
        ("800_000", 800_000),
        ("3", 3),
        (".inf", math.inf),
        ("3s5z", "3s5z"),
        ("1e", "1e"),
        ("e4", "e4"),
        ("'5e-4'", "5e-4"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_scalars(text, value):
    loaded = load_yaml(f"x: {text}", "f.yaml")["x"]

    assert loaded == value
    assert type(loaded) is type(value)


def test_anchors_and_merge_keys_work():
    loaded = load_yaml("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n", "f.yaml")

    assert loaded["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1\nb: 2\n", 2),
        ("a: 1\na: 2\n", 2),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", 4),
        ("a: !!python/object/apply:os.getcwd []\n", 1),
        ("a: 1\nb: !lognormal [1, 2]\n", 2),
        ("a: 1\n\tb: 2\n", 2),
    ],
)
def test_a_yaml_error_names_file_and_line_in_one_line(text, line):
    with pytest.raises(UserError) as caught:
        load_yaml(text, "f.yaml")

    message = str(caught.value)
    assert message.startswith(f"f.yaml, line {line}, ")
    assert "\n" not in message


def _nested(levels):
    return "a: " + "[" * levels + "]" * levels


_LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("env: {{ env }}\n", "line 1, .*a key must be text or a number.*template"),
        ("{{ env }}: 3\n", "a key must be text or a number"),
        ("? [a, b]\n: 3\n", "a key must be text or a number"),
        ("a: 1\nb: 2026-13-45\n", "line 2, .*'2026-13-45': month must be in 1..12"),
        ("a: 2026-02-30 10:00:00\n", "day is out of range"),
        (f"a: {'9' * 5000}\n", "line 1, .*limit"),
        (f"a: 0x{'f' * 5000}\n", "whole number of more than 1024 bits"),
        (_nested(150), "nested more than 100 levels deep"),
        (_nested(5000), "nested too deeply"),
        ("a: &x [*x]\n", "an alias stands inside of what it names"),
        ("a: &x {b: {c: *x}}\n", "an alias stands inside of what it names"),
        ("a: &x {<<: *x}\n", "an alias stands inside of what it names"),
        (_LAUGHS, "more than 100,000 values once its aliases are written out"),
        ("a: !!binary xxx\n", "failed to decode base64"),
        ("a: \0\n", "unacceptable character"),
        ("a: 1\n---\nb: 2\n", "another document"),
    ],
)
def test_odd_documents_are_told_at_once(text, said):
    with pytest.raises(UserError, match=said) as caught:
        load_yaml(text, "f.yaml")

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_aliases_may_repeat_as_much_as_an_experiment_has():
    text = "a: &a [1, 2, 3]\nb: [*a, *a, *a]\nc: &c {}\nd: [*c, *c]\n"

    assert load_yaml(text, "f.yaml")["b"] == [[1, 2, 3]] * 3
    assert load_yaml("", "f.yaml") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"lr": 1, "lr": 2}', "the key 'lr' stands twice"),
        ('{"a": {"b": 1, "b": 1}}', "the key 'b' stands twice"),
        (f'{{"a": {"9" * 5000}}}', "limit"),
        ('{"a": NaN}', "NaN is no JSON"),
        ('{"a": [1, {"b": -Infinity}]}', "-Infinity is no JSON"),
        ('{"a": 1,}', "not valid JSON"),
        ('{"a": True}', "not valid JSON"),
        ("{'a': 1}", "not valid JSON"),
        ('{"a": 0x10}', "not valid JSON"),
        ('{"a": 1} {"b": 2}', "not valid JSON"),
        ('\ufeff{"a": 1}', "BOM"),
        ("null", "expected a JSON object"),
        ('{"a":' + "[" * 100_000, "nested too deeply"),
        ("x" * 10_000, "not valid JSON .* and so on"),
    ],
)
def test_odd_json_is_told_in_one_line(text, said):
    with pytest.raises(UserError, match=said) as caught:
        load_json_mapping(text, "--stop")

    assert str(caught.value).startswith("--stop: ")
    assert len(str(caught.value)) < 500


def test_json_must_be_an_object():
    assert load_json_mapping('{"a": 1}', "--stop") == {"a": 1}
    for text in ("{a: 1}", "[1]", "", "3"):
        with pytest.raises(UserError, match="--stop"):
            load_json_mapping(text, "--stop")


def test_unreadable_files(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("nowhere.yaml", "binary.yaml", "."):
        with pytest.raises(UserError, match=r"no such file|not a text file|cannot read"):
            read_text(tmp_path / name)


def test_what_is_no_file_of_an_experiment_is_told_at_once(tmp_path):
    """A pipe would wait, a device never end, and a file without an end fill the memory."""
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "long.yaml").write_text("x: [" + "1," * 200_000 + "]")
    (tmp_path / "latin.yaml").write_bytes("é: 1".encode("latin-1"))
    (tmp_path / "utf16.yaml").write_bytes("x: 1".encode("utf-16"))
    for name, said in (
        ("pipe", "is no regular file"),
        ("zero", "is no regular file"),
        ("loop", "Too many levels of symbolic links"),
        ("folder", "Is a directory"),
        ("long", "has 400,005 bytes, and an experiment's file at most 250,000"),
        ("latin", "is not a text file in UTF-8"),
        ("utf16", "is not a text file in UTF-8"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            load_file(str(tmp_path / f"{name}.yaml"), Overrides())
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "got nothing"),
        ("# a comment\n", "got nothing"),
        ("- 1\n", "got a list"),
        ("3\n", "got 3"),
        (f"x: {'a' * 100_000}\n", "and so on"),
        ("x:\n  run: MAT\nx:\n  run: MAT\n", "the key 'x' stands twice"),
        ("x: {run: MAT, env: distinct_actions, config: !!set {a}}\n", "got a set"),
        ("x: {run: MAT, env: distinct_actions, config: {3: 4}}\n", "the key 3 must be text"),
        ("x: {run: MAT, env: distinct_actions, config: {null: 4}}\n", "key None must be text"),
        ("x: {run: MAT, env: distinct_actions, no: 4}\n", "unknown key False"),
        ("x: {run: MAT, env: distinct_actions, config: {<<: 3}}\n", "for merging"),
        ("x: {run: MAT, env: distinct_actions, config: {lr: {eval: '1'}}}\n", "Python code"),
    ],
)
def test_what_describes_no_experiment(text, said, tmp_path):
    file = tmp_path / "f.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        load_file(str(file), Overrides())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_byte_order_mark_and_other_line_ends_are_read(tmp_path):
    file = tmp_path / "f.yaml"
    file.write_bytes(b"\xef\xbb\xbfx:\r\n  run: MAT\r\n  env: distinct_actions\r\n")
    assert [spec.name for spec in load_file(str(file), Overrides())] == ["x"]


@pytest.mark.parametrize(
    ("addition", "said"),
    [
        ("stop: {training_iteration: 0}", "counts up from 0, so that 0 is met before"),
        ("stop: {time_total_s: -1}", "counts up from 0"),
        ("stop: {num_env_steps_sampled_lifetime: -5}", "counts up from 0"),
        ("stop: {num_episodes_lifetime: 0}", "counts up from 0"),
        ("stop: {training_iteration: .inf}", "must be a finite number"),
        ("stop: {training_iteration: .nan}", "must be a finite number"),
        ("stop: {training_iteration: true}", "must be a finite number"),
        ("stop: {training_iteration: '3'}", "must be a finite number"),
        ("num_samples: 0", "'num_samples' must be a whole number of at least 1"),
        ("num_samples: .nan", "'num_samples' must be a whole number of at least 1"),
        ("num_samples: 1e30", "'num_samples' must be at most 2,147,483,647"),
        ("max_concurrent_trials: -1", "'max_concurrent_trials' must be a whole number"),
        ("max_concurrent_trials: 0", "'max_concurrent_trials' must be a whole number"),
        ("time_budget_s: .nan", "'time_budget_s' must be a positive number of seconds"),
        ("time_budget_s: .inf", "'time_budget_s' must be a positive number of seconds"),
        ("max_failures: -2", "'max_failures' must be a whole number of at least -1"),
        ("checkpoint_config: {checkpoint_frequency: -1}", "'checkpoint_frequency' must be"),
        ("checkpoint_config: {checkpoint_frequency: .nan}", "'checkpoint_frequency' must be"),
        ("checkpoint_config: {num_to_keep: 0}", "'num_to_keep' must be a whole number"),
        ("checkpoint_config: {num_to_keep: 1e30}", "'num_to_keep' must be at most"),
        ("checkpoint_config: {checkpoint_at_end: 1}", "must be true or false"),
    ],
)
def test_numbers_of_an_experiment(addition, said, tmp_path):
    file = tmp_path / "f.yaml"
    file.write_text(f"x:\n  run: MAT\n  env: distinct_actions\n  {addition}\n")
    with pytest.raises(UserError, match=said) as caught:
        load_file(str(file), Overrides())
    assert "\n" not in str(caught.value)


def test_errors_of_python_files_name_their_line(tmp_path):
    file = tmp_path / "f.py"
    for text, expected in (
        ("x = 1\ny = (\n", "line 2"),
        ("x = 1\n\nraise RuntimeError('no')\n", "line 3: RuntimeError: no"),
        ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=expected):
            run_python(file)

    file.write_text("config = 7\n")
    assert run_python(file)["config"] == 7
