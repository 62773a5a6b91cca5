"""The only I/O on the wire: links, and the addresses that they are opened and accepted at."""

from mesh.transport.addresses import (
    Address,
    Listener,
    default_address,
    is_loopback,
    refuse_open,
)
from mesh.transport.certificates import CertificateFiles
from mesh.transport.faults import HandshakeFailed
from mesh.transport.links import IN_PROCESS, Dialer, Link, SocketLink, StreamLink
from mesh.transport.remote import remote_of
from mesh.transport.tls import TLS_RECORD, Tls, TlsDialer, TlsLink
from mesh.transport.traffic import Traffic

__all__ = [
    "IN_PROCESS",
    "TLS_RECORD",
    "Address",
    "CertificateFiles",
    "Dialer",
    "HandshakeFailed",
    "Link",
    "Listener",
    "SocketLink",
    "StreamLink",
    "Tls",
    "TlsDialer",
    "TlsLink",
    "Traffic",
    "default_address",
    "is_loopback",
    "refuse_open",
    "remote_of",
]
