"""Headers: what the fields of each kind of frame are, and how they are packed and checked.

A header is a MessagePack array whose fields stand in the order of the classes below; fields after
the known ones are ignored. `msgspec` packs headers from plain tuples and unpacks them into these
classes, because it checks types and bounds in the same pass. Measured on a CALL: 0.3 us to unpack,
where `msgpack` and checks in Python take 1.3 us, and 0.4 us for the whole frame where packing it
with `msgpack` takes 1.0 us. That package checks this one in the tests.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from mesh.errors import LocalProtocolError, RemoteProtocolError
from mesh.wire.frames import CONTINUED, MAX_HEADER, MORE, OVERHEAD, PREFIX, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

PROTOCOL_VERSION = 1

# Payload encodings, by their number in headers.
MSGPACK, JSON, RAW = 0, 1, 2

# What an EVENT is about, and the feature of a HELLO that asks for such.
REGISTRY = "registry"
EVENTS = "events"

# Options of a CALL.
DETACHED, IDEMPOTENT, UNVERIFIED, FORCED = 1, 2, 4, 8

# Options of an ERROR.
MAYBE_EXECUTED = 1

# Reasons of a CANCEL.
BY_DEADLINE, BY_CALLER, BY_DISCONNECT = 1, 2, 3

# Flags of a HEARTBEAT.
BEAT, PING, PONG = 0, 1, 2

SPANS_FEATURE, TRACES_FEATURE = "spans", "traces"
"""What a peer says that answers KEEP, and a gateway that may send it."""
REQUIRES = "requires."
"""What begins an entry of a REGISTER's metadata: ``requires.orders`` is ``"payments,users"``."""
MAX_REQUIRES = 8192
"""Characters of such an entry, which do not count as metadata."""
MAX_TEXT = 4096
"""Characters of version and metadata that one registration may have, as the gateway keeps them."""

_LENGTH = struct.Struct(">I")

NAME_PATTERN = r"^[A-Za-z_][A-Za-z0-9_.\-]{0,127}\Z"
ACTIVITY_PATTERN = r"^[\x20-\x7e]{1,128}\Z"

Unsigned = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
TraceId = Annotated[bytes, Meta(min_length=16, max_length=16)]
MAX_TRACES = 256
"""Traces that one KEEP or SPANS may name."""
TraceIds = Annotated[list[TraceId], Meta(max_length=MAX_TRACES)]
SpanId = Annotated[bytes, Meta(min_length=8, max_length=8)]
# What calls inherit is bounded, so that a header with all of it still fits a frame. The characters
# of an activity id are for its reader to check: a pattern costs every forwarded call 0.5 us.
ActivityId = Annotated[str, Meta(min_length=1, max_length=128)]
Hop = Annotated[str, Meta(max_length=257)]  # two names and the point between them
Text = dict[str, str]
ProcessId = Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,64}\Z")]
MAX_VERSION = 32
"""Characters of a contract's version."""
Version = Annotated[str, Meta(max_length=MAX_VERSION)]
Options = Annotated[dict[str, bool | int | float | str | None], Meta(max_length=16)]
"""Kept by the gateway for each method, hence small."""


class Header(msgspec.Struct, array_like=True, gc=False):
    """The base of all headers: a MessagePack array of the fields in their order."""


class Hello(Header):
    """A peer introduces itself."""

    protocol_version: Unsigned
    name: Name
    process_id: ProcessId
    credentials: str | None
    metadata: Text
    limits: dict[str, Unsigned]
    features: list[str]
    implementation: str


class Welcome(Header):
    """The gateway answers a HELLO."""

    protocol_version: Unsigned
    gateway: str
    session_id: Unsigned
    metadata: Text
    limits: dict[str, Unsigned]
    features: list[str]
    implementation: str


class Register(Header):
    """Methods that this peer serves from now on, with the options of each."""

    service: Name
    version: Version
    methods: dict[Name, Options]
    metadata: Text
    schema_size: Unsigned = 0
    """Bytes of the contract's schema, pieces of which are the payloads; 0 where there is none."""


class Unregister(Header):
    """Methods that this peer no longer serves; none named means all of the service."""

    service: Name
    methods: list[Name]


