"""Users' spans, and those of third parties' instrumentation, under a served call."""

from __future__ import annotations

import contextlib
import contextvars
import http.server
import json
import os
import sqlite3
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
import trio
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, DEFAULT_ON
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from mesh_telemetry import provider, spans
from mesh_telemetry.current import CallContext, outgoing
from mesh_telemetry.propagation import Ratio
from mesh_telemetry.provider import MeshTracerProvider, attach, convert, install

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

TRACE = bytes(range(1, 17))
SPAN = 0xB2 << 56


class Collected:
    """What a peer's recorder would get."""

    def __init__(self) -> None:
        self.spans: list[spans.Span] = []

    def ended(self, span: ReadableSpan) -> None:
        self.spans.append(convert(span))

    def named(self, name: str) -> spans.Span:
        (found,) = [span for span in self.spans if span.name == name]
        return found


def release(collector: Collected) -> None:
    """Have it told no more, wherever it was attached."""
    for tap in provider._taps.values():
        tap.remove(collector)


@pytest.fixture
def collected() -> Iterator[Collected]:
    collector = Collected()
    yield collector
    release(collector)


@pytest.fixture
def ours(collected: Collected) -> TracerProvider:
    """The mesh's provider, in a process that has none."""
    provider = MeshTracerProvider(Ratio())
    assert attach(provider, collected)
    return provider


def call_context(flags: int = 3) -> CallContext:
    return CallContext(TRACE, SPAN, flags, {})


def within(attached: Context, function: Callable[[], Any]) -> Any:
    """Run it as a handler of the call that this is the context of."""
    fresh = contextvars.Context()
    fresh.run(context.attach, attached)
    return fresh.run(function)


async def serve(call: CallContext, handler: Callable[[], Awaitable[None]]) -> None:
    """Run it so in a task of its own."""
    fresh = contextvars.Context()
    fresh.run(context.attach, call)
    async with trio.open_nursery() as nursery:
        fresh.run(nursery.start_soon, handler)


# The two cases of providers.


@pytest.mark.parametrize("flags", [0, 1, 2, 3])
def test_with_the_meshs_provider_all_is_recorded_and_the_flag_that_came_in_goes_on(
    flags: int, ours: TracerProvider, collected: Collected
) -> None:
    def handler() -> int:
        with ours.get_tracer("t").start_as_current_span("step") as step:
            assert step.is_recording()
            told = outgoing()
            assert told is not None
            return told.flags

    assert within(call_context(flags), handler) & 1 == flags & 1
    step = collected.named("step")
    assert (step.trace_id, step.parent_id) == (TRACE, SPAN.to_bytes(8))


def test_for_a_trace_that_begins_here_a_ratio_says_the_flag(collected: Collected) -> None:
    provider = MeshTracerProvider(Ratio(0.5))
    attach(provider, collected)
    for _ in range(50):
        with provider.get_tracer("t").start_as_current_span("root", Context()) as root:
            told = outgoing()
        assert told is not None
        assert told.flags & 1 == Ratio(0.5).flags(told.trace_id) & 1
        assert root.get_span_context().trace_flags == told.flags
    assert len(collected.spans) == 50


@pytest.mark.parametrize("flags", [0, 1])
def test_a_provider_of_the_users_rules_its_spans_and_the_mesh_gets_copies(
    flags: int, collected: Collected
) -> None:
    exported = InMemorySpanExporter()
    theirs = TracerProvider(sampler=DEFAULT_ON, shutdown_on_exit=False)
    theirs.add_span_processor(SimpleSpanProcessor(exported))
    assert attach(theirs, collected)

    def handler() -> None:
        with theirs.get_tracer("t").start_as_current_span("step"):
            pass

    within(call_context(flags), handler)
    names = [span.name for span in exported.get_finished_spans()]
    assert names == [span.name for span in collected.spans] == ["step"] * flags


def test_what_the_users_sampler_drops_is_not_seen(collected: Collected) -> None:
    theirs = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    attach(theirs, collected)
    with theirs.get_tracer("t").start_as_current_span("step"):
        pass
    assert collected.spans == []


def test_what_is_no_provider_of_the_sdk_cannot_be_copied_from(collected: Collected) -> None:
    assert not attach(trace.NoOpTracerProvider(), collected)


def test_a_collector_is_told_once_of_each_span_until_it_is_released(
    ours: TracerProvider, collected: Collected
) -> None:
    attach(ours, collected)
    other = Collected()
    attach(ours, other)
    tracer = ours.get_tracer("t")
    tracer.start_span("first").end()
    release(collected)
    tracer.start_span("second").end()
    release(other)
    tracer.start_span("third").end()
    assert [span.name for span in collected.spans] == ["first"]
    assert [span.name for span in other.spans] == ["first", "second"]


