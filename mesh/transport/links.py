"""Links: an outbox and the only I/O on the wire. One reader and one writer task per connection.

A :class:`SocketLink` sends at once in :meth:`~Link.flush` when nothing is under way, so that most
frames leave without waking a task. A :class:`StreamLink` serves trio streams (those of tests and
simulators), which have no synchronous send: there a flush wakes the writer.
"""

from __future__ import annotations

import socket
from abc import abstractmethod
from typing import Protocol

import trio

from mesh.transport.outbox import Outbox
from mesh.transport.remote import user_of

RECEIVE, RECEIVE_BULK = 64 * 1024, 256 * 1024
"""Bytes taken in one read, and while reads come full. Python allocates the whole of it for each
read, and from 128 KiB on the allocator maps fresh pages every time: measured at 2 and 17 us."""

SEND_BUFFER = 512 * 1024
"""Bytes that the system may hold of what was sent by a Unix socket, as far as it allows that. Its
default of 208 KiB is full after three frames of a long message, and each time it is the two
processes change places: 1 MiB took a third longer. TCP sizes its buffers itself."""

IN_PROCESS = "in process"
"""The address of a link whose two ends are in one process."""


class Link(Outbox):
    """One connection's bytes, both ways.

    Attributes:
        address: The other end, for people.
        is_tcp: Whether silence can mean a broken network.
        broken: Why sending failed, if it did; from then on nothing leaves.
        fault: Why receiving ended, for people, where more than the end is known.
    """

    __slots__ = ("_below", "_room", "_wake", "address", "broken", "fault", "is_tcp")

    def __init__(self, limit: int, address: str, *, is_tcp: bool = False) -> None:
        super().__init__(limit)
        self.address = address
        self.is_tcp = is_tcp
        self.broken: Exception | None = None
        self.fault = ""
        self._wake = trio.Event()
        self._room: trio.Event | None = None
        self._below = 0

    @property
    def user(self) -> int | None:
        """The number of the user at the other end, where the system vouches for it."""
        return None

    @property
    @abstractmethod
    def blocked(self) -> bool:
        """Whether the other end does not take what was already offered to it."""

    @abstractmethod
    def flush(self) -> None:
        """Send what waits, now or as soon as the other end takes it. Never blocks or raises."""

    @abstractmethod
    async def receive(self) -> bytes:
        """What arrived; empty once the connection is over, however it ended."""

    @abstractmethod
    async def write_loop(self) -> None:
        """The writer: sends what a flush could not. Ends when the link is broken."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close at once; what is queued is dropped."""

    async def wait_below(self, level: int) -> None:
        """Return once at most ``level`` bytes are queued, or the link is broken."""
        while self.queued > level and self.broken is None:
            if self._room is None:
                self._room, self._below = trio.Event(), level
            self._below = max(self._below, level)
            await self._room.wait()

    def discard(self, key: int) -> int:
        """See :meth:`Outbox.discard`; makes room for those who wait for it."""
        dropped = super().discard(key)
        self._sent()
        return dropped

    def _sent(self) -> None:
        if self._room is not None and self.queued <= self._below:
            self._room.set()
            self._room = None

    def _break(self, fault: Exception) -> None:
        self.broken = fault
        self._wake.set()
        if self._room is not None:
            self._room.set()
            self._room = None


