"""Writes the test vectors and the fuzzer's seed files: ``python tests/wire/make_vectors.py``.

The vectors are data for clients in any language, and so they are made without `mesh`: every frame
is put together here from `struct` and the `msgpack` package alone. `test_vectors.py` proves that
the committed files are what this writes, and that `mesh.wire` agrees with each of them.

In the JSON, ``{"$bytes": "00ff"}`` stands for bytes and ``{"$int": "9223372036854775807"}`` for an
integer that a JSON number may not hold exactly. Fields stand in their order on the wire.
"""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import msgpack

HERE = Path(__file__).parent

KINDS = {
    "HELLO": 1,
    "WELCOME": 2,
    "REGISTER": 3,
    "UNREGISTER": 4,
    "CALL": 5,
    "RESULT": 6,
    "ERROR": 7,
    "CANCEL": 8,
    "HEARTBEAT": 9,
    "GOAWAY": 10,
    "KEEP": 11,
    "SPANS": 12,
    "EVENT": 13,
    "ITEM": 14,
    "END": 15,
    "CREDIT": 16,
}
MORE, CONTINUED = 1, 2
TRACE = bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736")
SPAN = bytes.fromhex("00f067aa0ba902b7")
LARGEST = 2**63 - 1
BATCH = [
    {"service.name": "users", "service.instance.id": "host-7-0badcafe"},
    [
        [
            TRACE,
            SPAN,
            bytes(7) + b"\x01",
            "users.get",
            2,
            1_700_000_000_000_000_000,
            1_700_000_000_002_000_000,
            {"rpc.system.name": "mesh", "mesh.call.depth": 1, "mesh.call.chain": ["users.get"]},
            0,
            "",
            [["found", 1_700_000_000_001_000_000, {"rows": 1}]],
        ]
    ],
    0,
]
"""What a peer tells in SPANS: who it is, its spans, and how many it has lost."""

HELLO = {
    "protocol_version": 1,
    "name": "orders",
    "process_id": "9f1c2d3e4b5a69788796a5b4c3d2e1f0",
    "credentials": None,
    "metadata": {"zone": "eu-1"},
    "limits": {"max_message": 16_777_216},
    "features": [],
    "implementation": "spanmesh/0.1.0",
}
WELCOME = {
    "protocol_version": 1,
    "gateway": "0123456789abcdef0123456789abcdef",
    "session_id": 1,
    "metadata": {},
    "limits": {
        "call_timeout_us": 30_000_000,
        "drain_us": 10_000_000,
        "heartbeat_us": 5_000_000,
        "max_chunk": 65_536,
        "max_header": 32_768,
        "max_in_flight": 1000,
        "max_message": 16_777_216,
        "service_wait_us": 5_000_000,
        "silent_after": 12,
    },
    "features": ["tracebacks"],
    "implementation": "spanmesh/0.1.0",
}
REGISTER = {
    "service": "users",
    "version": "1.2.0",
    "methods": {"get": {"idempotent": True, "timeout": 2.5}, "set_name": {}},
    "metadata": {},
}
CALL = {
    "call_id": 1,
    "parent_id": 0,
    "entry_id": 0,
    "timeout_us": 1_000_000,
    "trace_id": TRACE,
    "span_id": SPAN,
    "trace_flags": 3,
    "attempt": 1,
    "service": "users",
    "method": "get",
    "encoding": 0,
    "options": 2,
    "metadata": None,
    "activity_id": None,
    "chain": None,
    "gateway": None,
    "caller": None,
    "principal": None,
}
FORWARDED = CALL | {
    "call_id": 42,
    "parent_id": 41,
    "entry_id": 41,
    "timeout_us": 998_765,
    "activity_id": "req-7f3a",
    "chain": ["orders.place", "users.get"],
    "gateway": WELCOME["gateway"],
    "caller": "orders",
}
RESULT = {
    "call_id": 1,
    "encoding": 0,
    "elapsed_us": 1234,
    "records": 1,
    "keep": None,
    "metadata": None,
}
ERROR = {
    "call_id": 1,
    "code": 5,
    "reason": "NO_SUCH_USER",
    "message": "user 123 does not exist",
    "options": 1,
    "encoding": 0,
    "exception": None,
    "traceback": None,
    "chain": ["orders.place", "users.get"],
    "activity_id": "req-7f3a",
    "elapsed_us": 88,
    "records": 1,
    "keep": None,
}
CANCEL = {"call_id": 42, "reason": 1}
HEARTBEAT = {
    "sequence": 7,
    "flag": 0,
    "loop_lag_us": 350,
    "in_flight": 2,
    "queued": 0,
    "memory": 52_428_800,
    "cpu_us": 1_250_000,
}
GOAWAY = {"reason": "the gateway is shutting down", "drain_us": 10_000_000}
PARAMS = bytes.fromhex("81a7757365725f6964a3313233")  # {"user_id": "123"}


