"""Settings: each is declared once, with its type, bounds, choices, default and sentence.

A group of settings is a class::

    @settings
    class MyEnvConfig:
        num_agents: Annotated[int, Ge(1), Le(64), Doc("agents N.")] = 3
        reward: Annotated[Literal["dense", "sparse"], Doc("when the team is paid.")] = "dense"
        order: Annotated[str, Choice("order"), Doc("who decides when.")] = "index"
        lr: Annotated[Schedulable, Ge(0), Doc("step size.")] = 1e-3
        radius: Annotated[float, Gt(0), OldName("r"), Doc("reach of a car.")] = 0.1

        def check(self) -> None:  # optional: what concerns several settings
            if self.reward == "sparse" and self.num_agents > 8:
                raise Refused("reward", "must be dense with more than 8 agents")

`settings` is ``dataclass(kw_only=True)`` (which does as well) with one addition: a subclass changes
a default by ``num_agents = 5`` alone. From the declarations come

- `read`: an instance from a mapping (YAML, ``env_config``), everything checked;
- `settings_of` and `Setting.check`: one value, wherever it comes from;
- `training_method`: a builder method whose keywords an editor completes;
- `describe`: rows of strings, one for each setting, for ``rllib algo show`` and the docs pages.

Types are checked by pydantic in strict mode (a bool is no number, NaN is refused), except that a
whole number may be written as 1e6. Nothing here imports ray, torch or gymnasium.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from inspect import Parameter, Signature, cleandoc, get_annotations
from typing import (
    Annotated,
    Any,
    Concatenate,
    Literal,
    NamedTuple,
    ParamSpec,
    TypeGuard,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import BaseMetadata, Ge, Gt, Le, Lt, MinLen
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import Doc, dataclass_transform

from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.names import TABLES, tell_once

__all__ = [
    "Annotated",
    "Choice",
    "Doc",
    "Expects",
    "Ge",
    "Gt",
    "Layers",
    "Le",
    "Literal",
    "Lt",
    "MinLen",
    "OldName",
    "OldValue",
    "OneOf",
    "Refused",
    "Row",
    "Schedulable",
    "Schedule",
    "Setting",
    "Width",
    "as_dict",
    "describe",
    "read",
    "settings",
    "settings_of",
    "tell_once",
    "training_method",
    "translate",
]  # fmt: skip

T = TypeVar("T")
P = ParamSpec("P")
C = TypeVar("C")


# -- what a declaration may hold beside bounds and `Doc` ----------------------------------------


class Schedule:
    """The number may be a schedule ``[[0, value], [env_step, value], ...]``."""


#: The type of such a number.
Schedulable = Annotated[float | Sequence[Sequence[float]], Schedule()]


#: A layer's width, and a number of layers; more is a slip of the pen that would fill the memory.
Width = Annotated[int, Gt(0), Le(16_384)]
Layers = Annotated[int, Gt(0), Le(1_000)]


@dataclass(frozen=True)
class Choice:
    """A name of a registry ("order", "value", "network", ...), or an import path."""

    kind: str


class OneOf(NamedTuple):
    """One of some texts that are listed elsewhere, as the keys of a table are."""

    choices: Iterable[str]


@dataclass(frozen=True)
class OldName:
    """A name from before that still works; who uses it is told today's name once."""

    name: str


@dataclass(frozen=True)
class OldValue:
    """A value from before that still works; who uses it is told today's once."""

    value: object
    today: object


@dataclass(frozen=True)
class Expects:
    """What the value must do or be, for the message in place of one about its type."""

    words: str


