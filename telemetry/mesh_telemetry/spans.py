"""Spans as the mesh makes, sends, stores and exports them: plain values, built late.

An OpenTelemetry SDK span costs 8 to 16 us; a record of a call costs a fraction of one. So spans are
built from records, and only for traces that are kept. Names, attributes and statuses follow
OpenTelemetry's conventions for RPC: https://opentelemetry.io/docs/specs/semconv/rpc/rpc-spans/
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Annotated, TypeAlias

import msgspec

from mesh_telemetry import names

if TYPE_CHECKING:
    from collections.abc import Sequence

Value: TypeAlias = str | bool | int | float | list[str | bool | int | float]
"""What an attribute can be (https://opentelemetry.io/docs/specs/otel/common/#attribute)."""
Attributes: TypeAlias = dict[str, Value]

INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER = 1, 2, 3, 4, 5
"""Kinds of spans, numbered as in OTLP."""
UNSET, OK, ERROR = 0, 1, 2
"""Statuses of spans, numbered as in OTLP."""

_CODE = {name: number for number, name in enumerate(names.CODE_NAMES)}
_CANCELLED, _DEADLINE = _CODE["cancelled"], _CODE["deadline_exceeded"]
SERVER_ERRORS = frozenset(_CODE[name] for name in names.SERVER_FAULTS)
"""The codes that are an error of a server; the others tell what the caller did."""


# Of kinds that the garbage collector does not know, with tuples, which it lets alone where they are
# empty: a store has tens of thousands, and none of them can be part of a circle.


class SpanEvent(msgspec.Struct, array_like=True, gc=False):
    """Something that happened within a span."""

    name: str
    time: int
    """Nanoseconds since 1970."""
    attributes: Attributes = {}


class SpanLink(msgspec.Struct, array_like=True, gc=False):
    """Another span that this one has to do with."""

    trace_id: bytes
    span_id: bytes
    attributes: Attributes = {}


class Span(msgspec.Struct, array_like=True, gc=False):
    """A finished span."""

    trace_id: bytes
    """16 bytes."""
    span_id: bytes
    """8 bytes."""
    parent_id: bytes
    """8 bytes, or none for a root."""
    name: str
    kind: int
    start: int
    """Nanoseconds since 1970."""
    end: int
    attributes: Attributes = {}
    status: int = UNSET
    status_message: str = ""
    events: tuple[SpanEvent, ...] = ()
    links: tuple[SpanLink, ...] = ()
    scope: str = "spanmesh"
    """Which library made it."""
    scope_version: str = ""
    trace_state: str = ""


class Batch(msgspec.Struct, array_like=True, gc=False):
    """Spans of one process."""

    resource: Attributes
    """Who that is: ``service.name``, ``service.instance.id`` and so on."""
    spans: list[Span]
    dropped: Annotated[int, msgspec.Meta(ge=0, le=2**32)] = 0
    """Spans that the process made of these traces and no longer has."""
    copies: bool = False
    """Whether a provider of the user's own exports them: they are to be shown, and not exported."""


class CallFacts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one end of a call, or the gateway, knows of it: all that a span is built from."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    kind: int
    method: str
    """Fully qualified: ``users.get``."""
    start: int
    """Nanoseconds since 1970."""
    end: int
    code: int
    """Number of the status code; 0 is ok."""
    reason: str = ""
    """Why it failed, upper case."""
    message: str = ""
    """What the failure says to people."""
    exception: str = ""
    """The type of what a handler raised."""
    activity_id: str = ""
    chain: Sequence[str] = ()
    deadline_ms: float = 0.0
    attempt: int = 1
    caller: str = ""
    instance: str = ""
    """The process that served it."""
    server_address: str = ""
    peer_address: str = ""
    known_method: bool = True
    """Whether somebody has registered it."""
    version: str = ""
    """Of the mesh that tells of it."""


def outcome(code: int) -> str:
    """``ok``, ``error``, ``cancelled`` or ``deadline_exceeded``."""
    if code == 0:
        return "ok"
    if code == _CANCELLED:
        return "cancelled"
    return "deadline_exceeded" if code == _DEADLINE else "error"


def is_error(kind: int, code: int) -> bool:
    """Whether a call that ended so is an error of a span of this kind.

    Callers: every code but ok. Servers: only what is their fault
    (https://opentelemetry.io/docs/specs/semconv/rpc/grpc/#grpc-status).
    """
    return code in SERVER_ERRORS if kind == SERVER else code != 0


def build(facts: CallFacts) -> Span:
    """The span of one end of a call."""
    attributes: Attributes = {
        names.RPC_SYSTEM_NAME: names.RPC_SYSTEM,
        names.RPC_METHOD_NAME: facts.method if facts.known_method else names.OTHER,
    }
    if not facts.known_method:
        attributes[names.RPC_METHOD_ORIGINAL] = facts.method
    if facts.server_address:
        attributes[names.SERVER_ADDRESS] = facts.server_address
    if facts.peer_address:
        attributes[names.NETWORK_PEER_ADDRESS] = facts.peer_address
    if facts.activity_id:
        attributes[names.ACTIVITY_ID] = facts.activity_id
    if facts.chain:
        attributes[names.CALL_CHAIN] = list(facts.chain)
        attributes[names.CALL_DEPTH_LINKS] = len(facts.chain)
    if facts.deadline_ms and isfinite(facts.deadline_ms):
        attributes[names.CALL_DEADLINE_MS] = round(facts.deadline_ms, 3)
    attributes[names.CALL_ATTEMPT] = facts.attempt
    if facts.caller:
        attributes[names.CALL_CALLER] = facts.caller
    if facts.instance:
        attributes[names.INSTANCE_ID] = facts.instance
    code = names.CODE_NAMES[facts.code]
    attributes[names.RPC_STATUS_CODE] = code
    attributes[names.CALL_OUTCOME] = outcome(facts.code)
    failed = is_error(facts.kind, facts.code)
    if failed:
        attributes[names.ERROR_TYPE] = facts.exception or facts.reason or code
    events: tuple[SpanEvent, ...] = ()
    if failed and facts.exception:
        told: Attributes = {
            "exception.type": facts.exception,
            "exception.message": facts.message,
        }
        events = (SpanEvent("exception", facts.end, told),)
    return Span(
        facts.trace_id,
        facts.span_id,
        facts.parent_id,
        facts.method if facts.known_method else names.OTHER,
        facts.kind,
        facts.start,
        facts.end,
        attributes,
        ERROR if failed else UNSET,
        facts.message if failed else "",
        events,
        scope_version=facts.version,
    )


MAX_KEY = 200
"""Characters of an attribute's name in a span that has to be clipped."""
MAX_CLIPPED = 16
"""Events and links, the newest, that such a span keeps."""


def clip(span: Span, longest: int) -> Span:
    """A span that is shortened, and says so, to fit where it does not as it is.

    Args:
        span: Stays as it is.
        longest: Characters that a text of an attribute, and items that a list, may have; at 0, no
            more than the mesh's own attributes stay.
    """
    attributes = _clipped(span.attributes, longest)
    if not longest:
        attributes = {
            key: value
            for key, value in attributes.items()
            if key.startswith(("rpc.", "mesh.", "error.", "otel."))
        }
    attributes[names.CLIPPED] = True
    return msgspec.structs.replace(
        span,
        name=span.name[:300],
        attributes=attributes,
        status_message=span.status_message[: max(longest, 64)],
        events=tuple(
            [
                SpanEvent(event.name[:300], event.time, _clipped(event.attributes, longest))
                for event in span.events[-MAX_CLIPPED:]
            ]
        )
        if longest
        else (),
        links=span.links[-MAX_CLIPPED:] if longest > 256 else (),
        trace_state=span.trace_state if longest > 256 else "",
    )


def _clipped(attributes: Attributes, longest: int) -> Attributes:
    longest = max(longest, 64)
    return {
        key[:MAX_KEY]: value[:longest]
        if isinstance(value, str)
        else [one[:64] if isinstance(one, str) else one for one in value[: longest // 8]]
        if isinstance(value, list)
        else value
        for key, value in attributes.items()
    }