def pack(value: Any) -> bytes:
    """MessagePack in its shortest form."""
    packed: bytes = msgpack.packb(value)
    return packed


def frame(
    kind: str | int,
    header: dict[str, Any] | list[Any] | bytes,
    payload: bytes = b"",
    flags: int = 0,
) -> bytes:
    """One frame, from the specification's own words."""
    if isinstance(header, dict):
        header = list(header.values())
    packed = header if isinstance(header, bytes) else pack(header)
    number = KINDS[kind] if isinstance(kind, str) else kind
    length = 4 + len(packed) + len(payload)
    return struct.pack(">IBBH", length, number, flags, len(packed)) + packed + payload


def chunked(
    header: dict[str, Any], payload: bytes, max_chunk: int
) -> list[tuple[int, list[Any], bytes]]:
    """Flags, header and payload of each frame of a long message."""
    pieces = [payload[at : at + max_chunk] for at in range(0, len(payload), max_chunk)]
    last = len(pieces) - 1
    return [
        (
            (CONTINUED if index else 0) | (MORE if index < last else 0),
            [header["call_id"]] if index else list(header.values()),
            piece,
        )
        for index, piece in enumerate(pieces)
    ]


def plain(value: Any) -> Any:
    """A header's value as JSON."""
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**53:
        return {"$int": str(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def frames() -> list[dict[str, Any]]:
    """Single frames: encoding the fields gives the frame, and decoding the frame the fields."""
    made: list[dict[str, Any]] = []

    def add(
        name: str,
        description: str,
        kind: str,
        header: dict[str, Any],
        payload: bytes = b"",
    ) -> None:
        made.append(
            {
                "name": name,
                "description": description,
                "kind": kind,
                "kind_number": KINDS[kind],
                "flags": 0,
                "header": plain(header),
                "payload": payload.hex(),
                "frame": frame(kind, header, payload).hex(),
            }
        )

    add("hello", "A peer introduces itself.", "HELLO", HELLO)
    add(
        "hello-credentials",
        "With credentials, a feature and text beyond ASCII.",
        "HELLO",
        HELLO | {"credentials": "s3cret", "metadata": {"où": "Zürich ✓"}, "features": ["x"]},
    )
    add("welcome", "The gateway answers.", "WELCOME", WELCOME)
    add("welcome-bare", "Without features.", "WELCOME", WELCOME | {"features": []})
    add("register", "Two methods, one with options.", "REGISTER", REGISTER)
    schema = b'{"methods":{"get":{"params":{"type":"object"}}}}'
    add(
        "register-schema",
        "With the whole schema of the contract.",
        "REGISTER",
        REGISTER | {"schema_size": len(schema)},
        schema,
    )
    add(
        "register-schema-piece",
        "A further piece of a schema that is longer than a frame.",
        "REGISTER",
        REGISTER | {"methods": {}, "schema_size": 100_000},
        schema,
    )
    add(
        "unregister-one",
        "One method leaves.",
        "UNREGISTER",
        {"service": "users", "methods": ["get"]},
    )
    add("unregister-all", "The service leaves.", "UNREGISTER", {"service": "users", "methods": []})
    add("call-entry", "An entry call; the worked example.", "CALL", CALL, PARAMS)
    add(
        "call-activity",
        "An entry call that names its activity, with metadata and JSON parameters.",
        "CALL",
        CALL | {"activity_id": "req-7f3a", "metadata": {"locale": "fr"}, "encoding": 1},
        b'{"user_id":"123"}',
    )
    add(
        "call-nested",
        "Made inside call 41.",
        "CALL",
        CALL | {"call_id": 2, "parent_id": 41},
        PARAMS,
    )
    add(
        "call-detached",
        "Detached from call 41, hence with its full context.",
        "CALL",
        CALL
        | {
            "call_id": 3,
            "parent_id": 41,
            "entry_id": 41,
            "options": 1,
            "activity_id": "req-7f3a",
            "chain": ["orders.place"],
            "gateway": WELCOME["gateway"],
        },
        PARAMS,
    )
    add("call-forwarded", "From the gateway to the callee.", "CALL", FORWARDED, PARAMS)
    add(
        "call-unverified",
        "The same, where the gateway has the context from the caller only, with a principal.",
        "CALL",
        FORWARDED | {"options": 6, "principal": "spiffe://shop/orders"},
        PARAMS,
    )
    add(
        "call-version",
        "Of a caller that was written for version 1.2.0 of the contract.",
        "CALL",
        CALL | {"version": "1.2.0"},
        PARAMS,
    )
    add("call-raw-empty", "Raw and empty.", "CALL", CALL | {"encoding": 2})
    add(
        "call-largest",
        "The largest numbers.",
        "CALL",
        CALL
        | {"call_id": LARGEST, "parent_id": LARGEST, "entry_id": LARGEST, "timeout_us": LARGEST},
        PARAMS,
    )
    add("result", "An answer.", "RESULT", RESULT, pack({"id": "123", "name": "Ada"}))
    add(
        "result-nil",
        "An answer of nothing: the payload is MessagePack's nil.",
        "RESULT",
        RESULT,
        b"\xc0",
    )
    add(
        "result-keep",
        "The trace is kept, and metadata comes back.",
        "RESULT",
        RESULT | {"keep": "slow", "metadata": {"served-by": "b"}, "records": 4},
        b"\xc0",
    )
    add("error", "A handler's own error, with details.", "ERROR", ERROR, pack({"user_id": "123"}))
    add(
        "error-exception",
        "A handler raised: type, message and traceback.",
        "ERROR",
        ERROR
        | {
            "code": 2,
            "reason": "HANDLER_FAILED",
            "message": "KeyError: 'x'",
            "exception": "KeyError",
            "traceback": "Traceback (most recent call last):\n  ...\nKeyError: 'x'\n",
        },
    )
    add(
        "error-refused",
        "The gateway refuses; the call was certainly not run.",
        "ERROR",
        ERROR | {"code": 8, "reason": "OVERLOADED", "message": "full", "options": 0, "records": 0},
    )
    add(
        "error-cancelled",
        "How a callee acknowledges a CANCEL.",
        "ERROR",
        ERROR
        | {
            "call_id": 42,
            "code": 1,
            "reason": "HANDLER_CANCELLED",
            "message": "the handler of users.get was cancelled",
            "chain": None,
            "activity_id": None,
        },
    )
    add("cancel-deadline", "The deadline has passed.", "CANCEL", CANCEL)
    add("cancel-caller", "The caller gave up.", "CANCEL", CANCEL | {"reason": 2})
    add("cancel-disconnected", "The caller is gone.", "CANCEL", CANCEL | {"reason": 3})
    add("heartbeat", "A beat.", "HEARTBEAT", HEARTBEAT)
    add("heartbeat-ping", "Asks for a pong.", "HEARTBEAT", HEARTBEAT | {"flag": 1})
    add(
        "heartbeat-pong",
        "Answers the ping of the same sequence.",
        "HEARTBEAT",
        HEARTBEAT | {"flag": 2},
    )
    add("goaway", "The gateway drains.", "GOAWAY", GOAWAY)
    add(
        "goaway-refusal",
        "A peer is refused.",
        "GOAWAY",
        {"reason": "protocol version 9 is too far from this gateway's 1", "drain_us": 0},
    )
    add("keep", "Two traces are kept.", "KEEP", {"trace_ids": [TRACE, bytes(15) + b"\x01"]})
    add(
        "spans",
        "What a peer recorded of a kept trace.",
        "SPANS",
        {"trace_ids": [TRACE], "count": 1},
        msgpack.packb(BATCH),
    )
    change = {
        "change": "disconnected",
        "service": "users",
        "peer": "users",
        "process_id": "7d",
        "reason": "unregistered",
    }
    add(
        "event",
        "A change of the registry.",
        "EVENT",
        {"topic": "registry", "sequence": 3},
        pack(change),
    )
    add("item", "Reserved for streams.", "ITEM", {"call_id": 1}, b"\x01")
    add("end", "Reserved for streams.", "END", {"call_id": 1})
    add("credit", "Reserved for streams.", "CREDIT", {"call_id": 1})
    return made


def lenient() -> list[dict[str, Any]]:
    """Frames that must be understood, though no sender of this version makes them."""
    made: list[dict[str, Any]] = []

    def add(name: str, description: str, wire: bytes, expected: dict[str, Any] | None) -> None:
        made.append(
            {"name": name, "description": description, "frame": wire.hex(), "expected": expected}
        )

    def understood(kind: str, header: dict[str, Any], payload: bytes = b"") -> dict[str, Any]:
        return {"kind": kind, "header": plain(header), "payload": payload.hex()}

    further = [*CANCEL.values(), "later", {"a": [1, 2.5, None]}, b"\x00"]
    add(
        "further-fields",
        "Fields after the known ones are ignored.",
        frame("CANCEL", further),
        understood("CANCEL", CANCEL),
    )
    add(
        "further-extension",
        "Even those of an extension type.",
        frame("CANCEL", b"\x93\x2a\x01\xd4\x05\x00"),
        understood("CANCEL", CANCEL),
    )
    add(
        "wide-integers",
        "Integers need not be in their shortest form.",
        frame("CANCEL", b"\x92\xcf" + struct.pack(">Q", 42) + b"\xd1\x00\x01"),
        understood("CANCEL", CANCEL),
    )
    add(
        "wide-array",
        "Nor need the array.",
        frame("CANCEL", b"\xdd\x00\x00\x00\x02\x2a\x01"),
        understood("CANCEL", CANCEL),
    )
    add(
        "wide-string",
        "Nor strings.",
        frame("GOAWAY", b"\x92\xdb\x00\x00\x00\x03bye\x00"),
        understood("GOAWAY", {"reason": "bye", "drain_us": 0}),
    )
    add(
        "call-no-version",
        "An optional field may be nil as well as left out.",
        frame("CALL", CALL | {"version": None}, PARAMS),
        understood("CALL", CALL | {"version": None}, PARAMS),
    )
    add(
        "register-no-schema",
        "Likewise 0; then a payload is ignored.",
        frame("REGISTER", REGISTER | {"schema_size": 0}, b"{}"),
        understood("REGISTER", REGISTER | {"schema_size": 0}, b"{}"),
    )
    add(
        "unknown-flags",
        "Flags of a later version are ignored.",
        frame("CANCEL", CANCEL, flags=0xFC),
        understood("CANCEL", CANCEL),
    )
    add(
        "unexpected-payload",
        "A payload where none has a meaning is ignored.",
        frame("CANCEL", CANCEL, b"\x00"),
        understood("CANCEL", CANCEL, b"\x00"),
    )
    add(
        "cancel-unknown-reason",
        "A reason of a later version.",
        frame("CANCEL", CANCEL | {"reason": 99}),
        understood("CANCEL", CANCEL | {"reason": 99}),
    )
    add(
        "error-unknown-code",
        "A code of a later version means `unknown`.",
        frame("ERROR", ERROR | {"code": 99}),
        understood("ERROR", ERROR | {"code": 99}),
    )
    add(
        "unknown-kind",
        "A kind of a later version is ignored, whatever it holds.",
        frame(17, b"\xc1\xff", b"\x00"),
        None,
    )
    add(
        "unknown-kind-highest",
        "The same, with every flag and nothing in it.",
        frame(255, b"", b"", 0xFF),
        None,
    )
    add("unknown-kind-zero", "Kind 0 is none of ours either.", frame(0, []), None)
    return made


def messages() -> list[dict[str, Any]]:
    """Long messages as the frames that they travel in."""
    made: list[dict[str, Any]] = []

    def add(name: str, description: str, kind: str, header: dict[str, Any], payload: bytes) -> None:
        made.append(
            {
                "name": name,
                "description": description,
                "kind": kind,
                "limits": {"max_chunk": 16},
                "header": plain(header),
                "payload": payload.hex(),
                "frames": [
                    {
                        "flags": flags,
                        "payload": piece.hex(),
                        "frame": frame(kind, fields, piece, flags).hex(),
                    }
                    for flags, fields, piece in chunked(header, payload, 16)
                ],
            }
        )

    data = bytes(range(64))
    add("call-two-chunks", "One byte more than a chunk.", "CALL", CALL | {"encoding": 2}, data[:17])
    add(
        "call-exact-chunks",
        "Two full chunks: the second is the last.",
        "CALL",
        CALL | {"encoding": 2},
        data[:32],
    )
    add(
        "result-four-chunks",
        "First, two between, last.",
        "RESULT",
        RESULT | {"encoding": 2},
        data[:50],
    )
    add(
        "error-chunks", "Long details.", "ERROR", ERROR, pack({"missing": ["a", "b", "c", "d"] * 5})
    )
    return made


def malformed() -> list[dict[str, Any]]:
    """Bytes that a receiver must refuse, closing only the connection that they came on.

    ``role`` is the receiver's. ``fault`` is a part of what this implementation says.
    """
    made: list[dict[str, Any]] = []

    def add(
        name: str,
        description: str,
        wire: bytes,
        fault: str,
        *,
        role: str = "gateway",
        state: str = "open",
        limits: dict[str, int] | None = None,
    ) -> None:
        made.append(
            {
                "name": name,
                "description": description,
                "role": role,
                "state": state,
                "limits": limits or {},
                "frame": wire.hex(),
                "fault": fault,
            }
        )

    prefix = struct.Struct(">IBBH")
    # Framing.
    add(
        "length-4-gib",
        "Judged by the prefix alone.",
        prefix.pack(2**32 - 1, 5, 0, 10),
        "frame of 4,294,967,295 bytes exceeds the limit of 98,308",
    )
    add(
        "length-one-over",
        "One byte over the limit.",
        prefix.pack(4 + 32_768 + 65_536 + 1, 5, 0, 32_768),
        "frame of 98,309 bytes exceeds the limit of 98,308",
    )
    add(
        "payload-over",
        "The payload of one frame is over max_chunk.",
        prefix.pack(4 + 2 + 17, 8, 0, 2),
        "payload of 17 bytes in one frame exceeds max_chunk of 16",
        limits={"max_chunk": 16},
    )
    add(
        "header-over",
        "The header is over max_header.",
        prefix.pack(4 + 33, 8, 0, 33),
        "header of 33 bytes exceeds max_header of 32",
        limits={"max_header": 32},
    )
    add(
        "length-below-header",
        "The header would end after the frame.",
        prefix.pack(4 + 9, 8, 0, 10),
        "frame of 13 bytes is too short for its header of 10 bytes",
    )
    add(
        "length-zero",
        "A length of nothing.",
        prefix.pack(0, 8, 0, 0),
        "frame of 0 bytes is too short for its header of 0 bytes",
    )
    # Headers.
    add("header-empty", "No header at all.", frame("CANCEL", b""), "header of CANCEL")
    add(
        "header-map",
        "A map.",
        frame("CANCEL", b"\x80"),
        "header of CANCEL: Expected `array`, got `object`",
    )
    add(
        "header-nil",
        "Nil.",
        frame("CANCEL", b"\xc0"),
        "header of CANCEL: Expected `array`, got `None`",
    )
    add(
        "header-short",
        "A field is missing.",
        frame("CANCEL", [42]),
        "header of CANCEL: Expected `array` of at least length 2, got 1",
    )
    add(
        "header-truncated",
        "It ends in the midst of a field.",
        frame("CANCEL", b"\x92\x2a\xcd\x01"),
        "header of CANCEL: Input data was truncated",
    )
    add(
        "header-trailing",
        "Bytes follow the array.",
        frame("CANCEL", b"\x92\x2a\x01\x00"),
        "header of CANCEL: MessagePack data is malformed: trailing characters",
    )
    add(
        "header-invalid-byte",
        "The byte c1, which MessagePack never uses.",
        frame("CANCEL", b"\x92\xc1\x01"),
        "header of CANCEL",
    )
    add(
        "header-array-4-gib",
        "An array said to have 2^32 - 1 items.",
        frame("CANCEL", b"\xdd\xff\xff\xff\xff\x2a\x01"),
        "header of CANCEL: Input data was truncated",
    )
    add(
        "header-nested",
        "An id nested 1,000 deep.",
        frame("CANCEL", b"\x92" + b"\x91" * 1000 + b"\x01\x01"),
        "header of CANCEL: Expected `int`, got `array` - at `call_id`",
    )
    # Fields.
    add(
        "integer-negative",
        "A negative id.",
        frame("CANCEL", [-1, 1]),
        "header of CANCEL: Expected `int` >= 0 - at `call_id`",
    )
    add(
        "integer-huge",
        "An id of 2^63.",
        frame("CANCEL", [2**63, 1]),
        "header of CANCEL: Expected `int` <= 9223372036854775807 - at `call_id`",
    )
    add(
        "integer-float",
        "A whole number as a float.",
        frame("CANCEL", [42.0, 1]),
        "header of CANCEL: Expected `int`, got `float` - at `call_id`",
    )
    add(
        "integer-nan",
        "Not a number.",
        frame("CANCEL", [42, float("nan")]),
        "header of CANCEL: Expected `int`, got `float` - at `reason`",
    )
    add(
        "integer-true",
        "A boolean.",
        frame("CANCEL", [True, 1]),
        "header of CANCEL: Expected `int`, got `bool` - at `call_id`",
    )
    add(
        "integer-text",
        "Digits.",
        frame("CANCEL", ["42", 1]),
        "header of CANCEL: Expected `int`, got `str` - at `call_id`",
    )
    add(
        "integer-extension",
        "An extension type.",
        frame("CANCEL", b"\x92\xd4\x05\x00\x01"),
        "header of CANCEL: Expected `int`, got `ext` - at `call_id`",
    )
    add(
        "text-bytes",
        "Bytes where text belongs.",
        frame("GOAWAY", [b"bye", 0]),
        "header of GOAWAY: Expected `str`, got `bytes` - at `reason`",
    )
    add(
        "text-nil",
        "Nil where text belongs.",
        frame("GOAWAY", [None, 0]),
        "header of GOAWAY: Expected `str`, got `None` - at `reason`",
    )
    add(
        "text-invalid-utf8",
        "Text that is no UTF-8.",
        frame("GOAWAY", b"\x92\xa1\xff\x00"),
        "header of GOAWAY: 'utf-8' codec can't decode byte 0xff",
    )
    add(
        "text-surrogate",
        "Half a surrogate pair in UTF-8.",
        frame("GOAWAY", b"\x92\xa3\xed\xa0\x80\x00"),
        "header of GOAWAY: 'utf-8' codec can't decode byte 0xed",
    )
    add(
        "trace-id-text",
        "Text where bytes belong.",
        frame("CALL", CALL | {"trace_id": "a" * 16}),
        "header of CALL: Expected `bytes`, got `str` - at `trace_id`",
    )
    add(
        "trace-id-short",
        "15 bytes.",
        frame("CALL", CALL | {"trace_id": TRACE[:15]}),
        "header of CALL: Expected `bytes` of length >= 16 - at `trace_id`",
    )
    add(
        "span-id-long",
        "9 bytes.",
        frame("CALL", CALL | {"span_id": SPAN + b"\x00"}),
        "header of CALL: Expected `bytes` of length <= 8 - at `span_id`",
    )
    add(
        "chain-text",
        "A chain that is no array.",
        frame("CALL", CALL | {"chain": "orders.place"}),
        "header of CALL: Expected `array | null`, got `str` - at `chain`",
    )
    add(
        "chain-number",
        "A hop that is no text.",
        frame("CALL", CALL | {"chain": [1]}),
        "header of CALL: Expected `str`, got `int` - at `chain[0]`",
    )
    add(
        "chain-hop-long",
        "A hop of 258 characters.",
        frame("CALL", CALL | {"chain": ["a" * 258]}),
        "header of CALL: Expected `str` of length <= 257 - at `chain[0]`",
    )
    add(
        "activity-long",
        "An activity id of 129 characters.",
        frame("CALL", CALL | {"activity_id": "a" * 129}),
        "header of CALL: Expected `str` of length <= 128 - at `activity_id`",
    )
    add(
        "metadata-number",
        "Metadata that is no text.",
        frame("CALL", CALL | {"metadata": {"a": 1}}),
        "header of CALL: Expected `str`, got `int` - at `metadata[...]`",
    )
    add(
        "metadata-key",
        "A key that is no text.",
        frame(
            "CALL",
            b"\xdc\x00\x12"
            + b"".join(
                pack({1: "a"} if name == "metadata" else value) for name, value in CALL.items()
            ),
        ),
        "header of CALL: Expected `str`, got `int` - at `key` in `metadata`",
    )
    add(
        "register-options",
        "Options that are no map.",
        frame("REGISTER", REGISTER | {"methods": {"get": []}}),
        "header of REGISTER: Expected `object`, got `array` - at `methods[...]`",
    )
    add(
        "register-key-map",
        "Options with a map as a key.",
        frame("REGISTER", b"\x94\xa1s\xa1v\x81\xa1m\x81\xa1k\x81\x80\x01\x80"),
        "header of REGISTER",
    )
    add(
        "register-version-long",
        "A version of 33 characters.",
        frame("REGISTER", REGISTER | {"version": "1" * 33}),
        "header of REGISTER: Expected `str` of length <= 32 - at `version`",
    )
    add(
        "register-schema-size",
        "A schema of less than nothing.",
        frame("REGISTER", REGISTER | {"schema_size": -1}),
        "header of REGISTER: Expected `int` >= 0 - at `schema_size`",
    )
    add(
        "call-version-number",
        "A version that is a number.",
        frame("CALL", CALL | {"version": 1.2}),
        "header of CALL: Expected `str | null`, got `float` - at `version`",
    )
    add(
        "call-version-long",
        "A version of 33 characters.",
        frame("CALL", CALL | {"version": "1" * 33}),
        "header of CALL: Expected `str` of length <= 32 - at `version`",
    )
    add(
        "register-name",
        "A name with a space.",
        frame("REGISTER", REGISTER | {"service": "my users"}),
        "header of REGISTER: Expected `str` matching regex",
    )
    add(
        "hello-name-newline",
        "A name that ends with a line feed.",
        frame("HELLO", HELLO | {"name": "orders\n"}),
        "header of HELLO: Expected `str` matching regex",
        state="handshake",
    )
    add(
        "hello-name-long",
        "A name of 129 characters.",
        frame("HELLO", HELLO | {"name": "a" * 129}),
        "header of HELLO: Expected `str` matching regex",
        state="handshake",
    )
    add(
        "hello-limits",
        "A negative limit.",
        frame("HELLO", HELLO | {"limits": {"max_message": -1}}),
        "header of HELLO: Expected `int` >= 0 - at `limits[...]`",
        state="handshake",
    )
    # Chunks.
    add(
        "chunk-empty",
        "More is announced, and nothing carried.",
        frame("CALL", CALL, b"", MORE),
        "CALL announces more and carries nothing: an empty chunk must be last",
    )
    add(
        "chunk-empty-continued",
        "The same in the midst of a message.",
        frame("CALL", [1], b"", MORE | CONTINUED),
        "CALL announces more and carries nothing: an empty chunk must be last",
    )
    add(
        "chunk-cancel",
        "A kind that is never chunked.",
        frame("CANCEL", CANCEL, b"\x00", MORE),
        "CANCEL cannot be continued over several frames",
    )
    add(
        "chunk-spans",
        "SPANS name no call, so that nothing could continue them.",
        frame("SPANS", [[TRACE], 1], b"\x00", MORE),
        "SPANS cannot be continued over several frames",
    )
    add(
        "continued-id-negative",
        "A continuation's id is checked too.",
        frame("RESULT", [-1], b"\x00", CONTINUED),
        "header of RESULT: Expected `int` >= 0 - at `call_id`",
    )
    add(
        "continued-short",
        "A continuation without its id.",
        frame("RESULT", [], b"\x00", CONTINUED),
        "header of RESULT: Expected `array` of at least length 1, got 0",
    )
    # Legality.
    add(
        "call-before-hello",
        "A call before the handshake.",
        frame("CALL", CALL),
        "CALL is not allowed: gateway in state handshake accepts HELLO",
        state="handshake",
    )
    add(
        "hello-twice",
        "A second HELLO.",
        frame("HELLO", HELLO),
        "HELLO is not allowed: gateway in state open accepts CALL, CANCEL, CREDIT, END, ERROR, "
        "GOAWAY, HEARTBEAT, ITEM, REGISTER, RESULT, SPANS, UNREGISTER",
    )
    add(
        "call-before-welcome",
        "A gateway calls before its WELCOME.",
        frame("CALL", FORWARDED),
        "CALL is not allowed: peer in state handshake accepts GOAWAY, WELCOME",
        role="peer",
        state="handshake",
    )
    add(
        "register-to-peer",
        "A gateway registers nothing.",
        frame("REGISTER", REGISTER),
        "REGISTER is not allowed: peer in state open accepts CALL, CANCEL, CREDIT, END, ERROR, "
        "EVENT, GOAWAY, HEARTBEAT, ITEM, KEEP, RESULT",
        role="peer",
    )
    add(
        "after-close",
        "Nothing is legal after the end.",
        frame("GOAWAY", GOAWAY),
        "GOAWAY is not allowed: peer in state closed accepts nothing",
        role="peer",
        state="closed",
    )
    return made


def documents() -> dict[str, str]:
    """Every vector file, by name."""
    made = {
        "frames.json": frames(),
        "lenient.json": lenient(),
        "messages.json": messages(),
        "malformed.json": malformed(),
    }
    return {
        name: json.dumps(vectors, indent=1, ensure_ascii=False) + "\n"
        for name, vectors in made.items()
    }


def seeds() -> dict[str, bytes]:
    """The fuzzer's seed files, by name: whole conversations, and broken ones."""
    to_gateway = {
        "caller": frame("HELLO", HELLO)
        + frame("HEARTBEAT", HEARTBEAT)
        + frame("CALL", CALL, PARAMS)
        + frame("CALL", CALL | {"call_id": 2, "metadata": {"a": "b"}}, PARAMS)
        + frame("CANCEL", {"call_id": 2, "reason": 2})
        + frame("GOAWAY", {"reason": "closing", "drain_us": 10_000_000}),
        "service": frame("HELLO", HELLO | {"name": "users"})
        + frame("REGISTER", REGISTER)
        + frame("RESULT", RESULT | {"call_id": 42}, pack({"id": "123"}))
        + frame("ERROR", ERROR | {"call_id": 43}, pack({"user_id": "123"}))
        + frame("HEARTBEAT", HEARTBEAT | {"flag": 2})
        + frame("UNREGISTER", ["users", []])
        + frame("SPANS", [[TRACE], 1], b"\x92\x80\x80"),
        "long-call": frame("HELLO", HELLO)
        + b"".join(
            frame("CALL", fields, piece, flags)
            for flags, fields, piece in chunked(CALL, bytes(range(200)), 48)
        ),
        "stream": frame("HELLO", HELLO)
        + frame("ITEM", [1], b"\x01")
        + frame("CREDIT", [1])
        + frame("END", [1]),
    }
    to_peer = {
        "caller": frame("WELCOME", WELCOME)
        + frame("HEARTBEAT", HEARTBEAT | {"flag": 1})
        + frame("RESULT", RESULT, pack({"id": "123", "name": "Ada"}))
        + frame("ERROR", ERROR, pack({"user_id": "123"}))
        + frame("KEEP", [[TRACE]])
        + frame("EVENT", ["registry", 3], b"\x80")
        + frame("GOAWAY", GOAWAY),
        "service": frame("WELCOME", WELCOME)
        + frame("CALL", FORWARDED, PARAMS)
        + frame("CALL", FORWARDED | {"call_id": 43, "principal": "someone"}, PARAMS)
        + frame("CANCEL", CANCEL),
        "long-result": frame("WELCOME", WELCOME)
        + b"".join(
            frame("RESULT", fields, piece, flags)
            for flags, fields, piece in chunked(RESULT, bytes(range(200)), 48)
        ),
        "refused": frame("GOAWAY", GOAWAY),
        "later-version": frame("WELCOME", [*WELCOME.values(), "later", {"a": [1]}])
        + frame(17, b"\xc1")
        + frame("CANCEL", [42, 1, None])
        + frame(200, b"", b"abc", 0xF0),
    }
    made = {f"to-gateway-{name}": data for name, data in to_gateway.items()}
    made |= {f"to-peer-{name}": data for name, data in to_peer.items()}
    source = random.Random("corpus")
    for name, data in list(made.items()):
        made[f"{name}-truncated"] = data[: source.randrange(1, len(data))]
        mutated = bytearray(data)
        for _ in range(3):
            mutated[source.randrange(len(mutated))] ^= 1 << source.randrange(8)
        made[f"{name}-mutated"] = bytes(mutated)
    made["nested"] = frame("CANCEL", b"\x91" * 2000 + b"\x01")
    made["register-strange-options"] = frame(
        "REGISTER", b"\x94\xa1s\xa1v\x81\xa1m\x83\xa1a\xd4\x05\x00\xa1b\xd6\xff\x00\x00\x00\x01"
        b"\xa1c\x81\x91\x01\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\x80"
    )  # fmt: skip
    return {f"{name}.bin": data for name, data in made.items()}


def main() -> None:
    """Write all files."""
    for name, text in documents().items():
        (HERE / "vectors" / name).write_text(text, encoding="utf-8")
    for name, data in seeds().items():
        (HERE / "corpus" / name).write_bytes(data)


if __name__ == "__main__":
    main()
