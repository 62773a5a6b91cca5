"""What is counted and recorded of a call when it ends, or is turned away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.errors import Code, Reason
from mesh.gateway.registry import RESERVED
from mesh.wire.codec import FORCED
from mesh_telemetry import Decision, Record
from mesh_telemetry import Reason as TraceReason
from mesh_telemetry.names import OTHER

if TYPE_CHECKING:
    from mesh.gateway.calls import InFlight
    from mesh.gateway.core import Core
    from mesh.gateway.registry import Method
    from mesh.gateway.session import Session
    from mesh.wire import codec

Refusal = tuple[Code, Reason, Decision]
"""Why a call is turned away: code, reason, and what was decided, which is its message."""


class Observer:
    """Counts and records the calls of one gateway."""

    __slots__ = ("_core",)

    def __init__(self, core: Core) -> None:
        self._core = core

    def ended(
        self,
        entry: InFlight,
        code: int,
        reason: str,
        message: str,
        now: float,
        answered: bool,  # noqa: FBT001 - by position, on the path of every call
    ) -> str | None:
        """Count and record an ended call.

        Args:
            entry: The call, out of the in-flight table.
            code: Number of its outcome's status code.
            reason: Why it failed, if it did.
            message: What the failure says to people.
            now: The time on trio's clock.
            answered: Whether the caller is about to be told what this returns.

        Returns:
            Why its trace is kept, if it has no parent and that is decided.
        """
        core = self._core
        chain, series, parent, callee = entry.chain, entry.series, entry.parent, entry.callee
        core.counters.depths[len(chain)] += 1
        caller, started = entry.caller, entry.started
        duration = now - started
        series.ended(code, duration)
        row = Record(
            entry.id,
            parent.id if parent is not None else 0,
            entry.entry_id,
            entry.trace_id,
            entry.activity_id,
            caller.name,
            caller.process_id,
            entry.span_id,
            entry.own_span,
            entry.service,
            entry.method,
            entry.served_by if callee is None or entry.partial else callee.process_id,
            chain,
            entry.attempt,
            started,
            duration,
            entry.deadline - started,
            entry.waited,
            code,
            reason,
            message,
            False,
            entry.picked,
            entry.decisions,
        )
        core.recorder.append(row)
        trace, tracing = entry.trace, core.tracing
        if tracing is None:
            return None
        slow = duration >= series.method.slow_after
        if trace is None:
            if not code and not slow and now < series.method.baseline_from:
                tracing.passed(entry, row)  # nearly all calls of a busy mesh
                return None
            trace = tracing.of(entry)
            if trace is None:
                return None
        if code or slow or parent is not None or trace.kept or trace.rows:
            method = series.method
            slow_after = method.slow_after if slow else 0.0
            tracing.ended(trace, row, code, slow_after, method.name, method.objective)
            if parent is not None:
                return None
        else:
            trace.rows.append(row)
        process = caller.process_id if answered else ""
        return tracing.close(trace, series.method, process, now)

    def refused(
        self,
        caller: Session,
        header: codec.Call,
        chain: tuple[str, ...],
        refusal: Refusal,
        message: str,
        method: Method | None,
        parent: InFlight | None,
        call_id: int,
    ) -> str | None:
        """Count and record a call that was turned away.

        Args:
            caller: Who called.
            header: The CALL.
            chain: Its chain.
            refusal: Code, reason and decision.
            message: What that says.
            method: What was called, if that is known.
            parent: The call inside which it was made, if that is known to be so.
            call_id: The gateway's id for it.

        Returns:
            Why its trace is kept, if it has no parent and that is decided.
        """
        core = self._core
        code, reason, why = refusal
        service, name = (method.service, method.method) if method is not None else (OTHER, OTHER)
        series = core.metrics.series(caller.name, service, name)
        series.codes[code.number] += 1
        core.counters.reject(core.metrics.caller(caller.name), service, str(reason))
        trace_id, activity_id = header.trace_id, header.activity_id or header.trace_id.hex()
        entry_id = call_id
        if parent is not None:
            trace_id, activity_id, entry_id = parent.trace_id, parent.activity_id, parent.entry_id
        elif header.parent_id and header.gateway in {None, core.instance}:
            entry_id = header.entry_id  # no entry call: what it was made inside has ended
        now = core.clock()
        row = Record(
            call_id,
            parent.id if parent is not None else 0,
            entry_id,
            trace_id,
            activity_id,
            caller.name,
            caller.process_id,
            header.span_id,
            core.draw(64),
            header.service[:128],
            header.method[:128],
            "",
            chain,
            header.attempt,
            now,
            0.0,
            header.timeout_us * 1e-6,
            0.0,
            code.number,
            str(reason),
            message,
            True,
            (),
            (why,),
        )
        core.recorder.append(row)
        tracing = core.tracing
        if tracing is None or header.service == RESERVED:
            return None
        trace = tracing.of(parent) if parent is not None else tracing.open(header.trace_id)
        if trace is None:
            return None
        # Names that nobody has registered are any number, and share one quota.
        known = series.method.name
        if header.options & FORCED and parent is None:
            tracing.judge(trace, TraceReason.FORCED, known)
        tracing.judge(trace, TraceReason.REFUSED, known, row=row)
        tracing.ended(trace, row, 0, 0.0, known)
        if parent is not None:
            return None
        return tracing.close(trace, series.method, caller.process_id, now)