class Call(Header):
    """A request. Fields from ``activity_id`` on come from the gateway, or carry a full context."""

    call_id: Unsigned
    parent_id: Unsigned
    entry_id: Unsigned
    timeout_us: Unsigned
    trace_id: TraceId
    span_id: SpanId
    trace_flags: Unsigned
    attempt: Unsigned
    service: str
    method: str
    encoding: Unsigned
    options: Unsigned
    metadata: Text | None
    activity_id: ActivityId | None
    chain: list[Hop] | None
    gateway: str | None
    caller: str | None
    principal: str | None
    version: Version | None = None


class Result(Header):
    """A call's answer."""

    call_id: Unsigned
    encoding: Unsigned
    elapsed_us: Unsigned
    records: Unsigned
    keep: str | None
    metadata: Text | None


class Error(Header):
    """A call's failure."""

    call_id: Unsigned
    code: Unsigned
    reason: str
    message: str
    options: Unsigned
    encoding: Unsigned
    exception: str | None
    traceback: str | None
    chain: list[str] | None
    activity_id: str | None
    elapsed_us: Unsigned
    records: Unsigned
    keep: str | None


class Cancel(Header):
    """Nobody wants this call's answer any more."""

    call_id: Unsigned
    reason: Unsigned


class Heartbeat(Header):
    """A sign of life with figures; with PING it asks for one with PONG and the same sequence."""

    sequence: Unsigned
    flag: Unsigned
    loop_lag_us: Unsigned
    in_flight: Unsigned
    queued: Unsigned
    memory: Unsigned
    cpu_us: Unsigned


class GoAway(Header):
    """The sender will close this connection, and why."""

    reason: str
    drain_us: Unsigned


class Keep(Header):
    """These traces are kept: tell what is recorded of them, now and from now on."""

    trace_ids: TraceIds


class Spans(Header):
    """Spans of kept traces, in the payload; ``trace_ids`` are those that this answers for."""

    trace_ids: TraceIds
    count: Unsigned


class Event(Header):
    """A change of the registry, in the payload."""

    topic: str
    sequence: Unsigned


class Reference(Header):
    """A header that names a call and nothing else."""

    call_id: Unsigned


HEADERS: dict[Kind, type[Header]] = {
    Kind.HELLO: Hello,
    Kind.WELCOME: Welcome,
    Kind.REGISTER: Register,
    Kind.UNREGISTER: Unregister,
    Kind.CALL: Call,
    Kind.RESULT: Result,
    Kind.ERROR: Error,
    Kind.CANCEL: Cancel,
    Kind.HEARTBEAT: Heartbeat,
    Kind.GOAWAY: GoAway,
    Kind.KEEP: Keep,
    Kind.SPANS: Spans,
    Kind.EVENT: Event,
    Kind.ITEM: Reference,
    Kind.END: Reference,
    Kind.CREDIT: Reference,
}

CHUNKED_KINDS = frozenset({Kind.CALL, Kind.RESULT, Kind.ERROR})
"""The kinds whose header begins with a call id, which is what the further frames are known by."""

_pack = msgspec.msgpack.Encoder().encode


def _plain(value: object) -> str:
    """A text of a type that somebody derived from `str`, as names and metadata may be."""
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(f"a header cannot carry a value of type {type(value).__qualname__}")


_pack_texts = msgspec.msgpack.Encoder(enc_hook=_plain).encode
"""Asking for texts of other types beforehand would cost every frame a tenth of a microsecond."""
decoders = {int(kind): msgspec.msgpack.Decoder(cls).decode for kind, cls in HEADERS.items()}
"""What decodes the header of a frame without flags, by its kind: for the path of every call."""
DECODE_FAULTS = (msgspec.MsgspecError, RecursionError, TypeError, ValueError)
"""What these raise."""
_decode_reference = msgspec.msgpack.Decoder(Reference).decode
_name = re.compile(NAME_PATTERN)
_activity = re.compile(ACTIVITY_PATTERN)


def is_name(text: str) -> bool:
    """Whether a peer, service or method may be called so.

    That is a letter or ``_``, then letters, digits, ``_.-``: ASCII, at most 128 characters.
    """
    return _name.match(text) is not None


def is_activity_id(text: str) -> bool:
    """Whether an activity may be called so: printable ASCII, 1 to 128 characters."""
    return _activity.match(text) is not None


