"""Payloads: values to bytes and back, and errors that name the path of what cannot travel."""

from __future__ import annotations

import datetime as dt
import enum
import math
import re
import uuid
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mesh
from mesh.errors import Reason
from mesh.payload import (
    EncodingFault,
    decode,
    decode_details,
    decode_result,
    encode,
    encode_details,
    encode_params,
    reader_of,
    reader_of_params,
)
from mesh.wire.codec import JSON, MSGPACK, RAW


class Colour(enum.Enum):
    """An enumeration of a user."""

    RED = "red"


@dataclass
class Point:
    """A dataclass of a user."""

    x: int
    tags: list[Any]


class Size(msgspec.Struct):
    """A struct of a user."""

    width: Any


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_data_comes_back_as_it_was(value: object) -> None:
    """In MessagePack; the value compared is the value itself, floats and all."""
    assert decode(encode(value), MSGPACK) == value


@given(PLAIN.filter(lambda value: "inf" not in repr(value)))
def test_plain_data_comes_back_as_it_was_in_json(value: object) -> None:
    """Infinity apart, which JSON cannot write."""
    assert decode(encode(value, JSON), JSON) == value


@given(st.binary())
def test_raw_bytes_are_not_touched(value: bytes) -> None:
    """Any bytes-like value is allowed, and nothing else."""
    assert decode(encode(bytearray(value), RAW), RAW) == value
    with pytest.raises(EncodingFault, match="must be bytes, not str"):
        encode("text", RAW)


@given(st.binary(max_size=64), st.sampled_from([MSGPACK, JSON, RAW, 7]))
def test_any_bytes_decode_or_are_refused_as_undecodable(payload: bytes, encoding: int) -> None:
    """The caller sees ``internal`` and the reason, whatever the other side has sent."""
    try:
        decode_result(payload, encoding, Any, "a.b")
    except mesh.Internal as error:
        assert error.reason == Reason.UNDECODABLE  # noqa: PT017 - most payloads do decode
        assert "result of a.b cannot be decoded" in error.message  # noqa: PT017


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (Point(1, ["a"]), Point),
        (Size(3), Size),
        (Colour.RED, Colour),
        (uuid.UUID(int=5), uuid.UUID),
        (dt.datetime(2024, 1, 2, tzinfo=dt.UTC), dt.datetime),
        ({1, 2}, set[int]),
        ({"a": Point(1, [])}, dict[str, Point]),
    ],
)
def test_users_types_come_back_as_the_type_that_was_asked_for(value: object, wanted: Any) -> None:
    """And without a type, as plain data."""
    assert decode(encode(value), MSGPACK, wanted) == value


class Odd:
    """Nothing that can travel."""

    def __repr__(self) -> str:
        return "<odd>"


CIRCLE: list[Any] = []
CIRCLE.append({"again": CIRCLE})
DEEP: Any = 1
for _ in range(5000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Odd(), "$: Odd: "),
        ([1, [2, Odd()]], "$[1][1]: Odd: "),
        ({"a": {"b c": Odd()}}, "$.a.b c: Odd: "),
        ({"a": {3: Odd()}}, "$.a[3]: Odd: "),
        (Point(1, [0, Odd()]), "$.tags[1]: Odd: "),
        (Size({"w": (1, Odd())}), "$.width.w[1]: Odd: "),
        ({"a": 2**64}, "$.a: int: "),
        ({"a": [1, -(2**63) - 1]}, "$.a[1]: int: "),
        ({"a": {(1, 2): 1, Odd(): 2}}, "$.a: key <odd> of type Odd: "),
        ({"a": "\ud800"}, "$.a: str: "),
        (lambda: None, "$: function: "),
        ([print], "$[0]: builtin_function_or_method: "),
    ],
)
def test_the_path_of_what_cannot_travel_is_named(value: object, path: str) -> None:
    """With its type; the first such part, where there are several."""
    with pytest.raises(EncodingFault, match=rf"^{re.escape(path)}"):
        encode(value)