class Refused(Exception):
    """Raised by a class's ``check``: the setting ``name`` and why its value is refused."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name, self.why = name, why


# -- one setting ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One declared setting.

    Attributes:
        name: its key.
        kind: its type, without what stands beside it in ``Annotated``.
        default: its default.
        metadata: what stands beside the type.
        owner: the class that declares it.
    """

    name: str
    kind: Any
    default: object
    metadata: tuple[object, ...]
    owner: type = field(compare=False)

    def _of(self, marker: type[T]) -> list[T]:
        return [item for item in self.metadata if isinstance(item, marker)]

    @property
    def doc(self) -> str:
        """Its sentence."""
        return " ".join(cleandoc(item.documentation) for item in self._of(Doc))

    @property
    def old_names(self) -> list[str]:
        """Names from before."""
        return [item.name for item in self._of(OldName)]

    @property
    def may_be_schedule(self) -> bool:
        """Whether it may change with the number of environment steps."""
        return bool(self._of(Schedule))

    @property
    def choices(self) -> tuple[str, ...]:
        """The texts that it may be; empty where it is no such choice."""
        for choice in self._of(Choice):
            return tuple(TABLES[choice.kind])
        for listed in self._of(OneOf):
            return tuple(listed.choices)
        parts = [part for part in _parts(self.kind) if part is not type(None)]
        if parts and all(get_origin(part) is Literal for part in parts):
            return tuple(value for part in parts for value in get_args(part))
        return ()

    @property
    def type_words(self) -> str:
        """Its type as messages and pages name it."""
        return _words(self.kind)

    def bounds(self, inclusive: bool = False) -> Bounds:
        """Its bounds; ``inclusive``: with the ends, for the values of a schedule."""
        low: list[Any] = [item.ge for item in self._of(Ge)] + [item.gt for item in self._of(Gt)]
        high: list[Any] = [item.le for item in self._of(Le)] + [item.lt for item in self._of(Lt)]
        return Bounds(
            max(low, default=None),
            max(high, default=None),
            bool(self._of(Gt)) and not inclusive,
            bool(self._of(Lt)) and not inclusive,
        )

    def check(self, value: object, where: str) -> Any:
        """The value as it is used: a whole number as int, a registered name in its spelling.

        Args:
            value: what was given.
            where: begins the message, e.g. ``config key``.

        Raises:
            UserError: it is not what the declaration says, in one line.
        """

        def refusal(why: str) -> UserError:
            return UserError(f"{where} {self.name!r} {why}, got {_shown(value)}.")

        for old in self._of(OldValue):
            if value == old.value:
                tell_once(f"{where} {self.name!r}: {value!r} is called {old.today!r} now.")
                value = old.today
        if self.may_be_schedule and isinstance(value, list | tuple):
            return self._check_schedule(value, where)
        for expects in self._of(Expects):
            if not self._fits(value):
                raise refusal(f"must {expects.words}")
        for choice in self._of(Choice):
            if value is None and type(None) in _parts(self.kind):
                return None
            table = TABLES[choice.kind]
            if not (isinstance(value, str) and (table.knows(value) or ":" in value)):
                raise refusal(f"must be one of {', '.join(table)}")
            try:
                return table.portable(value)
            except UserError as error:
                raise UserError(f"{where} {self.name!r}: {error}") from None
        for listed in self._of(OneOf):
            if value not in tuple(listed.choices):
                raise refusal(f"must be one of {', '.join(listed.choices)}")
        if self.choices and not self._fits(value):
            raise refusal(f"must be one of {', '.join(map(str, self.choices))}")
        try:
            checked = self._adapter.validate_python(_whole(value, self.kind))
        except ValidationError as error:
            infinite = any(problem["type"] == "finite_number" for problem in error.errors())
            words = "a finite number" if infinite else self.type_words
            raise refusal(f"must be {words}") from None
        numbers = checked if isinstance(checked, list | tuple) else [checked]
        if not all(self.bounds().hold(number) for number in numbers):
            raise refusal(f"must {self.bounds()}")
        if any(_is_whole(number) and abs(number) > MOST_WHOLE for number in numbers):
            raise refusal(f"must be at most {MOST_WHOLE:,}")
        return checked

    def _fits(self, value: object) -> bool:
        try:
            self._adapter.validate_python(_whole(value, self.kind))
        except ValidationError:
            return False
        return True

    def _check_schedule(self, value: Sequence[Any], where: str) -> Sequence[Any]:
        pairs = [tuple(pair) for pair in value if isinstance(pair, list | tuple) and len(pair) == 2]
        bounds = self.bounds(inclusive=True)
        steps = [step for step, _ in pairs]
        if not (
            len(pairs) == len(value) >= 2
            and all(_is_number(number) for pair in pairs for number in pair)
            and steps == sorted(steps)
            and steps[0] == 0
            and all(abs(number) < _MOST_OF_SCHEDULE for pair in pairs for number in pair)
            and all(bounds.hold(number) for _, number in pairs)
        ):
            words = f", and values that must {bounds}" if str(bounds) else ""
            raise UserError(
                f"{where} {self.name!r} is not a schedule: {_shown(value)}. Write two or more "
                f"pairs [[0, value], [env_step, value], ...] with rising steps{words}."
            )
        return value

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        others = tuple(item for item in self._of(BaseMetadata) if not isinstance(item, _BOUNDS))
        kind: Any = Annotated[(self.kind, *others)] if others else self.kind
        return TypeAdapter(kind, config=_STRICT)


#: Whole numbers are counts, sizes and seeds, of which libraries below take 32 bits.
MOST_WHOLE = 2**31 - 1

#: Characters of a value that a message repeats.
_MOST_SHOWN = 200

