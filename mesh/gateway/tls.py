"""TLS at a gateway's door: its certificates now, and handshakes with whoever comes."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from typing import TYPE_CHECKING

import trio

from mesh.errors import CertificateError, UsageError
from mesh.transport import TLS_RECORD, CertificateFiles, HandshakeFailed, Tls, TlsLink, remote_of
from mesh.transport.faults import explain_to_gateway
from mesh.transport.links import RECEIVE
from mesh.wire import codec

if TYPE_CHECKING:
    from mesh.gateway.core import Core
    from mesh.gateway.telling import GatewayFeed
    from mesh.transport import Link

log = logging.getLogger("mesh.gateway")


class TlsDoor:
    """Takes sockets, gives links that are past their TLS handshake.

    Args:
        source: Files to read certificates from, or a context that somebody else looks after.

    Raises:
        CertificateError: A file cannot be used.
        UsageError: The context is a client's.
    """

    def __init__(self, source: CertificateFiles | ssl.SSLContext) -> None:
        self._files = source if isinstance(source, CertificateFiles) else None
        self._context = source.context() if isinstance(source, CertificateFiles) else source
        if self._context.protocol == ssl.PROTOCOL_TLS_CLIENT:
            raise UsageError(
                "the ssl context is a client's; a gateway needs a server's: "
                "ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), or mesh.CertificateFiles"
            )

    def reload(self, feed: GatewayFeed) -> bool:
        """Read the files again; see :meth:`mesh.Gateway.reload_certificates`."""
        if self._files is None:
            raise UsageError(
                "this gateway was given an ssl.SSLContext, which it cannot reload; call its "
                "load_cert_chain, or give mesh.CertificateFiles"
            )
        try:
            self._context = self._files.context()
        except CertificateError as fault:
            feed.certificates(f"not reloaded, the old ones stay in use: {fault}", faulty=True)
            return False
        feed.certificates(f"reloaded from {self._files.cert}", faulty=False)
        return True

    async def admit(self, sock: socket.socket, address: str, core: Core) -> Link | None:
        """Shake hands, within the handshake limit; None, logged and counted, where that fails."""
        remote, limit = remote_of(sock), core.limits.handshake
        where = f"{address} from {remote}" if remote else address
        try:
            with trio.fail_after(limit):
                return await self._shake_hands(sock, address, core.limits.max_outbox)
        except trio.TooSlowError:
            failed = HandshakeFailed(f"no TLS handshake within {limit:g} s", "timeout")
        except HandshakeFailed as fault:
            failed = fault
        core.counters.connections_refused += 1
        core.counters.fail_tls_handshake(failed.reason)
        if failed.reason == "disconnected":
            # Whoever only looks whether the port is open comes often, and is no trouble.
            log.debug("closed a peer at %s: %s", where, failed)
        else:
            log.warning("closed a peer at %s: %s", where, failed)
            core.events.refused(f"at {where}", failed.reason, str(failed))
        return None

    async def _shake_hands(self, sock: socket.socket, address: str, limit: int) -> Link:
        try:
            await _await_tls(sock)
            tls = Tls(sock, self._context)
            try:
                await tls.shake_hands()
            except OSError as fault:
                raise explain_to_gateway(fault) from fault
        except BaseException:
            sock.close()
            raise
        return TlsLink(tls, limit, address)


async def _await_tls(sock: socket.socket) -> None:
    """Return once a TLS handshake begins."""
    sock.setblocking(False)
    first = await _peek(sock)
    if not first:
        raise HandshakeFailed("it closed the connection at once", "disconnected")
    if first[0] != TLS_RECORD:
        await _answer_in_plain(sock)
        raise HandshakeFailed("it speaks no TLS; its address must be tls:", "plain_text")


async def _peek(sock: socket.socket) -> bytes:
    """The first byte, left where it is; empty where there will be none."""
    while True:
        await trio.lowlevel.wait_readable(sock)
        try:
            return sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            continue
        except OSError:
            return b""


async def _answer_in_plain(sock: socket.socket) -> None:
    """Tell a peer that speaks the mesh's protocol without TLS what to do."""
    with contextlib.suppress(OSError):
        sock.recv(RECEIVE)  # closing with bytes unread would destroy the answer
        goaway = codec.GoAway("this port takes TLS only; write its address as tls:HOST:PORT", 0)
        sock.send(codec.encode_header(goaway))
    await trio.lowlevel.checkpoint()
