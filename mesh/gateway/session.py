"""One connection of a gateway: handshake, frames in, the end."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from mesh.errors import Code, Reason, RemoteProtocolError
from mesh.gateway.answers import Answers
from mesh.gateway.life import DRAINING, HEALTH_NAMES, HEALTHY, heard
from mesh.gateway.welcome import make_welcome, may_see_tracebacks
from mesh.transport import IN_PROCESS, TLS_RECORD, Traffic
from mesh.wire import codec
from mesh.wire.codec import PROTOCOL_VERSION
from mesh.wire.connection import Connection, Role
from mesh.wire.frames import CONTINUED, PREFIX, Kind

if TYPE_CHECKING:
    from mesh.gateway.calls import Abandoned, InFlight
    from mesh.gateway.core import Core
    from mesh.gateway.endings import Endings
    from mesh.gateway.registry import Registration
    from mesh.gateway.routing import Router
    from mesh.transport import Link

log = logging.getLogger("mesh.gateway")

FLUSH_EVERY = 16
"""Frames handled before what they caused is sent, so that the next process starts while this one
still works."""

PAUSE = 0.02
"""The longest pause in seconds that one read of a peer is followed by for the sake of another."""


_OWN_TRAFFIC = Traffic()
"""Where the gateway's talk with its own service is counted: it leaves no process."""


