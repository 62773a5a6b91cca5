"""What users set as attributes, and what a span holds of it."""

from __future__ import annotations

import enum
import logging
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_telemetry.attributes import MAX_SIZE, Bounded, clean
from mesh_telemetry.span_limits import MAX_TEXT, MOST, AttributeLimits

if TYPE_CHECKING:
    from mesh_telemetry.spans import Attributes


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("text", "text"),
        ("", ""),
        (True, True),
        (7, 7),
        (2.5, 2.5),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (("a", "b"), ["a", "b"]),
        ([1, 2.5], [1, 2.5]),
        (range(3), [0, 1, 2]),
        ([], []),
        (2**63 - 1, 2**63 - 1),
        (2**63, "0x8000000000000000"),
        ("\ud800", "?"),
        (b"\x00\xff", "AP8="),
        ({"a": [1, None], "b": b"\x00"}, '{"a":[1,null],"b":"AA=="}'),
        (["a", None], '["a",null]'),
        ([[1], [2]], "[[1],[2]]"),
        (None, None),
        (object(), None),
        ({1, 2}, None),
        ({"a": object()}, None),
        ("x" * (MAX_TEXT + 1), "x" * MAX_TEXT),
        ([1] * (MAX_TEXT + 1), [1] * MAX_TEXT),
    ],
)
def test_what_is_told_of_a_value(value: object, told: object) -> None:
    cleaned = clean(value)
    assert cleaned == told
    assert type(cleaned) is type(told)


def test_a_value_that_contains_itself_is_left_out() -> None:
    circle: list[Any] = []
    circle.append(circle)
    assert clean(circle) is None


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(_anything)
def test_whatever_is_told_can_be_sent(value: object) -> None:
    msgspec.msgpack.encode(clean(value))


@pytest.mark.parametrize(("key", "value"), [("", 1), (7, 1), ("key", None), ("key", object())])
def test_what_no_attribute_can_be_is_left_out_with_a_warning(
    key: object, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    attributes: Attributes = {}
    with caplog.at_level(logging.WARNING):
        assert Bounded().put(attributes, key, value, AttributeLimits()) == 1
    assert attributes == {}
    assert "left out" in caplog.text


def test_the_oldest_attribute_makes_way() -> None:
    attributes: Attributes = {}
    bounded = Bounded()
    for number in range(MOST):
        assert bounded.put(attributes, f"a{number}", number, AttributeLimits()) == 0
    assert bounded.put(attributes, "a0", "again", AttributeLimits()) == 0  # and so it is the newest
    assert bounded.put(attributes, "one more", True, AttributeLimits()) == 1
    assert len(attributes) == MOST
    assert "a1" not in attributes
    assert attributes["a0"] == "again"


def test_a_span_holds_no_more_than_a_message_can() -> None:
    attributes: Attributes = {}
    bounded = Bounded()
    lost = bounded.put_all(
        attributes, {f"a{n}": "x" * MAX_TEXT for n in range(100)}, AttributeLimits()
    )
    held = sum(len(str(value)) for value in attributes.values())
    assert held <= MAX_SIZE
    assert lost == 100 - len(attributes) > 0
    assert bounded.put(attributes, "small", 1, AttributeLimits()) == 0
