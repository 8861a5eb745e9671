"""Typed access to what users wrote, with error messages that name the place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.settings import MOST_WHOLE

#: Characters of a text that a message repeats.
_SHOWN = 200
#: Thirty years; timers of the operating system take no more than some centuries.
MOST_SECONDS = 1e9


def kind(value: object) -> str:
    """A value as an error message names it."""
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, str):
        shown = repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r} and so on"
        return f"the text {shown}"
    if isinstance(value, bool | int | float):
        return repr(value)
    return f"a {type(value).__name__}"


class Fields:
    """Takes typed values from a mapping; a value of the command line replaces one of the file.

    Args:
        given: the mapping.
        where: begins the error messages.
    """

    def __init__(self, given: Mapping[str, Any], where: str) -> None:
        self._given = given
        self._where = where

    def _value(self, key: str, override: object, default: object) -> Any:
        value = override if override is not None else self._given.get(key)
        return default if value is None else value

    def _refusal(self, key: str, expected: str, value: object) -> UserError:
        return UserError(f"{self._where}: {key!r} must be {expected}, got {value!r}.")

    def whole(self, key: str, override: int | None, default: int, *, least: int) -> int:
        """A whole number of at least ``least``, and of 32 bits at most."""
        value = self._value(key, override, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self._refusal(key, f"a whole number of at least {least}", value)
        if value > MOST_WHOLE:
            raise self._refusal(key, f"at most {MOST_WHOLE:,}", value)
        return value

    def truth(self, key: str, override: bool | None, default: bool) -> bool:
        """True or false."""
        value = self._value(key, override, default)
        if not isinstance(value, bool):
            raise self._refusal(key, "true or false", value)
        return value

    def text(self, key: str, override: str | None) -> str | None:
        """Text, or None where there is none."""
        value = self._value(key, override, None)
        if value is not None and not isinstance(value, str):
            raise self._refusal(key, "text", value)
        return value

    def seconds(self, key: str, override: float | None) -> float | None:
        """A positive number of seconds, or None where there is none."""
        value = self._value(key, override, None)
        if value is None:
            return None
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        if not (fits and 0 < value <= MOST_SECONDS):
            raise self._refusal(key, "a positive number of seconds", value)
        return float(value)
