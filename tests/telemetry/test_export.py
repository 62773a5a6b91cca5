"""Export to a backend that works, and to all those that do not: no call ever waits for one."""

from __future__ import annotations

import contextlib
import gzip
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import requests
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mesh_telemetry import spans
from mesh_telemetry.export import DROP_REASONS, Exporter, Sent
from mesh_telemetry.export_settings import ExportSettings
from tests.telemetry.backends import Backend, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh_telemetry.spans import Attributes, Span

USERS: Attributes = {"service.name": "users", "service.instance.id": "u1"}
ORDERS: Attributes = {"service.name": "orders", "service.instance.id": "o1"}
LOG = "mesh_telemetry.export"


def a_span(name: str = "users.get", trace_id: bytes = b"t" * 16) -> Span:
    return spans.Span(trace_id, b"s" * 8, b"", name, spans.SERVER, 1, 2)


@contextlib.contextmanager
def exporting(endpoint: str, **variables: str) -> Iterator[Exporter]:
    made = Exporter.from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **variables})
    assert made is not None
    try:
        yield made
    finally:
        made.close(0)


@pytest.fixture(name="backend")
def make_backend() -> Iterator[Backend]:
    with running() as backend:
        yield backend


class HandSender:
    """Ends batches as it is told; one at a time, when it is allowed to."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.allowed = threading.Semaphore(0)
        self.sent: list[Sent | Exception] = []
        self.is_stopped = False

    def send(self, batch: list[tuple[Attributes, Span]]) -> Sent:
        self.allowed.acquire()
        self.batches.append(len(batch))
        if not self.sent:
            return Sent(exported=len(batch))
        result = self.sent.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    def stop(self) -> None:
        self.is_stopped = True
        self.allowed.release(1000)


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Level and text of every line, whoever wrote it."""
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def hand_over(exporter: Exporter, count: int) -> None:
    """Hand spans over, and see that it never waits."""
    took = []
    for _ in range(count):
        start = time.perf_counter()
        exporter.add(USERS, a_span())
        took.append(time.perf_counter() - start)
    # Another thread or process may have the processor for a moment; to wait for a backend here
    # would take 0.3 s and more.
    assert sorted(took)[int(count * 0.95)] < 0.001
    assert max(took) < 0.1


def settled(exporter: Exporter, timeout: float) -> bool:
    """Wait until all that was handed over is exported or dropped; whether it is, in seconds."""
    end = time.monotonic() + timeout
    while exporter.pending and time.monotonic() < end:
        time.sleep(0.01)
    return not exporter.pending


def is_balanced(exporter: Exporter, handed: int) -> bool:
    return handed == exporter.exported + sum(exporter.dropped.values()) + exporter.pending


# A backend that works.


def test_each_span_arrives_under_the_resource_of_its_own_service(backend: Backend) -> None:
    with exporting(backend.endpoint, OTEL_EXPORTER_OTLP_HEADERS="x-team=a%20b") as exporter:
        exporter.add(USERS, a_span("users.get"))
        exporter.add(ORDERS, a_span("orders.place"))
        exporter.add(dict(USERS), a_span("users.put"))
        assert settled(exporter, 10)
        assert (exporter.exported, exporter.pending, exporter.trouble) == (3, 0, "")
    (request,) = backend.requests
    found = {
        resource.resource.attributes[0].value.string_value: [
            span.name for scope in resource.scope_spans for span in scope.spans
        ]
        for resource in request.resource_spans
    }
    assert found == {"users": ["users.get", "users.put"], "orders": ["orders.place"]}
    (headers,) = backend.seen
    assert headers["x-team"] == "a b"
    assert headers["content-type"] == "application/x-protobuf"


def test_nothing_is_waited_for_longer_than_the_delay(backend: Backend) -> None:
    with exporting(backend.endpoint) as exporter:
        exporter.add(USERS, a_span())
        end = time.monotonic() + 10
        while exporter.pending and time.monotonic() < end:
            time.sleep(0.01)  # no flush: it has to go by itself
        assert exporter.exported == 1


