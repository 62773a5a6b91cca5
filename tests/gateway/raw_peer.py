"""A peer written by hand from the wire's codec alone, so that it can say what no client would.

Also the ways to a gateway that tests need: streams that take bytes only when somebody reads.
"""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from mesh.limits import Limits
from mesh.transport import Address, Link, StreamLink
from mesh.wire import codec
from mesh.wire.connection import Connection, Frame, Role
from mesh.wire.frames import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import mesh

PATIENCE = 20
"""Seconds after which a frame that a test waits for is taken to be missing."""
TRACE = bytes(range(16))
SPAN = bytes(range(8))


def call_header(
    call_id: int,
    service: str,
    method: str,
    *,
    parent_id: int = 0,
    entry_id: int = 0,
    timeout_us: int = 30_000_000,
    options: int = 0,
    activity_id: str | None = None,
    chain: list[str] | None = None,
    gateway: str | None = None,
    metadata: dict[str, str] | None = None,
    trace_id: bytes = TRACE,
    span_id: bytes = SPAN,
    version: str | None = None,
) -> codec.Call:
    """A CALL's header; what is not named is what a first call of a tree carries."""
    return codec.Call(
        call_id, parent_id, entry_id, timeout_us, trace_id, span_id, 3, 1, service, method,
        codec.MSGPACK, options, metadata, activity_id, chain, gateway, None, None, version,
    )  # fmt: skip


def error_header(call_id: int, code: int = 2, message: str = "", reason: str = "R") -> codec.Error:
    """An ERROR's header."""
    return codec.Error(
        call_id, code, reason, message, 0, codec.MSGPACK, None, None, None, None, 0, 0, None
    )


def result_header(call_id: int) -> codec.Result:
    """A RESULT's header."""
    return codec.Result(call_id, codec.MSGPACK, 0, 0, None, None)


def register_header(
    service: str, *methods: str, version: str = "", schema_size: int = 0
) -> codec.Register:
    """A REGISTER's header."""
    return codec.Register(service, version, {name: {} for name in methods}, {}, schema_size)


class _Speaker:
    """One end of a stream, and the protocol's receiving half."""

    stream: trio.abc.Stream
    is_over = False
    """Whether the other end has closed the connection."""
    _connection: Connection
    _frames: list[Frame]

    async def send(self, *headers: codec.Header, payload: bytes = b"") -> None:
        """Send frames in one piece."""
        await self.stream.send_all(
            b"".join(codec.encode_header(header, payload) for header in headers)
        )

    async def receive(self, *kinds: Kind) -> Frame:
        """The next frame of these kinds, or the next at all; heartbeats are passed over.

        Raises:
            EOFError: The connection ended before it.
        """
        with trio.fail_after(PATIENCE):
            return await self._receive(kinds)

    async def _receive(self, kinds: tuple[Kind, ...]) -> Frame:
        while True:
            while self._frames:
                frame = self._frames.pop(0)
                if frame[0] in kinds or (not kinds and frame[0] != Kind.HEARTBEAT):
                    return frame
            try:
                data = await self.stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                self.is_over = True
                raise EOFError
            for frame in self._connection.receive(bytes(data)):
                if frame[0] == Kind.WELCOME:  # what follows in the same piece is legal
                    self._connection.open()
                self._frames.append(frame)


class RawPeer(_Speaker):
    """A peer by hand."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._connection = Connection(Role.PEER, Limits())
        self._frames = []
        self._last_id = 0

    async def send_bytes(self, data: bytes) -> None:
        """Send anything at all."""
        await self.stream.send_all(data)

    async def open(
        self, name: str = "raw", process_id: str = "raw-1", features: tuple[str, ...] = ()
    ) -> codec.Welcome:
        """Introduce itself, and return the gateway's answer."""
        await self.send(hello(name, process_id, features))
        _, _, welcome, _ = await self.receive(Kind.WELCOME)
        assert isinstance(welcome, codec.Welcome)
        return welcome

    async def call(self, service: str, method: str, payload: bytes = b"\xc0", **more: Any) -> int:
        """Send a CALL and return its id, the next one if none is named."""
        call_id = more.pop("call_id", self._last_id + 1)
        self._last_id = max(self._last_id, call_id)
        await self.send(call_header(call_id, service, method, **more), payload=payload)
        return int(call_id)

    async def goodbye(self) -> str:
        """Read to the end of the connection, and answer pings.

        Returns:
            The reason of the GOAWAY that came last.
        """
        reason = ""
        try:
            while True:
                kind, _, header, _ = await self.receive(Kind.GOAWAY, Kind.HEARTBEAT)
                if kind == Kind.GOAWAY:
                    reason = header.reason
                elif header.flag == codec.PING:
                    await self.pong(header.sequence)
        except EOFError:
            return reason

    async def pong(self, sequence: int) -> None:
        """Answer a ping."""
        await self.send(codec.Heartbeat(sequence, codec.PONG, 0, 0, 0, 0, 0))


def hello(
    name: str = "raw", process_id: str = "raw-1", features: tuple[str, ...] = ()
) -> codec.Hello:
    """A HELLO's header."""
    return codec.Hello(1, name, process_id, None, {}, {}, [*features], "by hand")


