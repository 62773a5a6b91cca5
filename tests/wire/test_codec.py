"""Headers: every field of every kind, there and back, and what is refused."""

from __future__ import annotations

import typing
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import LocalProtocolError, RemoteProtocolError
from mesh.wire import CONTINUED, MORE, Kind, codec
from mesh.wire.frames import MAX_HEADER, PREFIX, Splitter

UNSIGNED = st.integers(0, 2**63 - 1)
TEXT = st.text(max_size=40)
NAMES = st.from_regex(codec.NAME_PATTERN, fullmatch=True)
TEXT_MAP = st.dictionaries(TEXT, TEXT, max_size=4)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | TEXT
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXT
)
PROCESS_ID = codec.ProcessId

STRATEGIES: dict[Any, st.SearchStrategy[Any]] = {
    codec.Unsigned: UNSIGNED,
    codec.Name: NAMES,
    codec.TraceId: st.binary(min_size=16, max_size=16),
    codec.TraceIds: st.lists(st.binary(min_size=16, max_size=16), max_size=4),
    codec.SpanId: st.binary(min_size=8, max_size=8),
    codec.ActivityId: st.from_regex(codec.ACTIVITY_PATTERN, fullmatch=True),
    codec.Text: TEXT_MAP,
    PROCESS_ID: st.from_regex(r"[\x21-\x7e]{1,64}", fullmatch=True),
    codec.Version: st.text(max_size=codec.MAX_VERSION),
    str: TEXT,
    list[str]: st.lists(TEXT, max_size=4),
    list[codec.Hop]: st.lists(st.text(max_size=257), max_size=4),
    list[codec.Name]: st.lists(NAMES, max_size=4),
    dict[str, codec.Unsigned]: st.dictionaries(TEXT, UNSIGNED, max_size=4),
    dict[codec.Name, codec.Options]: st.dictionaries(
        NAMES, st.dictionaries(TEXT, SCALARS, max_size=3), max_size=3
    ),
}

# What fits a field, by the kind of its type; everything else in the pool must be refused.
SAMPLES: dict[str, Any] = {
    "negative": -1,
    "most negative": -(2**63),
    "2^63": 2**63,
    "2^64 - 1": 2**64 - 1,
    "float": 1.0,
    "nan": float("nan"),
    "infinity": float("inf"),
    "true": True,
    "nil": None,
    "number": 7,
    "text": "text",
    "bytes": b"bytes",
    "array": ["text"],
    "array of bytes": [b"text"],
    "map": {"key": "text"},
    "map of maps": {"key": {}},
    "map of numbers": {"key": 7},
    "map by number": {7: "text"},
    "map by bytes": {b"key": "text"},
    "extension": msgpack.ExtType(5, b"data"),
    "timestamp": msgpack.Timestamp(1, 0),
}
FITTING: dict[Any, set[str]] = {
    codec.Unsigned: {"number"},
    codec.Name: {"text"},
    codec.TraceId: set(),
    codec.TraceIds: set(),
    codec.SpanId: set(),
    codec.ActivityId: {"text"},
    codec.Text: {"map"},
    PROCESS_ID: {"text"},
    codec.Version: {"text"},
    str: {"text"},
    list[str]: {"array"},
    list[codec.Hop]: {"array"},
    list[codec.Name]: {"array"},
    dict[str, codec.Unsigned]: {"map of numbers"},
    dict[codec.Name, codec.Options]: {"map of maps"},
}


def fields(cls: type[codec.Header]) -> dict[str, tuple[Any, bool]]:
    """The type of each field, and whether it may be nil."""
    found: dict[str, tuple[Any, bool]] = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        if name.startswith("__"):
            continue
        choices = [one for one in typing.get_args(hint) if one is not type(None)]
        may_be_nil = type(None) in typing.get_args(hint)
        found[name] = (choices[0] if may_be_nil else hint, may_be_nil)
    return found


@st.composite
def headers(draw: st.DrawFn, kind: Kind) -> tuple[Any, ...]:
    """Valid fields of a kind, in their order."""
    values: list[Any] = []
    for hint, may_be_nil in fields(codec.HEADERS[kind]).values():
        strategy = STRATEGIES[hint]
        values.append(draw(st.none() | strategy if may_be_nil else strategy))
    return tuple(values)


def valid(kind: Kind) -> list[Any]:
    """One valid header of a kind."""
    simple: dict[Any, Any] = {
        codec.Unsigned: 1,
        codec.Name: "name",
        codec.TraceId: b"t" * 16,
        codec.SpanId: b"s" * 8,
        codec.TraceIds: [],
        codec.ActivityId: "activity",
        PROCESS_ID: "process",
        codec.Version: "1.2.0",
        str: "text",
    }
    return [
        simple[hint] if hint in simple else typing.get_origin(hint)()
        for hint, _ in fields(codec.HEADERS[kind]).values()
    ]


