"""TLS: links over `trio.SSLStream`, and what is wrong in words when a handshake fails."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import trio

from mesh.errors import UsageError
from mesh.transport.certificates import default_client_context, names_files
from mesh.transport.links import StreamLink

if TYPE_CHECKING:
    import socket

    from mesh.transport.addresses import Address
    from mesh.transport.links import Link

TLS_RECORD = 0x16
"""The first byte of whoever begins a TLS handshake. As the first byte of a frame it would announce
one of 352 MiB, so that neither is ever taken for the other."""

EXPIRED, NOT_YET_VALID = 10, 9
UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21})
WRONG_NAME = frozenset({62, 64})
"""OpenSSL's verification results: https://docs.openssl.org/3.0/man1/openssl-verification-options/"""


class HandshakeFailed(ConnectionError):  # noqa: N818 - named like the event
    """There is no TLS connection; the message says what is wrong.

    Attributes:
        reason: A short word for it, for counters.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class TlsLink(StreamLink):
    """A link over a TLS stream past its handshake."""

    __slots__ = ()

    def __init__(self, stream: trio.SSLStream[trio.SocketStream], limit: int, address: str) -> None:
        super().__init__(stream, limit, address, is_tcp=True)

    async def receive(self) -> bytes:
        """See :meth:`~mesh.transport.links.Link.receive`."""
        try:
            return bytes(await self._stream.receive_some())
        except trio.BrokenResourceError as broken:
            # By TLS 1.3 a client has finished its handshake before the gateway judges it.
            if isinstance(broken.__cause__, ssl.SSLError):
                self.fault = _explain_alert(broken.__cause__)
            return b""
        except (OSError, trio.ClosedResourceError):
            return b""


class TlsDialer:
    """Opens links to a ``tls:`` address.

    Args:
        address: Where the gateway is.
        context: Whom to trust and what to show. Where None, the environment decides, and files that
            it names are read again for every connection, as short-lived certificates need.

    Raises:
        CertificateError: A file that the environment names cannot be used.
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
        """See :class:`~mesh.transport.links.Dialer`."""
        if self._from_files:
            try:
                self._context = default_client_context()
            except ValueError as fault:
                raise HandshakeFailed(f"{self}: {fault}", "files") from fault
        sock = await self._address.open_socket()
        stream = make_stream(sock, self._context, server_hostname=self._address.host)
        try:
            await stream.do_handshake()
        except (OSError, trio.BrokenResourceError) as fault:
            await send_alert(stream)
            await trio.aclose_forcefully(stream)
            raise _explain_to_peer(fault.__cause__ or fault, stream, self._address) from fault
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return TlsLink(stream, limit, str(self))


def make_stream(
    sock: socket.socket, context: ssl.SSLContext, *, server_hostname: str | None = None
) -> trio.SSLStream[trio.SocketStream]:
    """TLS over a connected socket. A peer dials with a host name, a gateway accepts without.

    It may close without a farewell: frames have lengths, so that nothing can be cut off unseen.
    """
    sock.setblocking(False)
    return trio.SSLStream(
        trio.SocketStream(trio.socket.from_stdlib_socket(sock)),
        context,
        server_hostname=server_hostname,
        server_side=server_hostname is None,
        https_compatible=True,
    )


async def send_alert(stream: trio.SSLStream[trio.SocketStream]) -> None:
    """Tell the other end why its handshake failed, as far as TLS has a word for it.

    trio 0.35 leaves that word where it was put. Without it the other end only sees a loss.
    """
    outgoing: ssl.MemoryBIO | None = getattr(stream, "_outgoing", None)
    alert = outgoing.read() if outgoing is not None else b""
    if alert:
        with trio.move_on_after(0.5):
            try:
                await stream.transport_stream.send_all(alert)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                return