def encode(
    kind: int, header: tuple[Any, ...], payload: bytes | memoryview = b"", flags: int = 0
) -> bytes:
    """One whole frame. The payload must fit one chunk; longer ones go through :func:`chunks`.

    Args:
        kind: The frame's kind.
        header: Its fields, in the order of the kind's class.
        payload: Opaque bytes.
        flags: ``MORE`` and ``CONTINUED``.

    Raises:
        LocalProtocolError: The header is too long for any frame.
        TypeError: It has a value of a type that none carries.
    """
    try:
        packed = _pack(header)
    except TypeError:
        packed = _pack_texts(header)
    size = len(packed)
    try:
        prefix = PREFIX.pack(OVERHEAD + size + len(payload), kind, flags, size)
    except struct.error as fault:
        if size <= MAX_HEADER:
            raise
        raise LocalProtocolError(
            f"header of {Kind(kind).name} of {size:,} bytes exceeds the {MAX_HEADER:,} that a "
            "frame can carry"
        ) from fault
    return prefix + packed + payload  # less than joining three pieces


def head(kind: int, header: tuple[Any, ...], size: int, flags: int) -> bytes:
    """What precedes the payload of a frame, for payloads that are sent without being copied.

    Args:
        kind: The frame's kind.
        header: Its fields, in the order of the kind's class.
        size: Bytes of the payload, of one chunk at most.
        flags: ``MORE`` and ``CONTINUED``.

    Raises:
        LocalProtocolError: The header is too long for any frame.
    """
    bare = encode(kind, header, b"", flags)
    return _LENGTH.pack(len(bare) - _LENGTH.size + size) + bare[_LENGTH.size :]


def encode_header(header: Header, payload: bytes = b"") -> bytes:
    """One whole frame from a header object: for frames that are rare, as it reads best."""
    return encode(_KINDS[type(header)], msgspec.structs.astuple(header), payload)


def refusal(call_id: int, code: int, reason: str, message: str) -> Error:
    """The header of an ERROR that says nothing but why a call was not run."""
    return Error(
        call_id=call_id,
        code=code,
        reason=str(reason),
        message=message,
        options=0,
        encoding=MSGPACK,
        exception=None,
        traceback=None,
        chain=None,
        activity_id=None,
        elapsed_us=0,
        records=0,
        keep=None,
    )


_KINDS = {cls: int(kind) for kind, cls in HEADERS.items() if cls is not Reference}


def chunks(
    kind: int, header: tuple[Any, ...], payload: bytes, max_chunk: int
) -> Iterator[tuple[bytes, memoryview]]:
    """The frames of a message whose payload is longer than ``max_chunk`` bytes.

    Each is its head and the piece of the payload that follows it, which is not copied.
    """
    view = memoryview(payload)
    last = len(view) - max_chunk
    yield head(kind, header, max_chunk, MORE), view[:max_chunk]
    reference = (header[0],)
    for start in range(max_chunk, len(view), max_chunk):
        flags = CONTINUED | (MORE if start < last else 0)
        piece = view[start : start + max_chunk]
        yield head(kind, reference, len(piece), flags), piece


def decode(kind: int, flags: int, packed: bytes) -> Any:
    """The checked header of a frame of a known kind.

    Raises:
        RemoteProtocolError: It is no MessagePack array, is too short, or a field is of a wrong type
            or out of bounds; the message names the kind and the field.
    """
    try:
        return _decode_reference(packed) if flags & CONTINUED else decoders[kind](packed)
    except DECODE_FAULTS as fault:
        raise malformed(kind, fault) from fault


def malformed(kind: int, fault: Exception) -> RemoteProtocolError:
    """What is wrong with a header, of one of the :data:`DECODE_FAULTS`."""
    return RemoteProtocolError(f"header of {Kind(kind).name}: {_explain(kind, fault)}")


_INDEX = re.compile(r"\$\[(\d+)\]")


def _explain(kind: int, fault: Exception) -> str:
    """Name the field where msgspec names a position."""
    names = HEADERS[Kind(kind)].__struct_fields__

    def name(match: re.Match[str]) -> str:
        position = int(match[1])
        return names[position] if position < len(names) else match[0]

    return _INDEX.sub(name, str(fault)) or type(fault).__name__
