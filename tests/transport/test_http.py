"""The HTTP door, asked by a real HTTP client over real sockets."""

from __future__ import annotations

import http.client
import json
import logging
import socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from mesh.errors import AddressError, AddressInUse, UsageError
from mesh.http import admin_app, serve_admin
from mesh_telemetry import OPENMETRICS, TEXT, CallMetrics, Exposition, GatewayCounters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from starlette.requests import Request


class Answer(NamedTuple):
    """A response, read whole."""

    status: int
    headers: dict[str, str]
    body: str


def blocking_ask(
    address: str, path: str, method: str, headers: Mapping[str, str], host: str | None
) -> Answer:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.putrequest(method, path, skip_host=host is not None)
        if host:
            connection.putheader("Host", host)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read().decode()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, body)
    finally:
        connection.close()


async def ask(
    address: str,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    host: str | None = None,
) -> Answer:
    return await trio.to_thread.run_sync(
        blocking_ask, address, path, method, headers or {}, host, abandon_on_cancel=True
    )


class Gateway:
    """What a gateway knows, as far as its admin door is concerned."""

    def __init__(self) -> None:
        self.calls = CallMetrics()
        self.exposition = Exposition(self.calls, GatewayCounters())
        self.draining: str | None = None

    def app(self) -> Starlette:
        """Build the admin application over it."""
        return admin_app(
            metrics=self.exposition.render,
            not_ready=lambda: self.draining,
            health=lambda: {"version": "0.1.0"},
        )


@asynccontextmanager
async def served(
    app: Starlette | None = None, address: str = "127.0.0.1:0", token: str | None = None
) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        serve = partial(serve_admin, address, app or Gateway().app(), token=token)
        bound: str = await nursery.start(serve)
        yield bound
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("content_type", [TEXT, OPENMETRICS])
async def test_metrics_are_served_in_the_format_asked_for(content_type: str) -> None:
    gateway = Gateway()
    for number in range(2000):
        gateway.calls.series("orders", "users", f"method-é-{number}").codes[0] += number
    async with served(gateway.app()) as address:
        answer = await ask(address, "/metrics", headers={"Accept": content_type})
    assert answer.status == 200
    assert answer.headers["content-type"] == content_type
    assert answer.headers["cache-control"] == "no-store"
    assert answer.body == "".join(gateway.exposition.render(content_type)[1])
    assert int(answer.headers["content-length"]) == len(answer.body.encode())


async def test_other_tasks_run_between_the_slices_of_a_scrape() -> None:
    seen: list[str] = []
    asked = trio.Event()

    def slices() -> Iterator[str]:
        asked.set()
        for number in range(100):
            seen.append("slice")
            yield f"# {number}\n"

    async def work() -> None:
        await asked.wait()
        for _ in range(50):
            seen.append("work")
            await trio.lowlevel.checkpoint()

    app = admin_app(metrics=lambda _accept: (TEXT, slices()), not_ready=lambda: None)
    async with served(app) as address, trio.open_nursery() as nursery:
        nursery.start_soon(work)
        answer = await ask(address, "/metrics")
    assert answer.body.count("\n") == 100
    first, last = seen.index("work"), len(seen) - 1 - seen[::-1].index("work")
    assert seen[first:last].count("slice") > 10


async def test_a_renderer_that_fails_half_way_is_an_honest_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def slices() -> Iterator[str]:
        yield "# HELP mesh_calls_total\n"
        raise RuntimeError("lost count")

    app = admin_app(metrics=lambda _accept: (TEXT, slices()), not_ready=lambda: None)
    async with served(app) as address:
        answer = await ask(address, "/metrics")
        assert answer.status == 500
        assert "mesh_calls_total" not in answer.body
        assert (await ask(address, "/healthz")).status == 200
    (record,) = caplog.records
    assert record.getMessage() == "GET /metrics failed"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "lost count"


