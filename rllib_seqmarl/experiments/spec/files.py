"""Reads what users write: YAML files, JSON arguments, and Python files that define a config.

YAML is loaded safely: the only tags are those of :mod:`sampling` and ``!grid``, and none of them
can run code. Two of PyYAML's defaults are repaired: ``5e-4`` is a number as in YAML 1.2 and not the
text "5e-4", and a key that stands twice in one mapping is an error and not a silent choice of the
second.
"""

from __future__ import annotations

import json
import re
import runpy
import traceback
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.experiments.spec.grids import GRID
from rllib_seqmarl.experiments.spec.sampling import TAGS, Sampler

_FLOAT = re.compile(
    r"""^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?
        |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2 floats, tags for searches, and no duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_search(self, node: yaml.Node) -> Sampler | dict[str, list[Any]]:
        """What a tag of this package says; its arguments are checked where their key is known."""
        if not isinstance(node, yaml.SequenceNode):
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.tag} takes a list of values", node.start_mark
            )
        values = self.construct_sequence(node, deep=True)
        tag = node.tag.removeprefix("!")
        return {GRID: values} if tag == "grid" else Sampler(tag, values)

    def construct_unknown(self, node: yaml.Node) -> NoReturn:
        """Refuses every other tag."""
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        hint = nearest(tag, (f"!{name}" for name in (*TAGS, "grid")))
        raise yaml.constructor.ConstructorError(
            None, None, f"unknown tag {tag!r}: {hint.rstrip('.')}", node.start_mark
        )


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag in (*TAGS, "grid"):
    _Loader.add_constructor(f"!{_tag}", _Loader.construct_search)
_Loader.add_constructor(None, _Loader.construct_unknown)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        UserError: no such file, a directory, not readable, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file in UTF-8.") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None


def load_yaml(text: str, source: str) -> Any:
    """The value of one YAML document.

    Args:
        text: the document.
        source: its name in error messages.

    Raises:
        UserError: a syntax error, an unknown tag or a duplicate key, with its line number.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join((error.problem or error.context or "not valid").split())
        raise UserError(f"{source}{where}: YAML error: {problem}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{source}: YAML error: {' '.join(str(error).split())}") from None


def load_json_mapping(text: str, option: str) -> dict[str, Any]:
    """The mapping that a command-line option gives as JSON.

    Raises:
        UserError: not JSON, or not a mapping.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{option}: not valid JSON ({error.msg} at character {error.pos + 1}): {text!r}. "
            f"Example: {option} '{{\"key\": 1}}'"
        ) from None
    if not isinstance(value, dict):
        raise UserError(f'{option}: expected a JSON object such as {{"key": 1}}, got {text!r}.')
    return value


def run_python(path: Path) -> dict[str, Any]:
    """The global names of a Python file after it ran.

    Raises:
        UserError: no such file, or it raised an exception; the line says where.
    """
    read_text(path)
    try:
        return runpy.run_path(str(path), run_name="rllib_seqmarl.experiment_file")
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}.") from None
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        line = f", line {frames[-1].lineno}" if frames else ""
        message = " ".join(str(error).split())
        raise UserError(f"{path}{line}: {type(error).__name__}: {message}") from error