def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def split(frame: bytes) -> tuple[int, int, bytes, bytes]:
    """The one frame in these bytes."""
    [raw] = Splitter(max_header=MAX_HEADER, max_payload=2**20).feed(frame)
    return raw


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
@settings(max_examples=40)
@given(data=st.data(), payload=st.binary(max_size=50))
def test_every_header_comes_back_as_it_was(kind: Kind, data: st.DataObject, payload: bytes) -> None:
    """By this code and by `msgpack`; with fields of a later version behind as well."""
    values = data.draw(headers(kind))
    cls = codec.HEADERS[kind]
    frame = codec.encode(kind, values, payload)
    number, flags, packed, rest = split(frame)
    assert (number, flags, rest) == (kind, 0, payload)
    assert codec.decode(number, flags, packed) == cls(*values)
    assert tuple(msgpack.unpackb(packed)) == values
    if cls is not codec.Reference:
        assert codec.encode_header(cls(*values), payload) == frame
    further = data.draw(st.lists(PLAIN, max_size=3))
    assert codec.decode(kind, 0, pack([*values, *further])) == cls(*values)


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
def test_each_field_takes_its_own_type_only(kind: Kind) -> None:
    """A wrong value is refused with the kind and the field named."""
    for index, (name, (hint, may_be_nil)) in enumerate(fields(codec.HEADERS[kind]).items()):
        for sample, value in SAMPLES.items():
            values = valid(kind)
            values[index] = value
            if sample in FITTING[hint] or (sample == "nil" and may_be_nil):
                assert getattr(codec.decode(kind, 0, pack(values)), name) == value, (name, sample)
                continue
            with pytest.raises(RemoteProtocolError) as caught:
                codec.decode(kind, 0, pack(values))
            assert str(caught.value).startswith(f"header of {kind.name}: "), (name, sample)
            assert f"`{name}" in str(caught.value), (name, sample)


@pytest.mark.parametrize(
    ("kind", "name", "good", "bad", "fault"),
    [
        (Kind.CALL, "trace_id", b"t" * 16, b"t" * 15, "length >= 16"),
        (Kind.CALL, "trace_id", b"t" * 16, b"t" * 17, "length <= 16"),
        (Kind.CALL, "span_id", b"s" * 8, b"s" * 7, "length >= 8"),
        (Kind.CALL, "span_id", b"s" * 8, b"s" * 9, "length <= 8"),
        (Kind.KEEP, "trace_ids", [b"t" * 16], [b""], "length >= 16"),
        (Kind.KEEP, "trace_ids", [b"t" * 16] * 256, [b"t" * 16] * 257, "length <= 256"),
        (Kind.CALL, "activity_id", "a" * 128, "a" * 129, "length <= 128"),
        (Kind.CALL, "activity_id", "a", "", "length >= 1"),
        (Kind.CALL, "chain", ["h" * 257], ["h" * 258], "length <= 257"),
        (Kind.CALL, "timeout_us", 2**63 - 1, 2**63, "<= 9223372036854775807"),
        (Kind.CALL, "timeout_us", 0, -1, ">= 0"),
        (Kind.HELLO, "process_id", "p" * 64, "p" * 65, "regex"),
        (Kind.HELLO, "process_id", "p", "", "regex"),
        (Kind.HELLO, "process_id", "p", "a\nb", "regex"),
        (Kind.HELLO, "name", "n" * 128, "n" * 129, "matching regex"),
        (Kind.UNREGISTER, "methods", ["get"], ["get", "two words"], "matching regex"),
        (Kind.REGISTER, "methods", {"get": {}}, {"two words": {}}, "matching regex"),
    ],
)
def test_bounds_of_fields(kind: Kind, name: str, good: Any, bad: Any, fault: str) -> None:
    """The last value that is taken, the first that is not, and a message with the limit."""
    names = list(fields(codec.HEADERS[kind]))
    values = valid(kind)
    values[names.index(name)] = good
    assert getattr(codec.decode(kind, 0, pack(values)), name) == good
    values[names.index(name)] = bad
    with pytest.raises(RemoteProtocolError) as caught:
        codec.decode(kind, 0, pack(values))
    assert fault in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
