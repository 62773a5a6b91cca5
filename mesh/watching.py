"""What a peer tells of itself: its state, and its events, built only when somebody listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from mesh import events
from mesh.errors import CallError, Code
from mesh.streams import Feed
from mesh.wire import codec

if TYPE_CHECKING:
    from mesh.context import Call


class PeerView(msgspec.Struct, frozen=True, kw_only=True):
    """A peer as it sees itself."""

    name: str
    process_id: str
    """Which process it is, for as long as that lives."""
    connected: bool
    ready: bool
    """Whether new calls can be sent now: not while the gateway drains."""
    missing: list[str]
    """Services that what it serves requires, and that have yet to come."""
    closing: bool
    gateway: str
    """The id of the gateway connected to now or last; empty before the first."""
    address: str
    fault: str
    """Why there is no connection now; empty where there is one."""
    methods: list[str]
    """What it serves, as ``service.method``."""
    serving: int
    """Calls that its handlers work on."""
    calling: int
    """Calls that it made and that have no answer yet."""
    queued_bytes: int
    """What waits to be sent."""


class _Change(msgspec.Struct):
    """The payload of an EVENT about the registry; what a later gateway adds is left out."""

    change: str
    service: str
    peer: str
    process_id: str
    methods: list[str] = []
    version: str = ""
    reason: str = ""


_read_change = msgspec.msgpack.Decoder(_Change).decode


class PeerFeed(Feed[events.PeerEvent]):
    """One peer's events."""

    def response_received(
        self, service: str, method: str, sent: float, code: str, why: str
    ) -> None:
        """A call of this peer's own has ended; ``sent`` is on trio's clock."""
        duration = trio.current_time() - sent
        self.publish(
            events.ResponseReceived(
                service=service, method=method, code=code, reason=why, duration=duration
            )
        )

    def registry_changed(self, header: codec.Event, payload: bytes, last: int) -> int:
        """The gateway tells a change of its registry.

        Args:
            header: Its header.
            payload: What has changed.
            last: The number of the change before this one, on the same connection; 0 for none.

        Returns:
            The number of this change. Those between the two were not told, and count as dropped.
        """
        if header.topic != codec.REGISTRY:
            return last
        if last:
            for stream in self.listeners:
                stream.dropped += max(0, header.sequence - last - 1)
        try:
            told = _read_change(payload)
        except msgspec.MsgspecError:
            return header.sequence  # of a later version of the protocol
        if told.change == "registered":
            self.publish(
                events.ServiceRegistered(
                    service=told.service,
                    methods=told.methods,
                    version=told.version,
                    peer=told.peer,
                    process_id=told.process_id,
                )
            )
        elif told.change == "disconnected":
            self.publish(
                events.ServiceDisconnected(
                    service=told.service,
                    peer=told.peer,
                    process_id=told.process_id,
                    reason=told.reason,
                )
            )
        return header.sequence

    def method_executed(
        self, peer: str, call: Call, failure: BaseException | None, duration: float, *, late: bool
    ) -> None:
        """A handler has ended; ``late`` says that its deadline has stopped it."""
        code, fault = Code.UNKNOWN, False
        if isinstance(failure, trio.Cancelled):
            code = Code.DEADLINE_EXCEEDED if late else Code.CANCELLED
        elif isinstance(failure, CallError):
            code = failure.code
        else:
            fault = failure is not None
        self.publish(
            events.MethodExecuted(
                service=call.service,
                method=call.method,
                caller=call.caller,
                code="ok" if failure is None else str(code),
                duration=duration,
                activity_id=call.activity_id,
            )
        )
        if fault:
            message = f"the handler of {call.chain[-1]} raised {type(failure).__qualname__}"
            self.publish(events.ErrorOccurred(message=message, peer=peer))