def test_a_collector_that_fails_is_removed_and_breaks_nothing(
    ours: TracerProvider, collected: Collected, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def ended(self, span: ReadableSpan) -> None:
            raise LookupError(span.name)

    attach(ours, Broken())
    for name in ("first", "second"):
        ours.get_tracer("t").start_span(name).end()
    assert len(collected.spans) == 2
    assert caplog.text.count("a collector of spans failed") == 1


# What a process has one of: in a process of its own.

INSTALL = """
import json, os
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from mesh_telemetry.provider import convert, install, attach

class Collector:
    def __init__(self):
        self.names = []
    def ended(self, span):
        self.names.append(convert(span).name)

early = trace.get_tracer("early")              # a library, before anything is set up
if os.environ.get("THEIRS"):
    trace.set_tracer_provider(TracerProvider())
one, two = Collector(), Collector()
installed = [install(one), install(two)]
copied = attach(trace.get_tracer_provider(), one)
with early.start_as_current_span("a"), trace.get_tracer("late").start_as_current_span("b"):
    pass
flags = early.start_span("c").get_span_context().trace_flags
kind = type(trace.get_tracer_provider()).__name__
print(json.dumps([installed, copied, one.names, two.names, kind, flags & 1]))
"""


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({}, [[True, True], True, ["b", "a"], ["b", "a"], "MeshTracerProvider", 1]),
        (
            {"OTEL_TRACES_SAMPLER": "always_off"},
            [[True, True], True, ["b", "a"], ["b", "a"], "MeshTracerProvider", 0],
        ),
        ({"THEIRS": "1"}, [[False, False], True, ["b", "a"], [], "TracerProvider", 1]),
        ({"OTEL_SDK_DISABLED": "true"}, [[False] * 2, False, [], [], "ProxyTracerProvider", 0]),
    ],
)
def test_the_mesh_is_the_provider_only_where_there_is_none(
    environ: dict[str, str], told: list[object]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INSTALL],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environ},
    )
    assert json.loads(done.stdout) == told
    assert done.stderr == ""


def test_a_disabled_sdk_is_left_alone(collected: Collected) -> None:
    assert not install(collected, environ={"OTEL_SDK_DISABLED": "True"})


# Third parties' instrumentation.


class Site:
    """A web application, in this process, that remembers what it was asked."""

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        del receive
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        status = 500 if scope["path"] == "/broken" else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})


@pytest.mark.parametrize("flags", [0, 3])
async def test_requests_by_httpx_are_children_and_take_the_trace_along(
    flags: int, ours: TracerProvider, collected: Collected
) -> None:
    site = Site()
    call = call_context(flags)

    async def handler() -> None:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(site), base_url="http://site.example"
        ) as client:
            HTTPXClientInstrumentor.instrument_client(client, tracer_provider=ours)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.get, "/broken")
            with ours.get_tracer("t").start_as_current_span("step"):
                await client.get("/")

    await serve(call, handler)
    broken, fetched, step = collected.spans
    assert [span.trace_id for span in collected.spans] == [TRACE] * 3
    assert broken.parent_id == step.parent_id == SPAN.to_bytes(8)
    assert fetched.parent_id == step.span_id
    assert broken.kind == fetched.kind == spans.CLIENT
    assert (broken.status, fetched.status) == (spans.ERROR, spans.UNSET)
    assert fetched.scope == "opentelemetry.instrumentation.httpx"
    sent = [headers["traceparent"].split("-") for headers in site.headers]
    assert [parts[1:3] for parts in sent] == [
        [TRACE.hex(), broken.span_id.hex()],
        [TRACE.hex(), fetched.span_id.hex()],
    ]
    assert [int(parts[3], 16) & 1 for parts in sent] == [flags & 1] * 2


