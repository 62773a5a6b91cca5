"""A kept trace for people: one line for lists, and the tree of its spans as rows of a waterfall."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mesh_telemetry import names
from mesh_telemetry.call_lines import LEFT_OUT, LOG, MESSAGE
from mesh_telemetry.logs import timestamp
from mesh_telemetry.spans import CLIENT, CONSUMER, ERROR, INTERNAL, PRODUCER, SERVER, Attributes
from mesh_telemetry.trees import ORDER, tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh_telemetry.kept_trace import KeptTrace
    from mesh_telemetry.spans import Span
    from mesh_telemetry.trees import Node

KINDS = {
    INTERNAL: "internal",
    SERVER: "server",
    CLIENT: "client",
    PRODUCER: "producer",
    CONSUMER: "consumer",
}

EXCEPTION = "exception"
EXCEPTION_TYPE = "exception.type"
EXCEPTION_MESSAGE = "exception.message"
"""What OpenTelemetry calls the event of an exception, and the attributes of it."""

_STATUSES = (
    ("http.response.status_code", "HTTP"),
    ("http.status_code", "HTTP"),
    ("rpc.grpc.status_code", "gRPC"),
)
"""Attributes that tell what a failure was where no type does."""

_BUILT = frozenset(
    {
        names.RPC_SYSTEM_NAME,
        names.RPC_METHOD_NAME,
        names.RPC_METHOD_ORIGINAL,
        names.RPC_STATUS_CODE,
        names.ERROR_TYPE,
        names.SERVER_ADDRESS,
        names.NETWORK_PEER_ADDRESS,
        names.ACTIVITY_ID,
        names.CALL_CHAIN,
        names.CALL_DEPTH_LINKS,
        names.CALL_DEADLINE_MS,
        names.CALL_ATTEMPT,
        names.CALL_OUTCOME,
        names.CALL_CALLER,
        names.CALL_WAITED_MS,
        names.CALL_DETACHED,
        names.INSTANCE_ID,
        names.KEEP_REASON,
        LEFT_OUT,
    }
)
"""What the mesh sets on its own spans; everything else is the user's."""


class TraceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a list of traces shows of one."""

    trace_id: str
    """Hexadecimal."""
    reason: str
    """Why it was kept."""
    started: str
    """RFC 3339, in UTC."""
    duration_ms: float | None
    """Of the entry call, at the gateway; of several, from the first start to the last end. None
    until one has ended."""
    caller: str
    service: str
    method: str
    """Of the entry call, without its service; of several, the one that began first."""
    code: str
    """Name of the entry call's status code; of several, the worst. Empty until one has ended."""
    activity_id: str
    spans: int
    services: list[str]
    """The ``service.name`` of every process in it, sorted."""
    errors: int
    """Failures where they began: a span that failed because one below it did is not counted."""
    complete: bool
    missing: list[str]
    dropped: int
    """Spans that were made and are not there."""
    gateway: str = ""
    """The ``service.name`` of the gateway; empty while none of its spans is there."""
    reasons: list[str] = []
    """All that spoke for keeping it, in the order in which it did."""
    entry_calls: int = 0
    """Those that have ended."""


class RowEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened within a span."""

    name: str
    at_ms: float
    """Milliseconds since the first start in the trace."""
    attributes: Attributes


class WaterfallRow(msgspec.Struct, frozen=True, kw_only=True):
    """One span, as a line of the waterfall."""

    depth: int
    """Spans above it; 0 is a root."""
    span_id: str
    parent_id: str
    """As the span says it, also where the parent is not there; empty for a root."""
    service: str
    """The ``service.name`` of its process."""
    instance: str
    """The id of its process."""
    name: str
    kind: str
    """One of ``internal``, ``server``, ``client``, ``producer``, ``consumer``."""
    start_ms: float
    """Since the first start in the trace."""
    duration_ms: float
    self_ms: float
    """Time in which no child of it ran."""
    code: str
    """Name of the status code; empty for spans that are no calls."""
    outcome: str
    """One of four words, see :func:`~mesh_telemetry.spans.outcome`; empty where ``code`` is."""
    error: bool
    error_type: str
    error_message: str
    deadline_ms: float | None
    """What was left of the deadline at its start."""
    attributes: Attributes
    """What the user, or a library, set; not what every span of a call has."""
    events: list[RowEvent]
    orphan: bool
    """Its parent is not there, and it hangs under the root instead."""
    shifted_ms: float
    """By how much it was moved, since its clock disagreed with its parent's; 0 for most."""
    of_gateway: bool = False
    """Whether its process is a gateway, whatever that is called."""
    waited_ms: float = 0.0
    """How long the call waited there for an instance to come."""
    method: str = ""
    """What was called, with its service, whatever the span is named; empty where ``code`` is."""
    lines_left_out: int = 0
    """Log lines of the call that there was no room for."""
    detached: bool = False
    """Whether this is the gateway's span of a call that was made inside ``mesh.detached()``."""
    served_by: str = ""
    """The process id of the instance that got the call; empty where none is known to have."""


def summary(trace: KeptTrace) -> TraceSummary:
    """What a list of traces shows of one."""
    services = {str(resource.get(names.SERVICE_NAME, "")) for resource, _ in trace.batches.values()}
    return TraceSummary(
        trace_id=trace.trace_id.hex(),
        reason=str(trace.reason),
        reasons=list(trace.reasons),
        started=timestamp(trace.started / 1e9),
        duration_ms=None if trace.duration is None else _ms(trace.duration * 1e9),
        caller=trace.caller,
        service=trace.service,
        method=trace.method,
        code="" if trace.duration is None else names.CODE_NAMES[trace.code],
        activity_id=trace.activity_id,
        spans=len(trace),
        services=sorted(services - {""}),
        errors=_errors(trace),
        complete=trace.complete,
        missing=trace.missing.copy(),
        dropped=trace.dropped,
        entry_calls=trace.entry_calls,
        gateway=next(
            (
                str(resource.get(names.SERVICE_NAME, ""))
                for resource, _ in trace.batches.values()
                if _is_gateway(resource)
            ),
            "",
        ),
    )


def _is_gateway(resource: Attributes) -> bool:
    return resource.get(names.ROLE) == names.GATEWAY_ROLE


def _errors(trace: KeptTrace) -> int:
    """Spans that failed with none below them that did."""
    failed = [span for _, span in trace.spans() if span.status == ERROR]
    if len(failed) < 2:
        return len(failed)
    parents = {span.span_id: span.parent_id for _, span in trace.spans()}
    above: set[bytes] = set()
    for span in failed:
        at = span.parent_id
        while at in parents and at not in above:
            above.add(at)
            at = parents[at]
    return sum(span.span_id not in above for span in failed)


def waterfall(trace: KeptTrace) -> list[WaterfallRow]:
    """The spans of a trace as a tree: depth first, children by their start.

    Every span is there exactly once, whatever their parents are.
    """
    return list(waterfall_rows(trace))


def waterfall_rows(trace: KeptTrace) -> Iterator[WaterfallRow]:
    """The same one by one, for a loop that must not be held up.

    The first takes about 1 us for each span of the trace, every row about 10 us. What the trace
    gets after the first is not among them.
    """
    roots = tree(trace)
    walk: list[tuple[int, Node]] = []
    stack = [(0, root) for root in sorted(roots, key=ORDER, reverse=True)]
    while stack:
        depth, node = stack.pop()
        walk.append((depth, node))
        below = sorted(node.children + node.orphans, key=ORDER, reverse=True)
        stack.extend((depth + 1, child) for child in below)
    first = min((node.start for _, node in walk), default=0)
    for depth, node in walk:
        yield _row(depth, node, first)