@pytest.mark.parametrize("value", [CIRCLE, DEEP, {"a": DEEP}])
def test_what_is_too_deep_or_in_a_circle_is_refused(value: object) -> None:
    """As a fault of the value, and never as a RecursionError."""
    with pytest.raises(EncodingFault, match="nested too deeply, or in a circle"):
        encode(value)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [150, 190])
def test_what_is_not_too_deep_travels(depth: int) -> None:
    """Up to about the depth that the message names."""
    assert decode(encode(nested(depth)), MSGPACK) == nested(depth)


def test_parameters_that_cannot_travel_are_the_callers_fault() -> None:
    """The call was not sent: nothing was executed."""
    with pytest.raises(mesh.InvalidArgument) as refused:
        encode_params({"user": {"id": Odd()}}, "users.get")
    assert refused.value.reason == Reason.UNENCODABLE
    assert not refused.value.maybe_executed
    assert "parameters of users.get cannot be encoded: $.user.id: Odd" in refused.value.message


def test_a_result_of_another_type_than_asked_for_names_the_path_and_the_type() -> None:
    """As ``internal``: the two sides disagree about what the method returns."""
    payload = encode({"x": "one", "tags": []})
    with pytest.raises(mesh.Internal, match=r"result of a\.b cannot be decoded as Point") as wrong:
        decode_result(payload, MSGPACK, Point, "a.b")
    assert "$.x" in wrong.value.message
    assert wrong.value.reason == Reason.UNDECODABLE


UNHASHABLE = Annotated[list[int], ["not", "hashable"]]


@pytest.mark.parametrize("wanted", [list[int], set[int], Any, UNHASHABLE])
@pytest.mark.parametrize("encoding", [MSGPACK, JSON])
def test_what_is_prepared_for_a_type_reads_it_as_decoding_does(wanted: Any, encoding: int) -> None:
    """Also where the type cannot be remembered."""
    payload = encode([1, 2, 1], encoding)
    read = reader_of(wanted, encoding)
    assert read is not None
    assert read(payload) == decode(payload, encoding, wanted)
    assert decode_result(payload, encoding, wanted, "a.b", read) == read(payload)
    assert reader_of_params(wanted)(encode([1, 2, 1])) == read(payload)


@pytest.mark.parametrize("encoding", [MSGPACK, JSON, RAW])
def test_a_type_that_nothing_decodes_into_is_told_before_anything_is_sent(encoding: int) -> None:
    """Of parameters, with the call that sends such: a handler is registered whatever it takes."""
    with pytest.raises(TypeError, match="more than one"):
        reader_of(int | Point | Size, encoding)
    read = reader_of_params(int | Point | Size)
    with pytest.raises(TypeError, match="more than one"):
        read(encode(1))


def test_raw_bytes_are_read_without_preparation() -> None:
    assert reader_of(bytes, RAW) is None
    assert decode_result(b"ab", RAW, bytes, "a.b", reader_of(bytes, RAW)) == b"ab"


def test_details_that_cannot_be_read_do_not_hide_their_error() -> None:
    """The error itself matters more."""
    assert decode_details(b"", MSGPACK) == {}
    assert decode_details(b"\xc1", MSGPACK) == {}
    assert decode_details(b"\x93\x01", MSGPACK) == {}
    assert decode_details(encode([1]), MSGPACK) == {"value": [1]}
    assert decode_details(encode({"a": 1}), MSGPACK) == {"a": 1}


def test_details_that_cannot_travel_are_replaced_by_why() -> None:
    """So the caller still sees the error."""
    sent = encode_details(mesh.NotFound("gone", details={"a": Odd()}))
    assert decode(sent, MSGPACK)["details"].startswith("lost: $.a: Odd: ")
    assert encode_details(mesh.NotFound("gone")) == b""
    assert math.isnan(decode(encode(math.nan), MSGPACK))