async def test_queries_by_sqlite3_in_a_thread_are_children(
    ours: TracerProvider, collected: Collected
) -> None:
    def query() -> list[tuple[int]]:
        connection = sqlite3.connect(":memory:")
        instrumented = SQLite3Instrumentor().instrument_connection(connection, tracer_provider=ours)
        try:
            cursor = instrumented.cursor()
            cursor.execute("CREATE TABLE users (id INTEGER)")
            cursor.execute("INSERT INTO users VALUES (7)")
            cursor.execute("SELECT id FROM users")
            rows: list[tuple[int]] = cursor.fetchall()
            with pytest.raises(sqlite3.OperationalError):
                cursor.execute("DROP TABLE nobody")
        finally:
            connection.close()
        return rows

    async def handler() -> None:
        with ours.get_tracer("t").start_as_current_span("step"):
            assert await trio.to_thread.run_sync(query) == [(7,)]

    await serve(call_context(), handler)
    *queries, step = collected.spans
    assert [span.name for span in queries] == ["CREATE", "INSERT", "SELECT", "DROP"]
    assert {(span.trace_id, span.parent_id, span.kind) for span in queries} == {
        (TRACE, step.span_id, spans.CLIENT)
    }
    failed = queries[-1]
    assert failed.status == spans.ERROR
    assert failed.events[0].attributes["exception.type"] == "sqlite3.OperationalError"


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with the `traceparent` that it was sent."""

    def do_GET(self) -> None:
        body = self.headers.get("traceparent", "").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its base's name
        del format, args


@pytest.fixture
def echo() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_instrumentation_for_the_whole_process_follows_each_call(
    ours: TracerProvider, collected: Collected, echo: str
) -> None:
    def handler() -> str:
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            connection.cursor().execute("SELECT 1")
        with httpx.Client(trust_env=False) as client:
            return client.get(echo).text

    instrumentors = HTTPXClientInstrumentor(), SQLite3Instrumentor()
    for instrumentor in instrumentors:
        instrumentor.instrument(tracer_provider=ours)
    try:
        told = [
            within(CallContext(bytes([n]) * 16, n, 1, {}), handler).split("-")[1] for n in (1, 2)
        ]
    finally:
        for instrumentor in instrumentors:
            instrumentor.uninstrument()
    assert told == ["01" * 16, "02" * 16]
    assert [(span.name, span.trace_id[0], span.parent_id[7]) for span in collected.spans] == [
        (name, n, n) for n in (1, 2) for name in ("SELECT", "GET")
    ]


# What is sent of a span.


def test_a_span_is_sent_whole(ours: TracerProvider, collected: Collected) -> None:
    tracer = ours.get_tracer("shop", "1.2")
    link = trace.Link(SpanContext(0xC3, 0xD4, is_remote=True), {"why": "batch"})

    def handler() -> None:
        with tracer.start_as_current_span(
            "price", kind=SpanKind.PRODUCER, attributes={"sizes": [1, 2]}, links=[link]
        ) as span:
            span.set_attribute("name", "Ada")
            raise LookupError("nobody")

    with pytest.raises(LookupError):
        within(CallContext(TRACE, SPAN, 3, {"tracestate": "vendor=a"}), handler)
    (made,) = collected.spans
    assert made.attributes == {"sizes": [1, 2], "name": "Ada"}
    assert made.kind == spans.PRODUCER
    assert (made.status, made.status_message) == (spans.ERROR, "LookupError: nobody")
    assert made.events[0].attributes["exception.message"] == "nobody"
    assert made.links == (
        spans.SpanLink((0xC3).to_bytes(16), (0xD4).to_bytes(8), {"why": "batch"}),
    )
    assert (made.scope, made.scope_version, made.trace_state) == ("shop", "1.2", "vendor=a")
    assert 0 < made.start <= made.events[0].time <= made.end
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=spans.Span) == made


def test_a_root_has_no_parent_and_ok_is_ok(ours: TracerProvider, collected: Collected) -> None:
    span = ours.get_tracer("t").start_span("root", Context())
    span.set_status(StatusCode.OK)
    span.end()
    (made,) = collected.spans
    assert made.parent_id == b""
    assert (made.status, made.kind) == (spans.OK, spans.INTERNAL)


def test_what_is_beyond_the_bounds_is_counted(ours: TracerProvider, collected: Collected) -> None:
    span = ours.get_tracer("t").start_span("big")
    for number in range(40):
        span.add_event("e", {"text": "x" * 16_000, "number": number})
        span.add_link(SpanContext(1, number + 1, is_remote=False))
    span.end()
    (made,) = collected.spans
    assert len(made.events) == 40
    assert len(msgspec.msgpack.encode(made)) < 400_000
    assert made.attributes["otel.dropped_attributes_count"] == sum(
        "text" not in event.attributes for event in made.events
    )


def test_what_only_newer_sdks_take_as_attributes_is_told_as_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: Any = {"map": {"a": 1}, "bytes": b"\x00", "nothing": None}
    made = convert(ReadableSpan("s", resource=Resource({}), attributes=told))
    assert made.attributes == {"map": '{"a":1}', "bytes": "AA=="}
    assert caplog.text == ""


def test_the_least_span_there_can_be_is_converted() -> None:
    made = convert(ReadableSpan("bare", resource=Resource({})))
    assert made == spans.Span(bytes(16), bytes(8), b"", "bare", spans.INTERNAL, 0, 0, scope="")
