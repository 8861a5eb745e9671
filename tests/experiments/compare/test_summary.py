"""Numbers, steps and seconds as text."""

from __future__ import annotations

import pytest

from rllib_seqmarl.experiments.compare.summary import number, seconds, steps


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (96, "96"),
        (480_000, "480k"),
        (999_400, "999k"),
        (999_936, "1M"),
        (1_120_000, "1.12M"),
        (1e9, "1G"),
    ],
)
def test_steps(value: float, text: str) -> None:
    assert steps(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12.34, "12.3s"),
        (59.94, "59.9s"),
        (59.99, "1m 00s"),
        (119.8, "2m 00s"),
        (200.0, "3m 20s"),
        (599.7, "10m"),
        (5280.0, "1h 28m"),
    ],
)
def test_seconds(value: float, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.4567, "0.457"), (999.4, "999"), (999.7, "1,000"), (-1234.5, "-1,234")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text