@asynccontextmanager
async def raw_peer(
    gateway: mesh.Gateway,
    name: str | None = "raw",
    *,
    process_id: str = "",
    lockstep: bool = False,
    features: tuple[str, ...] = (),
) -> AsyncIterator[RawPeer]:
    """A raw peer over a stream in memory, welcomed unless ``name`` is None.

    Args:
        gateway: Whose peer it is.
        name: What it calls itself.
        process_id: Its identity; made from the name where empty.
        lockstep: Whether the stream takes bytes only once they are read.
        features: What it asks of the gateway.
    """
    make = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
    ours, theirs = make()
    gateway.attach(StreamLink(theirs, gateway.limits.max_outbox, "memory"))
    peer = RawPeer(ours)
    try:
        if name is not None:
            await peer.open(name, process_id or f"{name}-1", features)
        yield peer
    finally:
        await trio.aclose_forcefully(ours)


@asynccontextmanager
async def dialled(address: str) -> AsyncIterator[RawPeer]:
    """A raw peer over a real socket, that has not said anything yet."""
    where = Address.parse(address)
    stream: trio.SocketStream = (
        await trio.open_unix_socket(where.path)
        if where.scheme == "unix"
        else await trio.open_tcp_stream(where.host, where.port)
    )
    async with stream:
        yield RawPeer(stream)


class MemoryDialer:
    """A way for clients to a gateway over streams in memory that a test can cut.

    Attributes:
        streams: The clients' ends of the connections made so far.
        open: Whether the next dial gets through.
    """

    def __init__(self, gateway: mesh.Gateway | None, *, is_tcp: bool = False) -> None:
        self.gateway = gateway
        self.is_tcp = is_tcp
        self.streams: list[trio.StapledStream[Any, Any]] = []
        self.dialled = trio.Event()

    async def dial(self, limit: int) -> Link:
        """Open a link; refused while there is no gateway."""
        await trio.lowlevel.checkpoint()
        if self.gateway is None:
            raise ConnectionRefusedError(111, "no gateway in this test yet")
        ours, theirs = trio.testing.memory_stream_pair()
        self.gateway.attach(
            StreamLink(theirs, self.gateway.limits.max_outbox, "memory", is_tcp=self.is_tcp)
        )
        self.streams.append(ours)
        self.dialled.set()
        return StreamLink(ours, limit, "memory", is_tcp=self.is_tcp)

    async def cut(self) -> None:
        """Break the newest connection."""
        await trio.aclose_forcefully(self.streams[-1])


class HandGateway(_Speaker):
    """A gateway written by hand: the far end of one connection of a client that dials it.

    Args:
        lockstep: Whether the streams take bytes only once they are read.
        welcome: Fields of the WELCOME that differ from the usual.
    """

    def __init__(self, *, lockstep: bool = False, **welcome: Any) -> None:
        self._make = (
            trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
        )
        self._welcome = {
            "protocol_version": 1, "gateway": "by-hand", "session_id": 1, "metadata": {},
            "limits": {}, "features": [], "implementation": "by hand", **welcome,
        }  # fmt: skip
        self._arrived, self._take = trio.open_memory_channel[trio.abc.Stream](math.inf)
        self._frames = []

    async def dial(self, limit: int) -> Link:
        """Open a link to it."""
        ours, theirs = self._make()
        await self._arrived.send(theirs)
        return StreamLink(ours, limit, "memory")

    async def accept(self, *, welcome: bool = True) -> None:
        """Wait for the next connection and its HELLO, and answer it."""
        self.stream = await self._take.receive()
        self._connection = Connection(Role.GATEWAY, Limits())
        self._frames.clear()
        await self.receive(Kind.HELLO)
        if welcome:
            await self.welcome()

    async def welcome(self, *more: codec.Header) -> None:
        """Answer the HELLO, and send these frames in the same piece."""
        self._connection.open()
        await self.send(codec.Welcome(**self._welcome), *more)


class Clog(trio.abc.Stream):
    """A stream that takes nothing: each send blocks until it is closed."""

    def __init__(self) -> None:
        self.closed = trio.Event()
        self.incoming: trio.MemorySendChannel[bytes]
        self.incoming, self._out = trio.open_memory_channel[bytes](math.inf)

    async def send_all(self, _data: bytes | bytearray | memoryview) -> None:
        """Block."""
        await self.closed.wait()
        raise trio.ClosedResourceError

    async def wait_send_all_might_not_block(self) -> None:
        """Block."""
        await self.closed.wait()

    async def receive_some(self, _max_bytes: int | None = None) -> bytes:
        """What the test puts into :attr:`incoming`."""
        try:
            return await self._out.receive()
        except trio.EndOfChannel:
            return b""

    async def aclose(self) -> None:
        """Close, at once."""
        self.closed.set()
        self._out.close()
        await trio.lowlevel.checkpoint()


async def settled(client: mesh.Client) -> None:
    """Return once the gateway has read all that this client sent before."""
    await client.call("mesh", "status")
