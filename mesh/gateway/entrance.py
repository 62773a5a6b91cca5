"""Where peers come in: addresses to listen at, connections to accept, and how many there may be."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Protocol

import trio

from mesh.errors import AddressError
from mesh.gateway.tls import TlsDoor
from mesh.transport import Address, Link, Listener, SocketLink, refuse_open, remote_of
from mesh.wire import codec

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from mesh.gateway.core import Core
    from mesh.transport import CertificateFiles

log = logging.getLogger("mesh.gateway")


class Attach(Protocol):
    """Serves whoever is at the other end of a link; see :meth:`mesh.Gateway.attach`."""

    def __call__(  # noqa: D102 - said above
        self, link: Link, *, accepted_at: float | None = None, remote: str = ""
    ) -> None: ...


class Entrance:
    """The doors of one gateway.

    Args:
        listen: Addresses, and sockets or listeners that listen already, which are taken over.
        tls: What ``tls:`` addresses need.
        allow_plain_tcp: Whether ``tcp:`` addresses may be reachable from other machines.
        socket_mode: The permissions of ``unix:`` sockets; None leaves them to the umask.

    Attributes:
        tls: Who shakes hands at ``tls:`` addresses, if there are such.
        listeners: Those that are open, once :meth:`open` has returned.
        inside: Connections there are, those included that are not past their handshake.

    Raises:
        AddressError: An address is not understood, or is ``tls:`` and there is no certificate.
        CertificateError: A certificate or key file cannot be used.
    """

    def __init__(
        self,
        listen: Sequence[str | socket.socket | Listener],
        tls: CertificateFiles | ssl.SSLContext | None,
        *,
        allow_plain_tcp: bool,
        socket_mode: int | None,
    ) -> None:
        self._listen = [_parse(one) for one in listen]
        self.tls = TlsDoor(tls) if tls is not None else None
        for one in self._listen:
            address = one if isinstance(one, Address) else one.address
            if address.scheme == "tls" and tls is None:
                raise AddressError(
                    f"{address} needs a certificate: mesh gateway --tls-cert FILE --tls-key FILE, "
                    "or Gateway(tls=mesh.CertificateFiles(...))"
                )
        self._allow_plain_tcp = allow_plain_tcp
        self._socket_mode = socket_mode
        self.listeners: list[Listener] = []
        self.inside = 0

    @property
    def addresses(self) -> list[str]:
        """Where it listens, with the ports that were taken for port 0."""
        return [str(listener.address) for listener in self.listeners]

    async def open(self) -> None:
        """Listen everywhere; see :meth:`mesh.Gateway.serve` for what may be raised."""
        for one in self._listen:
            self.listeners.append(await self._bind(one))

    async def _bind(self, one: Address | Listener) -> Listener:
        if isinstance(one, Address):
            return await Listener.bind(
                one, allow_plain_tcp=self._allow_plain_tcp, mode=self._socket_mode
            )
        if not self._allow_plain_tcp:
            refuse_open(one.address, one.address.host)
        return one

    def close(self) -> None:
        """Take nobody in any more."""
        for listener in self.listeners:
            listener.close()

    async def accept(
        self, nursery: trio.Nursery, listener: Listener, core: Core, attach: Attach
    ) -> None:
        """Take in whoever comes at one address, until it is closed."""
        failing, limits = False, core.limits
        door = self.tls if listener.address.scheme == "tls" else None
        while True:
            try:
                sock = await listener.accept()
            except trio.ClosedResourceError:
                return
            except OSError as fault:
                if not failing:  # once, not ten times a second
                    log.error("cannot accept connections at %s: %s", listener.address, fault)  # noqa: TRY400 - no bug
                failing = True
                await trio.sleep(0.1)  # out of files: others must end first
                continue
            failing = False
            if door is not None and self.inside < limits.max_connections:
                nursery.start_soon(self._admit, door, sock, listener, core, attach)
                continue
            link = SocketLink(sock, limits.max_outbox, str(listener.address))
            if self.inside >= limits.max_connections:
                core.counters.connections_refused += 1
                reason = f"{self.inside:,} connections are the limit max_connections"
                where = f"at {listener.address} from {remote_of(sock)}"
                core.events.refused(where, "max_connections", reason)
                link.put(codec.encode_header(codec.GoAway(reason, 0)))
                link.flush()
                await link.aclose()
                continue
            attach(link, remote=remote_of(sock))

    async def _admit(
        self, door: TlsDoor, sock: socket.socket, listener: Listener, core: Core, attach: Attach
    ) -> None:
        """Let a peer in by TLS. Until then it counts as a connection, but disturbs nobody."""
        accepted_at, remote = trio.current_time(), remote_of(sock)
        self.inside += 1
        try:
            link = await door.admit(sock, str(listener.address), core)
        finally:
            self.inside -= 1
        if link is not None:
            attach(link, accepted_at=accepted_at, remote=remote)


def _parse(one: str | socket.socket | Listener) -> Address | Listener:
    if isinstance(one, str):
        return Address.parse(one)
    return Listener.adopt(one) if isinstance(one, socket.socket) else one
