"""A service as a program: `mesh.run` serves until SIGTERM, then drains."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import trio

from mesh.connecting import connect, make_dialer
from mesh.errors import AddressError, CertificateError, SettingError
from mesh.groups import single_exception
from mesh.tracing import install_tracer_provider

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from mesh.client import Client
    from mesh.payload import Encoding
    from mesh.transport import Dialer

log = logging.getLogger("mesh.service")

_WRONG_SETTING = (AddressError, CertificateError, SettingError)
"""What arguments and variables are refused with, before any of the program's own code runs."""

WRONG_USAGE = 2
"""The exit status of a program whose settings cannot work, as of the command."""


async def serve(client: Client, *services: Callable[[Client], Any]) -> None:
    """Register services on a client and serve them until cancelled.

    Args:
        client: The peer that serves.
        services: Functions that take the client and register methods on it; ``async`` ones are
            awaited. They run in the order given.
    """
    for service in services:
        made = service(client)
        if inspect.isawaitable(made):
            await made
    await trio.sleep_forever()


def run(
    *services: Callable[[Client], Any],
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

    It waits for a gateway that is not up yet, and registers again with one that comes back. Where
    an address, a ``MESH_*`` variable or a certificate that these name cannot be used, the program
    ends with one line on standard error and exit status 2.

    Args:
        services: Functions that take the client and register methods on it.
        name: The peer's name; that of the first function where None.
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
        SystemExit: An address, a variable or a certificate cannot be used; the status is 2.
        AddressInUse: Somebody listens at the address for metrics already.
        UsageError: Metrics could be read from other machines without a token.

    Example:
        >>> def users(client):
        ...     @client.method("get")
        ...     async def get(params):
        ...         return {"id": params["user_id"]}
        >>> mesh.run(users)
    """
    if not services:
        raise TypeError("mesh.run needs at least one service: a function that takes the client")
    name = name or services[0].__name__
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
    services: tuple[Callable[[Client], Any], ...],
    name: str,
    peer: Callable[[], AbstractAsyncContextManager[Client]],
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with contextlib.AsyncExitStack() as stack:
            try:
                client = await stack.enter_async_context(peer())
            except _WRONG_SETTING as fault:
                _refuse(name, fault)
            nursery = await stack.enter_async_context(trio.open_nursery())
            # A service may set a provider of its own up, so that the mesh's comes after them.
            nursery.start_soon(serve, client, *(*services, _provide_tracing))
            number = await anext(signals)
            for again in (signal.SIGTERM, signal.SIGINT):
                signal.signal(again, _end_at_once)
            log.info("%s got %s and drains", name, signal.Signals(number).name)
            nursery.cancel_scope.cancel()


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
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