def test_compression(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def parse(raw: bytes) -> object:
        read.append(gzip.decompress(raw))
        return object()

    monkeypatch.setattr("tests.telemetry.backends.ExportTraceServiceRequest.FromString", parse)
    with exporting(backend.endpoint, OTEL_EXPORTER_OTLP_COMPRESSION="gzip") as exporter:
        exporter.add(USERS, a_span())
        assert settled(exporter, 10)
        assert exporter.exported == 1
    assert backend.seen[0]["content-encoding"] == "gzip"
    assert b"users.get" in read[0]


def test_the_export_itself_makes_no_spans(backend: Backend) -> None:
    """A user's instrumentation of `requests` sees other requests, and not those of the export."""
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    RequestsInstrumentor().instrument(tracer_provider=provider)
    try:
        with exporting(backend.endpoint) as exporter:
            exporter.add(USERS, a_span())
            assert settled(exporter, 10)
            assert exporter.exported == 1
        assert memory.get_finished_spans() == ()
        requests.post(backend.endpoint, timeout=10)
        assert len(memory.get_finished_spans()) == 1
    finally:
        RequestsInstrumentor().uninstrument()


def test_close_sends_what_is_left(backend: Backend) -> None:
    with exporting(backend.endpoint, OTEL_BSP_SCHEDULE_DELAY="60000") as exporter:
        for number in range(1000):
            exporter.add(USERS, a_span(f"m{number}"))
        assert exporter.close(20)
        assert exporter.exported == 1000
        exporter.add(USERS, a_span())
        assert exporter.dropped["closed"] == 1
        assert not exporter.close(0)
    assert backend.names == [f"m{number}" for number in range(1000)]


def test_what_cannot_be_expressed_is_counted_and_the_rest_goes(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    with exporting(backend.endpoint) as exporter:
        for trace_id in (b"t" * 16, b"short", b"t" * 16):
            exporter.add(USERS, a_span(trace_id=trace_id))
        assert settled(exporter, 10)
        assert (exporter.exported, exporter.dropped["invalid"]) == (2, 1)
    ((level, text),) = said(caplog)
    assert level == "WARNING"
    assert "OTLP cannot express them" in text


# Backends that do not.


def test_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    """Connections are refused; then somebody listens."""
    caplog.set_level(logging.INFO)
    backend = Backend()
    with exporting(backend.endpoint, OTEL_EXPORTER_OTLP_TIMEOUT="0.3") as exporter:
        for _ in range(3):
            hand_over(exporter, 50)
            assert settled(exporter, 20)
        assert exporter.dropped["failed"] == 150
        assert exporter.trouble == "connection refused"
        backend.start()
        try:
            exporter.add(USERS, a_span())
            assert settled(exporter, 20)
        finally:
            backend.stop()
        assert (exporter.exported, exporter.trouble) == (1, "")
        assert is_balanced(exporter, 151)
    where = f"{backend.endpoint}/v1/traces"
    (lost, again) = said(caplog)
    assert lost[0] == "WARNING"
    assert f"lost on their way to {where}: connection refused (counted; said once" in lost[1]
    assert again == ("INFO", f"spans reach {where} again; 150 were lost")


def test_it_accepts_and_never_answers(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    backend.answering.clear()
    variables = {"OTEL_EXPORTER_OTLP_TIMEOUT": "0.3", "OTEL_BSP_MAX_QUEUE_SIZE": "100"}
    with exporting(backend.endpoint, **variables) as exporter:
        hand_over(exporter, 20_000)
        assert exporter.pending <= 200  # the queue, and a batch
        assert exporter.dropped["queue_full"] >= 19_800
        assert settled(exporter, 30)
        assert exporter.dropped["failed"] == 20_000 - exporter.dropped["queue_full"]
        assert exporter.trouble == "no answer in time"
        assert is_balanced(exporter, 20_000)
        exporter.add(USERS, a_span())
        start = time.monotonic()
        exporter.close(30)
        assert time.monotonic() - start < 5, "it fails already: there is nothing to wait for"
    lines = [line for line in said(caplog) if "are lost" in line[1]]
    assert len(lines) == 1


def test_it_throttles(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """503 with Retry-After: it is left alone for so long, by the batches that follow too."""
    backend.status, backend.headers = 503, {"Retry-After": "3600"}
    variables = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1", "OTEL_BSP_MAX_QUEUE_SIZE": "100"}
    with exporting(backend.endpoint, **variables) as exporter:
        exporter.add(USERS, a_span())
        assert settled(exporter, 20)
        asked = len(backend.seen)
        assert exporter.dropped["failed"] == 1
        assert exporter.trouble == "503 Service Unavailable"
        hand_over(exporter, 1000)
        assert not settled(exporter, 0.3)
        assert (exporter.pending, exporter.dropped["queue_full"]) == (100, 900)
        assert len(backend.seen) == asked
        exporter.close(5)
        assert (exporter.pending, exporter.dropped["closed"]) == (0, 100)
        assert is_balanced(exporter, 1001)
    assert len([line for line in said(caplog) if "are lost" in line[1]]) == 1


def test_it_throttles_for_a_moment(backend: Backend) -> None:
    backend.status, backend.headers = 429, {"Retry-After": "0"}
    with exporting(backend.endpoint, OTEL_EXPORTER_OTLP_TIMEOUT="0.2") as exporter:
        exporter.add(USERS, a_span())
        assert settled(exporter, 20)
        assert exporter.dropped["failed"] == 1
        backend.status = 200
        exporter.add(USERS, a_span())
        assert settled(exporter, 20)
        assert (exporter.exported, exporter.trouble) == (1, "")


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_it_rejects(backend: Backend, caplog: pytest.LogCaptureFixture, status: int) -> None:
    caplog.set_level(logging.INFO)
    backend.status = status
    with exporting(backend.endpoint) as exporter:
        for _ in range(3):
            hand_over(exporter, 100)
            assert settled(exporter, 20)
        assert exporter.dropped == dict.fromkeys(DROP_REASONS, 0) | {"rejected": 300}
        assert exporter.trouble.startswith(f"{status} ")
        backend.status = 200
        exporter.add(USERS, a_span())
        assert settled(exporter, 20)
        assert exporter.exported == 1
    levels = [level for level, _ in said(caplog)]
    assert levels == ["WARNING", "INFO"]


def test_it_takes_a_part(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    backend.reject(2, "spans from the future")
    with exporting(backend.endpoint) as exporter:
        for _ in range(5):
            exporter.add(USERS, a_span())
        assert settled(exporter, 20)
        assert (exporter.exported, exporter.dropped["rejected"]) == (3, 2)
        assert exporter.trouble == "spans from the future"
        backend.body = b"{}"  # no protobuf: it took all, as far as anybody knows
        exporter.add(USERS, a_span())
        assert settled(exporter, 20)
        assert (exporter.exported, exporter.trouble) == (4, "")
    assert [level for level, _ in said(caplog)].count("WARNING") == 1


def test_it_takes_its_time(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """It works, but not as fast as spans come: the bound holds, and the log says so."""
    caplog.set_level(logging.INFO)
    backend.is_paced = True
    with exporting(backend.endpoint, OTEL_BSP_MAX_QUEUE_SIZE="100") as exporter:
        hand_over(exporter, 5000)
        assert exporter.pending <= 200
        backend.is_paced = False
        backend.pace.release(10)
        assert settled(exporter, 20)
        assert exporter.exported == 5000 - exporter.dropped["queue_full"]
        assert is_balanced(exporter, 5000)
        exporter.add(USERS, a_span())
        assert settled(exporter, 20)
    levels = [level for level, _ in said(caplog)]
    assert levels == ["WARNING", "INFO"]
    assert "more than 100 spans, or 67,108,864 bytes, wait for it" in said(caplog)[0][1]


# What the log says, and when; what a sender may do.


def settings(**values: Any) -> ExportSettings:
    return ExportSettings(endpoint="http://c:4318/v1/traces", **values)


def test_one_that_comes_and_goes_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sender, now = HandSender(), 0.0
    sender.allowed.release(1000)
    exporter = Exporter(sender, settings(), lambda: now)
    for moment in range(60):
        now = float(moment)
        sender.sent = [Sent(failed=1, why="refused") if moment % 2 else Sent(exported=1)]
        exporter.add(USERS, a_span())
        assert settled(exporter, 10)
    exporter.close(1)
    # It fails at 1, 3, 5, ...: said at 1, and not again before 31.
    assert [level for level, _ in said(caplog)] == ["WARNING", "INFO", "WARNING", "INFO"]
    assert exporter.dropped["failed"] == exporter.exported == 30


def test_whatever_a_sender_raises_costs_one_batch(caplog: pytest.LogCaptureFixture) -> None:
    sender = HandSender()
    sender.allowed.release(1000)
    sender.sent = [RuntimeError("broken"), Sent(exported=1)]
    exporter = Exporter(sender, settings())
    for _ in range(2):
        exporter.add(USERS, a_span())
        assert settled(exporter, 10)
    assert (exporter.exported, exporter.dropped["failed"]) == (1, 1)
    assert exporter.close(1)
    assert "RuntimeError: broken" in said(caplog)[0][1]


def test_requests_grow_where_the_backend_does_not_keep_up() -> None:
    sender = HandSender()
    exporter = Exporter(sender, settings(max_batch_size=300))
    for _ in range(1000):
        exporter.add(USERS, a_span())
    sender.allowed.release(1000)
    assert settled(exporter, 10)
    first, *others = sender.batches
    assert 1 <= first <= 300
    assert max(others) == 300
    assert sum(sender.batches) == 1000
    for _ in range(50):
        exporter.add(USERS, a_span())
    assert exporter.close(10)
    assert max(sender.batches[-2:]) <= 64


def test_close_waits_no_longer_than_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    sender = HandSender()
    exporter = Exporter(sender, settings(max_batch_size=10, max_queue_size=100))
    hand_over(exporter, 200)
    start = time.monotonic()
    assert not exporter.close(0.2)
    assert 0.2 <= time.monotonic() - start < 5
    assert sender.is_stopped
    assert exporter.dropped["closed"] >= 90
    exporter._thread.join(10)  # it counts the batch that was under way
    assert is_balanced(exporter, 200)
    assert any("were not exported" in text for _, text in said(caplog))


@pytest.mark.parametrize(("piece", "pause"), [(b"\0" * 1_000_000, 0.0), (b"y", 0.05)])
def test_an_answer_without_an_end_is_cut_off(piece: bytes, pause: float) -> None:
    """Neither the memory nor the thread of the gateway is a backend's to take."""
    listener = socket.create_server(("127.0.0.1", 0))
    sent = 0

    def answer() -> None:
        nonlocal sent
        with contextlib.suppress(OSError):  # the listener is closed in the end
            while True:
                connection, _ = listener.accept()
                with contextlib.suppress(OSError), connection:
                    connection.recv(65_536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    while True:
                        connection.sendall(piece)
                        sent += len(piece)
                        time.sleep(pause)

    server = threading.Thread(target=answer, daemon=True)
    server.start()
    endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    exporter = Exporter.from_environment(
        {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_TIMEOUT": "0.5"}
    )
    assert exporter is not None
    try:
        exporter.add({}, a_span())
        assert settled(exporter, 8.0)
        assert sent < 20_000_000
    finally:
        exporter.close(0.1)
        listener.shutdown(socket.SHUT_RDWR)  # wakes it
        server.join(5.0)
        listener.close()


def test_what_waits_is_bounded_by_bytes() -> None:
    """As a few spans may be large; what is accounted goes with them."""
    sender = HandSender()
    exporter = Exporter(sender, ExportSettings(endpoint="http://127.0.0.1:1"), max_bytes=100_000)
    large = a_span()
    large.attributes["large"] = "x" * 9_000
    for _ in range(50):
        exporter.add(USERS, large)
        assert exporter.pending_bytes <= 100_000
    assert 5 <= exporter.pending <= 11
    assert exporter.dropped["queue_too_large"] == 50 - exporter.pending
    sender.allowed.release(1000)
    assert exporter.close(10)
    assert (exporter.pending, exporter.pending_bytes) == (0, 0)