async def test_health_is_ok_while_the_loop_runs() -> None:
    async with served() as address:
        answer = await ask(address, "/healthz")
    assert answer.status == 200
    assert json.loads(answer.body) == {"status": "ok", "version": "0.1.0"}


async def test_readiness_tells_why_not() -> None:
    gateway = Gateway()
    async with served(gateway.app()) as address:
        assert (await ask(address, "/readyz")).status == 200
        gateway.draining = "draining, 3 calls left"
        answer = await ask(address, "/readyz")
        assert answer.status == 503
        assert answer.body == "not ready: draining, 3 calls left\n"
        assert (await ask(address, "/healthz")).status == 200
        gateway.draining = None
        answer = await ask(address, "/readyz")
    assert (answer.status, answer.body) == (200, "ready\n")


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
async def test_head_is_get_without_a_body(path: str) -> None:
    async with served() as address:
        full = await ask(address, path)
        head = await ask(address, path, method="HEAD")
    assert head.status == 200
    assert head.body == ""
    assert head.headers["content-type"] == full.headers["content-type"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/metrics", "/drain"])
async def test_nothing_can_be_changed(method: str, path: str) -> None:
    """Even where an application would have a route for it."""

    async def drain(_request: Request) -> Response:
        return Response("drained")

    app = Starlette(routes=[Route(p, drain, methods=[method]) for p in ("/metrics", "/drain")])
    async with served(app) as address:
        answer = await ask(address, path, method=method)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert "use GET or HEAD" in answer.body


async def test_an_unknown_path_is_404() -> None:
    async with served() as address:
        assert (await ask(address, "/nothing")).status == 404


async def test_a_websocket_is_refused() -> None:
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    async with served() as address:
        assert (await ask(address, "/metrics", headers=upgrade)).status == 403


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST.:9", "mesh.localhost", "127.0.0.1:80", "127.9.9.9", "[::1]:9464", ""],
)
async def test_a_host_that_means_this_machine_is_served(host: str) -> None:
    async with served() as address:
        if host:
            assert (await ask(address, "/healthz", host=host)).status == 200
        else:  # an old probe
            stream = await trio.open_tcp_stream("127.0.0.1", int(address.rpartition(":")[2]))
            async with stream:
                await stream.send_all(b"GET /healthz HTTP/1.0\r\n\r\n")
                assert b" 200 " in await stream.receive_some()


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:9464", "10.0.0.1", "[::2]"],
)
async def test_a_rebound_name_is_refused(host: str) -> None:
    """A web page whose name resolves to 127.0.0.1 must not read the gateway's metrics."""
    async with served() as address:
        answer = await ask(address, "/metrics", host=host)
    assert answer.status == 421
    assert host in answer.body
    assert f"ask for http://{address}/" in answer.body
    assert "a proxy must set Host" in answer.body


async def test_beyond_the_loopback_a_token_is_needed() -> None:
    with pytest.raises(UsageError, match=r"0\.0\.0\.0:0 is reachable from other machines"):
        await serve_admin("0.0.0.0:0", Gateway().app())


async def test_the_token_opens_all_but_the_probes() -> None:
    async with served(address="0.0.0.0:0", token="s3cret") as bound:
        address = f"127.0.0.1:{bound.rpartition(':')[2]}"
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
            answer = await ask(address, "/metrics", headers=given)
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        right = {"Authorization": "Bearer s3cret"}
        assert (await ask(address, "/metrics", headers=right)).status == 200
        # Its name is the operator's business there: the token stops a web page.
        answer = await ask(address, "/metrics", headers=right, host="gateway.example")
        assert answer.status == 200
        assert (await ask(address, "/healthz")).status == 200
        assert (await ask(address, "/readyz")).status == 200


async def test_the_bound_address_is_reported() -> None:
    async with served() as address:
        host, _, port = address.rpartition(":")
        assert host == "127.0.0.1"
        assert int(port) > 0


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
async def test_ipv6_is_written_in_brackets() -> None:
    try:
        async with served(address="[::1]:0") as address:
            assert address.startswith("[::1]:")
            assert (await ask(address, "/healthz")).status == 200
    except* OSError as group:
        pytest.skip(f"no IPv6 here: {group.exceptions[0]}")


