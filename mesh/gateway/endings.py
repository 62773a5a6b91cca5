"""How calls end: failures, cancels, deadlines, lost connections.

Every entry of the in-flight table leaves it here, once, and its caller is told exactly once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from mesh.errors import Code, Reason, RemoteProtocolError
from mesh.gateway.calls import Abandoned, budget
from mesh.gateway.observing import Observer
from mesh.payload import encode
from mesh.wire import codec
from mesh.wire.codec import BY_CALLER, BY_DEADLINE, BY_DISCONNECT, MAYBE_EXECUTED, MSGPACK
from mesh.wire.frames import Kind
from mesh_telemetry import Decision, DecisionKind
from mesh_telemetry.decision_forms import GOES_ON
from mesh_telemetry.texts import duration

if TYPE_CHECKING:
    from collections.abc import Container

    from mesh.gateway.calls import InFlight
    from mesh.gateway.core import Core
    from mesh.gateway.session import Session
    from mesh_telemetry.decision_forms import Facts

ROUNDING = 0.001
"""Seconds by which a peer's idea of a deadline may be early: it travels in whole microseconds."""

_CANCELLED, _DEADLINE = Code.CANCELLED.number, Code.DEADLINE_EXCEEDED.number

_CANCEL_CODE = {BY_DEADLINE: _DEADLINE, BY_CALLER: _CANCELLED, BY_DISCONNECT: _CANCELLED}
_CANCEL_REASON = {
    BY_DEADLINE: Reason.DEADLINE_EXCEEDED,
    BY_CALLER: Reason.CALLER_CANCELLED,
    BY_DISCONNECT: Reason.CALLER_DISCONNECTED,
}


