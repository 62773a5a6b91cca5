"""The in-flight table: the truth about every call between its arrival and its end.

The first to end an entry decides its outcome; whoever comes later finds it gone. The table knows
the tree of nested calls, so that ending one ends all below it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import trio

from mesh.errors import CODES
from mesh.transport.outbox import FRAME_OVERHEAD
from mesh_telemetry import Decision, DecisionKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.gateway.session import Session
    from mesh.gateway.tracing import Trace
    from mesh_telemetry import CallSeries, MethodSeries
    from mesh_telemetry.decisions import Picked

SPENT_KEPT = 16
"""Ended children that an entry remembers, to explain how a deadline was spent."""


class InFlight(msgspec.Struct, eq=False):
    """One call in flight. A `msgspec.Struct`: made by position, it costs half a slotted object."""

    id: int
    caller: Session
    caller_call_id: int
    service: str
    method: str
    series: CallSeries
    parent: InFlight | None
    entry_id: int
    chain: tuple[str, ...]
    activity_id: str
    trace_id: bytes
    attempt: int
    deadline: float
    started: float
    verified: bool
    span_id: bytes
    """The caller's span."""
    own_span: int
    """What the ids of the gateway's spans are made of."""
    trace: Trace | None
    """Where its record goes; None where telemetry is off, and for what asks the gateway itself."""
    callee: Session | None = None
    children: dict[int, InFlight] | None = None
    spent: list[tuple[str, float, int]] | None = None
    request: Request | None = None
    """Kept only where the call may still be sent: while it waits for its service."""
    received: int = 0
    """Payload bytes of a chunked request so far; 0 for one that came whole."""
    replied: int = 0
    """Payload bytes of a chunked answer so far."""
    reply_code: int = 0
    """The code that a chunked answer began with."""
    served_by: str = ""
    """The process id of a callee that was told to stop."""
    waited: float = 0.0
    """Seconds that it waited for an instance to come."""
    forwarded: int = 0
    """Frames of a chunked request handed to the callee's outbox."""
    partial: bool = False
    """Whether the end of a chunked request has yet to be handed to its callee."""
    picked: Picked = ()
    """What its instance was chosen by, where there were several."""
    decisions: tuple[Decision, ...] = ()
    """What else was decided for it."""
    version: str | None = None
    """Of the contract that the caller was written for, where it named one."""

    @property
    def name(self) -> str:
        """The fully qualified method."""
        return self.chain[-1]


class Abandoned(NamedTuple):
    """What is known of a call that its callee was told to stop.

    Not the entry, which would keep those of its callers alive for as long as a handler does not
    stop.
    """

    series: MethodSeries
    trace: Trace | None
    name: str
    own_span: int
    at: float
    """When it was told so."""


class Request(msgspec.Struct):
    """What is needed to send a waiting call on: the caller's header, and the frames so far."""

    header: Any
    frames: list[tuple[int, bytes]]
    because: str
    """Why the service should be there soon."""


class HeldCalls:
    """The calls that wait for their service, and what that holds in memory.

    Attributes:
        entries: The calls, by id, in the order of their arrival.
        size: Bytes held.
    """

    __slots__ = ("entries", "size")

    def __init__(self) -> None:
        self.entries: dict[int, InFlight] = {}
        self.size = 0

    def enter(self, entry: InFlight) -> None:
        """A call with its first frame waits."""
        self.entries[entry.id] = entry
        if entry.request is not None:
            self.size += sum(len(payload) + FRAME_OVERHEAD for _, payload in entry.request.frames)

    def add(self, entry: InFlight, flags: int, payload: bytes) -> None:
        """A further frame of a call that waits."""
        if entry.request is not None:
            entry.request.frames.append((flags, payload))
            self.size += len(payload) + FRAME_OVERHEAD

    def leave(self, entry: InFlight, now: float, service_wait: float) -> Request:
        """A call waits no more; the limit on that is told with how long it did."""
        request = self.entries.pop(entry.id).request
        if request is None:
            raise AssertionError(f"call {entry.id} waited without its request")
        entry.request = None
        entry.waited = now - entry.started
        last = entry.decisions[-1] if entry.decisions else None
        if last is None or last.kind is not DecisionKind.NOT_COME:  # which says so itself
            facts = {
                "service": entry.service,
                "waited_ms": round(entry.waited * 1e3, 3),
                "because": request.because,
            }
            waited = Decision(DecisionKind.AWAITED, now, service_wait, facts)
            entry.decisions = (*entry.decisions[:-1], waited, *entry.decisions[-1:])
        self.size -= sum(len(payload) + FRAME_OVERHEAD for _, payload in request.frames)
        return request


class CallTable:
    """Every call in flight, by the id that this gateway gave it."""

    def __init__(self) -> None:
        self.by_id: dict[int, InFlight] = {}
        self._last_id = 0
        self._empty: trio.Event | None = None

    def __len__(self) -> int:
        return len(self.by_id)

    @property
    def last_id(self) -> int:
        """The newest id issued."""
        return self._last_id

    def next_id(self) -> int:
        """A new id; ids rise and are never used again."""
        self._last_id += 1
        return self._last_id

    def enter(self, entry: InFlight) -> None:
        """A call begins."""
        self.by_id[entry.id] = entry
        entry.caller.calls[entry.caller_call_id] = entry
        parent = entry.parent
        if parent is not None:
            if parent.children is None:
                parent.children = {}
            parent.children[entry.id] = entry

    def leave(self, entry: InFlight, code: int, duration: float) -> bool:
        """A call ends; false if it had ended before, and then nothing is changed."""
        if self.by_id.pop(entry.id, None) is None:
            return False
        del entry.caller.calls[entry.caller_call_id]
        callee = entry.callee
        if callee is not None:
            del callee.serving[entry.id]
        parent = entry.parent
        if parent is not None:
            if parent.children is not None:
                del parent.children[entry.id]
            if parent.spent is None:
                parent.spent = []
            if len(parent.spent) < SPENT_KEPT:
                parent.spent.append((entry.chain[-1], duration, code))
        if self._empty is not None and not self.by_id:
            self._empty.set()
        return True

    async def wait_empty(self) -> None:
        """Return once no call is in flight."""
        if self.by_id:
            self._empty = trio.Event()
            await self._empty.wait()


def budget(entry: InFlight, now: float) -> list[tuple[int, str, float, str]]:
    """How a call has spent its time: (depth, method, milliseconds, state) of it and all below.

    The state is the code of what has ended, ``running``, or ``waiting for an instance``.
    """

    def walk(call: InFlight) -> Iterator[tuple[int, str, float, str]]:
        depth = len(call.chain)
        state = "running" if call.callee is not None else "waiting for an instance"
        yield depth, call.chain[-1], (now - call.started) * 1e3, state
        for name, duration, code in call.spent or ():
            yield depth + 1, name, duration * 1e3, str(CODES[code])
        for child in (call.children or {}).values():
            yield from walk(child)

    return list(walk(entry))