def explain_to_gateway(fault: BaseException) -> HandshakeFailed:
    """What a peer did wrong, in a gateway's words."""
    if isinstance(fault, ssl.SSLCertVerificationError):
        if fault.verify_code == EXPIRED:
            return HandshakeFailed("its certificate has expired", "expired_certificate")
        if fault.verify_code in UNKNOWN_AUTHORITY:
            return HandshakeFailed(
                "its certificate is from an authority that the client CA file does not hold",
                "unknown_authority",
            )
        return HandshakeFailed(f"its certificate: {fault.verify_message}", "bad_certificate")
    reason = str(getattr(fault, "reason", None) or "")
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return HandshakeFailed(
            "it shows no certificate, and one is required (MESH_TLS_CERT)", "no_certificate"
        )
    if "ALERT" in reason:
        return HandshakeFailed(
            f"it refuses this gateway's certificate or its ways: {_words(fault)}", "refused_by_peer"
        )
    if isinstance(fault, ssl.SSLError) and reason and "EOF" not in reason:
        return HandshakeFailed(_words(fault), "protocol")
    return HandshakeFailed("it closed the connection during the handshake", "disconnected")


def _explain_to_peer(
    fault: BaseException, stream: trio.SSLStream[trio.SocketStream], address: Address
) -> HandshakeFailed:
    """What is wrong at a gateway, in its peer's words."""
    reason = str(getattr(fault, "reason", None) or "")
    if isinstance(fault, ssl.SSLCertVerificationError):
        shown = _certificate(stream)
        code = fault.verify_code
        text = f"certificate of {address} "
        if code in WRONG_NAME:
            names = [str(name) for _, name in shown.get("subjectAltName", ())]
            text += f"is for {', '.join(names[:10]) or 'another name'}, not {address.host}"
        elif code == EXPIRED:
            text += f"has expired{_when(shown, 'notAfter')}"
        elif code == NOT_YET_VALID:
            text += f"is not valid yet{_when(shown, 'notBefore')}"
        elif code in UNKNOWN_AUTHORITY:
            issuer = ", ".join(str(value) for part in shown.get("issuer", ()) for _, value in part)
            text += "is from an authority that is not trusted here"
            text += f" ({issuer})" if issuer else ""
            text += "; MESH_TLS_CA can name its file"
        else:
            text += f"is not accepted: {fault.verify_message}"
        return HandshakeFailed(text, "bad_certificate")
    if reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}:
        text = f"{address}: the other end speaks no TLS; if it is a plain address, write tcp:"
        return HandshakeFailed(text, "plain_text")
    if "ALERT" in reason and isinstance(fault, ssl.SSLError):
        return HandshakeFailed(f"{address}: {_explain_alert(fault)}", "refused_by_gateway")
    if isinstance(fault, ssl.SSLError) and reason and "EOF" not in reason:
        return HandshakeFailed(f"{address}: TLS failed: {_words(fault)}", "protocol")
    text = f"{address}: the other end closed the connection during the TLS handshake"
    return HandshakeFailed(text, "disconnected")


def _explain_alert(fault: ssl.SSLError) -> str:
    """What the other end's alert means to a peer."""
    reason = str(fault.reason or "")
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return (
            "the gateway requires a client certificate; MESH_TLS_CERT and MESH_TLS_KEY can name one"
            if "REQUIRED" in reason
            else "the gateway refused the TLS handshake; it may require a client certificate"
        )
    if "EXPIRED" in reason:
        return "the gateway refused this peer's certificate: it has expired"
    if "UNKNOWN_CA" in reason:
        return "the gateway refused this peer's certificate: it does not trust its authority"
    return f"TLS failed: {_words(fault)}"


def _certificate(stream: trio.SSLStream[trio.SocketStream]) -> dict[str, Any]:
    """The certificate that was shown and not accepted.

    Python tells of accepted ones only, so that this looks inside; elsewhere than in CPython an
    error says less, and nothing else changes.
    """
    try:
        chain = stream._ssl_object._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
        shown: dict[str, Any] = chain[0].get_info()
    except (AttributeError, IndexError, TypeError, ssl.SSLError):
        return {}
    return shown


def _when(certificate: dict[str, Any], field: str) -> str:
    return f" ({certificate[field]})" if field in certificate else ""


def _words(fault: BaseException) -> str:
    """OpenSSL's reason, without its decoration."""
    reason = getattr(fault, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else str(fault)