class Session:
    """One connected peer.

    Attributes:
        name: What the peer calls itself; empty until it has said so.
        remote: Where it connects from, for people; empty where that is not known.
        process_id: The peer's process-lifetime id.
        calls: Calls that it made and that are in flight, by its own ids.
        serving: Calls that it serves, by the gateway's ids.
        abandoned: Calls that it was told to stop and has not yet acknowledged.
        compared: What it was just picked by among several, until it gets the call.
        last_call_id: The highest id of a call that it made.
        last_issued: The highest id of a call that it was handed.
        services: What it has registered.
        drained: The services that it still finishes calls of, once it drains.
        health: HEALTHY, LATE or UNRESPONSIVE, by its heartbeats.
        expelled: Why this side closes the connection, if it does.
        is_over: Whether the peer has closed it.
        serves: Whether it has ever registered anything.
        picked: When balancing last chose it, as a rising number.
    """

    def __init__(
        self,
        core: Core,
        router: Router,
        endings: Endings,
        link: Link,
        id_: int,
        *,
        internal: bool,
        remote: str = "",
    ) -> None:
        self.id = id_
        self.link = link
        self.internal = internal
        self.name = ""
        self.remote = remote
        self.process_id = ""
        self.metadata: dict[str, str] = {}
        self.calls: dict[int, InFlight] = {}
        self.serving: dict[int, InFlight] = {}
        self.abandoned: dict[int, Abandoned] = {}
        self.last_call_id = 0
        self.last_issued = 0
        self.services: dict[str, Registration] = {}
        self.drained: tuple[str, ...] = ()
        self.health = HEALTHY
        self.picked = 0
        self.compared: tuple[int, ...] = ()
        self.draining = False
        self.sends_spans = False
        self.tracebacks = may_see_tracebacks(link)
        self.connected_at = self.last_heartbeat = self.last_received = trio.current_time()
        self.heartbeat: codec.Heartbeat | None = None
        self.pings: dict[int, tuple[float, trio.Event, list[float]]] = {}
        self._core = core
        self._router = router
        self._endings = endings
        self._answers = Answers(core, endings)
        self._connection = Connection(Role.GATEWAY, core.limits)
        self._traffic = _OWN_TRAFFIC
        self._rare_frames = 0
        self.expelled: str | None = None
        self.is_over = False
        self.serves = False
        self._scope = trio.CancelScope()

    @property
    def load(self) -> int:
        """Calls that the peer works on, those included that it has not yet stopped."""
        return len(self.serving) + len(self.abandoned)

    @property
    def served(self) -> tuple[str, ...]:
        """The services that it serves, or still finishes calls of."""
        return (*self.drained, *self.services)

    @property
    def state(self) -> str:
        """One of :data:`HEALTH_NAMES`, or :data:`DRAINING`."""
        return DRAINING if self.draining else HEALTH_NAMES[self.health]

    @property
    def where(self) -> str:
        """Where it is connected, and where from, for people."""
        address = self.link.address
        at = address if address == IN_PROCESS else f"at {address}"
        return f"{at} from {self.remote}" if self.remote else at

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done."""
        return bool(self.process_id)

    async def run(self) -> None:
        """Serve the connection until it ends. Faults of the peer end only this connection."""
        core = self._core
        async with trio.open_nursery() as nursery:
            if not self.internal:
                self.link.traffic = self._traffic = core.traffic
            self._scope = nursery.cancel_scope
            nursery.start_soon(self.link.write_loop)
            fault: str | None = None
            try:
                with trio.move_on_at(self.connected_at + core.limits.handshake) as limit:
                    pending = await self._handshake()
                if limit.cancelled_caught:
                    fault = f"no HELLO within {core.limits.handshake:g} s"
                elif pending is not None:
                    await self._read(pending)
                    self.is_over = True
            except RemoteProtocolError as error:
                fault = str(error)
            except Exception as error:
                # A bug of this gateway: it must not disturb the other connections.
                log.exception(
                    "internal error while serving %s %s", self.name or "a peer", self.where
                )
                fault = f"internal error of the gateway: {type(error).__name__}"
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 0.5):
                    await self._finish(fault)
                with trio.CancelScope(shield=True):  # also where the goodbye was not taken in time
                    await self.link.aclose()
                nursery.cancel_scope.cancel()

    async def _handshake(self) -> bytes | None:
        """Read until HELLO is here; returns nothing when the peer left before."""
        connection = self._connection
        while True:
            data = await self.link.receive()
            if not data:
                return None
            self._traffic.bytes_in += len(data)
            if data[0] == TLS_RECORD and not self.is_open:
                raise RemoteProtocolError(
                    "it speaks TLS to an address without; it must write tcp:HOST:PORT"
                )
            for kind, _, header, _ in connection.receive(data):
                self._traffic.frames_in[kind] += 1
                if not self.is_open:
                    self._welcome(header)
                else:
                    raise RemoteProtocolError("frames follow HELLO before WELCOME was read")
            if self.is_open:
                return b""

    def _welcome(self, hello: codec.Hello) -> None:
        core, limits = self._core, self._core.limits
        if abs(hello.protocol_version - PROTOCOL_VERSION) > 1:
            raise RemoteProtocolError(
                f"protocol version {hello.protocol_version} is too far from this gateway's "
                f"{PROTOCOL_VERSION}; upgrade the older side"
            )
        self.name, self.process_id = hello.name, hello.process_id
        self.metadata = hello.metadata
        self._connection.open()
        core.sessions[self.id] = self
        if not self.internal:
            core.counters.connections_opened += 1
        welcome = make_welcome(core, self.id, tracebacks=self.tracebacks)
        self.link.put(codec.encode_header(welcome))
        if core.tracing is not None:
            self.sends_spans = codec.SPANS_FEATURE in hello.features
            core.tracing.collector.debts.connected(self)
        if codec.EVENTS in hello.features:
            core.events.watchers[self] = limits.max_chunk
        if core.draining:
            self.link.put(codec.encode_header(codec.GoAway("the gateway is shutting down", 0)))
        self.link.flush()
        if not self.internal:
            log.debug("peer %s (%s) shook hands %s", self.name, self.process_id, self.where)

    async def _read(self, data: bytes) -> None:
        core, link = self._core, self.link
        connection = self._connection
        router, answers = self._router, self._answers
        high, low = link.limit // 4, link.limit // 16
        traffic, frames_in = self._traffic, self._traffic.frames_in
        while True:
            handled, calls, flushed, waiting = 0, 0, 0, link.queued
            rare = self._rare_frames
            frames = connection.receive(data)
            if core.payloads is not None:  # somebody taps them
                frames = core.payloads.watch(self, frames)
            for kind, flags, header, payload in frames:
                if kind == 5:  # CALL
                    calls += 1
                    if flags & CONTINUED:
                        router.continued(self, header.call_id, flags, payload)
                    else:
                        router.call(self, header, flags, payload)
                elif kind == 6:  # RESULT
                    if flags & CONTINUED:
                        answers.continued(self, Kind.RESULT, header.call_id, flags, payload)
                    else:
                        answers.result(self, header, flags, payload)
                else:
                    self._rare(kind, flags, header, payload)
                handled += 1
                if handled == FLUSH_EVERY:
                    handled = 0
                    flushed += FLUSH_EVERY
                    core.flush()
            core.flush()
            # Counted once per chunk: what is neither a CALL nor rare is a RESULT.
            frames_in[5] += calls
            frames_in[6] += flushed + handled - calls - (self._rare_frames - rare)
            if core.congested is not None:
                # What this peer sends goes to one that takes it more slowly. A short pause lets a
                # reader that is well keep up, and costs little where the reader is not.
                slow, core.congested = core.congested, None
                with trio.move_on_after(PAUSE):
                    await slow.wait_below(slow.limit // 2)
            if link.queued > high and (self.calls or link.queued > waiting):
                # Its own replies pile up unread, those included that were given at once: take no
                # further calls from it until it reads.
                await link.wait_below(low)
            data = await link.receive()
            if not data:
                return
            traffic.bytes_in += len(data)
            self.last_received = trio.current_time()

    def _rare(self, kind: int, flags: int, header: codec.Header, payload: bytes) -> None:
        core = self._core
        self._rare_frames += 1
        self._traffic.frames_in[kind] += 1
        match header:
            case codec.Error():
                self._answers.error(self, header, flags, payload)
            case codec.Cancel():
                self._endings.cancelled(self, header)
            case codec.Heartbeat():
                heard(core, self, header)
            case codec.Register() if not self.draining:
                new = core.registry.add(self, header)
                core.registry.take_schema(self, header, payload)
                if not header.methods:
                    return  # a further piece of a schema
                self._router.waiting.resume(header.service)
                core.events.registered(self, header, new)
            case codec.Unregister():
                now = trio.current_time()
                gone = core.registry.remove(self, header.service, header.methods, now)
                core.events.unregistered(self, header.service, gone)
            case codec.GoAway():
                self.draining = True
                core.registry.withdraw(self, trio.current_time(), draining=True)
                core.events.drains_peer(self)
                if core.tracing is not None:
                    core.tracing.collector.collect_now()  # its last chance to hear of kept traces
                # In line with the frames of long calls: nothing comes after this one.
                core.send_bulk(self.link, 0, codec.encode_header(codec.GoAway("goodbye", 0)))
            case codec.Reference():
                if flags & CONTINUED:
                    self._answers.continued(self, Kind(kind), header.call_id, flags, payload)
                else:
                    self._endings.send_error(
                        self,
                        header.call_id,
                        Code.UNIMPLEMENTED,
                        Reason.UNSUPPORTED,
                        f"{Kind(kind).name}: streams are not supported by this gateway",
                        chain=(),
                        activity_id="",
                    )
            case codec.Spans():
                if core.tracing is not None:
                    core.tracing.collector.take(self, header, payload)
            case _:
                pass  # of a later version, or what one that drains would serve

    # The end.

    def expel(self, reason: str) -> None:
        """Close the connection from this side."""
        self.expelled = reason
        self._scope.cancel()

    def _take_unsent(self) -> dict[int, bytes]:
        """Take what waits; returns the whole CALL frames of which no byte has left, by call id."""
        found: dict[int, bytes] = {}
        for frame in self.link.take_unsent():
            _, kind, flags, size = PREFIX.unpack_from(frame)
            if kind == Kind.CALL and not flags:
                header = codec.decode(kind, flags, frame[PREFIX.size : PREFIX.size + size])
                found[header.call_id] = frame
        return found

    async def _finish(self, fault: str | None) -> None:
        core = self._core
        was_open = core.sessions.pop(self.id, None) is not None
        served, in_flight = self.served, self.load
        self._connection.close()
        for _, answered, _ in self.pings.values():
            answered.set()
        core.registry.withdraw(self, trio.current_time())
        if core.tracing is not None:
            core.tracing.collector.debts.disconnected(self)
        unsent = self._take_unsent()
        for entry in self._endings.lost(self, unsent):
            self._router.reroute(entry, unsent[entry.id])
        core.flush()
        if was_open:
            core.counters.connections_closed += not self.internal
        else:
            core.counters.connections_refused += 1
        core.events.watchers.pop(self, None)
        core.events.gone(self, served, in_flight, fault)
        if fault is not None:
            core.counters.protocol_errors += 1
            self.link.put(codec.encode_header(codec.GoAway(fault[:1000], 0)))
            self.link.flush()
            await self.link.wait_below(0)
