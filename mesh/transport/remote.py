"""Who is at the other end of an accepted connection, for people."""

from __future__ import annotations

import socket
import struct

_UCRED = struct.Struct("3i")
"""Linux's `struct ucred`: process, user and group of whoever connected; see unix(7)."""


def remote_of(sock: socket.socket) -> str:
    """The other end: ``127.0.0.1:51234``, ``[::1]:51234`` or, on a Unix socket, ``pid 4711``.

    A process that this one cannot see, as in another container, is told by its user: ``uid 1000``.

    Returns:
        Empty where the system does not tell, for example as the other end has gone already.
    """
    try:
        if sock.family != socket.AF_UNIX:
            host, port = sock.getpeername()[:2]
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        pid, uid = _credentials(sock)
    except OSError:
        return ""
    return f"pid {pid}" if pid else f"uid {uid}"


def user_of(sock: socket.socket) -> int | None:
    """The user whose process connected a Unix socket, as the system knows it; None for others."""
    if sock.family != socket.AF_UNIX:
        return None
    try:
        return _credentials(sock)[1]
    except OSError:
        return None


def _credentials(sock: socket.socket) -> tuple[int, int]:
    """Process and user of whoever connected a Unix socket."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(credentials)
    return pid, uid
