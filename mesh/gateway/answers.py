"""What callees answer: results and errors, whole or in several frames, in time or late.

An answer is passed on to the caller and ends its call. What a callee still says about a call that
has ended is an acknowledgement, or late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from mesh.errors import Code, Reason, RemoteProtocolError
from mesh.gateway.calls import budget
from mesh.gateway.endings import ROUNDING
from mesh.wire import codec
from mesh.wire.codec import BY_CALLER
from mesh.wire.frames import CONTINUED, MORE, Kind
from mesh_telemetry import Decision, DecisionKind
from mesh_telemetry import Reason as TraceReason

if TYPE_CHECKING:
    from mesh.gateway.calls import InFlight
    from mesh.gateway.core import Core
    from mesh.gateway.endings import Endings
    from mesh.gateway.session import Session

REASON_KEPT, MESSAGE_KEPT = 128, 500
"""Characters of a failure's reason, and of its message, that are recorded."""

_CANCELLED, _DEADLINE = Code.CANCELLED.number, Code.DEADLINE_EXCEEDED.number


class Answers:
    """Passes on what callees of one gateway answer."""

    def __init__(self, core: Core, endings: Endings) -> None:
        self._core = core
        self._endings = endings

    def result(self, callee: Session, header: codec.Result, flags: int, payload: bytes) -> None:
        """A RESULT arrived: pass it to the caller and close the entry."""
        entry = callee.serving.get(header.call_id)
        if entry is None:
            self._late(callee, header.call_id, flags, Kind.RESULT, answered=True)
            return
        link = entry.caller.link
        plain = not flags and link.queued < link.limit
        # A caller that lives no longer than its call hears by the answer that its trace is kept.
        keep = self._endings.end(entry, 0, "", answered=True) if plain else None
        fields = (
            entry.caller_call_id,
            header.encoding,
            header.elapsed_us,
            header.records,
            keep,
            header.metadata,
        )
        if plain:
            self._core.send(link, codec.encode(6, fields, payload))
        else:
            self._answer(entry, Kind.RESULT, fields, flags, payload, 0)

    def error(self, callee: Session, header: codec.Error, flags: int, payload: bytes) -> None:
        """An ERROR arrived: pass it to the caller, with the chain where it failed."""
        entry = callee.serving.get(header.call_id)
        if entry is None:
            stopped = header.code in {_CANCELLED, _DEADLINE}
            self._late(callee, header.call_id, flags, Kind.ERROR, answered=not stopped)
            return
        now = trio.current_time()
        expired = now >= entry.deadline - ROUNDING
        if header.code == _DEADLINE and expired and not (flags or header.chain):
            # The callee's timer was a moment quicker than ours. We know where the time went.
            self._endings.fail_expired(entry, budget(entry, now))
            return
        code = Code.from_number(header.code).number or Code.UNKNOWN.number
        link = entry.caller.link
        plain = not flags and link.queued < link.limit
        reason, message = header.reason[:REASON_KEPT], header.message[:MESSAGE_KEPT]
        keep: str | None = None
        if plain:
            keep = self._endings.end(entry, code, reason, message, answered=True)
        fields = (
            entry.caller_call_id,
            header.code,
            header.reason,
            header.message,
            header.options,
            header.encoding,
            header.exception,
            header.traceback if entry.caller.tracebacks else None,
            header.chain or list(entry.chain),
            entry.activity_id,
            header.elapsed_us,
            header.records,
            keep,
        )
        if plain:
            self._core.send(link, codec.encode(Kind.ERROR, fields, payload))
        else:
            self._answer(entry, Kind.ERROR, fields, flags, payload, code, reason, message)

    def continued(
        self, callee: Session, kind: Kind, call_id: int, flags: int, payload: bytes
    ) -> None:
        """A further frame of a long answer arrived."""
        entry = callee.serving.get(call_id)
        if entry is None:
            self._late(callee, call_id, flags, kind, answered=True)
            return
        if not entry.replied:
            raise RemoteProtocolError(f"{kind.name} continues call {call_id}, which it never began")
        self._answer(entry, kind, (entry.caller_call_id,), flags, payload, entry.reply_code)

    def _answer(
        self,
        entry: InFlight,
        kind: Kind,
        fields: tuple[Any, ...],
        flags: int,
        payload: bytes,
        code: int,
        reason: str = "",
        message: str = "",
    ) -> None:
        """Pass on a frame of a long answer, or an answer for a caller that does not read."""
        if not self._admit_answer(entry, kind, flags, payload, code):
            return
        link = entry.caller.link
        self._core.send_message(link, -entry.caller_call_id, kind, fields, payload, flags)
        if not flags & MORE:
            self._endings.end(entry, code, reason, message)

    def _admit_answer(
        self, entry: InFlight, kind: Kind, flags: int, payload: bytes, code: int
    ) -> bool:
        """Check a chunk, or an answer for a caller that does not read, against its bounds."""
        core, callee, link = self._core, entry.callee, entry.caller.link
        if flags & (MORE | CONTINUED):
            if not flags & CONTINUED:
                if entry.replied:
                    raise RemoteProtocolError(f"{kind.name} begins call {entry.id} twice")
                entry.reply_code = code
            entry.replied += len(payload)
            if entry.replied > core.limits.max_message:
                raise RemoteProtocolError(
                    f"{kind.name} of {entry.replied:,} bytes exceeds max_message of "
                    f"{core.limits.max_message:,}"
                )
        if link.queued < link.limit:
            return True
        if callee is not None and flags & MORE:
            self._endings.abandon(entry, BY_CALLER)
        self._endings.fail(
            entry,
            Code.RESOURCE_EXHAUSTED,
            Reason.OUTBOX_FULL,
            Decision(
                DecisionKind.ANSWER_DROPPED,
                core.clock(),
                link.limit,
                {"call": entry.name, "bytes": link.queued},
            ),
        )
        return False

    def _late(
        self, callee: Session, call_id: int, flags: int, kind: Kind, *, answered: bool
    ) -> None:
        """A callee speaks of a call that has ended, or that it never got."""
        if call_id > callee.last_issued:
            raise RemoteProtocolError(
                f"{kind.name} for call {call_id}, which was never issued on this connection"
            )
        if flags & MORE:
            return
        abandoned = callee.abandoned.pop(call_id, None)
        if answered and abandoned is not None:
            abandoned.series.late += 1
            tracing, trace = self._core.tracing, abandoned.trace
            if trace is not None and tracing is not None:
                now = self._core.clock()
                tracing.judge(trace, TraceReason.LATE, abandoned.name)
                facts = {
                    "callee": f"{callee.name} ({callee.process_id})",
                    "after_ms": round((now - abandoned.at) * 1e3, 3),
                }
                late = Decision(DecisionKind.LATE, now, None, facts)
                tracing.collector.add_late(trace, abandoned.own_span, late)
