"""An HTTP door for people and scrapers: metrics, liveness, readiness. It only reads.

The application takes plain callables and knows no gateway; the server guards whatever application
it is given. Two traps shape :func:`serve_admin`. hypercorn sends inside a shielded scope, so that
one client that stops reading would hold up a shutdown for ever: the kernel's user timeout ends such
a connection. And Starlette reports a cancelled lifespan as a failed one, which hypercorn raises:
the lifespan is answered here and never reaches the application.
"""

from __future__ import annotations

import errno
import hmac
import logging
import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import trio
from hypercorn.config import Config, Sockets
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from mesh.errors import AddressError, AddressInUse, UsageError
from mesh.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

_log = logging.getLogger(__name__)

_NO_STORE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
_PROBES = frozenset({"/healthz", "/readyz"})
_STALLED_AFTER = 3000
"""Milliseconds for which a client may leave what was sent to it unread."""


def admin_app(
    *,
    metrics: Callable[[str | None], tuple[str, Iterator[str]]],
    not_ready: Callable[[], str | None],
    health: Callable[[], Mapping[str, Any]] = dict,
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """Build the application behind the admin address.

    Args:
        metrics: Renders ``/metrics``: takes the ``Accept`` header, returns the content type and the
            text in slices. Other tasks run between two slices.
        not_ready: Why no new work should come (``"draining"``), or None when it may.
            ``/readyz`` answers 503 with that reason, or 200.
        health: Facts for ``/healthz``, as plain data for JSON. It answers 200 whenever the event
            loop runs, which is all that a restart could mend.
        routes: Further paths, for example ``/api``.
    """

    async def fail(request: Request, fault: Exception) -> Response:
        status = fault.status_code if isinstance(fault, HTTPException) else 500
        path = request.url.path
        if status == 404:
            return refusal(path, 404, f"there is nothing at {path:.200}")
        return refusal(path, status, HTTPStatus(status).phrase.lower())

    async def show_metrics(request: Request) -> Response:
        content_type, slices = metrics(request.headers.get("accept"))
        # Joined, not streamed: a failure half way is an honest 500, and no scraper takes a part for
        # the whole.
        headers = {**_NO_STORE, "content-type": content_type}
        if request.method == "HEAD":
            return Response(headers=headers)
        parts: list[bytes] = []
        for text in slices:
            parts.append(text.encode())
            await trio.lowlevel.checkpoint()
        return Response(b"".join(parts), headers=headers)

    async def show_health(_request: Request) -> Response:
        return JSONResponse({"status": "ok", **health()}, headers=_NO_STORE)

    async def show_readiness(_request: Request) -> Response:
        reason = not_ready()
        if reason is None:
            return PlainTextResponse("ready\n", headers=_NO_STORE)
        return PlainTextResponse(f"not ready: {reason}\n", 503, headers=_NO_STORE)

    return Starlette(
        routes=[
            Route("/metrics", show_metrics),
            Route("/healthz", show_health),
            Route("/readyz", show_readiness),
            *routes,
        ],
        exception_handlers={HTTPException: fail, Exception: fail},
    )


def refusal(
    path: str, status: int, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    """What a request gets that fails: ``{"error": ...}`` under ``/api``, a line of text elsewhere.

    Args:
        path: What was asked for.
        status: Of HTTP.
        message: What went wrong, for people.
        headers: Further ones.
    """
    headers = {**_NO_STORE, **(headers or {})}
    if path == "/api" or path.startswith("/api/"):
        return JSONResponse({"error": message}, status, headers)
    return PlainTextResponse(f"{message}\n", status, headers)


async def serve_admin(
    address: str,
    app: ASGIApp,
    *,
    token: str | None = None,
    purpose: str = "admin",
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an application over HTTP until cancelled. Start it with ``nursery.start``.

    Whatever the application, only GET and HEAD reach it. On a loopback address the ``Host`` header
    must name the loopback, so that a web page cannot reach it by rebinding its own name's address.

    Args:
        address: ``HOST:PORT``, an IPv6 address in brackets; port 0 takes a free one.
        app: The application; its ``lifespan`` is not called.
        token: What a client must send as ``Authorization: Bearer``; needed beyond the loopback. The
            probes ``/healthz`` and ``/readyz`` are open, as those who call them hold no secrets.
        purpose: What errors call the address.
        task_status: Is told the bound ``HOST:PORT`` once requests are accepted.

    Raises:
        AddressError: The address is malformed, or its host has no address.
        AddressInUse: Somebody listens there already.
        UsageError: The address is reachable from other machines, and there is no token.
        OSError: The system refuses the address for another reason.
    """
    listener = await _bind(address, purpose, open_to_all=token is not None)
    try:
        host, port = listener.getsockname()[:2]
        bound = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        guard = _Guard(app, bound=bound, loopback=is_loopback(host), token=token)
        async with trio.open_nursery() as nursery:
            await nursery.start(_serve_hypercorn, guard, _config(listener))
            task_status.started(bound)
    finally:
        listener.close()  # for the case that hypercorn did not get as far as owning it


async def _serve_hypercorn(
    app: ASGIApp, config: Config, *, task_status: trio.TaskStatus[list[str]]
) -> None:
    await serve(app, config, task_status=task_status)  # type: ignore[arg-type] # hypercorn has types of its own


class _Config(Config):
    """A configuration that serves a socket bound here, where the errors can be explained.

    hypercorn's ``fd://`` would do the same, but leave open who closes the descriptor.
    """

    listener: socket.socket

    def create_sockets(self) -> Sockets:
        return Sockets(secure_sockets=[], insecure_sockets=[self.listener], quic_sockets=[])


def _config(listener: socket.socket) -> Config:
    config = _Config()
    config.listener = listener
    config.accesslog = None
    # "Running on ..." is the caller's to say; what goes wrong in hypercorn must not be lost.
    config.errorlog = logging.getLogger(f"{__name__}.http")
    config.errorlog.setLevel(logging.WARNING)
    config.include_server_header = False
    return config


async def _bind(address: str, purpose: str, *, open_to_all: bool) -> socket.socket:
    host, port = parse_address(address, purpose)
    try:
        found = await trio.socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as exc:
        raise AddressError(f"{purpose} address {address}: {host!r} has no address: {exc}") from exc
    failure: OSError | None = None
    for family, kind, protocol, _, where in found:
        if not open_to_all and not is_loopback(str(where[0])):
            raise UsageError(
                f"{purpose} address {address} is reachable from other machines: set a token for it "
                "(--admin-token-file FILE, Gateway(admin_token=...), connect(metrics_token=...)), "
                "or listen on 127.0.0.1"
            )
        try:
            return _listen(socket.socket(family, kind, protocol), where)
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                raise AddressInUse(
                    f"{purpose} address {address} is in use: stop the process that listens there, "
                    "or choose another port (port 0 takes a free one)"
                ) from exc
            failure = failure or exc
    assert failure is not None  # noqa: S101 - getaddrinfo returns addresses or raises
    message = f"{purpose} address {address} cannot be used: {failure.strerror or failure}"
    raise OSError(failure.errno, message) from failure


def _listen(listener: socket.socket, where: tuple[Any, ...]) -> socket.socket:
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit both options. Other systems than Linux lack the second one.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STALLED_AFTER)
        listener.bind(where)
        listener.listen(Config.backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def parse_address(address: str, purpose: str = "admin") -> tuple[str, int]:
    """Read ``HOST:PORT``, an IPv6 host in brackets.

    Raises:
        AddressError: The text is something else.
    """
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    well_formed = colon and host and (bracketed or ":" not in host)
    if not well_formed or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise AddressError(
            f"{purpose} address {address!r} is not HOST:PORT, such as 127.0.0.1:9464 or [::1]:9464"
        )
    return host, int(port)


def _names_loopback(host: str) -> bool:
    """Whether a ``Host`` header can only mean this machine. Any port will do: tunnels change it."""
    name = host.strip().lower()
    if name.startswith("["):
        return is_loopback(name[1:].partition("]")[0])
    name = name.partition(":")[0].removesuffix(".")
    # Browsers resolve these names to the loopback themselves (RFC 6761, section 6.3).
    return name == "localhost" or name.endswith(".localhost") or is_loopback(name)


class _Guard:
    """Stands before the application and lets only allowed requests pass."""

    def __init__(self, app: ASGIApp, *, bound: str, loopback: bool, token: str | None) -> None:
        self._app = app
        self._bound = bound
        self._loopback = loopback
        self._authorization = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": "HTTP only"})
            return
        refused = self._refusal(scope)
        if refused is not None:
            await refused(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        except Exception:  # noqa: BLE001 - Starlette has answered 500 already and raises again
            _log.exception("%s %s failed", scope["method"], scope["path"])

    def _refusal(self, scope: Scope) -> Response | None:
        method, path = scope["method"], scope["path"]
        if method not in {"GET", "HEAD"}:
            return refusal(
                path,
                405,
                f"{method} is not allowed: this address only reads, use GET or HEAD",
                {"allow": "GET, HEAD"},
            )
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if self._loopback:
            # A browser always sends a host; old probes that speak HTTP/1.0 send none.
            for host in [value.decode("latin-1") for name, value in headers if name == b"host"]:
                if not _names_loopback(host):
                    return refusal(
                        path,
                        421,
                        f"host {host!r} is not served: this address is open to this machine only; "
                        f"ask for http://{self._bound}/ (a proxy must set Host to that)",
                    )
        if self._authorization is not None and path not in _PROBES:
            given = [value for name, value in headers if name == b"authorization"]
            if len(given) != 1 or not hmac.compare_digest(given[0], self._authorization):
                return refusal(
                    path,
                    401,
                    "unauthorized: send the token as 'Authorization: Bearer TOKEN'",
                    {"www-authenticate": "Bearer"},
                )
        return None
