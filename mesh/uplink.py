"""A peer's way to its gateway: sending, registering, reconnecting, leaving."""

from __future__ import annotations

import copy
import logging
from math import inf
from typing import TYPE_CHECKING, Any

import trio

from mesh import events
from mesh.conversation import Conversation
from mesh.errors import CallError, Code, MeshError, Reason, Unavailable
from mesh.outcomes import MESSAGE_KEPT, REASON_KEPT
from mesh.outgoing import Outgoing
from mesh.reconnecting import Pauses, Try
from mesh.registering import Registrations
from mesh.service import Dispatcher
from mesh.tracing import Reporter
from mesh.transport import IN_PROCESS, HandshakeFailed
from mesh.watching import PeerFeed
from mesh.wire import codec
from mesh.wire.codec import BY_CALLER, MSGPACK
from mesh.wire.frames import PREFIX, Kind
from mesh_telemetry.peer_records import PeerRow, Source
from mesh_telemetry.user_spans import collect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mesh.context import Call
    from mesh.limits import Limits
    from mesh.process import Process
    from mesh.registering import Served
    from mesh.transport import Dialer, Link
    from mesh_telemetry.decisions import Noted

log = logging.getLogger("mesh.client")


ROUNDING = 1e-6
"""Seconds by which a deadline may be off that has been taken apart and put together again."""


def _drop(_: bytes) -> None:
    """Where frames go while there is no connection."""


