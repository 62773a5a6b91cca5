"""What a program and systemd tell each other: readiness, life signs, sockets handed in.

Both protocols are small enough to need no library. Notification is a datagram to the socket named
in ``NOTIFY_SOCKET`` (`sd_notify(3)
<https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>`_), activation a count of
inherited descriptors (`sd_listen_fds(3)
<https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html>`_). Where systemd is
not there, nothing happens.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING, NamedTuple

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping

log = logging.getLogger("mesh.systemd")

TLS = "tls"
"""The name (``FileDescriptorName=``) of a socket whose peers speak TLS."""

FIRST = 3
"""The first descriptor that is handed in (``SD_LISTEN_FDS_START``)."""

STATUS_EVERY = 5.0
"""Seconds between two status lines."""

LAST_WORDS = 5.0
"""Seconds that a program may take to end, once its calls have ended."""


class Notifier:
    """Tells the service manager how this process is. Never blocks, and fails without a fuss.

    Args:
        environment: Where ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are looked up.

    Attributes:
        watchdog: Seconds within which the manager wants life signs; None where it wants none.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._told = ""
        self._socket: socket.socket | None = None
        self.watchdog = _watchdog(environment)
        where = environment.get("NOTIFY_SOCKET", "")
        if where[:1] not in {"/", "@"}:
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.setblocking(False)
        try:
            sock.connect("\0" + where[1:] if where[0] == "@" else where)
        except OSError as fault:
            sock.close()
            log.warning("the service manager at %s cannot be told anything: %s", where, fault)
            return
        self._socket = sock

    @property
    def is_heard(self) -> bool:
        """Whether there is a service manager to tell."""
        return self._socket is not None

    def close(self) -> None:
        """Tell nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ready(self, status: str) -> None:
        """The start is over, and requests are taken."""
        self._send("READY=1", self._status(status))

    def alive(self, status: str) -> None:
        """A life sign for the watchdog, where one is wanted, and what there is to see."""
        news = [] if status == self._told else [self._status(status)]
        if self.watchdog is not None:
            news.append("WATCHDOG=1")
        if news:
            self._send(*news)

    async def report(self, status: Callable[[], str]) -> None:
        """Give life signs, which only a loop that turns can give, until cancelled."""
        pause = min(STATUS_EVERY, self.watchdog / 2) if self.watchdog else STATUS_EVERY
        while self.is_heard:
            self.alive(status())
            await trio.sleep(pause)

    def draining(self, within: float) -> None:
        """The end has begun: a drain of so many seconds at most, whatever the manager allows."""
        extended = int((within + LAST_WORDS) * 1e6)
        self._send("STOPPING=1", self._status("draining"), f"EXTEND_TIMEOUT_USEC={extended}")

    def _status(self, text: str) -> str:
        self._told = text
        return "STATUS=" + text.replace("\n", " ")

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send("\n".join(lines).encode())
        except OSError as fault:  # its queue is full, or it is gone: no reason to fail
            log.debug("the service manager was not told %s: %s", lines[0], fault)


def _watchdog(environment: Mapping[str, str]) -> float | None:
    wanted = environment.get("WATCHDOG_USEC", "")
    if not wanted.isdecimal() or int(wanted) == 0:
        return None
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(wanted) / 1e6


class Inherited(NamedTuple):
    """A listening socket that was handed in."""

    name: str
    """``FileDescriptorName=`` of its unit, else the unit's name; ``unknown`` where none is told."""
    socket: socket.socket


def take_sockets(environment: MutableMapping[str, str] = os.environ) -> list[Inherited]:
    """The listening stream sockets that this process was started with, once.

    The variables that told of them are removed, and none reaches a child. A descriptor that is no
    listening stream socket is left alone, with a warning.
    """
    pid, count = environment.get("LISTEN_PID", ""), environment.get("LISTEN_FDS", "")
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"):
        environment.pop(variable, None)
    found: list[Inherited] = []
    for index in range(int(count)):
        descriptor = FIRST + index
        name = names[index] if index < len(names) and names[index] else "unknown"
        try:
            os.set_inheritable(descriptor, False)
            sock = socket.socket(fileno=descriptor)
        except OSError as fault:
            log.warning("descriptor %d (%s) is no socket: %s", descriptor, name, fault.strerror)
            continue
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            log.warning("descriptor %d (%s) does not listen for streams", descriptor, name)
            sock.detach()
            continue
        sock.setblocking(False)
        found.append(Inherited(name, sock))
    return found
