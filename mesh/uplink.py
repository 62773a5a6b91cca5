"""A peer's connection to its gateway: dial, handshake, read, write, heartbeats, reconnect.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import trio

from mesh import _version
from mesh.assembly import Assembler, AssemblyFull
from mesh.errors import (
    Code,
    MeshError,
    Reason,
    RemoteProtocolError,
    Unavailable,
    UsageError,
)
from mesh.gathering import Gathering
from mesh.outgoing import Outgoing
from mesh.service import Dispatcher
from mesh.wire import codec
from mesh.wire.codec import BEAT, BY_CALLER, BY_DISCONNECT, PING, PONG, PROTOCOL_VERSION
from mesh.wire.connection import Connection, Role
from mesh.wire.frames import CONTINUED, MORE, PREFIX, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mesh.limits import Limits
    from mesh.process import Process
    from mesh.transport import Dialer, Link

log = logging.getLogger("mesh.client")


def _drop(_: bytes) -> None:
    """Where frames go while there is no connection."""


class Uplink:
    """One peer's way to its gateway, through as many connections as it takes.

    Attributes:
        gateway: The instance id of the gateway connected to now or last.
        max_message: The gateway's bound, in bytes.
        call_timeout: What a call may take where nobody says otherwise, in seconds.
        ready: Whether calls can be sent now.
        link: The connection, past its handshake, or None.
        leaving: Whether this peer closes or is closed.
        sends_tracebacks: Whether the gateway lets tracebacks travel.
    """

    def __init__(
        self,
        name: str,
        dialer: Dialer,
        *,
        limits: Limits,
        process: Process,
        metadata: Mapping[str, str],
        reconnect: bool,
    ) -> None:
        self.name = name
        self.limits = limits
        self.process = process
        self.gateway = ""
        self.max_message = limits.max_message
        self.call_timeout = limits.call_timeout
        self.sends_tracebacks = False
        self.services: dict[str, dict[str, dict[str, Any]]] = {}
        self._dialer = dialer
        self._metadata = dict(metadata)
        self._reconnect = reconnect
        self.max_chunk = limits.max_chunk
        self._heartbeat = limits.heartbeat
        self._assembler = Assembler(limits.max_message, limits.max_assembly)
        self.outgoing = Outgoing(self, self._assembler)
        self.dispatcher = Dispatcher(self, limits.max_threads)
        self.ready = False
        self.link: Link | None = None
        self.send: Callable[[bytes], None] = _drop
        self._ready = trio.Event()
        self.leaving = False
        self._gateway_leaving = False
        self._goodbye = trio.Event()
        self.failure: MeshError | None = None
        self._last_fault = "no connection has been tried"
        self._last_received = 0.0
        self._connection_scope = trio.CancelScope()

    # State.

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection that is past its handshake."""
        return self.link is not None

    async def wait_room(self) -> None:
        """Return once the outbox has room again."""
        if self.link is not None:
            await self.link.wait_below(self.link.limit // 2)

    async def wait_ready(self) -> None:
        """Return once calls can be sent.

        Raises:
            MeshError: There will never be a connection again; why is its message.
        """
        while not self.ready:
            if self.failure is not None:
                raise self.failure
            await self._ready.wait()

    def explain_unreachable(self) -> str:
        """Why there is no connection now."""
        return self._last_fault

    # Sending: synchronous.

    def send_long(self, key: int, kind: Kind, header: tuple[Any, ...], payload: bytes) -> int:
        """Queue a message of several frames; returns how many. ``key`` is for :meth:`discard`."""
        link = self.link
        if link is None:
            return 0
        frames = 0
        for frame in codec.chunks(kind, header, payload, self.max_chunk):
            link.put_bulk(key, frame)
            frames += 1
        link.flush()
        return frames

    def answer(self, call_id: int, kind: Kind, header: tuple[Any, ...], payload: bytes) -> None:
        """Answer a call that this peer serves."""
        if len(payload) <= self.max_chunk:
            self.send(codec.encode(kind, header, payload))
        else:
            self.send_long(-call_id, kind, header, payload)

    def cancel(self, call_id: int, frames: int, reason: int = BY_CALLER) -> None:
        """Tell the gateway that nobody waits for a call any more, unless it never left."""
        link = self.link
        if link is None or (frames and link.discard(call_id) == frames):
            return
        self.send(codec.encode(Kind.CANCEL, (call_id, reason)))

    def discard(self, call_id: int) -> int:
        """Drop the frames of a long call that have not left; returns how many."""
        return self.link.discard(call_id) if self.link is not None else 0

    def take_unsent_calls(self) -> set[int]:
        """Empty the outbox of a lost connection; returns the ids of calls that never left."""
        found: set[int] = set()
        for frame in self.link.take_unsent() if self.link is not None else ():
            _, kind, flags, size = PREFIX.unpack_from(frame)
            if kind == Kind.CALL:
                header = codec.decode(kind, flags, frame[PREFIX.size : PREFIX.size + size])
                found.add(header.call_id)
        return found

    def register(self, service: str, methods: dict[str, dict[str, Any]]) -> None:
        """Serve these methods, now and after every reconnect."""
        self.services.setdefault(service, {}).update(methods)
        if self.link is not None and not self.leaving:
            self.send(codec.encode_header(codec.Register(service, "", methods, self._metadata)))

    def unregister(self, service: str, methods: list[str]) -> None:
        """Serve these methods no longer."""
        registered = self.services.get(service, {})
        for method in methods:
            registered.pop(method, None)
        if self.link is not None:
            self.send(codec.encode_header(codec.Unregister(service, methods)))

    # Life.

    async def run(self) -> None:
        """Stay connected until cancelled, or until there is no way to go on."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.outgoing.run_timers)
            await nursery.start(self.dispatcher.run)
            failures = 0
            while not self.leaving:
                connected = await self._connect_once()
                failures = 0 if connected else failures + 1
                if self.leaving or (connected and not self._reconnect):
                    break
                longest = min(
                    self.limits.reconnect_longest,
                    self.limits.reconnect_first * 2 ** min(failures, 20),
                )
                await trio.sleep(self.process.random.uniform(0, longest))
            if self.failure is None:
                self.failure = Unavailable(
                    f"the connection to the gateway is over: {self._last_fault}",
                    reason=Reason.CONNECTION_LOST,
                    maybe_executed=False,
                )
            self._ready.set()
            nursery.cancel_scope.cancel()

    async def _connect_once(self) -> bool:
        """One connection, from dial to loss; false if the handshake did not succeed."""
        try:
            with trio.fail_after(self.limits.handshake):
                link = await self._dialer.dial(self.limits.max_outbox)
        except trio.TooSlowError:
            self._last_fault = f"no connection within {self.limits.handshake:g} s"
            return False
        except OSError as fault:
            self._last_fault = f"{self._dialer}: {fault.strerror or fault}"
            return False
        connection = Connection(Role.PEER, self.limits)
        opened = False
        try:
            async with trio.open_nursery() as nursery:
                self._connection_scope = nursery.cancel_scope
                nursery.start_soon(link.write_loop)
                try:
                    opened = await self._open(link, connection)
                    if opened:
                        nursery.start_soon(self._gathering.run)
                        nursery.start_soon(self._beat_loop, link)
                        await self._read(link, connection)
                except RemoteProtocolError as fault:
                    self._last_fault = f"the gateway broke the protocol: {fault}"
                    log.error("%s", self._last_fault)  # noqa: TRY400
                nursery.cancel_scope.cancel()
        finally:
            self._lost()
            with trio.CancelScope(shield=True):
                await link.aclose()
        return opened

    async def _open(self, link: Link, connection: Connection) -> bool:
        hello = codec.Hello(
            protocol_version=PROTOCOL_VERSION,
            name=self.name,
            process_id=self.process.id,
            credentials=None,
            metadata=self._metadata,
            limits={"max_message": self.limits.max_message},
            features=[],
            implementation=f"spanmesh/{_version.__version__}",
        )
        link.put(codec.encode_header(hello))
        link.flush()
        with trio.move_on_after(self.limits.handshake):
            while True:
                data = await link.receive()
                if not data:
                    self._last_fault = f"{self._dialer}: the gateway closed the connection"
                    return False
                for kind, flags, header, payload in connection.receive(data):
                    if isinstance(header, codec.GoAway) and not self.is_connected:
                        self._last_fault = f"the gateway refused the connection: {header.reason}"
                        log.error("%s", self._last_fault)
                        return False
                    if isinstance(header, codec.Welcome):
                        connection.open()
                        self._welcomed(link, header)
                    else:
                        self._handle(kind, flags, header, payload)
                if self.is_connected:
                    return True
        self._last_fault = f"{self._dialer}: no WELCOME within {self.limits.handshake:g} s"
        return False

    def _welcomed(self, link: Link, welcome: codec.Welcome) -> None:
        limits = welcome.limits
        self.gateway = welcome.gateway
        self.max_message = limits.get("max_message", self.max_message)
        self.max_chunk = limits.get("max_chunk", self.max_chunk)
        self.call_timeout = limits.get("call_timeout_us", 30_000_000) / 1e6
        self._heartbeat = limits.get("heartbeat_us", 5_000_000) / 1e6
        self._assembler.max_message = self.max_message
        self.sends_tracebacks = "tracebacks" in welcome.features
        self._last_received = trio.current_time()
        self._gateway_leaving = False
        self.link = link
        self.ready = True
        self._goodbye = trio.Event()
        self.outgoing.last_id = 0
        self._gathering = Gathering(link)
        self.send = self._gathering.send
        for service, methods in self.services.items():
            link.put(codec.encode_header(codec.Register(service, "", methods, self._metadata)))
        link.flush()
        self._ready.set()
        log.info("%s connected to gateway %s", self.name, welcome.gateway)

    def _lost(self) -> None:
        if self.link is None:
            return
        if not self.leaving:
            log.warning("%s lost its gateway %s: %s", self.name, self.gateway, self._last_fault)
        self.outgoing.lost(self._last_fault)
        self.link = None
        self.ready = False
        self.send = _drop
        self._goodbye.set()
        self._ready = trio.Event()
        self.dispatcher.cancel_all(BY_DISCONNECT)
        self._assembler = self.outgoing._assembler = Assembler(
            self.max_message, self.limits.max_assembly
        )

    # Tasks of one connection.

    async def _beat_loop(self, link: Link) -> None:
        sequence = 0
        lag = 0.0
        while True:
            sequence += 1
            self._beat(link, BEAT, sequence, lag)
            due = trio.current_time() + self._heartbeat
            await trio.sleep_until(due)
            now = trio.current_time()
            lag = now - due
            silent = now - self._last_received
            if link.is_tcp and silent > self.limits.silent_after * self._heartbeat:
                self._last_fault = f"the gateway was silent for {silent:.0f} s"
                self._connection_scope.cancel()

    def _beat(self, link: Link, flag: int, sequence: int, lag: float = 0.0) -> None:
        usage = self.process.usage()
        beat = codec.Heartbeat(
            sequence,
            flag,
            max(0, int(lag * 1e6)),
            len(self.dispatcher.serving),
            link.queued,
            usage.memory,
            usage.cpu_us,
        )
        link.put(codec.encode_header(beat))
        link.flush()

    async def _read(self, link: Link, connection: Connection) -> None:
        outgoing, dispatcher, gathering = self.outgoing, self.dispatcher, self._gathering
        while True:
            data = await link.receive()
            if not data:
                if not self._gateway_leaving:
                    self._last_fault = "the gateway closed the connection"
                return
            self._last_received = trio.current_time()
            woken = 0
            for kind, flags, header, payload in connection.receive(data):
                if kind == 6:  # RESULT
                    woken += outgoing.answer(kind, flags, header, payload)
                elif kind == 5 and not flags:  # CALL
                    woken += dispatcher.dispatch(header, payload)
                else:
                    woken += self._handle(kind, flags, header, payload)
            gathering.expected += woken
            if link.queued and not link.blocked:
                link.flush()

    def _handle(self, kind: int, flags: int, header: Any, payload: bytes) -> int:
        """The rarer frames; returns how many tasks that woke."""
        match kind:
            case Kind.ERROR | Kind.RESULT:
                return self.outgoing.answer(kind, flags, header, payload)
            case Kind.CALL:
                return self._assemble_call(flags, header, payload)
            case Kind.CANCEL:
                if self._assembler.drop(-header.call_id):
                    self._refuse(
                        header.call_id, Code.CANCELLED, Reason.CALLER_CANCELLED, "cancelled"
                    )
                else:
                    self.dispatcher.cancel(header.call_id, header.reason)
            case Kind.HEARTBEAT:
                if header.flag == PING and self.link is not None:
                    self._beat(self.link, PONG, header.sequence)
            case Kind.GOAWAY:
                self._told_to_go(header)
            case Kind.ITEM | Kind.END | Kind.CREDIT:
                self._refuse(
                    header.call_id,
                    Code.UNIMPLEMENTED,
                    Reason.UNSUPPORTED,
                    f"{Kind(kind).name}: streams are not supported by this peer",
                )
            case _:
                pass  # KEEP and EVENT: nothing here asked for them
        return 0

    def _assemble_call(self, flags: int, header: Any, payload: bytes) -> int:
        call_id = header.call_id
        if not flags & (MORE | CONTINUED):
            return self.dispatcher.dispatch(header, payload)
        if flags & CONTINUED and not self._assembler.has(-call_id):
            return 0  # refused or cancelled meanwhile
        try:
            whole = self._assembler.add(-call_id, Kind.CALL, flags, header, payload)
        except AssemblyFull as fault:
            self._refuse(call_id, Code.RESOURCE_EXHAUSTED, Reason.MESSAGE_TOO_LARGE, str(fault))
            return 0
        return self.dispatcher.dispatch(whole[1], whole[2]) if whole is not None else 0

    def _refuse(self, call_id: int, code: Code, reason: Reason, message: str) -> None:
        fields = (
            call_id,
            code.number,
            str(reason),
            message,
            0,
            0,
            None,
            None,
            None,
            None,
            0,
            0,
            None,
        )
        self.answer(call_id, Kind.ERROR, fields, b"")

    def _told_to_go(self, goaway: codec.GoAway) -> None:
        if self.leaving:
            self._goodbye.set()
            return
        self._last_fault = goaway.reason
        self._gateway_leaving = True
        self.ready = False
        self._ready = trio.Event()
        log.warning("gateway %s says goodbye: %s", self.gateway, goaway.reason)

    # The end.

    async def leave(self, drain: float) -> None:
        """Take no new calls, finish those under way within ``drain`` seconds, send what is queued."""
        self.leaving = True
        link = self.link
        if link is not None:
            with trio.move_on_after(drain):
                link.put(codec.encode_header(codec.GoAway("closing", int(drain * 1e6))))
                link.flush()
                await self._goodbye.wait()  # also set when the connection is lost
                await self.dispatcher.wait_idle()
            link.flush()
            with trio.move_on_after(1.0):
                await link.wait_below(0)
        self._connection_scope.cancel()
