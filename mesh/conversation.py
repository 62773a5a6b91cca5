"""One connection of a peer, from handshake to loss: frames in, heartbeats, goodbye."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import trio

from mesh import _version, events
from mesh.assembly import Assembler, AssemblyFull
from mesh.errors import Code, Reason, RemoteProtocolError
from mesh.gathering import Gathering
from mesh.reconnecting import Try
from mesh.wire import codec
from mesh.wire.codec import BEAT, PING, PONG, PROTOCOL_VERSION, SPANS_FEATURE
from mesh.wire.connection import Connection, Role
from mesh.wire.frames import CONTINUED, MORE, Kind
from mesh_telemetry.peer_records import MAX_AGE

if TYPE_CHECKING:
    from mesh.transport import Link
    from mesh.uplink import Uplink

log = logging.getLogger("mesh.client")


class Conversation:
    """What a peer and a gateway say to each other over one link.

    Attributes:
        welcome: What the gateway answered to HELLO; None before that.
        fault: Why it ended or will end, for people.
        goodbye: Set once the gateway has said that nothing more comes, or the link is lost.
    """

    def __init__(self, uplink: Uplink, link: Link) -> None:
        self.link = link
        self.welcome: codec.Welcome | None = None
        self.fault = "the gateway closed the connection"
        self._is_drained = False
        self.goodbye = trio.Event()
        self.gathering = Gathering(link)
        self.assembler = Assembler(uplink.max_message, uplink.limits.max_assembly)
        self._uplink = uplink
        self._outgoing = uplink.outgoing
        self._dispatcher = uplink.dispatcher
        self._connection = Connection(Role.PEER, uplink.limits)
        self._heartbeat = uplink.limits.heartbeat
        self._silent_after = uplink.limits.silent_after
        self._uplink.heard_at = trio.current_time()
        self._changes = 0
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Shake hands and handle frames until the connection is over. Closes the link."""
        uplink, link = self._uplink, self.link
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                nursery.start_soon(link.write_loop)
                try:
                    if await self._shake_hands():
                        nursery.start_soon(self.gathering.run)
                        nursery.start_soon(self._beat_loop)
                        await self._read()
                except RemoteProtocolError as fault:
                    self.fault = f"the gateway broke the protocol: {fault}"
                    self._tell_fault()
                    log.error("%s: %s", uplink.name, self.fault)  # noqa: TRY400 - no bug
                nursery.cancel_scope.cancel()
        finally:
            self.goodbye.set()
            uplink.lost(self)
            with trio.CancelScope(shield=True):
                await link.aclose()

    @property
    def outcome(self) -> Try:
        """What became of it, once it is over."""
        if self.welcome is None:
            return Try.FAILED
        return Try.GOODBYE if self._is_drained else Try.LOST

    def end(self) -> None:
        """Close the connection."""
        self._scope.cancel()

    async def _shake_hands(self) -> bool:
        uplink, link, wait = self._uplink, self.link, self._uplink.limits.handshake
        hello = codec.Hello(
            protocol_version=PROTOCOL_VERSION,
            name=uplink.name,
            process_id=uplink.process.id,
            credentials=None,
            metadata=uplink.metadata,
            limits={"max_message": uplink.limits.max_message},
            features=[SPANS_FEATURE, *uplink.features],
            implementation=f"spanmesh/{_version.__version__}",
        )
        link.put(codec.encode_header(hello))
        link.flush()
        welcomed = False
        with trio.move_on_after(wait):
            while not welcomed:
                data = await link.receive()
                if not data:
                    if link.fault:
                        self.fault = link.fault
                        log.error("%s: %s", uplink.name, self.fault)
                    return False
                uplink.heard_at = uplink.clock()
                for kind, flags, header, payload in self._connection.receive(data):
                    if isinstance(header, codec.Welcome):
                        self._welcomed(header)
                        welcomed = True
                    elif welcomed:
                        self._handle(kind, flags, header, payload)
                    else:  # by the table of legal frames, a GOAWAY
                        self.fault = f"the gateway refused the connection: {header.reason}"
                        self._tell_fault()
                        log.error("%s: %s", uplink.name, self.fault)
                        return False
            return True
        self.fault = f"no WELCOME within {wait:g} s"
        return False

    def _welcomed(self, welcome: codec.Welcome) -> None:
        self._connection.open(max_chunk=welcome.limits.get("max_chunk"))
        self.welcome = welcome
        self.assembler.max_message = welcome.limits.get("max_message", self.assembler.max_message)
        self._silent_after = welcome.limits.get("silent_after", self._silent_after)
        self._heartbeat = welcome.limits.get("heartbeat_us", 5_000_000) / 1e6
        self._uplink.connected(self)

    async def _beat_loop(self) -> None:
        link = self.link
        sequence, lag = 0, 0.0
        while True:
            sequence += 1
            self._beat(BEAT, sequence, lag)
            due = trio.current_time() + self._heartbeat
            await trio.sleep_until(due)
            now = trio.current_time()
            lag = self._uplink.loop_lag = now - due
            self._uplink.records.forget()
            self._uplink.records.users.forget(int((time.time() - MAX_AGE) * 1e9))
            silent = now - self._uplink.heard_at
            if link.is_tcp and silent > self._silent_after * self._heartbeat:
                self.fault = f"the gateway was silent for {silent:.0f} s"
                self._scope.cancel()

    def _beat(self, flag: int, sequence: int, lag: float = 0.0) -> None:
        if self.link.full:
            return
        usage = self._uplink.process.usage()
        beat = codec.Heartbeat(
            sequence,
            flag,
            max(0, int(lag * 1e6)),
            len(self._dispatcher.serving),
            self.link.queued,
            usage.memory,
            usage.cpu_us,
        )
        self.link.put(codec.encode_header(beat))
        self.link.flush()

    async def _read(self) -> None:
        uplink, link, gathering = self._uplink, self.link, self.gathering
        receive, answer, dispatch = (
            self._connection.receive,
            self._outgoing.answer,
            self._dispatcher.dispatch,
        )
        while data := await link.receive():
            uplink.heard_at = uplink.clock()
            woken = 0
            for kind, flags, header, payload in receive(data):
                if kind == 6:  # RESULT
                    woken += answer(kind, flags, header, payload)
                elif kind == 5 and not flags:  # CALL
                    woken += dispatch(header, payload)
                else:
                    woken += self._handle(kind, flags, header, payload)
            gathering.expect(woken)
            if link.queued and not link.blocked:
                link.flush()
        self.fault = link.fault or self.fault

    def _handle(self, kind: int, flags: int, header: Any, payload: bytes) -> int:
        """The rarer frames; returns how many tasks that woke."""
        match kind:
            case Kind.ERROR | Kind.RESULT:
                return self._outgoing.answer(kind, flags, header, payload)
            case Kind.CALL:
                return self._assemble_call(flags, header, payload)
            case Kind.CANCEL:
                if self.assembler.drop(-header.call_id):
                    self._refuse(
                        header.call_id, Code.CANCELLED, Reason.CALLER_CANCELLED, "cancelled"
                    )
                else:
                    self._dispatcher.cancel(header.call_id, header.reason)
            case Kind.HEARTBEAT:
                if header.flag == PING:
                    self._beat(PONG, header.sequence)
            case Kind.GOAWAY:
                self._told_to_go(header.reason, header.drain_us)
            case Kind.KEEP:
                self._uplink.reporter.keep(header.trace_ids)
            case Kind.ITEM | Kind.END | Kind.CREDIT:
                self._refuse(
                    header.call_id,
                    Code.UNIMPLEMENTED,
                    Reason.UNSUPPORTED,
                    f"{Kind(kind).name}: streams are not supported by this peer",
                )
            case Kind.EVENT:
                self._changes = self._uplink.feed.registry_changed(header, payload, self._changes)
            case _:
                pass  # KEEP: nothing here asked for it
        return 0

    def _assemble_call(self, flags: int, header: Any, payload: bytes) -> int:
        call_id = header.call_id
        if not flags & (MORE | CONTINUED):
            return self._dispatcher.dispatch(header, payload)
        if flags & CONTINUED and not self.assembler.has(-call_id):
            return 0  # refused or cancelled meanwhile
        first = self.assembler.header(-call_id) if flags & CONTINUED else header
        try:
            whole = self.assembler.add(-call_id, Kind.CALL, flags, header, payload)
        except AssemblyFull as fault:
            refused = self._refuse(
                call_id, Code.RESOURCE_EXHAUSTED, Reason.MESSAGE_TOO_LARGE, str(fault)
            )
            self._dispatcher.outcomes.refused(first, refused)
            return 0
        return self._dispatcher.dispatch(whole[1], whole[2]) if whole is not None else 0

    def _refuse(self, call_id: int, code: Code, reason: Reason, message: str) -> codec.Error:
        refused = codec.refusal(call_id, code.number, reason, message)
        self.link.put(codec.encode_header(refused))
        self.link.flush()
        return refused

    def _told_to_go(self, reason: str, drain_us: int) -> None:
        if self._uplink.leaving:
            self.goodbye.set()
            return
        self.fault = reason
        self._is_drained = drain_us > 0  # else a fault is told, or the gateway is nearly gone
        self._tell_fault()
        self._uplink.gateway_leaves(self)
        log.warning("%s: the gateway says goodbye: %s", self._uplink.name, reason)

    def _tell_fault(self) -> None:
        if self._uplink.listeners:
            self._uplink.feed.publish(events.GatewayError(message=self.fault))