class SocketLink(Link):
    """A link over a connected stream socket of the standard library."""

    __slots__ = ("_receive_size", "_rest", "_socket")

    def __init__(self, sock: socket.socket, limit: int, address: str) -> None:
        is_tcp = sock.family in {socket.AF_INET, socket.AF_INET6}
        super().__init__(limit, address, is_tcp=is_tcp)
        sock.setblocking(False)
        if is_tcp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        elif sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < SEND_BUFFER:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._socket = sock
        self._rest: list[bytes | memoryview] = []
        self._receive_size = RECEIVE

    @property
    def user(self) -> int | None:
        """See :attr:`Link.user`: that of a Unix socket, and of one within this process."""
        return user_of(self._socket)

    @property
    def blocked(self) -> bool:
        """Whether a send is under way."""
        return bool(self._rest)

    def flush(self) -> None:
        """See :meth:`Link.flush`."""
        if self._rest or self.broken is not None or not self.queued:
            return
        if self._bulk:
            self._rest = self.pieces()
            try:
                self._send_rest()
            except OSError as fault:
                self._break(fault)
                return
        else:
            data = self.gather()
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as fault:
                self._break(fault)
                return
            self.queued -= sent
            if self._room is not None:
                self._sent()
            if sent < len(data):
                self._rest = [memoryview(data)[sent:]]
        if self.queued:
            self._wake.set()

    def _send_rest(self) -> None:
        """Send as much of what is under way as the socket takes."""
        rest = self._rest
        try:
            sent = self._socket.sendmsg(rest)
        except BlockingIOError:
            return
        self.queued -= sent
        whole = 0
        for piece in rest:
            if sent < len(piece):
                break
            sent -= len(piece)
            whole += 1
        del rest[:whole]
        if sent:
            rest[0] = memoryview(rest[0])[sent:]
        self._sent()

    async def write_loop(self) -> None:
        """See :meth:`Link.write_loop`."""
        while self.broken is None:
            await self._wake.wait()
            self._wake = trio.Event()
            while self.queued and self.broken is None:
                try:
                    await trio.lowlevel.wait_writable(self._socket)
                    if not self._rest:
                        self._rest = self.pieces()
                    self._send_rest()
                except (OSError, trio.ClosedResourceError) as fault:
                    self._break(fault)
                    return

    async def receive(self) -> bytes:
        """See :meth:`Link.receive`."""
        while True:
            try:
                await trio.lowlevel.wait_readable(self._socket)
                data = self._socket.recv(self._receive_size)
            except BlockingIOError:
                continue
            except (OSError, ValueError, trio.ClosedResourceError):  # ValueError: closed before
                return b""
            self._receive_size = RECEIVE_BULK if len(data) >= RECEIVE else RECEIVE
            return data

    async def aclose(self) -> None:
        """See :meth:`Link.aclose`."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        if self.broken is None:
            self._break(trio.ClosedResourceError("this link is closed"))
        await trio.lowlevel.checkpoint()


class StreamLink(Link):
    """A link over any trio stream."""

    __slots__ = ("_sending", "_stream")

    def __init__(
        self, stream: trio.abc.Stream, limit: int, address: str, *, is_tcp: bool = False
    ) -> None:
        super().__init__(limit, address, is_tcp=is_tcp)
        self._stream = stream
        self._sending = False

    @property
    def blocked(self) -> bool:
        """Whether a send is under way."""
        return self._sending

    def flush(self) -> None:
        """See :meth:`Link.flush`."""
        if self.queued and self.broken is None:
            self._wake.set()

    async def write_loop(self) -> None:
        """See :meth:`Link.write_loop`."""
        while self.broken is None:
            await self._wake.wait()
            self._wake = trio.Event()
            while self.queued and self.broken is None:
                data = self.gather()
                self._sending = True
                try:
                    await self._stream.send_all(data)
                except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as fault:
                    self._break(fault)
                    return
                finally:
                    self._sending = False
                self.queued -= len(data)
                self._sent()

    async def receive(self) -> bytes:
        """See :meth:`Link.receive`."""
        try:
            return bytes(await self._stream.receive_some())
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    async def aclose(self) -> None:
        """See :meth:`Link.aclose`."""
        if self.broken is None:
            self._break(trio.ClosedResourceError("this link is closed"))
        await trio.aclose_forcefully(self._stream)


class Dialer(Protocol):
    """Anything that opens links to one gateway: an address, a `Gateway` object, a simulated net."""

    async def dial(self, limit: int) -> Link:
        """Open a link whose outbox holds ``limit`` bytes.

        Raises:
            OSError: There is no way through now; trying again later may help.
        """
        ...