class Endings:
    """Ends calls in one gateway's table."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.observer = Observer(core)

    # What callers and time say.

    def cancelled(self, caller: Session, header: codec.Cancel) -> None:
        """A caller no longer wants an answer. It gets none."""
        entry = caller.calls.get(header.call_id)
        if entry is None:
            if header.call_id > caller.last_call_id:
                raise RemoteProtocolError(f"CANCEL for call {header.call_id}, which was never made")
            return
        by = header.reason if header.reason in _CANCEL_CODE else BY_CALLER
        self._cancel(entry, by)

    def _cancel(self, entry: InFlight, by: int) -> None:
        """End a call that its caller wants no more; nobody is told."""
        self.abandon(entry, by)
        value = None
        facts: Facts = {}
        if by == BY_DEADLINE:
            who, value = _deadline(entry)
            facts["maybe_executed"] = entry.request is None
        else:
            did = "cancelled" if by == BY_CALLER else "disconnected, which had called"
            who = f"{entry.caller.name} ({entry.caller.process_id}) {did} {entry.name}"
        facts["by"] = who
        why = Decision(DecisionKind.CANCELLED, self._core.clock(), value, facts)
        entry.decisions = (*entry.decisions, why)
        self.end(entry, _CANCEL_CODE[by], _CANCEL_REASON[by])

    def expire(self, call_id: int) -> None:
        """A call's deadline has passed."""
        entry = self._core.table.by_id.get(call_id)
        if entry is not None:
            spent = budget(entry, trio.current_time())
            self.abandon(entry, BY_DEADLINE)
            self.fail_expired(entry, spent)

    def fail_expired(self, entry: InFlight, spent: list[tuple[int, str, float, str]]) -> None:
        """End a call whose time is over.

        Args:
            entry: The call.
            spent: What its time went to, as :func:`~mesh.gateway.calls.budget` tells.
        """
        by, value = _deadline(entry)
        ran = entry.request is None
        facts = spent_facts(entry, spent) | {"by": by, "maybe_executed": ran}
        self.fail(
            entry,
            Code.DEADLINE_EXCEEDED,
            Reason.DEADLINE_EXCEEDED,
            Decision(DecisionKind.EXPIRED, self._core.clock(), value, facts),
            maybe_executed=ran,
        )

    def lost(self, session: Session, unsent: Container[int]) -> list[InFlight]:
        """A connection is gone: end the calls it made and those it served.

        Args:
            session: The connection.
            unsent: The ids of calls of which no byte has left for it.

        Returns:
            The entries whose request never left; they can go to another instance.
        """
        for entry in list(session.calls.values()):
            self._cancel(entry, BY_DISCONNECT)
        again: list[InFlight] = []
        for entry in list(session.serving.values()):
            if entry.id not in self._core.table.by_id:
                continue  # ended with its parent, a moment ago
            if entry.id in unsent:
                again.append(entry)
                continue
            left = not entry.forwarded or session.link.discard(entry.id) < entry.forwarded
            facts = _after(entry) | {
                "callee": session.name,
                "instance": session.process_id,
                "maybe_executed": left,
            }
            self.fail(
                entry,
                Code.UNAVAILABLE,
                Reason.CONNECTION_LOST,
                Decision(DecisionKind.LOST, self._core.clock(), None, facts),
                maybe_executed=left,
            )
        return again

    def stop(self, entry: InFlight) -> None:
        """The gateway ends before the call does."""
        sent = entry.callee is not None
        self.abandon(entry, BY_DISCONNECT)
        self.fail(
            entry,
            Code.UNAVAILABLE,
            Reason.GATEWAY_DRAINING,
            Decision(
                DecisionKind.STOPPED, self._core.clock(), self._core.limits.drain, _after(entry)
            ),
            maybe_executed=sent,
        )

    # The two ways out of the table.

    def fail(
        self,
        entry: InFlight,
        code: Code,
        reason: Reason,
        why: Decision,
        *,
        maybe_executed: bool = True,
    ) -> None:
        """End a call with an error of the gateway's own, which tells what was decided."""
        if entry.id not in self._core.table.by_id:
            return
        caller = entry.caller
        if entry.replied:
            caller.link.discard(-entry.caller_call_id)
        entry.decisions = (*entry.decisions, why)
        message = why.text
        keep = self.end(entry, code.number, reason, message, answered=True)
        self.send_error(
            caller,
            entry.caller_call_id,
            code,
            reason,
            message,
            why.details(),
            chain=entry.chain,
            activity_id=entry.activity_id,
            maybe_executed=maybe_executed,
            keep=keep,
        )

    def send_error(
        self,
        caller: Session,
        call_id: int,
        code: Code,
        reason: Reason,
        message: str,
        details: Facts | None = None,
        *,
        chain: tuple[str, ...],
        activity_id: str,
        maybe_executed: bool = False,
        keep: str | None = None,
    ) -> None:
        """Tell a caller that its call failed in the gateway."""
        header = (
            call_id,
            code.number,
            str(reason),
            message,
            MAYBE_EXECUTED if maybe_executed else 0,
            MSGPACK,
            None,
            None,
            list(chain),
            activity_id,
            0,
            0,
            keep,
        )
        payload = encode(details) if details else b""
        self._core.send_message(caller.link, -call_id, Kind.ERROR, header, payload, 0)

    def abandon(self, entry: InFlight, by: int) -> None:
        """Tell the callee that nobody wants this answer, unless it never heard the question."""
        callee = entry.callee
        if callee is None:
            return
        del callee.serving[entry.id]
        entry.callee = None
        series = entry.series.method
        if entry.forwarded:
            dropped = callee.link.discard(entry.id)
            if dropped == entry.forwarded:
                return
            entry.partial = entry.partial or dropped > 0
        if not entry.partial:
            entry.served_by = callee.process_id
        series.abandoned += 1
        tracing = self._core.tracing
        trace = tracing.of(entry) if tracing is not None else None
        callee.abandoned[entry.id] = Abandoned(
            series, trace, entry.name, entry.own_span, self._core.clock()
        )
        self._core.send(callee.link, codec.encode(Kind.CANCEL, (entry.id, by)))

    def end(
        self,
        entry: InFlight,
        code: int,
        reason: str,
        message: str = "",
        *,
        answered: bool = False,
    ) -> str | None:
        """Close an entry: count it, record it, and end what is still in flight below it.

        Args:
            entry: The call.
            code: Number of its outcome's status code.
            reason: Why it failed, if it did.
            message: What the failure says to people.
            answered: Whether the caller is about to be told what this returns.

        Returns:
            Why its trace is kept, if it has no parent and that is decided.
        """
        core = self._core
        now = core.clock()
        duration = now - entry.started
        if not core.table.leave(entry, code, duration):
            return None
        if entry.request is not None:
            core.held.leave(entry, now, core.limits.service_wait)
        kept: str | None = None
        if core.observes:
            kept = self.observer.ended(entry, code, reason, message, now, answered)
        if core.listeners:
            core.events.response_routed(entry, code, reason, duration)
        if entry.children:
            self._end_children(entry, now)
        return kept

    def _end_children(self, entry: InFlight, now: float) -> None:
        last = entry.decisions[-1] if entry.decisions else None
        if last is None or last.kind in GOES_ON:
            cause, value, setting = f"{entry.name} was answered", None, ""
        else:
            cause = last.facts.get("by", last.text)
            value, setting = last.value, last.setting
        for child in list((entry.children or {}).values()):
            if child.deadline <= now:
                by, code, reason = BY_DEADLINE, Code.DEADLINE_EXCEEDED, Reason.DEADLINE_EXCEEDED
            else:
                by, code, reason = BY_CALLER, Code.CANCELLED, Reason.PARENT_ENDED
            sent = child.request is None
            self.abandon(child, by)
            facts = {
                "call": child.name,
                "parent": entry.name,
                "by": cause,
                "maybe_executed": sent,
            }
            self.fail(
                child,
                code,
                reason,
                Decision(DecisionKind.PARENT_OVER, now, value, facts, setting),
                maybe_executed=sent,
            )


def _deadline(entry: InFlight) -> tuple[str, float]:
    """Whose deadline is a call's own, and how many seconds that is.

    It is that of the topmost call above it with the same one.
    """
    top = entry
    while top.parent is not None and top.parent.deadline <= entry.deadline + ROUNDING:
        top = top.parent
    allowed = top.deadline - top.started
    told = f"the deadline of {top.name} ({duration(allowed)}, set by {top.caller.name})"
    return told, round(allowed, 4)


def spent_facts(entry: InFlight, spent: list[tuple[int, str, float, str]]) -> Facts:
    """What a call was allowed, and how its time was spent, hop by hop."""
    return {
        "of": entry.name,
        "allowed_ms": round((entry.deadline - entry.started) * 1e3, 3),
        "spent": [
            {"depth": depth, "call": name, "ms": round(ms, 3), "state": state}
            for depth, name, ms, state in spent
        ],
    }


def _after(entry: InFlight) -> Facts:
    """How long after its call something happened."""
    return {"call": entry.name, "after_ms": round((trio.current_time() - entry.started) * 1e3, 3)}