#: Of a schedule's steps and values; a run does not get there.
_MOST_OF_SCHEDULE = 2.0**63

_BOUNDS = (Ge, Gt, Le, Lt)
_STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


class Bounds(NamedTuple):
    """Between what a number must lie; None: no such bound."""

    low: Any
    high: Any
    above_low: bool
    below_high: bool

    def hold(self, number: object) -> bool:
        """Whether ``number`` lies between them; anything that is no number does."""
        if not _is_number(number):
            return True
        if self.low is not None and (number < self.low or (self.above_low and number == self.low)):
            return False
        return self.high is None or (
            number <= self.high and not (self.below_high and number == self.high)
        )

    def __str__(self) -> str:
        """What a number must do: ``be above 0``, ``lie between 0 and 1``; empty for no bounds."""
        low, high = (
            f"{end:,}" if isinstance(end, int) and end >= 10_000 else str(end) for end in self[:2]
        )
        if self.low is None and self.high is None:
            return ""
        if self.low is not None and self.high is not None:
            if not (self.above_low or self.below_high):
                return f"lie between {low} and {high}"
            first = "above" if self.above_low else "at least"
            return f"be {first} {low} and {'below' if self.below_high else 'at most'} {high}"
        if self.high is not None:
            return f"be {'below' if self.below_high else 'at most'} {high}"
        if self.above_low:
            return f"be above {low}"
        return "not be negative" if self.low == 0 else f"be at least {low}"


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> Any:
    return _is_whole(value) or (isinstance(value, float) and abs(value) < float("inf"))


def _shown(value: object) -> str:
    """A value as messages repeat it: a long one is cut."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} and so on"


def _parts(kind: Any) -> tuple[Any, ...]:
    """The members of a union; the type itself where it is none."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _whole(value: object, kind: Any) -> object:
    """A whole number as int where whole numbers are asked for: YAML reads 1e6 as a float."""
    parts = _parts(kind)
    is_whole = isinstance(value, float) and value.is_integer()
    return int(value) if is_whole and int in parts and float not in parts else value  # type: ignore[call-overload]


_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
    Any: "anything",
}


def _words(kind: Any) -> str:
    if kind in _WORDS:
        return _WORDS[kind]
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(part) for part in get_args(kind))
    if origin is Literal:
        return " or ".join(repr(value) for value in get_args(kind))
    if origin is Annotated:
        return _words(get_args(kind)[0])
    plain = origin or kind
    if isinstance(plain, type):
        if issubclass(plain, Mapping):
            return "a mapping"
        if issubclass(plain, Sequence):
            items = [_words(part) for part in get_args(kind) if part is not ...]
            one = f"{items[0]}s".removeprefix("a ") if items else ""
            return f"a list of {one}" if one.endswith("numbers") else "a list"
        if plain.__module__ != "builtins" and plain.__name__ != "Callable":
            return f"a {plain.__name__}"
    return "a class" if plain is type else "a function"


# -- a class of settings -------------------------------------------------------------------------


@dataclass_transform(kw_only_default=True, field_specifiers=(field,))
def settings(cls: type[T]) -> type[T]:
    """A class of settings: ``dataclass(kw_only=True)``, where a subclass may change a default.

    Instances are compared by identity, so that the class may be mixed into another.
    """
    own = get_annotations(cls)
    for name in vars(cls):
        base = next((base for base in cls.__mro__[1:] if name in get_annotations(base)), None)
        if base is not None and name not in own:
            own[name] = _hints(base)[name]
    cls.__annotations__ = own
    made = dataclass(kw_only=True, eq=False)(cls)
    for item in fields(made):  # type: ignore[arg-type]
        # Of two bases with a common one, a dataclass takes the last and not the nearest default.
        owner = next(base for base in made.__mro__ if item.name in get_annotations(base))
        if item is not owner.__dict__["__dataclass_fields__"][item.name]:
            raise TypeError(f"{cls.__name__}: its bases have different defaults of {item.name!r}.")
    return made


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def settings_of(cls: type) -> dict[str, Setting]:
    """Every setting that a class declares or inherits, by name, those of its bases first."""
    return _settings_of(cls)


@cache
def _settings_of(cls: Any) -> dict[str, Setting]:
    # A class that mixes settings in is no dataclass itself.
    cls = next(base for base in cls.__mro__ if "__dataclass_fields__" in vars(base))
    found = {}
    for item in fields(cls):
        hint = _hints(cls)[item.name]
        kind, *metadata = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if any(isinstance(marker, Schedule) for marker in metadata):
            kind = float
        owner = next(base for base in cls.__mro__ if item.name in get_annotations(base))
        default = item.default_factory() if callable(item.default_factory) else item.default
        found[item.name] = Setting(item.name, kind, default, tuple(metadata), owner)
    return found


