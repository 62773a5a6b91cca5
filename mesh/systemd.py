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

SOON = 1.0
"""Seconds between two status lines of a start, and until what was not heard is said again."""

LEAST = 0.01
"""Seconds between two life signs, at least, whatever the watchdog wants."""

USEC_DIGITS = 20
"""Digits of the largest number of microseconds that systemd knows, 64 bits."""

STATUS_MOST = 2048
"""Bytes of a status line: systemd discards datagrams of more than 4,096."""

SLACK = 5.0
"""Seconds beyond what is known that a start or an end may take: to end after the last call, say."""


class Notifier:
    """Tells the service manager how this process is. Never blocks, and fails without a fuss.

    What the manager has no room for now is said again by :meth:`report`.

    Args:
        environment: Where ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are looked up.

    Attributes:
        watchdog: Seconds within which the manager wants life signs; None where it wants none.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._told = ""
        self._unsaid: tuple[str, ...] = ()
        self._is_ready = False
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

    def waiting(self, within: float, status: str) -> None:
        """The start goes on, for so many seconds at most, whatever the manager allows."""
        self._unsaid = (_extended(within),)
        self._tell(status)

    def ready(self, status: str) -> None:
        """The start is over, and requests are taken."""
        self._is_ready = True
        self._unsaid = ("READY=1",)
        self._tell(status)

    def alive(self, status: str) -> None:
        """A life sign for the watchdog, where one is wanted, and what there is to see."""
        self._tell(status, *(() if self.watchdog is None else ("WATCHDOG=1",)))

    async def report(self, status: Callable[[], str]) -> None:
        """Give life signs, which only a loop that turns can give, until cancelled."""
        usual = STATUS_EVERY if self.watchdog is None else min(STATUS_EVERY, self.watchdog / 2)
        while self.is_heard:
            self.alive(status())
            pause = usual if self._is_ready and not self._unsaid else min(usual, SOON)
            await trio.sleep(max(pause, LEAST))

    def draining(self, within: float) -> None:
        """The end has begun: a drain of so many seconds at most, whatever the manager allows."""
        self._unsaid = ("STOPPING=1", _extended(within))
        self._tell("draining")

    def _tell(self, status: str, *signs: str) -> None:
        """Send what was not heard yet, the status where it is news, and signs of this moment."""
        news = [] if status == self._told else [_status(status)]
        lines = [*self._unsaid, *news, *signs]
        if self._socket is None or not lines:
            return
        try:
            self._socket.send("\n".join(lines).encode())
        except OSError as fault:  # its queue is full, or it is gone: no reason to fail
            log.debug("the service manager was not told %s: %s", lines[0], fault)
            return
        self._unsaid, self._told = (), status


def _extended(within: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={int((within + SLACK) * 1e6)}"


def _status(text: str) -> str:
    """The line of a status: short, and UTF-8, which a path within it need not be."""
    clipped = text.replace("\n", " ").encode(errors="replace")[:STATUS_MOST]
    return "STATUS=" + clipped.decode(errors="ignore")


def _watchdog(environment: Mapping[str, str]) -> float | None:
    wanted = environment.get("WATCHDOG_USEC", "")
    if not wanted.isdecimal() or len(wanted) > USEC_DIGITS or int(wanted) == 0:
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
