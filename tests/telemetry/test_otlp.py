"""Kept traces as OTLP in JSON, judged by OpenTelemetry's own protobuf definitions."""

from __future__ import annotations

import base64
import json
import math
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from mesh_telemetry import KeptTrace, TraceStore, otlp_steps
from mesh_telemetry.spans import ERROR, Attributes, Span, SpanEvent, SpanLink, Value

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

TRACE = bytes(range(16))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
times = st.integers(0, 2**64 - 1)
atoms = st.one_of(texts, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats())
attributes = st.dictionaries(texts, st.one_of(atoms, st.lists(atoms, max_size=3)), max_size=4)
span_ids = st.binary(min_size=8, max_size=8).filter(any)
events = st.builds(SpanEvent, texts, times, attributes)
links = st.builds(SpanLink, st.binary(min_size=16, max_size=16), span_ids, attributes)
spans = st.builds(
    Span,
    trace_id=st.just(TRACE),
    span_id=span_ids,
    parent_id=st.one_of(st.just(b""), span_ids),
    name=texts,
    kind=st.integers(1, 5),
    start=times,
    end=times,
    attributes=attributes,
    status=st.integers(0, 2),
    status_message=texts,
    events=st.lists(events, max_size=3).map(tuple),
    links=st.lists(links, max_size=3).map(tuple),
    scope=texts,
    scope_version=texts,
    trace_state=texts,
)


def parse(otlp: dict[str, Any]) -> TracesData:
    """As a receiver reads it: OTLP writes ids in hexadecimal, protobuf's JSON wants base64."""

    def convert(value: Any) -> Any:
        if isinstance(value, list):
            return [convert(one) for one in value]
        if not isinstance(value, dict):
            return value
        return {
            key: base64.b64encode(bytes.fromhex(inner)).decode()
            if key in {"traceId", "spanId", "parentSpanId"}
            else convert(inner)
            for key, inner in value.items()
        }

    text = json.dumps(otlp, allow_nan=False)
    read: TracesData = json_format.ParseDict(convert(json.loads(text)), TracesData())
    return read


def value_of(value: AnyValue) -> Value:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(one) for one in value.array_value.values]  # type: ignore[misc]  # flat
    assert kind in {"string_value", "bool_value", "int_value", "double_value"}
    plain: Value = getattr(value, kind)
    return plain


def attributes_of(found: Any) -> Attributes:
    pairs: list[KeyValue] = list(found)
    assert len({pair.key for pair in pairs}) == len(pairs)
    return {pair.key: value_of(pair.value) for pair in pairs}


def span_of(proto: ProtoSpan, scope: str, version: str) -> Span:
    return Span(
        proto.trace_id,
        proto.span_id,
        proto.parent_span_id,
        proto.name,
        proto.kind,
        proto.start_time_unix_nano,
        proto.end_time_unix_nano,
        attributes_of(proto.attributes),
        proto.status.code,
        proto.status.message,
        tuple(
            SpanEvent(event.name, event.time_unix_nano, attributes_of(event.attributes))
            for event in proto.events
        ),
        tuple(
            SpanLink(link.trace_id, link.span_id, attributes_of(link.attributes))
            for link in proto.links
        ),
        scope,
        version,
        proto.trace_state,
    )


def to_otlp(trace: KeptTrace) -> dict[str, Any]:
    """All steps in one go."""
    made, steps = otlp_steps(trace)
    assert len(list(steps)) == len(trace)
    return made


def comparable(spans: list[Span]) -> list[str]:
    """With NaN equal to itself, 1 and true unequal, and in no particular order."""
    return sorted(repr(span) for span in spans)


@given(
    st.dictionaries(texts, st.tuples(attributes, st.lists(spans, max_size=4)), max_size=3),
)
def test_what_went_in_comes_out_of_protobuf(
    processes: dict[str, tuple[Attributes, list[Span]]],
) -> None:
    store = TraceStore(1000)
    trace = store.open(TRACE, "error", 0)
    for process, (resource, made) in processes.items():
        store.add(TRACE, process, resource, made)
    read = parse(to_otlp(trace))
    assert len(read.resource_spans) == len(trace.batches)
    for (resource, kept), found in zip(trace.batches.values(), read.resource_spans, strict=True):
        assert repr(attributes_of(found.resource.attributes)) == repr(resource)
        scopes = [(one.scope.name, one.scope.version) for one in found.scope_spans]
        assert len(set(scopes)) == len(scopes)
        came_out = [
            span_of(span, one.scope.name, one.scope.version)
            for one in found.scope_spans
            for span in one.spans
        ]
        assert comparable(came_out) == comparable(kept)


def test_the_encoding_is_that_of_otlp() -> None:
    store = TraceStore(100)
    trace = store.open(TRACE, "error", 0)
    span = Span(
        TRACE,
        b"\0" * 7 + b"\1",
        b"",
        "users.get",
        2,
        1_700_000_000_000_000_000,
        1_700_000_000_000_000_001,
        {"n": 2**53 + 1, "yes": True, "half": 0.5, "list": ["a", 1]},
        ERROR,
        "no such user",
    )
    store.add(TRACE, "p", {"service.name": "users"}, [span])
    assert to_otlp(trace) == {
        "resourceSpans": [
            {
                "resource": {
                    "attributes": [{"key": "service.name", "value": {"stringValue": "users"}}]
                },
                "scopeSpans": [
                    {
                        "scope": {"name": "spanmesh", "version": ""},
                        "spans": [
                            {
                                "traceId": "000102030405060708090a0b0c0d0e0f",
                                "spanId": "0000000000000001",
                                "name": "users.get",
                                "kind": 2,
                                "startTimeUnixNano": "1700000000000000000",
                                "endTimeUnixNano": "1700000000000000001",
                                "attributes": [
                                    {"key": "n", "value": {"intValue": "9007199254740993"}},
                                    {"key": "yes", "value": {"boolValue": True}},
                                    {"key": "half", "value": {"doubleValue": 0.5}},
                                    {
                                        "key": "list",
                                        "value": {
                                            "arrayValue": {
                                                "values": [{"stringValue": "a"}, {"intValue": "1"}]
                                            }
                                        },
                                    },
                                ],
                                "status": {"code": 2, "message": "no such user"},
                            }
                        ],
                    }
                ],
            }
        ]
    }


def test_a_trace_without_spans_is_valid() -> None:
    assert len(parse(to_otlp(TraceStore(100).open(TRACE, "slow", 0))).resource_spans) == 0


def test_what_protobuf_cannot_hold_does_not_spoil_the_trace() -> None:
    store = TraceStore(100)
    trace = store.open(TRACE, "error", 0)
    told: Attributes = {"big": 2**63, "small": -(2**63) - 1, "odd": [math.nan, math.inf, -math.inf]}
    odd = Span(TRACE, b"12345678", b"", "x", 1, -5, 2**64, told)
    store.add(TRACE, "p", {}, [odd])
    (span,) = parse(to_otlp(trace)).resource_spans[0].scope_spans[0].spans
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (0, 2**64 - 1)
    read = attributes_of(span.attributes)
    assert read["big"] == "9223372036854775808"
    assert read["small"] == "-9223372036854775809"
    assert repr(read["odd"]) == "[nan, inf, -inf]"
