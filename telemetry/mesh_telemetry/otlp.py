"""A kept trace as OTLP in JSON, for whatever reads OpenTelemetry's traces.

The shape is that of ``TracesData`` and ``ExportTraceServiceRequest``: protobuf's JSON with ids in
hexadecimal and enumerations as numbers
(https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding).
"""

from __future__ import annotations

from math import inf, isnan
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mesh_telemetry.kept_trace import KeptTrace
    from mesh_telemetry.spans import Attributes, Span, SpanEvent, SpanLink, Value

_INT64 = range(-(2**63), 2**63)
_LATEST = 2**64 - 1


def otlp_steps(trace: KeptTrace) -> tuple[dict[str, Any], Iterator[None]]:
    """A trace as ``TracesData``: by resource (process), then scope (library), then span.

    For a loop that must not be held up, each step fills in one span, about 20 us. What the trace
    gets between two steps is not in it.

    Args:
        trace: What the store has of it; what is missing cannot be said in OTLP.

    Returns:
        Plain dicts, lists, text, numbers and booleans, that any JSON encoder takes, with no spans
        yet; and the steps.
    """
    parts = [(resource, spans.copy()) for resource, spans in trace.batches.values()]
    made: list[dict[str, Any]] = [
        {"resource": {"attributes": _attributes(resource)}, "scopeSpans": []}
        for resource, _ in parts
    ]

    def fill() -> Iterator[None]:
        for (_, spans), one in zip(parts, made, strict=True):
            scopes: dict[tuple[str, str], list[dict[str, Any]]] = {}
            for span in spans:
                key = span.scope, span.scope_version
                if key not in scopes:
                    scopes[key] = []
                    scope = {"name": span.scope, "version": span.scope_version}
                    one["scopeSpans"].append({"scope": scope, "spans": scopes[key]})
                scopes[key].append(_span(span))
                yield

    return {"resourceSpans": made}, fill()


def _span(span: Span) -> dict[str, Any]:
    made: dict[str, Any] = {
        "traceId": span.trace_id.hex(),
        "spanId": span.span_id.hex(),
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": _time(span.start),
        "endTimeUnixNano": _time(span.end),
        "attributes": _attributes(span.attributes),
        "status": {"code": span.status},
    }
    if span.status_message:
        made["status"]["message"] = span.status_message
    if span.parent_id:
        made["parentSpanId"] = span.parent_id.hex()
    if span.trace_state:
        made["traceState"] = span.trace_state
    if span.events:
        made["events"] = [_event(event) for event in span.events]
    if span.links:
        made["links"] = [_link(link) for link in span.links]
    return made


def _event(event: SpanEvent) -> dict[str, Any]:
    return {
        "name": event.name,
        "timeUnixNano": _time(event.time),
        "attributes": _attributes(event.attributes),
    }


def _link(link: SpanLink) -> dict[str, Any]:
    return {
        "traceId": link.trace_id.hex(),
        "spanId": link.span_id.hex(),
        "attributes": _attributes(link.attributes),
    }


def _time(nanoseconds: int) -> str:
    """A fixed64 as text; a peer's clock may say anything, and one odd span must not spoil all."""
    return str(min(max(nanoseconds, 0), _LATEST))


def _attributes(attributes: Mapping[str, Value] | Attributes) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Value) -> dict[str, Any]:
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, bool):  # which is an int, too
        return {"boolValue": value}
    if isinstance(value, int):
        # What no int64 can hold is shown rather than lost.
        return {"intValue" if value in _INT64 else "stringValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": _double(value)}
    return {"arrayValue": {"values": [_value(one) for one in value]}}


def _double(value: float) -> float | str:
    """JSON has no words for these; protobuf's JSON has (https://protobuf.dev/programming-guides/json/)."""
    if isnan(value):
        return "NaN"
    if value in {inf, -inf}:
        return "Infinity" if value > 0 else "-Infinity"
    return value
