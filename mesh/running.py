"""A service as a program: `mesh.run` serves until SIGTERM, then drains."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import trio

from mesh.connecting import connect, make_dialer
from mesh.errors import AddressError, CertificateError, ContractError, SettingError, UsageError
from mesh.groups import single_exception
from mesh.serving import POLL, name_of_service, serve
from mesh.systemd import Notifier
from mesh.tracing import install_tracer_provider

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from mesh.client import Client
    from mesh.payload import Encoding
    from mesh.serving import Service
    from mesh.transport import Dialer

log = logging.getLogger("mesh.service")

_WRONG_SETTING = (AddressError, CertificateError, SettingError)
"""What arguments and variables are refused with, before any of the program's own code runs."""

PATIENCE = 30.0
"""Seconds that systemd's start of a service waits for a gateway and what the service requires."""

WRONG_USAGE = 2
"""The exit status of a program whose settings cannot work, as of the command."""


def run(
    *services: Service,
    name: str | None = None,
    gateway: str | Dialer | None = None,
    tls: ssl.SSLContext | None = None,
    metadata: Mapping[str, str] = {},
    encoding: Encoding = "msgpack",
    metrics: str | None = None,
    metrics_token: str | None = None,
    keep_logs: str | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then take no new calls, finish those under way, and return.

    Once the services are registered, a process without a provider of OpenTelemetry spans gets the
    mesh's: see :func:`~mesh.install_tracer_provider`.

    Under systemd it says that it is ready once it is connected and what it requires has been there,
    as ``/readyz`` does, but 30 seconds after it has registered its services at the latest, as the
    start of the machine waits for it. It says what it waits for, and gives the watchdog life signs.

    It waits for a gateway that is not up yet, and registers again with one that comes back. Where
    an address, a ``MESH_*`` variable or a certificate that these name cannot be used, or a service
    cannot be served, the program ends with one line on standard error and exit status 2.

    Args:
        services: As in :func:`~mesh.serve`: implementations of contracts, and what makes these or
            registers methods.
        name: The peer's name; where None, that of the first one's service, or of the function.
        gateway: As in :func:`~mesh.connect`.
        tls: As in :func:`~mesh.connect`.
        metadata: Text that operators see beside the peer's name.
        encoding: As in :func:`~mesh.connect`, for the calls that the services make.
        metrics: As in :func:`~mesh.connect`: ``"127.0.0.1:9465"`` serves ``/metrics`` there.
        metrics_token: As in :func:`~mesh.connect`.
        keep_logs: As in :func:`~mesh.connect`: ``"info"`` shows what handlers log in kept traces.

    Raises:
        TypeError: There is no service.
        ValueError: The name cannot be one, or there is no such encoding or level.
        SystemExit: An address, a variable or a certificate cannot be used, the first service has no
            name, or an implementation does not do what its contracts say; the status is 2.
        AddressInUse: Somebody listens at the address for metrics already.
        UsageError: Metrics could be read from other machines without a token.

    Example:
        >>> def users(client):
        ...     @client.method("get")
        ...     async def get(params):
        ...         return {"id": params["user_id"]}
        >>> mesh.run(users)
        >>> mesh.run(UserService(database), OrderService)  # the latter takes the client
    """
    if not services:
        raise TypeError(
            "mesh.run needs at least one service: an implementation of a contract, or a function "
            "that takes the client"
        )
    try:
        name = name or name_of_service(services[0])
    except UsageError as fault:
        _refuse("mesh.run", fault)
    try:
        dialer = make_dialer(gateway, tls)  # a wrong address is said before anything runs
    except _WRONG_SETTING as fault:
        _refuse(name, fault)
    with single_exception():
        peer = partial(
            connect,
            name,
            gateway=dialer,
            connect_timeout=0,
            metadata=metadata,
            encoding=encoding,
            metrics=metrics,
            metrics_token=metrics_token,
            keep_logs=keep_logs,
        )
        trio.run(_run, services, name, peer)


async def _run(
    services: tuple[Service, ...],
    name: str,
    peer: Callable[[], AbstractAsyncContextManager[Client]],
) -> None:
    registered = trio.Event()

    def have_registered(_: Client) -> None:
        registered.set()

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with contextlib.AsyncExitStack() as stack:
            notifier = stack.enter_context(contextlib.closing(Notifier()))
            reporting = await stack.enter_async_context(trio.open_nursery())
            stack.callback(reporting.cancel_scope.cancel)  # after the drain, which has life signs
            try:
                client = await stack.enter_async_context(peer())
            except _WRONG_SETTING as fault:
                _refuse(name, fault)
            nursery = await stack.enter_async_context(trio.open_nursery())
            # A service may set a provider of its own up, so that the mesh's comes after them.
            nursery.start_soon(_serve, client, *(*services, _provide_tracing, have_registered))
            if notifier.is_heard:
                nursery.start_soon(_tell_manager, client, notifier, registered, reporting)
            number = await anext(signals)
            for again in (signal.SIGTERM, signal.SIGINT):
                signal.signal(again, _end_at_once)
            log.info("%s got %s and drains", name, signal.Signals(number).name)
            notifier.draining(client._uplink.limits.drain)
            nursery.cancel_scope.cancel()


async def _serve(client: Client, *services: Service) -> None:
    try:
        await serve(client, *services)
    except ContractError as fault:
        _refuse(client.name, fault)


async def _tell_manager(
    client: Client, notifier: Notifier, registered: trio.Event, reporting: trio.Nursery
) -> None:
    """Tell systemd that it is ready, where `/readyz` would, or when others have waited enough."""
    await registered.wait()
    notifier.waiting(PATIENCE, _summary(client))
    reporting.start_soon(notifier.report, partial(_summary, client))
    with trio.move_on_after(PATIENCE):
        await client._uplink.wait_ready()
        while True:
            status = client.status()
            if status.ready and not status.missing:
                break
            await trio.sleep(POLL)
    notifier.ready(_summary(client))


def _summary(client: Client) -> str:
    status = client.status()
    if status.closing:
        return f"draining: calls in flight: {status.serving}"
    calls = f"methods: {len(status.methods)}, calls in flight: {status.serving}"
    if not status.connected:
        return f"{calls}; no gateway: {status.fault or 'connecting'}"
    return f"{calls}; waiting for {', '.join(status.missing)}" if status.missing else calls


def _provide_tracing(_: Client) -> None:
    try:
        install_tracer_provider()
    except ValueError as fault:  # a variable that it refuses as a whole: no reason not to serve
        log.error("no spans of this program's own code: OpenTelemetry says %s", fault)  # noqa: TRY400


def _refuse(name: str, fault: Exception) -> NoReturn:
    """End the program as the command ends, for whoever set its variables; no bug, no traceback."""
    print(f"{name}: {fault}", file=sys.stderr)  # noqa: T201 - silent where that is closed
    raise SystemExit(WRONG_USAGE) from fault


def _end_at_once(number: int, _frame: object) -> None:
    """A second signal does not wait for the drain."""
    if os.getpid() == 1:  # a container's first process is spared by the signals that it sends
        for stream in (sys.stdout, sys.stderr):  # closed, gone, or in the middle of a write
            with contextlib.suppress(AttributeError, OSError, RuntimeError, ValueError):
                stream.flush()
        os._exit(128 + number)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