def _row(depth: int, node: Node, first: int) -> WaterfallRow:
    span, attributes = node.span, node.span.attributes
    of_mesh = attributes.get(names.RPC_SYSTEM_NAME) == names.RPC_SYSTEM
    deadline = attributes.get(names.CALL_DEADLINE_MS)
    waited = attributes.get(names.CALL_WAITED_MS)
    left_out = attributes.get(LEFT_OUT)
    error_type, error_message = _error(span)
    return WaterfallRow(
        depth=depth,
        span_id=span.span_id.hex(),
        parent_id=span.parent_id.hex(),
        service=str(node.resource.get(names.SERVICE_NAME, "")),
        instance=node.process,
        name=span.name,
        kind=KINDS.get(span.kind, "internal"),
        start_ms=_ms(node.start - first),
        duration_ms=_ms(node.end - node.start),
        self_ms=_ms(node.self_time),
        code=str(attributes.get(names.RPC_STATUS_CODE, "")) if of_mesh else "",
        outcome=str(attributes.get(names.CALL_OUTCOME, "")) if of_mesh else "",
        error=span.status == ERROR,
        error_type=error_type,
        error_message=error_message,
        deadline_ms=float(deadline) if of_mesh and isinstance(deadline, int | float) else None,
        attributes={
            key: value for key, value in attributes.items() if not (of_mesh and key in _BUILT)
        },
        events=[
            RowEvent(
                name=event.name,
                at_ms=_ms(event.time + node.shift - first),
                attributes=event.attributes,
            )
            for event in span.events
        ],
        orphan=node.orphan,
        shifted_ms=_ms(node.shift),
        of_gateway=_is_gateway(node.resource),
        waited_ms=float(waited) if of_mesh and isinstance(waited, int | float) else 0.0,
        method=_method(attributes) if of_mesh else "",
        lines_left_out=left_out if of_mesh and isinstance(left_out, int) else 0,
        detached=of_mesh and attributes.get(names.CALL_DETACHED) is True,
        served_by=str(attributes.get(names.INSTANCE_ID, "")) if of_mesh else "",
    )


def _method(attributes: Attributes) -> str:
    """What was called, also where nobody serves it."""
    called = attributes.get(names.RPC_METHOD_ORIGINAL) or attributes.get(names.RPC_METHOD_NAME, "")
    return str(called)


def _error(span: Span) -> tuple[str, str]:
    """The type and the message of what a span failed with."""
    if span.status != ERROR:
        return "", ""
    told: Attributes = {}
    for event in reversed(span.events):
        if event.name == EXCEPTION and repeats(event.attributes, span.status_message):
            told = event.attributes
            break
    attributes = span.attributes
    kind = str(attributes.get(names.ERROR_TYPE) or told.get(EXCEPTION_TYPE, ""))
    if not kind or kind.isdigit():
        kind = next(
            (f"{what} {attributes[key]}" for key, what in _STATUSES if key in attributes), kind
        )
    message = span.status_message or str(told.get(EXCEPTION_MESSAGE, ""))
    for prefix in {kind, _short(kind)} - {""}:
        message = message.removeprefix(f"{prefix}: ")
    return kind, message


def is_line(event: RowEvent) -> bool:
    """Whether an event is a log line."""
    return event.name == LOG and MESSAGE in event.attributes


def repeats(exception: Attributes, message: str) -> bool:
    """Whether an exception's event says nothing else than the message of its span's status.

    Args:
        exception: The event's attributes.
        message: As the span has it, with or without the exception's type; empty fits all.
    """
    kind = str(exception.get(EXCEPTION_TYPE, ""))
    said = str(exception.get(EXCEPTION_MESSAGE, ""))
    return message in {"", said, f"{kind}: {said}", f"{_short(kind)}: {said}"}


def _short(kind: str) -> str:
    """An exception's type without its module."""
    return kind.rpartition(".")[2]


def _ms(nanoseconds: float) -> float:
    """To the microsecond."""
    return round(nanoseconds / 1e6, 3)
