"""Reading YAML, JSON and Python files: values, and errors in one line."""

from __future__ import annotations

import math

import pytest

from rllib_seqmarl.errors import UserError
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