def read(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """An instance of ``cls`` with the values of ``mapping``, everything checked.

    Args:
        cls: a class of settings, whose ``check()``, where it has one, is called at the end.
        mapping: name -> value.
        where: begins the messages, e.g. ``dubins_car: env_config`` or ``config key``.

    Raises:
        UserError: an unknown name (the line says the nearest one), a wrong type or value.
    """
    known = settings_of(cls)
    values, notes = translate(cls, mapping, where)
    for note in notes:
        tell_once(note)
    for name in values:
        if name not in known:
            begin, _, kind = where.rpartition(" ")
            kind = "config" if kind == "key" else kind
            prefix = f"{begin} " if begin.endswith(":") else ""
            raise UserError(f"{prefix}unknown {kind} key {name!r}. {nearest(str(name), known)}")
    instance = cls(**{name: known[name].check(value, where) for name, value in values.items()})
    check = getattr(instance, "check", None)
    if check is not None:
        try:
            check()
        except Refused as refused:
            value = getattr(instance, refused.name)
            raise UserError(f"{where} {refused.name!r} {refused.why}, got {value!r}.") from None
    return instance


def as_dict(instance: object) -> dict[str, Any]:
    """The values of an instance by name."""
    return {name: getattr(instance, name) for name in settings_of(type(instance))}


def translate(
    cls: type, mapping: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], list[str]]:
    """``mapping`` with today's names in place of old ones, and a line for each of these.

    Raises:
        UserError: both an old name and today's are given.
    """
    today = {old: name for name, item in settings_of(cls).items() for old in item.old_names}
    notes = []
    for old in mapping:
        if old in today:
            if today[old] in mapping:
                raise UserError(f"{where} {old!r} and {today[old]!r} mean the same; keep one.")
            notes.append(f"{where} {old!r} is called {today[old]!r} now.")
    return {today.get(name, name): value for name, value in mapping.items()}, notes


# -- what is made of a class of settings -----------------------------------------------------------


class Row(NamedTuple):
    """One setting as text.

    Attributes:
        name: its key.
        type: e.g. "a number, or a schedule".
        default: as YAML writes it.
        allowed: choices or bounds, e.g. "index, reverse, random" or "above 0"; may be empty.
        doc: its sentence.
    """

    name: str
    type: str
    default: str
    allowed: str
    doc: str


def describe(cls: type) -> list[Row]:
    """A row for each setting of ``cls``, those of its own class first, then those of its bases."""
    by_class = sorted(settings_of(cls).values(), key=lambda item: cls.__mro__.index(item.owner))
    return [_row(item) for item in by_class]


def _row(item: Setting) -> Row:
    kind = item.type_words + (", or a schedule" if item.may_be_schedule else "")
    if item.choices:
        allowed = ", ".join(map(str, item.choices))
        kind = "choice or null" if type(None) in _parts(item.kind) else "choice"
    else:
        allowed = str(item.bounds()).replace("not be negative", "at least 0")
        allowed = allowed.removeprefix("be ").removeprefix("lie ")
    return Row(item.name, kind, _yaml(item.default), allowed, item.doc)


def _yaml(value: object) -> str:
    names = {None: "null", True: "true", False: "false"}
    if isinstance(value, bool) or value is None:
        return names[value]
    return value if isinstance(value, str) else repr(value)


def training_method(
    cls: Callable[P, object],
) -> Callable[[Callable[[C], None]], Callable[Concatenate[C, P], C]]:
    """Decorator of a config's ``training()``: its keywords are the settings of ``cls``.

    What is decorated has no body. The config has ``set_training(mapping)``, which sets the values
    and returns the config.
    """

    def training(self: C, *args: P.args, **values: P.kwargs) -> C:
        return self.set_training(values)  # type: ignore[attr-defined]

    assert isinstance(cls, type)
    parameters = [Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)]
    lines = []
    for item in settings_of(cls).values():
        annotation = get_args(Schedulable)[0] if item.may_be_schedule else item.kind
        parameters.append(
            Parameter(
                item.name, Parameter.KEYWORD_ONLY, default=item.default, annotation=annotation
            )
        )
        lines.append(f"    {item.name}: {item.doc}")
    training.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    training.__doc__ = "\n".join(
        [
            "Sets what is given, and nothing else; the defaults are those of a new config.",
            "",
            "Args:",
            *lines,
            "",
            "Raises:",
            "    UserError: no such setting, or one that belongs to another method.",
        ]
    )
    return lambda method: training
