"""Being a peer: the connection that a block of code holds."""

from __future__ import annotations

import contextlib
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

import trio

from mesh import loglines
from mesh.client import Client
from mesh.environment import limits_from, metadata_from, warn_of_unknown_variables
from mesh.errors import AddressError, CallError, Code, Reason, UsageError
from mesh.payload import encoding_number
from mesh.process import this_process
from mesh.transport import Address, TlsDialer, default_address
from mesh.uplink import Uplink
from mesh.wire.codec import EVENTS, is_name

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping

    from mesh.limits import Limits
    from mesh.payload import Encoding
    from mesh.process import Process
    from mesh.transport import Dialer

MAX_METADATA = 4096
"""Bytes of metadata that a peer may have."""


def make_dialer(gateway: str | Dialer | None, tls: ssl.SSLContext | None = None) -> Dialer:
    """The way to a gateway: an address, a `Gateway` of this process, or the default address."""
    if gateway is None:
        gateway = _default_gateway()
    if isinstance(gateway, str):
        gateway = Address.parse(gateway)
    if isinstance(gateway, Address):
        if gateway.scheme == "tls":
            return TlsDialer(gateway, tls)
        if gateway.scheme == "tcp" and tls is not None:
            raise UsageError(f"an ssl context is given, and {gateway} is without TLS; write tls:")
    return gateway


def _default_gateway() -> Address:
    text = default_address()
    try:
        return Address.parse(text)
    except AddressError as fault:
        raise AddressError(f"MESH_GATEWAY: {fault}") from None


