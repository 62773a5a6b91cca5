"""Calls out: who waits for which answer, until when, and what has arrived of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import outcome
import trio

from mesh.assembly import Assembler, AssemblyFull
from mesh.errors import CallError, Code, Reason, RemoteProtocolError
from mesh.payload import decode_details
from mesh.timers import Timers
from mesh.waking import given
from mesh.wire.codec import BY_CALLER, BY_DEADLINE, MAYBE_EXECUTED
from mesh.wire.frames import CONTINUED, MORE, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.uplink import Uplink
    from mesh.wire import codec

    AbortFn = Callable[[object], trio.lowlevel.Abort]

MAX_GIVEN_UP = 1_000
"""Calls given up whose traces are remembered until they are answered."""
GRACE = 0.2
"""Seconds after a deadline in which the gateway, who knows where the time went, may speak first."""


Pending = tuple["trio.lowlevel.Task", str, float, int, "float | None", bytes]
"""Who waits: the task, the method's name, the seconds allowed, the frames of a long request, when
the task's own cancel scope fires if that sets the limit, and the trace id. A tuple, as every call
makes one."""


class Outgoing:
    """The calls of one peer that wait for their answers.

    Attributes:
        pending: Who waits, by call id. Ids rise through all connections of a peer, so that what is
            left of one connection cannot be taken for another's.
        assembler: Where the frames of long answers are put together, on the connection of now.
    """

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        self.assembler = Assembler(0, 0)
        self.pending: dict[int, Pending] = {}
        self.last_id = 0
        self._late_word: dict[int, CallError] = {}
        self._given_up: dict[int, bytes] = {}
        self._timers = Timers(self.pending, self._expire)
        self.run_timers = self._timers.run

    def park(self, call_id: int, deadline: float, pending: Pending) -> AbortFn:
        """Note that a task is about to wait; returns what to do when it is cancelled meanwhile.

        The caller then awaits ``trio.lowlevel.wait_task_rescheduled``, which returns the answer's
        encoding and payload, or raises a CallError.
        """
        self.pending[call_id] = pending
        self._timers.add(deadline + GRACE, call_id)

        def abort(_: object) -> trio.lowlevel.Abort:
            if self._late_word.pop(call_id, None) is not None:
                del self.pending[call_id]
            elif self.pending.pop(call_id, None) is not None:
                self._remember(call_id, pending[5])
                self.assembler.drop(call_id)
                late = trio.current_time() >= (deadline if pending[4] is None else pending[4])
                self._uplink.cancel(call_id, pending[3], BY_DEADLINE if late else BY_CALLER)
            return trio.lowlevel.Abort.SUCCEEDED

        return abort

    def answer(
        self, kind: int, flags: int, header: codec.Result | codec.Error, payload: bytes
    ) -> bool:
        """An answer, or a frame of one, has arrived; true if that woke a task.

        Raises:
            RemoteProtocolError: It answers a call that was never made.
        """
        call_id = header.call_id
        pending = self.pending.get(call_id)
        if pending is None:
            if call_id > self.last_id:
                raise RemoteProtocolError(
                    f"{Kind(kind).name} for call {call_id}, which was never made"
                )
            if not flags & CONTINUED:  # a frame that continues says nothing more
                trace_id = self._given_up.pop(call_id, None)
                if trace_id is not None and header.keep is not None:
                    self._uplink.reporter.keep((trace_id,))
            return False
        if flags & (MORE | CONTINUED):
            try:
                whole = self.assembler.add(call_id, kind, flags, header, payload)
            except AssemblyFull as fault:
                self._drop(call_id, Code.RESOURCE_EXHAUSTED, Reason.MESSAGE_TOO_LARGE, str(fault))
                return True
            if whole is None:
                return False
            kind, header, payload = whole
        elif self.assembler.held:
            self.assembler.drop(call_id)
        if header.keep is not None:
            self._uplink.reporter.keep((pending[5],))
        if kind == Kind.RESULT:
            del self.pending[call_id]
            trio.lowlevel.reschedule(pending[0], given((header.encoding, payload)))
            return True
        error = _error_of(header, payload)
        if (
            pending[4] is not None
            and error.code is Code.DEADLINE_EXCEEDED
            and trio.current_time() >= pending[4] - GRACE
        ):
            # The caller's own cancel scope set the limit: it shall see that fire, and no error.
            # Unless the scope was extended or shielded meanwhile; then the error is the truth.
            self._late_word[call_id] = error
            self._timers.add(pending[4] + GRACE, call_id)
            return False
        del self.pending[call_id]
        trio.lowlevel.reschedule(pending[0], outcome.Error(error))
        return True

    def _remember(self, call_id: int, trace_id: bytes) -> None:
        """A call is given up here; its answer, on the way perhaps, may tell that it is kept."""
        self._given_up[call_id] = trace_id
        if len(self._given_up) > MAX_GIVEN_UP:
            del self._given_up[next(iter(self._given_up))]

    def _expire(self, call_id: int) -> None:
        task, name, allowed, *_ = self.pending[call_id]
        error = self._late_word.pop(call_id, None)
        if error is not None:
            del self.pending[call_id]
            trio.lowlevel.reschedule(task, outcome.Error(error))
            return
        self._drop(
            call_id,
            Code.DEADLINE_EXCEEDED,
            Reason.DEADLINE_EXCEEDED,
            f"{name} was allowed {allowed * 1e3:,.1f} ms, and the gateway has not "
            "answered in that time",
        )

    def _drop(self, call_id: int, code: Code, reason: Reason, message: str) -> None:
        """Give up on a call from this side: the gateway and the waiting task are told."""
        task, _, _, frames, _, trace_id = self.pending.pop(call_id)
        self._remember(call_id, trace_id)
        self.assembler.drop(call_id)
        by = BY_DEADLINE if code is Code.DEADLINE_EXCEEDED else BY_CALLER
        self._uplink.cancel(call_id, frames, by)
        error = CallError.of(code, message, reason=reason)
        trio.lowlevel.reschedule(task, outcome.Error(error))

    def lost(self, why: str) -> None:
        """The connection is gone: every waiting task is told, and whether its call ever left."""
        uplink = self._uplink
        unsent = uplink.take_unsent_calls()
        for call_id, (task, name, *_) in list(self.pending.items()):
            del self.pending[call_id]
            self.assembler.drop(call_id)
            if (error := self._late_word.pop(call_id, None)) is not None:
                trio.lowlevel.reschedule(task, outcome.Error(error))
                continue
            error = CallError.of(
                Code.UNAVAILABLE,
                f"the connection to the gateway was lost while {name} was under way: {why}",
                reason=Reason.CONNECTION_LOST,
                maybe_executed=call_id not in unsent,
            )
            trio.lowlevel.reschedule(task, outcome.Error(error))


def _error_of(header: Any, payload: bytes) -> CallError:
    error = CallError.of(
        Code.from_number(header.code),
        header.message,
        reason=header.reason,
        details=decode_details(payload, header.encoding),
        chain=header.chain or (),
        activity_id=header.activity_id or "",
        maybe_executed=bool(header.options & MAYBE_EXECUTED),
    )
    error.remote_traceback = header.traceback
    if header.traceback:
        error.add_note(f"in the handler:\n{header.traceback}")
    return error
