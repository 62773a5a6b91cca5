"""What real receivers have of the spans that we export, read back from them.

Ids, parents, kinds, names, statuses and resources of a call through the mesh, and of the spans that
a third party's instrumentation made within it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import requests
from opentelemetry.context import attach, detach
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    set_span_in_context,
)

from mesh_telemetry import names, spans
from mesh_telemetry.export import Exporter
from tests.telemetry.backends import running
from tests.telemetry.receivers import Receiver, autotel, rotel, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TRACE = bytes.fromhex("0af7651916cd43dd8448eb211c80319c")


def resource_of(name: str) -> spans.Attributes:
    return {
        "service.name": name,
        "service.instance.id": f"{name}-1",
        "process.pid": 7,
        "team": ["a", "b"],
    }


SHOP, GATEWAY, USERS = map(resource_of, ("shop", "mesh-gateway", "users"))


@pytest.fixture(name="receiver", params=[autotel, rotel])
def make_receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Receiver]:
    with request.param(tmp_path) as receiver:
        yield receiver


def span_id(number: int) -> bytes:
    return number.to_bytes(8, "big")


def of_a_call(number: int, kind: int, method: str, *, code: int = 0) -> spans.Span:
    """The span of one end of the call, the child of the one before."""
    return spans.build(
        spans.CallFacts(
            trace_id=TRACE,
            span_id=span_id(number),
            parent_id=span_id(number - 1) if number > 1 else b"",
            kind=kind,
            method=method,
            start=1_700_000_000_000_000_000 + number,
            end=1_700_000_000_500_000_000 - number,
            code=code,
            chain=["orders.place", method],
            activity_id="a" * 32,
            message="no such table" if code else "",
            exception="OperationalError" if code else "",
        )
    )


def third_party(parent: bytes) -> ReadableSpan:
    """A span that the instrumentation of `requests` makes within a call."""
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    context = SpanContext(
        int.from_bytes(TRACE, "big"), int.from_bytes(parent, "big"), True, TraceFlags(1)
    )
    RequestsInstrumentor().instrument(tracer_provider=provider)
    token = attach(set_span_in_context(NonRecordingSpan(context)))
    try:
        with running() as server:
            requests.post(f"{server.endpoint}/hello", timeout=10)
    finally:
        detach(token)
        RequestsInstrumentor().uninstrument()
    (span,) = memory.get_finished_spans()
    return span


def taken_over(span: ReadableSpan) -> spans.Span:
    """The SDK's span in our form."""
    assert span.context is not None
    assert span.parent is not None
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.instrumentation_scope is not None
    return spans.Span(
        span.context.trace_id.to_bytes(16, "big"),
        span.context.span_id.to_bytes(8, "big"),
        span.parent.span_id.to_bytes(8, "big"),
        span.name,
        span.kind.value + 1,
        span.start_time,
        span.end_time,
        {name: list(v) if isinstance(v, tuple) else v for name, v in span.attributes.items()},  # type: ignore[misc, union-attr]
        span.status.status_code.value,
        scope=span.instrumentation_scope.name,
        scope_version=span.instrumentation_scope.version or "",
    )


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_call_reads_back_as_it_was(receiver: Receiver, protocol: str) -> None:
    exporter = Exporter.from_environment(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": (
                receiver.over_grpc if protocol == "grpc" else receiver.over_http
            ),
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        }
    )
    assert exporter is not None
    internal = names.CODE_NAMES.index("internal")
    hop = [
        (SHOP, of_a_call(1, spans.CLIENT, "users.call", code=internal)),
        (GATEWAY, of_a_call(2, spans.SERVER, "users.in", code=internal)),
        (GATEWAY, of_a_call(3, spans.CLIENT, "users.out", code=internal)),
        (USERS, of_a_call(4, spans.SERVER, "users.get")),
    ]
    hop[3][1].links = (spans.SpanLink(b"l" * 16, b"l" * 8, {"why": "batch"}),)
    theirs = taken_over(third_party(span_id(4)))
    for resource, span in [*hop, (USERS, theirs)]:
        exporter.add(resource, span)
    assert exporter.close(20), exporter.trouble
    assert (exporter.exported, exporter.trouble) == (5, "")

    found = wait_for(receiver, 5)
    for resource, sent in [*hop, (USERS, theirs)]:
        got = found[sent.name]
        assert bytes.fromhex(got.trace_id) == sent.trace_id
        assert bytes.fromhex(got.span_id) == sent.span_id
        assert bytes.fromhex(got.parent_id) == sent.parent_id
        assert got.kind == ["", "INTERNAL", "SERVER", "CLIENT"][sent.kind]
        assert got.status == ["UNSET", "OK", "ERROR"][sent.status]
        assert got.message == sent.status_message
        assert got.service == resource["service.name"]
        assert got.attributes == resource | sent.attributes
        assert got.events == [(event.name, event.attributes) for event in sent.events]
        assert got.links == [
            (link.trace_id.hex(), link.span_id.hex(), link.attributes) for link in sent.links
        ]
        assert got.scope == (sent.scope, sent.scope_version)
    assert found["users.in"].status == "ERROR"
    assert found["users.in"].events[0][1]["exception.type"] == "OperationalError"
    assert found["POST"].scope[0] == "opentelemetry.instrumentation.requests"
    assert found["POST"].kind == "CLIENT"


def test_many_spans_arrive_all(receiver: Receiver) -> None:
    exporter = Exporter.from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.over_http})
    assert exporter is not None
    for number in range(1, 1001):
        exporter.add(USERS, spans.Span(TRACE, span_id(number), b"", f"m{number}", 2, 1, 2))
    assert exporter.close(60), exporter.trouble
    assert exporter.exported == 1000
    assert set(wait_for(receiver, 1000)) == {f"m{number}" for number in range(1, 1001)}
