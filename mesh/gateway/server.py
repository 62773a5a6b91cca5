"""The gateway: accepts connections, lives, drains and ends."""

from __future__ import annotations

import contextlib
import socket
from functools import partial
from typing import TYPE_CHECKING, Self

import trio

from mesh import events
from mesh._version import __version__
from mesh.errors import UsageError
from mesh.gateway.builtin import serve_builtin
from mesh.gateway.core import Core
from mesh.gateway.draining import drain, say_goodbye
from mesh.gateway.endings import Endings
from mesh.gateway.entrance import Entrance
from mesh.gateway.exporting import exporting
from mesh.gateway.figures import Figures
from mesh.gateway.filters import ChangeFilters
from mesh.gateway.kept import TraceViews
from mesh.gateway.life import pulse
from mesh.gateway.routing import Router
from mesh.gateway.session import Session
from mesh.gateway.telling import GatewayFeed
from mesh.gateway.tracing import Tracing
from mesh.gateway.views import Views
from mesh.groups import single_exception
from mesh.limits import Limits
from mesh.process import Process
from mesh.streams import CAPACITY, EventStream
from mesh.transport import IN_PROCESS, Link, Listener, SocketLink, remote_of
from mesh_telemetry import TraceSettings, names
from mesh_telemetry.resource import describe

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Sequence

    from mesh.gateway.changes import Change
    from mesh.gateway.views import GatewayView, ServiceDetails, ServiceView
    from mesh.transport import CertificateFiles