def test_a_header_that_lacks_fields_is_refused(kind: Kind) -> None:
    """The message says how many fields there were and how many it takes."""
    needed = [one for one in msgspec.structs.fields(codec.HEADERS[kind]) if one.required]
    values = valid(kind)[: len(needed)]
    for count in range(len(values)):
        with pytest.raises(RemoteProtocolError) as caught:
            codec.decode(kind, 0, pack(values[:count]))
        assert f"header of {kind.name}: Expected `array`" in str(caught.value)
        assert f"at least length {len(values)}, got {count}" in str(caught.value)


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
@pytest.mark.parametrize("value", [None, True, 1, 1.5, "text", b"bytes", {}, {"call_id": 1}])
def test_a_header_that_is_no_array_is_refused(kind: Kind, value: object) -> None:
    for flags in (0, CONTINUED):
        with pytest.raises(RemoteProtocolError, match=f"header of {kind.name}: Expected `array`"):
            codec.decode(kind, flags, pack(value))


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
def test_a_header_cut_anywhere_is_refused(kind: Kind) -> None:
    packed = pack(valid(kind))
    for stop in range(len(packed)):
        with pytest.raises(RemoteProtocolError, match=f"header of {kind.name}"):
            codec.decode(kind, 0, packed[:stop])
    with pytest.raises(RemoteProtocolError, match="trailing"):
        codec.decode(kind, 0, packed + b"\x00")


@pytest.mark.parametrize(
    "invalid", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\xe2\x82"]
)
def test_text_that_is_no_utf8_is_refused(invalid: bytes) -> None:
    packed = b"\x92" + bytes([0xA0 | len(invalid)]) + invalid + b"\x00"
    with pytest.raises(RemoteProtocolError, match=r"header of GOAWAY: .*utf-8"):
        codec.decode(Kind.GOAWAY, 0, packed)


NESTED_ARRAY = b"\x91" * 30_000 + b"\x01"
NESTED_MAP = b"\x81\xa0" * 15_000 + b"\x01"


@pytest.mark.parametrize("nested", [NESTED_ARRAY, NESTED_MAP], ids=["arrays", "maps"])
def test_deep_nesting_is_refused(nested: bytes) -> None:
    """Wherever it stands: as data, in a field that is ignored, where a number belongs."""
    for kind, packed in (
        (Kind.REGISTER, b"\x94\xa1s\xa0\x81\xa1m\x81\xa1k" + nested + b"\x80"),
        (Kind.CANCEL, b"\x93\x01\x01" + nested),
        (Kind.CANCEL, b"\x92" + nested + b"\x01"),
    ):
        with pytest.raises(RemoteProtocolError, match=f"header of {kind.name}"):
            codec.decode(kind, 0, packed)