class Uplink:
    """One peer's way to its gateway, through as many connections as it takes.

    Attributes:
        clock: trio's, without the look-up that ``trio.current_time`` makes for each call.
        gateway: The instance id of the gateway connected to now or last.
        encoding: How parameters travel, by its number in headers.
        features: What this peer asks of a gateway beyond the plain protocol.
        max_message: The gateway's bound, in bytes.
        max_chunk: The payload of one frame, in bytes.
        max_header: The header of one frame that the gateway takes, in bytes.
        max_schema: The schema of a contract that it takes, in bytes.
        max_requires: What a service requires that it takes beside metadata, in characters.
        service_wait: How long calls wait for a connection, in seconds.
        call_timeout: What a call may take where nobody says otherwise, in seconds.
        sends_tracebacks: Whether the gateway lets tracebacks travel.
        ready: Whether calls can be sent now.
        requires: What each service requires, as it is told when that is registered next.
        missing: Services that what is served here requires, and that have yet to come.
        link: The connection, past its handshake, or None.
        send: Queues a frame; it leaves with those of the other tasks that the last read woke.
        reconnects: Whether a lost connection is followed by another.
        leaving: Whether this peer closes: it begins no new work, and finishes what is under way.
        reached: Whether something has answered at the gateway's address.
        closed: Whether nothing can be sent any more.
        keeps_from: The level of `logging` from which on what its handlers log is kept with traces.
        loop_lag: How late the event loop last woke the heartbeat, in seconds.
        records: What this process records of its calls.
        heard_at: When something last came from the gateway, on trio's clock.
        recording: Whether the gateway asks for such records.
        source: Whose these are.
        reporter: Tells it of traces that are kept.
        failure: Why there will never be a connection again, if so.
        feed: What happens here, for those who listen.
        listeners: They, of whom there are mostly none.
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
        encoding: int = MSGPACK,
        features: Sequence[str] = (),
        keeps_from: float = inf,
    ) -> None:
        self.name = name
        self.clock = trio.lowlevel.current_clock().current_time
        self.limits = limits
        self.process = process
        self.metadata = dict(metadata)
        self.encoding = encoding
        self.features = list(features)
        self.keeps_from = keeps_from
        self.gateway = ""
        self.max_message = limits.max_message
        self.max_chunk = limits.max_chunk
        self.max_header = limits.max_header
        self.max_schema = limits.max_schema
        self.max_requires = 0
        self.call_timeout = limits.call_timeout
        self.service_wait = limits.service_wait
        self.sends_tracebacks = False
        self.ready = False
        self.missing: set[str] = set()
        self.link: Link | None = None
        self.send: Callable[[bytes], None] = _drop
        self.reconnects = reconnect
        self.leaving = False
        self.reached = False
        self.closed = False
        self.loop_lag = 0.0
        self.failure: MeshError | None = None
        self.feed = PeerFeed()
        self.listeners = self.feed.listeners
        self.records = process.records
        self.recording = False
        self.source = Source(name, self.clock)
        self.heard_at = 0.0
        self.reporter = Reporter(self)
        self.outgoing = Outgoing(self)
        self.dispatcher = Dispatcher(self, limits.max_threads)
        self._dialer = dialer
        self.requires: dict[str, str] = {}
        self._registrations = Registrations(self.metadata, self.requires)
        self._conversation: Conversation | None = None
        self._ready = trio.Event()
        self._last_fault = "no connection has been tried"

    # State.

    @property
    def address(self) -> str:
        """The gateway's address; empty where there is no connection."""
        return self.link.address if self.link is not None else ""

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
                raise copy.copy(self.failure)  # each caller adds where it failed
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
        for head, piece in codec.chunks(kind, header, payload, self.max_chunk):
            if frames == 0 and kind == Kind.CALL:
                # In line with all other calls, as their ids must arrive rising.
                link.put(head + piece)
            else:
                link.put_bulk(key, head, piece)
            frames += 1
        link.flush()
        return frames

    def answer(self, call_id: int, kind: Kind, header: tuple[Any, ...], payload: bytes) -> None:
        """Answer a call that this peer serves."""
        if len(payload) <= self.max_chunk:
            self.send(codec.encode(kind, header, payload))
        else:
            self.send_long(-call_id, kind, header, payload)

    def record_failure(
        self,
        made: tuple[bytes, Source, int, int, bytes, str, float, float],
        activity_id: str | None,
        parent: Call | None,
        failure: BaseException,
        scope_at: float | None,
        noted: Noted | None = None,
    ) -> None:
        """Record a call made from here that has failed, or whose task was cancelled."""
        deadline = made[7] + made[6] - ROUNDING if scope_at is None else scope_at
        if isinstance(failure, CallError):
            reason = str(failure.reason)[:REASON_KEPT]
            told = failure.code.number, reason, failure.message[:MESSAGE_KEPT]
        elif trio.current_time() >= deadline:
            told = Code.DEADLINE_EXCEEDED.number, Reason.DEADLINE_EXCEEDED, ""
        else:
            told = Code.CANCELLED.number, Reason.CALLER_CANCELLED, ""
        here: tuple[str, ...] = ()
        if parent is not None:
            activity_id, here = parent.activity_id, self.records.share(parent.chain)
        end = trio.current_time()
        row = PeerRow(*made, end, *told, "", activity_id, here, self.name, 1, noted)
        self.records.add(row)

    def cancel(self, call_id: int, frames: int, reason: int = BY_CALLER) -> None:
        """Tell the gateway that nobody waits for a call any more."""
        if frames and self.link is not None:
            self.link.discard(call_id)
        self.send(codec.encode(Kind.CANCEL, (call_id, reason)))

    def take_unsent_calls(self) -> set[int]:
        """Empty the outbox of a lost connection; returns the ids of calls that never left."""
        found: set[int] = set()
        for frame in self.link.take_unsent() if self.link is not None else ():
            _, kind, flags, size = PREFIX.unpack_from(frame)
            if kind == Kind.CALL:
                header = codec.decode(kind, flags, frame[PREFIX.size : PREFIX.size + size])
                found.add(header.call_id)
        return found

    def register(
        self,
        service: str,
        methods: dict[str, dict[str, Any]],
        version: str = "",
        schema: dict[str, Any] | None = None,
    ) -> None:
        """Serve these methods, now and after every reconnect.

        Arguments and what is raised: :meth:`.Registrations.add`.
        """
        served = self._registrations.add(service, methods, version, schema)
        if self.listeners:
            told = events.MethodsRegistered(service=service, methods=list(methods))
            self.feed.publish(told)
        if self.link is not None and not self.leaving:
            for frame in self._frames(service, served):
                self.send(frame)

    def unregister(self, service: str, methods: list[str]) -> None:
        """Serve these methods no longer."""
        self._registrations.remove(service, methods)
        if self.link is not None:
            self.send(codec.encode_header(codec.Unregister(service, methods)))

    def _frames(self, service: str, served: Served) -> Iterator[bytes]:
        bounds = self.max_chunk, self.max_schema, self.max_requires
        return self._registrations.frames(service, served, *bounds)

    # Life.

    async def run(self) -> None:
        """Stay connected until cancelled, or until there is no way to go on."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.outgoing.run_timers)
                nursery.start_soon(self.reporter.run)
                await nursery.start(self.dispatcher.run)
                await self._connect_again_and_again()
                self.failure = Unavailable(
                    f"the connection to the gateway is over: {self._last_fault}",
                    reason=Reason.CONNECTION_LOST,
                    maybe_executed=False,
                )
                self._ready.set()
                nursery.cancel_scope.cancel()
        finally:
            self.feed.close()

    async def _connect_again_and_again(self) -> None:
        pauses = Pauses(self.limits, self.process.random, trio.current_time())
        while True:
            began = trio.current_time()
            came = await self._connect_once()
            if self.leaving or (came in {Try.LOST, Try.GOODBYE} and not self.reconnects):
                return
            now = trio.current_time()
            await trio.sleep(pauses.after(came, now - began, now))

    async def _connect_once(self) -> Try:
        """One connection, from dial to loss."""
        try:
            with trio.fail_after(self.limits.handshake):
                link = await self._dialer.dial(self.limits.max_outbox)
        except trio.TooSlowError:
            self._last_fault = f"{self._dialer}: no connection within {self.limits.handshake:g} s"
            return Try.FAILED
        except HandshakeFailed as fault:
            if str(fault) != self._last_fault:
                # Unlike a gateway that goes away meanwhile, a wrong certificate stays wrong.
                passing = fault.reason == "disconnected"
                log.log(logging.WARNING if passing else logging.ERROR, "%s: %s", self.name, fault)
            self._last_fault, self.reached = str(fault), True
            return Try.FAILED
        except OSError as fault:
            self._last_fault = f"{self._dialer}: {fault.strerror or fault}"
            return Try.ABSENT
        if not self.reached:  # else what came of the last try says more
            self._last_fault = f"{self._dialer}: connected, but the gateway does not answer"
        self.reached = True
        conversation = self._conversation = Conversation(self, link)
        await conversation.run()
        self._last_fault = conversation.fault
        return conversation.outcome

    def connected(self, conversation: Conversation) -> None:
        """The gateway has answered HELLO."""
        welcome, link = conversation.welcome, conversation.link
        if welcome is None:
            raise AssertionError("a conversation is announced before its WELCOME")
        limits = welcome.limits
        self.gateway = welcome.gateway
        self.max_message = limits.get("max_message", self.max_message)
        self.max_chunk = limits.get("max_chunk", self.max_chunk)
        self.max_header = limits.get("max_header", self.max_header)
        self.max_schema = limits.get("max_schema", self.max_schema)
        self.max_requires = limits.get("max_requires", 0)
        self.service_wait = limits.get("service_wait_us", 5_000_000) / 1e6
        self.call_timeout = limits.get("call_timeout_us", 30_000_000) / 1e6
        self.sends_tracebacks = "tracebacks" in welcome.features
        self.recording = codec.TRACES_FEATURE in welcome.features
        if self.recording:
            collect(self.records.users, install=False)
        self.link = link
        self.ready = True
        self.send = conversation.gathering.send
        self.outgoing.assembler = conversation.assembler
        for service, served in self._registrations.services.items():
            for frame in self._frames(service, served):
                link.put(frame)
        link.flush()
        self._ready.set()
        if self.listeners:
            self.feed.publish(events.Connected(gateway=welcome.gateway))
        level = logging.DEBUG if link.address == IN_PROCESS else logging.INFO
        log.log(level, "%s connected to gateway %s", self.name, welcome.gateway)

    def gateway_leaves(self, conversation: Conversation) -> None:
        """The gateway takes no new entry calls; what is under way goes on."""
        self._last_fault = conversation.fault
        self.ready = False
        self._wait_anew()

    def lost(self, conversation: Conversation) -> None:
        """A connection is over: whoever waits is told, and handlers are stopped."""
        if self.link is not conversation.link:
            return
        self._last_fault = conversation.fault
        if not self.leaving:
            log.warning("%s lost its gateway %s: %s", self.name, self.gateway, self._last_fault)
        if self.listeners:
            reason = "closed by this peer" if self.leaving else self._last_fault
            self.feed.publish(events.Disconnected(gateway=self.gateway, reason=reason))
        self.outgoing.lost(self._last_fault)
        self.link = None
        self.ready = False
        self.send = _drop
        self._wait_anew()
        self.dispatcher.orphan()

    def _wait_anew(self) -> None:
        if self._ready.is_set():  # else somebody waits for this very event
            self._ready = trio.Event()

    async def leave(self, drain: float) -> None:
        """Take no new calls, finish those under way in ``drain`` seconds, send what is queued."""
        self.leaving = True
        conversation, link = self._conversation, self.link
        if link is not None and conversation is not None:
            with trio.move_on_after(drain):
                link.put(codec.encode_header(codec.GoAway("closing", int(drain * 1e6))))
                link.flush()
                await conversation.goodbye.wait()
                await self.dispatcher.wait_idle()
            with trio.move_on_after(1.0):
                await self.reporter.flush()
                await link.wait_below(0)
        self.closed = True
        if conversation is not None:
            conversation.end()