class Gateway:
    """The hub of a mesh. It stands for its own address: ``mesh.connect("x", gateway=gateway)``.

    Use it as an async context manager, or call :meth:`serve`.

    Args:
        listen: Addresses to accept peers at: ``unix:PATH``, ``tcp:HOST:PORT``, ``tls:HOST:PORT``;
            sockets that listen already are taken over. None is fine for a mesh within one process.
        tls: The certificate for ``tls:`` addresses, and whose client certificates peers need:
            files, or an ``ssl.SSLContext`` of a server that you look after yourself.
        allow_plain_tcp: Whether ``tcp:`` addresses may be reachable from other machines.
        socket_mode: The permissions of the sockets at ``unix:`` addresses, such as ``0o660``; None
            leaves them to the umask. Sockets that are taken over stay as they are.
        admin: ``HOST:PORT`` of the HTTP server with ``/metrics``, ``/healthz``, ``/readyz`` and
            ``/api``; None for none.
        admin_token: What clients of that server must show; needed beyond the loopback.
        telemetry: Whether calls are counted and recorded; without, only connections, heartbeats
            and the load of each instance are known.
        allow_tap_payloads: Whether taps may show what calls carry, of methods whose contracts say
            ``tap=True``, to this process's own user and to root.
        traces: Which traces are kept, and how many.
        limits: The limits of this gateway and its peers.
        process: Identity and randomness; for simulators.

    Raises:
        AddressError: An address is not understood, or is ``tls:`` and there is no certificate.
        CertificateError: A certificate or key file cannot be used.

    Example:
        >>> async with mesh.Gateway() as gateway:
        ...     async with mesh.connect("orders", gateway=gateway) as client: ...
    """

    def __init__(
        self,
        *,
        listen: Sequence[str | socket.socket | Listener] = (),
        tls: CertificateFiles | ssl.SSLContext | None = None,
        allow_plain_tcp: bool = False,
        socket_mode: int | None = None,
        admin: str | None = None,
        admin_token: str | None = None,
        telemetry: bool = True,
        allow_tap_payloads: bool = False,
        traces: TraceSettings | None = None,
        limits: Limits | None = None,
        process: Process | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self._process = process or Process()
        self._entrance = Entrance(
            listen, tls, allow_plain_tcp=allow_plain_tcp, socket_mode=socket_mode
        )
        self._admin, self._admin_token = admin, admin_token
        self._telemetry, self._traces = telemetry, traces or TraceSettings()
        self._allow_tap_payloads = allow_tap_payloads
        self._core: Core | None = None
        self._feed = GatewayFeed(self._process)
        self._nursery: trio.Nursery | None = None
        self._stack = contextlib.AsyncExitStack()
        self._drain_wanted = trio.Event()
        self._last_session = 0
        self.admin_address: str | None = None

    @property
    def addresses(self) -> list[str]:
        """Where it listens, with the ports that were taken for port 0."""
        return self._entrance.addresses

    @property
    def summary(self) -> str:
        """What it does at this moment, in a line for people."""
        if self._core is None:
            return "not started"
        core = self._core
        peers = sum(not session.internal for session in core.sessions.values())
        what = "draining: " if core.draining else ""
        return f"{what}{peers} peers, {len(core.table)} calls in flight"

    @property
    def instance(self) -> str:
        """The process-lifetime id of this gateway."""
        return self._process.id

    @property
    def views(self) -> Views:
        """What this gateway tells about its mesh.

        Raises:
            UsageError: The gateway has not been started.
        """
        return Views(self.core)

    @property
    def traces(self) -> TraceViews:
        """The traces that this gateway has kept: ``await gateway.traces.find(code="not_found")``.

        Raises:
            UsageError: The gateway has not been started.
        """
        return TraceViews(self.core)

    def services(self) -> list[ServiceView]:
        """Every service with its methods and instances, by name; the gateway's own, `mesh`, too.

        Raises:
            UsageError: The gateway has not been started.
        """
        return self.views.services()

    def service(self, name: str) -> ServiceDetails | None:
        """One service with its methods, instances and contracts; None where it is not known.

        A service that has just gone is known for 30 s more, without instances.

        Raises:
            UsageError: The gateway has not been started.
        """
        return self.views.service(name)

    def is_connected(self, name: str) -> bool:
        """Whether a peer of this name, or one that serves a service of this name, is connected.

        Raises:
            UsageError: The gateway has not been started.
        """
        return self.views.is_connected(name)

    def status(self) -> GatewayView:
        """The gateway itself: its state, load and addresses.

        Raises:
            UsageError: The gateway has not been started.
        """
        running = self._nursery is not None
        return self.views.status(self.addresses, self.admin_address, running=running)

    def changes(self, since: float = 0.0, service: str = "") -> list[Change]:
        """What came, went and changed in the mesh since the gateway's start, the newest one last.

        Args:
            since: Seconds that they are back at most; 0 for all that are remembered.
            service: The service that they concern; empty for all.
        """
        wanted = ChangeFilters(since=since, service=service)
        return self._feed.changes.find(wanted, self._process.wall())

    def events(self, capacity: int = CAPACITY) -> EventStream[events.GatewayEvent]:
        """What happens from now on, in a bounded stream; see :mod:`mesh.events`.

        It may be opened before the gateway starts, and ends after the gateway's end. What a log
        line's level keeps out of the log is not in the stream either.

        Args:
            capacity: Events held for a reader that is slow; then the oldest are dropped, and
                counted in the stream's ``dropped``.

        Example:
            >>> async with gateway.events() as stream:
            ...     async for event in stream: ...
        """
        return EventStream(self._feed, capacity)

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._running())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        with single_exception():
            async with trio.open_nursery() as nursery:
                await nursery.start(self.serve)
                try:
                    yield
                finally:
                    nursery.cancel_scope.cancel()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until drained or cancelled; ``task_status`` tells when peers can connect.

        Raises:
            AddressInUse: Another process listens at one of the addresses.
            OSError: An address cannot be listened at.
            SettingError: An ``OTEL_*`` variable cannot be used.
            UsageError: This gateway runs or ran already, or an address without TLS could be reached
                from other machines.
        """
        if self._core is not None:
            raise UsageError("a Gateway runs once; make a new one")
        core = self._core = Core(self.limits, self._process, self._feed, observes=self._telemetry)
        if not self._telemetry:
            await self._serve(core, task_status)
            return
        async with exporting() as exporter:
            resource = describe("mesh-gateway", core.instance, __version__)
            resource[names.ROLE] = names.GATEWAY_ROLE
            core.tracing = Tracing(core, self._traces, resource, exporter)
            await self._serve(core, task_status)

    async def _serve(self, core: Core, task_status: trio.TaskStatus[None]) -> None:
        endings = Endings(core)
        self._endings, self._router = endings, Router(core, endings)
        self._figures = Figures(core)
        try:
            await self._entrance.open()
            with single_exception():
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._router.deadlines.run)
                    nursery.start_soon(self._router.waiting.timers.run)
                    nursery.start_soon(pulse, core)
                    if core.tracing is not None:
                        nursery.start_soon(core.tracing.run)
                    await nursery.start(serve_builtin, self)
                    if self._admin is not None:
                        from mesh.gateway.api import api_routes  # noqa: PLC0415 - slow
                        from mesh.http import admin_app, serve_admin  # noqa: PLC0415 - slow

                        app = admin_app(
                            metrics=self._figures.exposition.render,
                            not_ready=lambda: "draining" if core.draining else None,
                            routes=api_routes(core, self.views, self.traces, self.status),
                        )
                        self.admin_address = await nursery.start(
                            partial(serve_admin, self._admin, app, token=self._admin_token)
                        )
                    accept = self._entrance.accept
                    for listener in self._entrance.listeners:
                        nursery.start_soon(accept, nursery, listener, core, self.attach)
                    self._feed.started(self.addresses)
                    task_status.started()
                    await self._drain_wanted.wait()
                    self.drain()  # where it was wanted before the start
                    self._entrance.close()
                    await drain(core, endings)
                    nursery.cancel_scope.cancel()
        finally:
            self._entrance.close()
            self._nursery = None
            self._feed.publish(events.GatewayStopped(gateway=self.instance))
            self._feed.close()

    async def dial(self, limit: int) -> Link:
        """Open a connection within this process.

        Raises:
            ConnectionRefusedError: The gateway does not run.
        """
        return self._dial(limit, internal=False)

    def _dial(self, limit: int, *, internal: bool) -> Link:
        ours, theirs = socket.socketpair()
        try:
            link = SocketLink(ours, self.limits.max_outbox, IN_PROCESS)
            self.attach(link, internal=internal, remote=remote_of(ours))
        except ConnectionRefusedError:
            ours.close()
            theirs.close()
            raise
        return SocketLink(theirs, limit, IN_PROCESS)

    def attach(
        self,
        link: Link,
        *,
        internal: bool = False,
        accepted_at: float | None = None,
        remote: str = "",
    ) -> None:
        """Serve a peer at the other end of a link.

        Args:
            link: The link, past what its transport has to agree on.
            internal: Whether the peer is a part of this gateway.
            accepted_at: When the connection began, on trio's clock; now where None.
            remote: Where the peer connects from, for people.

        Raises:
            ConnectionRefusedError: The gateway does not run.
        """
        if self._nursery is None or self._core is None:
            raise ConnectionRefusedError("this Gateway does not run; use `async with gateway`")
        self._last_session += 1
        session = Session(
            self._core,
            self._router,
            self._endings,
            link,
            self._last_session,
            internal=internal,
            remote=remote,
        )
        if accepted_at is not None:
            session.connected_at = accepted_at
        try:
            self._nursery.start_soon(self._run, session)
        except RuntimeError as closed:  # its last task has ended, and the gateway is about to
            raise ConnectionRefusedError("this Gateway has stopped") from closed

    async def _run(self, session: Session) -> None:
        self._entrance.inside += 1
        try:
            await session.run()
        finally:
            self._entrance.inside -= 1

    def drain(self) -> None:
        """Take no new calls, let those in flight end, then stop. Returns at once."""
        if self._core is not None and not self._core.draining:
            say_goodbye(self._core)
        self._drain_wanted.set()

    async def wait_draining(self) -> None:
        """Return once the drain has begun, whoever wanted it."""
        await self._drain_wanted.wait()

    def reload_certificates(self) -> bool:
        """Read the certificate files again, for handshakes from now on. Connections stay.

        Returns:
            Whether the new files are in use. Where one is broken, the old ones stay in use, and the
            log says what is wrong.

        Raises:
            UsageError: This gateway was given no files.
        """
        if self._entrance.tls is None:
            raise UsageError("this gateway has no certificates; give it tls=mesh.CertificateFiles")
        return self._entrance.tls.reload(self._feed)

    @property
    def core(self) -> Core:
        """The state shared by this gateway's rooms; raises UsageError before it has started."""
        if self._core is None:
            raise UsageError("this Gateway has not been started")
        return self._core