async def test_an_address_in_use_is_named() -> None:
    async with served() as address:
        with pytest.raises(AddressInUse, match="in use: stop the process") as caught:
            await serve_admin(address, Gateway().app())
        assert f"admin address {address}" in str(caught.value)
        assert (await ask(address, "/healthz")).status == 200


@pytest.mark.parametrize(
    "address",
    ["", "9464", ":9464", "localhost", "localhost:", "localhost:http", "localhost:65536", "::1:80",
     "[::1]", "127.0.0.1:-1", "127.0.0.1:٣"],
)  # fmt: skip
async def test_a_malformed_address_is_refused(address: str) -> None:
    with pytest.raises(AddressError, match="is not HOST:PORT"):
        await serve_admin(address, Gateway().app())


async def test_a_host_without_an_address_is_refused() -> None:
    with pytest.raises(AddressError, match=r"'no-such-host\.invalid' has no address"):
        await serve_admin("no-such-host.invalid:0", Gateway().app())


async def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(OSError, match=r"admin address 192\.0\.2\.1:0 cannot be used"):
        await serve_admin("192.0.2.1:0", Gateway().app(), token="s3cret")


@pytest.mark.parametrize(
    "sent", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"]
)
async def test_open_connections_do_not_hold_up_a_shutdown(sent: bytes) -> None:
    with trio.fail_after(1):
        async with served() as address:
            port = int(address.rpartition(":")[2])
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(sent)
            if sent.endswith(b"\r\n\r\n"):
                assert await stream.receive_some()
    await stream.aclose()
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream("127.0.0.1", port)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux ends such connections")
async def test_a_client_that_does_not_read_cannot_hold_up_a_shutdown_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sending is shielded in hypercorn: without the kernel's timeout this would never end."""
    monkeypatch.setattr("mesh.http._STALLED_AFTER", 300)
    rendered = trio.Event()

    def slices() -> Iterator[str]:
        yield "# " + "x" * 20_000_000 + "\n"
        rendered.set()

    app = admin_app(metrics=lambda _accept: (TEXT, slices()), not_ready=lambda: None)
    with trio.fail_after(10):
        async with served(app) as address:
            stream = await trio.open_tcp_stream("127.0.0.1", int(address.rpartition(":")[2]))
            await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await rendered.wait()
            await trio.testing.wait_all_tasks_blocked()
    await stream.aclose()


async def test_the_address_is_free_again_after_the_end() -> None:
    async with served() as address:
        await ask(address, "/healthz")
    async with served(address=address) as again:
        assert again == address


async def test_hypercorn_says_nothing(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    async with served() as address:
        await ask(address, "/metrics")
        await ask(address, "/nothing")
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


async def test_faults_under_the_api_are_json_and_others_are_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def bug(_request: Request) -> Response:
        raise ZeroDivisionError

    app = admin_app(
        metrics=Gateway().exposition.render,
        not_ready=lambda: None,
        routes=[Route("/api/bug", bug), Route("/bug", bug)],
    )
    async with served(app, "127.0.0.1:0", "s3cret") as address:
        token = {"Authorization": "Bearer s3cret"}
        for path, given, host, status, says in (
            ("bug", token, None, 500, "internal server error"),
            ("nosuch", token, None, 404, "there is nothing at"),
            ("bug", {}, None, 401, "unauthorized: send the token"),
            ("bug", token, "mesh.example", 421, "host 'mesh.example' is not served"),
        ):
            answer = await ask(address, f"/api/{path}", headers=given, host=host)
            assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
            assert says in json.loads(answer.body)["error"]
            answer = await ask(address, f"/{path}", headers=given, host=host)
            assert (answer.status, answer.headers["content-type"][:10]) == (status, "text/plain")
            assert says in answer.body
            assert answer.body.endswith("\n")
    assert "GET /api/bug failed" in caplog.text