@pytest.mark.parametrize("size", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"])
def test_collections_are_not_made_in_the_size_that_they_claim(size: bytes) -> None:
    """Four thousand million items in five bytes: refused, and not allocated first."""
    for kind, packed in (
        (Kind.REGISTER, b"\x94\xa1s\xa0\x81\xa1m\x81\xa1k" + size),
        (Kind.UNREGISTER, b"\x92\xa1s" + size),
        (Kind.CANCEL, size + b"\x01\x01"),
        (Kind.CANCEL, b"\x93\x01\x01" + size),
    ):
        with pytest.raises(RemoteProtocolError, match=f"header of {kind.name}"):
            codec.decode(kind, 0, packed)


@pytest.mark.parametrize("key", [b"\x80", b"\x91\x80", b"\xd4\x05\x00"])
def test_options_by_keys_that_cannot_be_keys_are_refused(key: bytes) -> None:
    packed = b"\x94\xa1s\xa0\x81\xa1m\x81\xa1k\x81" + key + b"\x01\x80"
    with pytest.raises(RemoteProtocolError, match="header of REGISTER"):
        codec.decode(Kind.REGISTER, 0, packed)


def test_a_continuation_names_its_call_alone() -> None:
    """Further fields are ignored there too."""
    assert codec.decode(Kind.CALL, CONTINUED, pack([7])) == codec.Reference(7)
    assert codec.decode(Kind.RESULT, CONTINUED | MORE, pack([7, "x"])) == codec.Reference(7)
    with pytest.raises(RemoteProtocolError, match=r"header of ERROR: .*at `call_id`"):
        codec.decode(Kind.ERROR, CONTINUED, pack([-7]))


def test_faults_are_chained_to_their_cause() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        codec.decode(Kind.CANCEL, 0, pack(["x", 1]))
    assert isinstance(caught.value.__cause__, msgspec.ValidationError)


# Encoding.


def test_a_header_that_no_frame_can_carry_is_a_fault_of_this_side() -> None:
    """The last length that fits is sent; one byte more raises, with the numbers."""
    room = MAX_HEADER - len(pack(("", 0))) - 2
    frame = codec.encode(Kind.GOAWAY, ("x" * room, 0))
    assert split(frame)[2] == pack(("x" * room, 0))
    assert len(split(frame)[2]) == MAX_HEADER
    with pytest.raises(LocalProtocolError) as caught:
        codec.encode(Kind.GOAWAY, ("x" * (room + 1), 0))
    assert str(caught.value) == (
        "header of GOAWAY of 65,536 bytes exceeds the 65,535 that a frame can carry"
    )


def test_encoding_goes_on_after_a_failure() -> None:
    """What could not be packed leaves nothing behind for the next frame."""
    before = codec.encode(Kind.CANCEL, (7, 1))
    with pytest.raises(TypeError):
        codec.encode(Kind.CANCEL, (7, object()))
    assert codec.encode(Kind.CANCEL, (7, 1)) == before


class Words(str):
    """Text of a type of its own, as users of the API may have it."""

    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


def test_text_of_a_derived_type_is_text() -> None:
    derived, plain = (Words("users"), {Words("zone"): Words("a")}), ("users", {"zone": "a"})
    assert codec.encode(Kind.EVENT, derived) == codec.encode(Kind.EVENT, plain)


def test_a_refusal_says_that_the_call_was_not_run() -> None:
    """Its fields pass the checks of their own kind, and MAYBE_EXECUTED is not among the options."""
    header = codec.refusal(7, 12, "UNSUPPORTED", "no streams here")
    _, _, packed, payload = split(codec.encode_header(header))
    taken = codec.decode(Kind.ERROR, 0, packed)
    assert (taken.call_id, taken.code, taken.reason) == (7, 12, "UNSUPPORTED")
    assert taken.message == "no streams here"
    assert not taken.options & codec.MAYBE_EXECUTED
    assert (payload, taken.chain, taken.elapsed_us, taken.records) == (b"", None, 0, 0)


def test_payloads_may_be_views() -> None:
    payload = memoryview(b"abcdef")[1:4]
    assert split(codec.encode(Kind.ITEM, (1,), payload)) == (Kind.ITEM, 0, b"\x91\x01", b"bcd")


@given(size=st.integers(2, 400), chunk=st.integers(1, 100))
def test_chunks_hold_the_message(size: int, chunk: int) -> None:
    """All pieces but the last are full; only the last lacks MORE, only the first CONTINUED."""
    if size <= chunk:
        size += chunk
    payload = bytes(index % 251 for index in range(size))
    frames = list(
        map(b"".join, codec.chunks(Kind.RESULT, (9, 2, 0, 0, None, None), payload, chunk))
    )
    raws = [split(frame) for frame in frames]
    assert b"".join(raw[3] for raw in raws) == payload
    assert all(len(raw[3]) == chunk for raw in raws[:-1])
    assert 1 <= len(raws[-1][3]) <= chunk
    assert [raw[1] for raw in raws] == [MORE, *[MORE | CONTINUED] * (len(raws) - 2), CONTINUED]
    assert [msgpack.unpackb(raw[2]) for raw in raws[1:]] == [[9]] * (len(raws) - 1)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("users", True),
        ("_users", True),
        ("Users.v2-beta_1", True),
        ("u", True),
        ("u" * 128, True),
        ("", False),
        ("u" * 129, False),
        ("2users", False),
        (".users", False),
        ("-users", False),
        ("us ers", False),
        ("users\n", False),
        ("üsers", False),
        ("users/get", False),
    ],
)
def test_names(text: str, good: bool) -> None:
    """The function and the wire agree on what a name is."""
    assert codec.is_name(text) is good
    packed = pack([text, []])
    if good:
        assert codec.decode(Kind.UNREGISTER, 0, packed).service == text
    else:
        with pytest.raises(RemoteProtocolError, match="`service`"):
            codec.decode(Kind.UNREGISTER, 0, packed)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("req-1", True),
        (" ~", True),
        ("a" * 128, True),
        ("", False),
        ("a" * 129, False),
        ("a\n", False),
        ("a\x7f", False),
        ("é", False),
    ],
)
def test_activity_ids(text: str, good: bool) -> None:
    assert codec.is_activity_id(text) is good


def test_prefix_says_how_long_the_rest_is() -> None:
    frame = codec.encode(Kind.CANCEL, (7, 1), b"", MORE)
    assert PREFIX.unpack_from(frame) == (len(frame) - 4, Kind.CANCEL, MORE, 3)
    assert len(frame) == PREFIX.size + 3
