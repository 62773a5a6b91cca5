"""Limits refuse what cannot work; durations and sizes are read as people write them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.limits import BOUNDS, Limits
from mesh.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5), ("5s", 5), ("250ms", 0.25), ("0.5", 0.5), (".5s", 0.5), ("2m", 120),
        ("1m30s", 90), ("1h 30m", 5400), ("1d", 86400), ("100us", 1e-4), (" 5 s ", 5), ("0", 0),
    ],
)  # fmt: skip
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "-1s", "5 parsecs", "1m30", "5s 3", "1e3", "inf", "nan", "٣s", "5S"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a duration: seconds, or text like '250ms'"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000", 1000),
        ("16MiB", 2**24),
        ("64 KiB", 2**16),
        ("1kB", 1000),
        ("1.5KiB", 1536),
        ("7B", 7),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "KiB", "-1", "1.5B", "16mib", "1MiB 5KiB", "inf"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a size: bytes, or text like '512KiB'"):
        parse_size(text)


@given(st.floats(min_value=0, max_value=1e9, allow_nan=False))
def test_a_duration_is_shown_as_it_is_read(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(min_value=0, max_value=2**50))
def test_a_size_is_shown_as_it_is_read(size: int) -> None:
    assert parse_size(format_size(size)) == size


def test_every_limit_has_a_bound_that_takes_its_default() -> None:
    assert list(BOUNDS) == [field.name for field in fields(Limits)]
    assert all(
        BOUNDS[name].parse(BOUNDS[name].format(getattr(Limits(), name))) == getattr(Limits(), name)
        for name in BOUNDS
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_depth": 0}, "max_depth must be 1 or more, not 0"),
        ({"max_depth": -3}, "max_depth must be 1 or more, not -3"),
        ({"heartbeat": 0.0}, "heartbeat must be 1ms or more, not 0s"),
        ({"drain": -1.0}, "drain must be 0s or more, not -1s"),
        ({"call_timeout": float("inf")}, "call_timeout must be 365d or less, not infs"),
        ({"call_timeout": float("nan")}, "call_timeout must be a number, not nan"),
        ({"max_chunk": 2**32}, "max_chunk must be 4294901756B or less, not 4GiB"),
        ({"max_header": 2**17}, "max_header must be 65535B or less, not 128KiB"),
        ({"max_header": 5}, "max_header must be 16B or more, not 5B"),
        ({"late_after": 6}, "late_after 6 must be less than unresponsive_after 6"),
        ({"silent_after": 4}, "unresponsive_after 6 must be less than silent_after 4"),
        ({"reconnect_first": 9.0}, "reconnect_first 9s must not exceed reconnect_longest 5s"),
        (
            {"max_depth": 40},
            (
                "max_header 32,768 leaves 31,743 of a header's 65,535 bytes for the chain, and "
                "max_depth 40 needs 41,240"
            ),
        ),
    ],
)  # fmt: skip
def test_limits_that_cannot_work_are_refused_with_the_numbers(
    wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        Limits(**wrong)
    assert str(caught.value) == message


def test_a_deep_mesh_can_be_had_for_shorter_headers() -> None:
    assert Limits(max_depth=40, max_header=16 * 1024).max_depth == 40
