"""TLS: links over a socket and OpenSSL's two buffers.

Not over `trio.SSLStream`, which has no synchronous send, reads one record of 16 KiB at a time, and
leaves alerts unsent. Measured against it, a single call took less than half the time.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import trio

from mesh.errors import CertificateError, UsageError
from mesh.transport.certificates import default_client_context, names_files
from mesh.transport.faults import HandshakeFailed, explain_alert, explain_to_peer
from mesh.transport.links import RECEIVE, SocketLink

if TYPE_CHECKING:
    import socket

    from mesh.transport.addresses import Address
    from mesh.transport.links import Link

TLS_RECORD = 0x16
"""The first byte of whoever begins a TLS handshake. As the first byte of a frame it would announce
one of 352 MiB, so that neither is ever taken for the other."""

RECORD = 16 * 1024
"""The most that one TLS record holds, and one read of OpenSSL's returns."""


class Tls:
    """One side's TLS over a connected socket, which it owns.

    Args:
        sock: The socket.
        context: Whom to trust and what to show.
        server_hostname: What a peer dialled; None at a gateway.
    """

    __slots__ = ("incoming", "outgoing", "session", "sock")

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, server_hostname: str | None = None
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = context.wrap_bio(
            self.incoming,
            self.outgoing,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
        )

    async def shake_hands(self) -> None:
        """Agree with the other end. It is told in TLS's own words why not, where there are some.

        Raises:
            OSError: It failed; an `ssl.SSLError` tells what was wrong.
        """
        session, sock, done = self.session, self.sock, False
        while not done:
            try:
                session.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                with trio.move_on_after(0.5):
                    await self._send()
                raise
            await self._send()
            while not done:
                await trio.lowlevel.wait_readable(sock)
                try:
                    data = sock.recv(RECEIVE)
                except BlockingIOError:
                    continue
                if not data:
                    raise ConnectionResetError("the other end closed the connection")
                self.incoming.write(data)
                break

    async def _send(self) -> None:
        data = memoryview(self.outgoing.read())
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.sock)


class TlsLink(SocketLink):
    """A link by TLS, past its handshake.

    Either end may close without a farewell: frames have lengths, so that nothing is cut off unseen.
    """

    __slots__ = ("_over", "_sealed", "_tls")

    def __init__(self, tls: Tls, limit: int, address: str) -> None:
        super().__init__(tls.sock, limit, address)
        self._tls = tls
        self._sealed = 0
        self._over = False

    def flush(self) -> None:
        """See :meth:`~mesh.transport.links.Link.flush`."""
        if self._rest or self.broken is not None or not self.queued:
            return
        try:
            self._seal()
            self._send()
        except OSError as fault:
            self._break(fault)
            return
        if self.queued:
            self._wake.set()

    def _seal(self) -> None:
        """Encrypt what is to be sent next."""
        data = self.gather()
        self._sealed = len(data)
        self._tls.session.write(data)
        self._rest = [self._tls.outgoing.read()]

    def _send(self) -> None:
        """Send as much of that as the socket takes; what left whole is no longer queued."""
        (rest,) = self._rest
        try:
            sent = self._socket.send(rest)
        except BlockingIOError:
            return
        if sent < len(rest):
            self._rest = [memoryview(rest)[sent:]]
            return
        self._rest = []
        self.queued -= self._sealed
        self._sent()

    async def write_loop(self) -> None:
        """See :meth:`~mesh.transport.links.Link.write_loop`."""
        while self.broken is None:
            await self._wake.wait()
            self._wake = trio.Event()
            while self.queued and self.broken is None:
                try:
                    if not self._rest:
                        self._seal()
                    await trio.lowlevel.wait_writable(self._socket)
                    self._send()
                except (OSError, trio.ClosedResourceError) as fault:
                    self._break(fault)
                    return

    async def receive(self) -> bytes:
        """See :meth:`~mesh.transport.links.Link.receive`."""
        while not self._over:
            data = self._decrypt()  # the handshake may have read more than its own
            if data:
                return data
            encrypted = await super().receive()
            if not encrypted:
                break
            self._tls.incoming.write(encrypted)
        return b""

    def _decrypt(self) -> bytes:
        """All records that have arrived whole."""
        session, incoming, pieces = self._tls.session, self._tls.incoming, []
        try:
            while incoming.pending or session.pending():
                piece = session.read(RECORD)
                if not piece:  # the other end's farewell
                    self._over = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as fault:
            # By TLS 1.3 a peer has finished its handshake before the gateway judges it.
            self.fault, self._over = explain_alert(fault), True
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class TlsDialer:
    """Opens links to a ``tls:`` address.

    Args:
        address: Where the gateway is.
        context: Whom to trust and what to show. Where None, the environment decides, and files that
            it names are read again for every connection, as short-lived certificates need.

    Raises:
        CertificateError: A file that the environment names cannot be used.
        UsageError: The context is a server's.
    """

    def __init__(self, address: Address, context: ssl.SSLContext | None = None) -> None:
        self._address = address
        self._from_files = context is None and names_files()
        self._context = context or default_client_context()
        if self._context.protocol == ssl.PROTOCOL_TLS_SERVER:
            raise UsageError(f"the ssl context for {address} is a server's; make a client's one")

    def __str__(self) -> str:
        return str(self._address)

    async def dial(self, limit: int) -> Link:
        """See :class:`~mesh.transport.links.Dialer`.

        Raises:
            HandshakeFailed: Something answers there, and it is not to be trusted or refuses us.
            OSError: There is no way through now.
        """
        if self._from_files:
            try:
                self._context = default_client_context()
            except CertificateError as fault:
                raise HandshakeFailed(f"{self}: {fault}", "files") from fault
        sock = await self._address.open_socket()
        try:
            tls = Tls(sock, self._context, self._address.host)
            try:
                await tls.shake_hands()
            except OSError as fault:
                raise explain_to_peer(fault, tls.session, self._address) from fault
        except BaseException:
            sock.close()
            raise
        return TlsLink(tls, limit, str(self))
