"""A mesh of real processes whose traces are read back from receivers that others wrote.

No line of the services knows of the mesh's tracing: they use the OpenTelemetry API, and libraries
whose instrumentation comes from PyPI.
"""

from __future__ import annotations

import json
import re
import signal
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import trio

import mesh
from tests.end_to_end.processes import HERE, world
from tests.telemetry.receivers import ReceivedSpan, autotel, rotel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.telemetry.receivers import Receiver

PATIENCE = 30
"""Seconds."""


class _Echo(BaseHTTPRequestHandler):
    """Answers with the `traceparent` that it got."""

    def do_GET(self) -> None:
        body = json.dumps({"traceparent": self.headers.get("traceparent")}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: pytest shows its own output only."""


@contextmanager
def web_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/stock"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("kind", [autotel, rotel])
async def test_traces_of_instrumented_services_reach_a_backend(
    kind: Callable[[Path], AbstractContextManager[Receiver]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with kind(tmp_path) as receiver, web_server() as url:
        async with world(tmp_path) as it:
            monkeypatch.setenv("MESH_GATEWAY", it.address)
            for name in ("users", "orders"):
                await it.start(str(HERE / "instrumented.py"), name, url)
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.over_http)
            gateway = await it.gateway()
            async with mesh.connect("web", gateway=it.address) as client:
                good = await client.call("orders", "place", {"sku": "mug"}, timeout=PATIENCE)
                with pytest.raises(mesh.CallError, match="no such thing"):
                    await client.call("orders", "place", {"sku": "none"}, timeout=PATIENCE)
                kept = await complete_traces(client)
            assert await gateway.end(signal.SIGTERM) == 0  # exports what is left
        assert set(kept) == {"baseline", "error"}
        assert good["user"] == {"id": "7", "one": 1, "baggage": "blue"}
        version, trace_id, _, flags = good["traceparent"].split("-")
        assert (version, trace_id, int(flags, 16) & 1) == ("00", kept["baseline"]["trace_id"], 1)

        by_trace = received(receiver, sum(int(one["spans"]) for one in kept.values()))
        check(by_trace[kept["baseline"]["trace_id"]], failed=False)
        check(by_trace[kept["error"]["trace_id"]], failed=True)


async def complete_traces(client: mesh.Client) -> dict[str, dict[str, Any]]:
    """The two traces by reason, once nothing of them is missing."""
    with trio.fail_after(PATIENCE):
        while True:
            found = await client.call("mesh", "traces")
            if len(found) == 2 and all(one["complete"] for one in found):
                return {one["reason"]: one for one in found}
            await trio.sleep(0.05)


def received(receiver: Receiver, count: int) -> dict[str, list[ReceivedSpan]]:
    """What the receiver has, by trace, once it has so many spans."""
    deadline = trio.current_time() + PATIENCE
    found: list[ReceivedSpan] = []
    while len(found) < count and trio.current_time() < deadline:
        found = receiver.spans()
    assert len(found) == count
    by_trace: dict[str, list[ReceivedSpan]] = {}
    for span in found:
        by_trace.setdefault(span.trace_id, []).append(span)
    return by_trace


def check(spans: list[ReceivedSpan], *, failed: bool) -> None:
    """One trace: its tree from the root down, with services, kinds and statuses."""
    children: dict[str, list[ReceivedSpan]] = {}
    for span in spans:
        children.setdefault(span.parent_id, []).append(span)

    def below(parent: ReceivedSpan, name: str, service: str) -> ReceivedSpan:
        (found,) = [
            one
            for one in children.get(parent.span_id, [])
            if re.fullmatch(name, one.name) and one.service == service
        ]
        return found

    (root,) = children[""]
    assert (root.name, root.service, root.kind) == ("orders.place", "web", "CLIENT")
    entered = below(root, "orders.place", "mesh-gateway")
    left = below(entered, "orders.place", "mesh-gateway")
    place = below(left, "orders.place", "orders")
    assert [one.kind for one in (entered, left, place)] == ["SERVER", "CLIENT", "SERVER"]
    assert entered.attributes["mesh.keep.reason"] == ("error" if failed else "baseline")

    own = below(place, "check", "orders")
    assert own.scope == ("shop", "1.0")
    assert own.attributes["order.sku"] == ("none" if failed else "mug")
    http = below(own, "GET", "orders")
    assert http.kind == "CLIENT"
    assert http.scope[0] == "opentelemetry.instrumentation.httpx"

    asked = below(own, "users.get", "orders")  # from a task that the handler started
    get = below(
        below(below(asked, "users.get", "mesh-gateway"), "users.get", "mesh-gateway"),
        "users.get",
        "users",
    )
    assert get.attributes["user.id"] == "7"
    sql = below(get, "SELECT", "users")  # made in a thread
    assert sql.scope[0] == "opentelemetry.instrumentation.sqlite3"
    assert sql.attributes["db.statement"] == "SELECT 1"

    statuses = {one.span_id: one.status for one in spans}
    expected = "ERROR" if failed else "UNSET"
    assert [statuses[one.span_id] for one in (root, entered, left, place)] == [expected] * 4
    assert {statuses[one.span_id] for one in (asked, get, sql, http, own)} == {"UNSET"}
    if failed:
        assert place.message == "there is no such thing"
        assert ("exception.type", "ValueError") in place.events[0][1].items()


async def test_a_gateway_that_ends_at_once_exports_whole_traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for what peers have to tell, waits for that a little, and then for the backend."""
    with autotel(tmp_path) as receiver, web_server() as url:
        async with world(tmp_path) as it:
            monkeypatch.setenv("MESH_GATEWAY", it.address)
            for name in ("users", "orders"):
                await it.start(str(HERE / "instrumented.py"), name, url)
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.over_http)
            gateway = await it.gateway()
            async with mesh.connect("web", gateway=it.address) as client:
                await client.call("orders", "place", {"sku": "mug"}, timeout=PATIENCE)
                assert await gateway.end(signal.SIGTERM) == 0
        ((spans),) = received(receiver, 11).values()
        check(spans, failed=False)
