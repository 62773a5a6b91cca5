"""Routing: is a call allowed, has it time left, is its chain in bounds, which instance takes it.

A refused call is answered at once, with its reason and numbers. An accepted one enters the
in-flight table and its frames are passed on, the payload untouched. A call for a service that
should be there soon waits in the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh import events
from mesh.errors import Code, Reason, RemoteProtocolError
from mesh.gateway.balancing import pick
from mesh.gateway.calls import InFlight
from mesh.gateway.forwarding import forward, forward_more, hand_over, narrowed, outbox_full
from mesh.gateway.refusals import Refusals
from mesh.gateway.registry import RESERVED
from mesh.gateway.waiting import WaitingCalls
from mesh.timers import Timers
from mesh.wire import codec
from mesh.wire.codec import DETACHED, FORCED, is_activity_id
from mesh_telemetry import Decision, DecisionKind
from mesh_telemetry import Reason as TraceReason
from mesh_telemetry.names import OTHER

if TYPE_CHECKING:
    from mesh.gateway.core import Core
    from mesh.gateway.endings import Endings
    from mesh.gateway.observing import Refusal
    from mesh.gateway.registry import Method
    from mesh.gateway.session import Session
    from mesh.gateway.tracing import Trace


class Router:
    """Routes the calls of one gateway."""

    def __init__(self, core: Core, endings: Endings) -> None:
        self._core = core
        self._endings = endings
        self._refusals = Refusals(core)
        self.deadlines = Timers(core.table.by_id, endings.expire, core.flush)
        self.waiting = WaitingCalls(core, endings)

    def call(self, caller: Session, header: codec.Call, flags: int, payload: bytes) -> None:
        """A CALL arrived."""
        core = self._core
        call_id = header.call_id
        if call_id <= caller.last_call_id:
            raise RemoteProtocolError(
                f"CALL {call_id} does not rise above {caller.last_call_id}, the one before it"
            )
        caller.last_call_id = call_id
        if header.activity_id is not None and not is_activity_id(header.activity_id):
            raise RemoteProtocolError(
                f"activity id of CALL {call_id}, {len(header.activity_id)} characters "
                f"{header.activity_id[:40]!r}: it must be 1 to 128 printable ASCII"
            )
        method = core.registry.methods.get((header.service, header.method))
        if method is not None:
            link, alone = method.full_name, method.chain
        elif len(header.service) > 128 or len(header.method) > 128:
            raise RemoteProtocolError(
                f"names of CALL {call_id} have {len(header.service):,} and "
                f"{len(header.method):,} characters, at most 128 are allowed"
            )
        else:
            link = f"{header.service}.{header.method}"
            alone = (link,)
        now = caller.last_received  # without a look at the clock for each frame of one read
        deadline = now + header.timeout_us * 1e-6

        parent: InFlight | None = None
        above: InFlight | None = None  # the same, but of a detached call
        trace: Trace | None = None
        trace_id, verified = header.trace_id, True
        if header.parent_id:
            parent = core.table.by_id.get(header.parent_id)
            if header.gateway is not None and header.gateway != core.instance:
                parent = None
            elif parent is not None and parent.callee is not caller:
                served_by = parent.callee.process_id if parent.callee is not None else ""
                if served_by != caller.process_id:
                    self._refuse(
                        caller, header, alone, self._refusals.foreign(header, caller), method
                    )
                    return
        if parent is not None:
            chain = (*parent.chain, link)
            activity_id, entry_id = parent.activity_id, parent.entry_id
            trace_id, verified = parent.trace_id, parent.verified
            above = parent
            if header.options & DETACHED:
                parent = None
            elif parent.deadline < deadline:
                deadline = parent.deadline
        elif header.parent_id and (
            header.chain is None
            or (header.gateway == core.instance and not header.options & DETACHED)
        ):
            self._refuse(caller, header, alone, self._refusals.parent_gone(link), method)
            return
        else:
            entry_id = header.entry_id if header.gateway == core.instance else 0
            activity_id = header.activity_id or header.trace_id.hex()
            if header.chain is None:
                chain = alone
            else:
                chain = (*header.chain, link)
                verified = False

        limits = core.limits
        if len(chain) > 1:
            if len(chain) > limits.max_depth:
                self._refuse(caller, header, chain, self._refusals.too_deep(chain), method, above)
                return
            if chain.count(link) > limits.max_visits:
                self._refuse(caller, header, chain, self._refusals.looping(chain), method, above)
                return
        if deadline <= now:
            self._refuse(
                caller, header, chain, self._refusals.no_time(link, parent, now), method, above
            )
            return
        if core.draining and parent is None:
            self._refuse(caller, header, chain, self._refusals.draining(), method, above)
            return

        callee: Session | None = None
        version = header.version
        if method is not None and method.instances:
            instances = method.instances
            if version is not None:
                fitting = method.fitting.get(version)  # compared by an earlier call, nearly always
                instances = core.fitting.instances(method, version) if fitting is None else fitting
            callee = pick(instances, limits.max_in_flight)
            if callee is None:
                refusal = core.fitting.turn_away(caller.name, method, instances, version, now)
                if refusal is not None:
                    self._refuse(caller, header, chain, refusal, method, above)
                    return
        elif not self.waiting.is_expected(header, method, now):
            self._refuse(caller, header, chain, self._refusals.missing(header), method, above)
            return
        if callee is None and not self.waiting.has_room(len(payload)):
            self._refuse(caller, header, chain, self.waiting.full(), method, above)
            return

        series = (
            method.series(caller.name)
            if method is not None
            else core.metrics.series(caller.name, OTHER, OTHER)
        )
        table = core.table
        new_id = table.next_id()
        tracing = core.tracing if header.service != RESERVED else None
        if tracing is not None:
            if above is not None:
                trace = tracing.of(above)
                if trace is not None and parent is None:  # it outlives the call it was made inside
                    trace.open += 1
            elif header.options & FORCED:
                trace = tracing.open(header.trace_id)
                tracing.judge(trace, TraceReason.FORCED, link)
        entry = InFlight(
            new_id,
            caller,
            call_id,
            header.service,
            header.method,
            series,
            parent,
            entry_id or new_id,
            chain,
            activity_id,
            trace_id,
            header.attempt,
            deadline,
            now,
            verified,
            header.span_id,
            core.draw(64),
            trace,
        )
        if flags:
            entry.received = len(payload)
        if version is not None:
            entry.version = version
            if callee is not None and method and len(instances) != len(method.instances):
                narrowed(entry, method, instances)
        table.enter(entry)
        if tracing is not None and above is None and trace is None:
            tracing.begin(entry)
        if core.observes:
            series.method.in_flight += 1
        self.deadlines.add(deadline, new_id)
        if callee is None:
            self.waiting.enter(entry, header, flags, payload)
        else:
            forward(core, entry, callee, header, flags, payload, now)

    def continued(self, caller: Session, call_id: int, flags: int, payload: bytes) -> None:
        """A further frame of a long CALL arrived."""
        core = self._core
        entry = caller.calls.get(call_id)
        if entry is None:
            if call_id > caller.last_call_id:
                raise RemoteProtocolError(f"CALL continues call {call_id}, which it never began")
            return  # refused or ended meanwhile
        if not entry.received:
            raise RemoteProtocolError(f"CALL continues call {call_id}, which had come whole")
        entry.received += len(payload)
        if entry.received > core.limits.max_message:
            raise RemoteProtocolError(
                f"CALL of {entry.received:,} bytes exceeds max_message of "
                f"{core.limits.max_message:,}"
            )
        callee = entry.callee
        if callee is None:
            self.waiting.hold(entry, flags, payload)
        elif callee.link.weight >= callee.link.limit:
            refusal = outbox_full(core, entry.name, callee)
            self._endings.abandon(entry, codec.BY_CALLER)
            self._endings.fail(entry, *refusal)
        else:
            forward_more(core, entry, callee, flags, payload)

    def reroute(self, entry: InFlight, frame: bytes) -> None:
        """Send a call to another instance, since its frame never left for the one that is lost."""
        if entry.id not in self._core.table.by_id:
            return  # ended with its parent, which no other instance could take
        lost = entry.callee
        if lost is not None:
            del lost.serving[entry.id]
        entry.callee, entry.picked = None, ()
        method = self._core.registry.methods.get((entry.service, entry.method))
        callee: Session | None = None
        if method is not None and method.instances:
            instances = method.instances
            if entry.version is not None:
                instances = self._core.fitting.instances(method, entry.version)
            callee = pick(instances, self._core.limits.max_in_flight)
            narrowed(entry, method, instances)
        if callee is None:
            unsent = Decision(
                DecisionKind.UNSENT, self._core.clock(), None, {"service": entry.service}
            )
            self._endings.fail(
                entry, Code.UNAVAILABLE, Reason.CONNECTION_LOST, unsent, maybe_executed=False
            )
            return
        if lost is not None:
            facts = {"lost": lost.process_id, "instance": callee.process_id}
            again = Decision(DecisionKind.REROUTED, self._core.clock(), None, facts)
            entry.decisions = (*entry.decisions, again)
        hand_over(self._core, entry, callee)
        self._core.send(callee.link, frame)

    def _refuse(
        self,
        caller: Session,
        header: codec.Call,
        chain: tuple[str, ...],
        refusal: Refusal,
        method: Method | None,
        parent: InFlight | None = None,
    ) -> None:
        """Answer a call that is turned away.

        Args:
            caller: Who called.
            header: The CALL.
            chain: Its chain.
            refusal: Why.
            method: What was called, if that is known.
            parent: The call inside which it was made, if that is known to be so.
        """
        core = self._core
        code, reason, why = refusal
        message = why.text
        activity_id = header.activity_id or header.trace_id.hex()
        if parent is not None:
            activity_id = parent.activity_id
        call_id = core.table.next_id()
        if core.listeners:
            core.events.publish(
                events.ResponseRouted(
                    call_id=call_id,
                    caller=caller.name,
                    service=header.service[:128],
                    method=header.method[:128],
                    code=str(code),
                    reason=str(reason),
                    duration=0.0,
                    refused=True,
                    activity_id=activity_id,
                )
            )
        keep: str | None = None
        if core.observes:
            keep = self._endings.observer.refused(
                caller, header, chain, refusal, message, method, parent, call_id
            )
        self._endings.send_error(
            caller,
            header.call_id,
            code,
            reason,
            message,
            why.details(),
            chain=chain,
            activity_id=activity_id,
            keep=keep,
        )
