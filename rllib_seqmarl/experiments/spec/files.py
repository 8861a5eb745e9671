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
import stat
import sys
import traceback
from collections.abc import Hashable
from pathlib import Path
from types import ModuleType
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

#: An experiment has some hundred values; what has more is an accident, or meant to exhaust memory.
_MOST_VALUES = 100_000
_MOST_BYTES = 250_000
_MOST_LEVELS = 100
_MOST_BITS = 1024
#: Characters of an argument that an error message repeats.
_SHOWN = 200


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2 floats, tags for searches, and no duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    "a key must be text or a number, no list or mapping (a template such as "
                    "{{ name }} must be filled in first)",
                    key_node.start_mark,
                )
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        """A value; what looks like a date or a number and is none gets a line as well."""
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int) and value.bit_length() > _MOST_BITS:
                raise ValueError(f"a whole number of more than {_MOST_BITS} bits")
            return value
        except (ValueError, OverflowError) as error:
            reason = str(error).split(";")[0]
            raise yaml.constructor.ConstructorError(
                None, None, f"{str(node.value)[:40]!r}: {reason}", node.start_mark
            ) from None

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
        UserError: no such file, a directory, not readable, not UTF-8, or more than an experiment.
    """
    try:
        found = path.stat()
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            # A pipe would wait for ever, and some devices never end.
            raise UserError(f"{path} is no regular file.")
        if stat.S_ISREG(found.st_mode) and found.st_size > _MOST_BYTES:
            raise UserError(
                f"{path} has {found.st_size:,} bytes, and an experiment's file at most "
                f"{_MOST_BYTES:,}."
            )
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
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _written_out(node, {}, 0)
        return loader.construct_document(node)
    except RecursionError:
        raise UserError(f"{source}: YAML error: nested too deeply.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join((error.problem or error.context or "not valid").split())
        raise UserError(f"{source}{where}: YAML error: {problem}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{source}: YAML error: {' '.join(str(error).split())}") from None


def _written_out(node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
    """How many values ``node`` has once every alias (``*name``) is written out.

    Args:
        node: of a document.
        sizes: those of nodes that were seen, by id; 0 while a node is being counted.
        depth: of this node.

    Raises:
        yaml.constructor.ConstructorError: too many, too deep, or it holds itself.
    """
    known = sizes.get(id(node))
    size, problem = known or 1, "an alias stands inside of what it names" if known == 0 else ""
    if known is None and not isinstance(node, yaml.ScalarNode):
        sizes[id(node)] = 0
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        size += sum(_written_out(part, sizes, depth + 1) for part in parts)
    sizes[id(node)] = size
    if depth > _MOST_LEVELS:
        problem = f"nested more than {_MOST_LEVELS} levels deep"
    elif size > _MOST_VALUES:
        problem = f"more than {_MOST_VALUES:,} values once its aliases are written out"
    if problem:
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return size


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON.

    Raises:
        ValueError: a key stands twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def load_json_mapping(text: str, option: str) -> dict[str, Any]:
    """The mapping that a command-line option gives as JSON.

    Raises:
        UserError: not JSON, as NaN is not, not a mapping, or a key that stands twice.
    """
    shown = repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r} and so on"
    try:
        value = json.loads(text, object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{option}: not valid JSON ({error.msg} at character {error.pos + 1}): {shown}. "
            f"Example: {option} '{{\"key\": 1}}'"
        ) from None
    except RecursionError:
        raise UserError(f"{option}: JSON that is nested too deeply.") from None
    except ValueError as error:
        raise UserError(f"{option}: {str(error).split(';')[0]}: {shown}.") from None
    if not isinstance(value, dict):
        raise UserError(f'{option}: expected a JSON object such as {{"key": 1}}, got {shown}.')
    return value


#: The name of the module as which a Python file runs.
_PYTHON_FILE = "rllib_seqmarl.experiment_file"


def _send_by_value(name: str) -> None:
    """Lets what a module defines travel to other processes, which cannot import it."""
    from ray import cloudpickle

    sys.modules[name] = ModuleType(name)  # the call below wants one, and keeps its name
    try:
        cloudpickle.register_pickle_by_value(sys.modules[name])
    finally:
        del sys.modules[name]


def run_python(path: Path) -> dict[str, Any]:
    """The global names of a Python file after it ran.

    Raises:
        UserError: no such file, or it raised an exception; the line says where.
    """
    read_text(path)
    _send_by_value(_PYTHON_FILE)
    try:
        return runpy.run_path(str(path), run_name=_PYTHON_FILE)
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}.") from None
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        line = f", line {frames[-1].lineno}" if frames else ""
        message = " ".join(str(error).split())
        raise UserError(f"{path}{line}: {type(error).__name__}: {message}") from error
