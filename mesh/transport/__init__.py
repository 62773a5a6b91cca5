"""The only I/O on the wire: links, and the addresses that they are opened and accepted at."""

from mesh.transport.addresses import Address, Listener, default_address
from mesh.transport.links import IN_PROCESS, Dialer, Link, SocketLink, StreamLink
from mesh.transport.traffic import Traffic

__all__ = [
    "IN_PROCESS",
    "Address",
    "Dialer",
    "Link",
    "Listener",
    "SocketLink",
    "StreamLink",
    "Traffic",
    "default_address",
]