@contextlib.asynccontextmanager
async def connect(
    name: str,
    *,
    gateway: str | Dialer | None = None,
    tls: ssl.SSLContext | None = None,
    connect_timeout: float = 5.0,
    reconnect: bool = True,
    metadata: Mapping[str, str] = {},
    encoding: Encoding = "msgpack",
    registry_events: bool = False,
    limits: Limits | None = None,
    metrics: str | None = None,
    metrics_token: str | None = None,
    keep_logs: str | None = None,
    process: Process | None = None,
) -> AsyncIterator[Client]:
    """Be a peer of a mesh for as long as the block runs; leaving it drains.

    Where the block is cancelled, handlers under way are cancelled with it.

    Args:
        name: What the peer is called, and the service that its methods belong to by default.
        gateway: ``unix:PATH``, ``tcp:HOST:PORT`` or ``tls:HOST:PORT``, or a `Gateway` of this
            process; ``MESH_GATEWAY`` or the user's own socket where None.
        tls: Whom to trust at a ``tls:`` address, and which certificate to show there. Where None,
            ``MESH_TLS_CA``, ``MESH_TLS_CERT`` and ``MESH_TLS_KEY`` name PEM files for that, read
            again for every connection; without the first, the system's authorities are trusted.
        connect_timeout: Seconds to wait for a gateway that is not up yet; 0 enters the block at
            once and connects meanwhile.
        reconnect: Whether to connect again after a loss, for ever.
        metadata: Text that operators see beside the peer's name; added to, and before, that of
            ``MESH_METADATA``.
        encoding: How the parameters of this peer's calls travel, and hence their results:
            ``"msgpack"``, ``"json"``, or ``"raw"``, where both are bytes and nothing else. What the
            peer serves is encoded as each caller's own setting says.
        registry_events: Whether the gateway shall tell who begins and ceases to serve what, for
            ``client.events()``: all changes from the connection on, as
            :class:`~mesh.events.ServiceRegistered` and :class:`~mesh.events.ServiceDisconnected`.
        limits: Limits of this peer's own; where None, the defaults and what ``MESH_LIMITS_*`` say.
        metrics: ``HOST:PORT`` where the peer serves its own ``/metrics``, ``/healthz`` and
            ``/readyz``, until it has left; port 0 takes a free one, which
            ``client.metrics_address`` tells. Nothing is measured or served where None.
        metrics_token: What scrapers must send as ``Authorization: Bearer``; needed beyond the
            loopback.
        keep_logs: ``debug``, ``info``, ``warning`` or ``error``: what handlers log at this level or
            a higher one, as far as the program's own levels and loggers' filters let it through, is
            shown in the trace of its call where that is kept; ``MESH_KEEP_LOGS``, else nothing,
            where None. The filters of handlers are not asked.
        process: Identity and randomness; for simulators.

    Raises:
        AddressInUse: Somebody listens at the address for metrics already.
        Unavailable: No gateway answered within ``connect_timeout``; the message tells the last try.
        ValueError: The name cannot be one, there is no such encoding or level, the metadata is too
            long, or a variable is wrong.
        AddressError: An address is not understood.
        CertificateError: A file that the environment names cannot be used.
        UsageError: ``tls`` is given, and the address is a ``tcp:`` one; or metrics could be read
            from other machines without a token.
    """
    if not is_name(name):
        raise ValueError(
            f"peer name {name!r}: it must begin with a letter or _, then letters, digits and _.-"
        )
    warn_of_unknown_variables()
    metadata = {**metadata_from(), **metadata}
    size = sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
    if size > MAX_METADATA:
        raise ValueError(f"metadata of {size:,} bytes exceeds {MAX_METADATA:,}")
    limits = limits or limits_from()
    keeps_from = loglines.choose_level(keep_logs)
    if keeps_from < inf:
        loglines.install()
    peer: dict[str, Any] = {
        "dialer": make_dialer(gateway, tls),
        "limits": limits,
        "process": process or this_process(),
        "metadata": metadata,
        "reconnect": reconnect,
        "encoding": encoding_number(encoding),
        "features": [EVENTS] if registry_events else [],
        "keeps_from": keeps_from,
    }
    client: Client
    if metrics is None:
        serve_metrics = None
        uplink = Uplink(name, **peer)
        client = Client(uplink)
    else:
        from mesh import measuring  # noqa: PLC0415 - slow: an HTTP server comes along

        uplink = measured = measuring.MeasuredUplink(name, **peer)
        client = measuring.MeasuredClient(measured)
        serve_metrics = partial(measured.serve_metrics, metrics, metrics_token)
    failure: BaseException | None = None
    # The connection outlives the cancellation of the block, by as long as a goodbye takes: else the
    # gateway could not tell a peer that leaves from one that is lost.
    life = trio.CancelScope(shield=True)

    async def live() -> None:
        with life:
            await uplink.run()

    async with trio.open_nursery() as nursery:
        try:
            if serve_metrics is not None:
                client.metrics_address = await nursery.start(serve_metrics)
            nursery.start_soon(live)
            if connect_timeout > 0:
                with trio.move_on_after(connect_timeout):
                    await uplink.wait_ready()
                if not uplink.ready:
                    raise _no_gateway(uplink, connect_timeout)  # noqa: TRY301 - raised again below
            yield client
        except BaseException as raised:  # noqa: BLE001 - raised again below, outside the nursery's group
            failure = raised
        cancelled = trio.current_effective_deadline() == -inf
        with trio.CancelScope(shield=True):
            await uplink.leave(0.0 if cancelled else limits.drain)
        life.cancel()
        if serve_metrics is not None:  # until here, to show the drain
            nursery.cancel_scope.cancel()
    if failure is not None:
        try:
            raise failure
        finally:
            failure = None


def _no_gateway(uplink: Uplink, waited: float) -> CallError:
    advice = "; start one with `mesh gateway`, or set MESH_GATEWAY to its address"
    return CallError.of(
        Code.UNAVAILABLE,
        f"no gateway answered {uplink.name!r} within {waited:g} s: "
        f"{uplink.explain_unreachable()}{'' if uplink.reached else advice}",
        reason=Reason.GATEWAY_UNREACHABLE,
        maybe_executed=False,
    )
