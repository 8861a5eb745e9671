"""Settings: one declaration gives checks, messages, a typed method and rows of text."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.settings import (
    Choice,
    Doc,
    Expects,
    Ge,
    Gt,
    Le,
    MinLen,
    OldName,
    Refused,
    Schedulable,
    as_dict,
    describe,
    read,
    settings,
    settings_of,
    training_method,
)

Widths = Annotated[
    Sequence[Annotated[int, Gt(0)]], MinLen(1), Expects("list widths, as in [128, 128]")
]


@settings
class Base:
    agents: Annotated[int, Ge(1), Le(20_000), OldName("num"), Doc("number of agents.")] = 3
    mode: Annotated[Literal["slow", "fast"], Doc("how.")] = "slow"
    order: Annotated[str, Choice("order"), Doc("who decides when.")] = "index"
    lr: Annotated[Schedulable, Ge(0), Doc("step size.")] = 1e-3
    epsilon: Annotated[Schedulable, Ge(0), Le(1)] = 0.0
    clip: Annotated[float | None, Gt(0)] = None
    widths: Widths = (8, 8)
    duration: Annotated[int | Literal["auto"], Gt(0)] = 10
    greedy: bool = True
    extra: Mapping[str, Any] | None = None


@settings
class Derived(Base):
    agents = 5
    seats: Annotated[int, Ge(0), Doc("at the table.")] = 2

    def check(self) -> None:
        if self.seats > self.agents:
            raise Refused("seats", f"must not be more than agents ({self.agents})")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"agent": 4}, "game: unknown env_config key 'agent'. Did you mean 'agents'?"),
        ({"agents": 0}, "game: env_config 'agents' must lie between 1 and 20,000, got 0."),
        ({"agents": True}, "'agents' must be a whole number, got True."),
        ({"agents": 2.5}, "'agents' must be a whole number, got 2.5."),
        ({"agents": math.nan}, "'agents' must be a whole number, got nan."),
        ({"agents": 2, "num": 2}, "'num' and 'agents' mean the same; keep one."),
        ({"mode": "quick"}, "'mode' must be one of slow, fast, got 'quick'."),
        ({"order": "sideways"}, "'order' must be one of index, reverse, "),
        ({"order": "no.such:Order"}, "order 'no.such:Order' cannot be imported: No module named"),
        ({"lr": "5e-4"}, "'lr' must be a number, got '5e-4'."),
        ({"lr": -1}, "'lr' must not be negative, got -1."),
        ({"lr": math.inf}, "'lr' must be a finite number, got inf."),
        ({"lr": [[0, 1e-3]]}, "'lr' is not a schedule: [[0, 0.001]]. Write two or more pairs "),
        ({"lr": [[5, 1.0], [9, 1.0]]}, "'lr' is not a schedule"),
        ({"lr": [[0, 1.0], [9, -1.0]]}, "and values that must not be negative."),
        ({"lr": [[0, 1.0], [9, True]]}, "'lr' is not a schedule"),
        ({"lr": [0.1, 0.2]}, "'lr' is not a schedule"),
        ({"epsilon": [[0, 2.0], [9, 0.0]]}, "must lie between 0 and 1."),
        ({"clip": 0.0}, "'clip' must be above 0, got 0.0."),
        ({"clip": 10**400}, "'clip' must be a number or null"),
        ({"clip": [[0, 1.0], [9, 0.0]]}, "'clip' must be a number or null"),
        ({"widths": [8, 0]}, "'widths' must list widths, as in [128, 128], got [8, 0]."),
        ({"widths": []}, "'widths' must list widths, as in [128, 128], got []."),
        ({"duration": "all"}, "'duration' must be a whole number or 'auto', got 'all'."),
        ({"duration": 0}, "'duration' must be above 0, got 0."),
        ({"greedy": 1}, "'greedy' must be true or false, got 1."),
        ({"extra": [1]}, "'extra' must be a mapping or null, got [1]."),
        ({"seats": 9}, "game: env_config 'seats' must not be more than agents (5), got 9."),
    ],
)
def test_refused_with_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(Derived, given, "game: env_config")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("agents", 1e3, 1000),
        ("lr", 1, 1.0),
        ("lr", [[0, 1], [9, 0]], [[0, 1], [9, 0]]),
        ("epsilon", ((0, 1.0), (9, 0.0)), ((0, 1.0), (9, 0.0))),
        ("clip", None, None),
        ("duration", "auto", "auto"),
        ("order", "Random", "random"),
        ("extra", {"a": 1}, {"a": 1}),
    ],
)
def test_accepted(name: str, given: object, kept: object) -> None:
    value = getattr(read(Derived, {name: given}, "config key"), name)
    assert value == kept
    assert type(value) is type(kept)


def test_defaults_and_inheritance() -> None:
    assert as_dict(read(Derived, {}, "x")) == {**as_dict(Base()), "agents": 5, "seats": 2}
    assert (Base().agents, Derived().agents, Derived(agents=7).agents) == (3, 5, 7)
    assert settings_of(Derived)["agents"].doc == "number of agents."


def test_bases_that_disagree_are_refused() -> None:
    @settings
    class Left(Base):
        agents = 7

    @settings
    class Right(Base):
        seats: int = 2

    with pytest.raises(TypeError, match="different defaults of 'agents'"):

        @settings
        class Both(Right, Left):
            pass


def test_a_plain_dataclass_will_do() -> None:
    @dataclass(kw_only=True)
    class Plain:
        size: int = 3

    with pytest.raises(UserError, match=r"config key 'size' must be a whole number, got 'x'\."):
        read(Plain, {"size": "x"}, "config key")
    with pytest.raises(UserError, match="unknown config key 'sise'"):
        read(Plain, {"sise": 3}, "config key")


def test_old_names_are_translated_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    assert [read(Base, {"num": 4}, "key").agents for _ in range(2)] == [4, 4]
    assert caplog.messages == ["key 'num' is called 'agents' now."]


def test_a_typed_method() -> None:
    class Config:
        def set_training(self, values: Mapping[str, Any]) -> Config:
            self.values = values
            return self

        @training_method(Derived)
        def training(self) -> None: ...

    assert Config().training(agents=3, mode="fast").values == {"agents": 3, "mode": "fast"}
    parameters = inspect.signature(Config.training).parameters
    assert list(parameters)[:3] == ["self", "agents", "mode"]
    assert parameters["agents"].default == 5
    assert "agents: number of agents." in (Config.training.__doc__ or "")


def test_rows() -> None:
    rows = {row.name: row for row in describe(Derived)}
    assert next(iter(rows)) == "agents"  # declared, or with another default, in the class itself
    assert rows["agents"][1:] == (
        "a whole number",
        "5",
        "between 1 and 20,000",
        "number of agents.",
    )
    assert rows["mode"][1:4] == ("choice", "slow", "slow, fast")
    assert rows["lr"][1:4] == ("a number, or a schedule", "0.001", "at least 0")
    assert rows["clip"][1:4] == ("a number or null", "null", "above 0")
    assert rows["greedy"][1:4] == ("true or false", "true", "")
    assert rows["widths"].type == "a list of whole numbers"
