"""The simulated network: byte streams with latency, bounded buffers, and every way to fail.

A stream is a pair of pipes. Bytes that one end sends arrive at the other after the latency, in
pieces of any size. A pipe takes only so many bytes that are not read yet; then its writer waits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

MOST = 256 * 1024
"""The most bytes of one read."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What one connection is like."""

    latency: float
    capacity: int
    fragments: bool


class Pipe:
    """One direction of a stream.

    Attributes:
        tamper: What a broken network does to the bytes of one send; for tests of the oracle.
    """

    def __init__(self, rng: random.Random, weather: Weather) -> None:
        self._rng = rng
        self._weather = weather
        self._arriving: deque[tuple[float, bytes]] = deque()
        self._held = 0
        self._ended = False
        self._reset = False
        self._refused = False
        self._deaf_until = 0.0
        self._silent = False
        self._changed = trio.Event()
        self._room = trio.Event()
        self.tamper: Callable[[bytes], bytes] | None = None

    async def send(self, data: bytes) -> None:
        """Take bytes, waiting for room."""
        if self.tamper is not None:
            data = self.tamper(data)
        await trio.lowlevel.checkpoint()
        at = 0
        while at < len(data):
            if self._ended:
                raise trio.BrokenResourceError("the simulated connection is broken")
            if self._refused:
                return  # the other end closed: this end has not heard of it yet
            room = self._weather.capacity - self._held
            if room <= 0:
                await self._room.wait()
                continue
            piece = data[at : at + room]
            at += len(piece)
            self._arriving.append((trio.current_time() + self._weather.latency, piece))
            self._held += len(piece)
            self._wake()

    async def receive(self) -> bytes:
        """What has arrived, once something has; empty at the end."""
        await trio.lowlevel.checkpoint()
        while True:
            now = trio.current_time()
            if self._silent:
                await self._wait(float("inf"))
            elif self._deaf_until > now:
                await self._wait(self._deaf_until)
            elif self._arriving:
                if self._arriving[0][0] <= now:
                    return self._take(now)
                await self._wait(self._arriving[0][0])
            elif self._reset:
                raise trio.BrokenResourceError("the simulated connection was reset")
            elif self._ended:
                return b""
            else:
                await self._wait(float("inf"))

    def _take(self, now: float) -> bytes:
        parts: list[bytes] = []
        size = 0
        while self._arriving and self._arriving[0][0] <= now and size < MOST:
            parts.append(self._arriving.popleft()[1])
            size += len(parts[-1])
        data = b"".join(parts)
        if self._weather.fragments and len(data) > 1 and self._rng.random() < 0.3:
            keep = self._rng.randrange(1, len(data))
            self._arriving.appendleft((now, data[keep:]))
            data = data[:keep]
        self._held -= len(data)
        self._room.set()
        self._room = trio.Event()
        return data

    async def _wait(self, until: float) -> None:
        with trio.CancelScope(deadline=until):
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def finish(self) -> None:
        """The writer closed: what is under way arrives, then the end."""
        self._ended = True
        self._wake()
        self._room.set()

    def refuse(self) -> None:
        """The reader closed: nothing arrives any more."""
        self._refused = True
        self._arriving.clear()
        self._held = 0
        self._room.set()
        self._room = trio.Event()

    def cut(self) -> None:
        """The connection breaks: what is under way arrives up to any byte, then the reset."""
        if self._ended:
            return
        keep = self._rng.randrange(self._held + 1) if self._held else 0
        kept: deque[tuple[float, bytes]] = deque()
        for at, piece in self._arriving:
            if keep > 0:
                kept.append((at, piece[:keep]))
                keep -= len(piece)
        self._arriving = kept
        self._held = sum(len(piece) for _, piece in kept)
        self._ended = self._reset = True
        self._wake()
        self._room.set()

    def stall(self, until: float) -> None:
        """The reader is busy and reads nothing for a while."""
        self._deaf_until = max(self._deaf_until, until)

    def silence(self) -> None:
        """A cable is pulled: nothing arrives any more, and nobody is told."""
        self._silent = True


class SimStream(trio.abc.Stream):
    """One end of a simulated connection."""

    def __init__(self, incoming: Pipe, outgoing: Pipe) -> None:
        self.incoming = incoming
        self.outgoing = outgoing
        self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream`."""
        self._check_open()
        await self.outgoing.send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 - reads are small anyway
        """See `trio.abc.ReceiveStream`."""
        self._check_open()
        return await self.incoming.receive()

    async def aclose(self) -> None:
        """Close both directions; what was sent still arrives."""
        self.closed = True
        self.outgoing.finish()
        self.incoming.refuse()
        await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError("this end is closed")


class Wire:
    """One connection: both ends, and what can happen to it."""

    def __init__(self, rng: random.Random, weather: Weather) -> None:
        up, down = Pipe(rng, weather), Pipe(rng, weather)
        self.up, self.down = up, down
        self.peer_end = SimStream(down, up)
        self.gateway_end = SimStream(up, down)
        self.silent = False

    @property
    def over(self) -> bool:
        """Whether both ends have closed it."""
        return self.peer_end.closed and self.gateway_end.closed

    def cut(self) -> None:
        """Break it both ways, each at any byte."""
        self.up.cut()
        self.down.cut()

    def stall(self, until: float) -> None:
        """The peer reads nothing until then."""
        self.down.stall(until)

    def silence(self) -> None:
        """Both directions fall silent."""
        self.silent = True
        self.up.silence()
        self.down.silence()
