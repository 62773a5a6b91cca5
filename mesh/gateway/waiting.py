"""Calls for a service that is not there yet: they wait, bounded in number, bytes and time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.errors import Code, Reason
from mesh.gateway.balancing import pick
from mesh.gateway.calls import Request
from mesh.gateway.forwarding import forward, forward_more, narrowed
from mesh.gateway.missing import explain_call
from mesh.timers import Timers
from mesh_telemetry import Decision, DecisionKind
from mesh_telemetry.texts import milliseconds

if TYPE_CHECKING:
    from mesh.gateway.calls import InFlight
    from mesh.gateway.core import Core
    from mesh.gateway.endings import Endings
    from mesh.gateway.observing import Refusal
    from mesh.gateway.registry import Method
    from mesh.wire import codec


class WaitingCalls:
    """The calls of one gateway that wait. They stand in the in-flight table like any other."""

    def __init__(self, core: Core, endings: Endings) -> None:
        self._core = core
        self._endings = endings
        self.timers = Timers(core.held.entries, self._give_up, core.flush)

    def __len__(self) -> int:
        return len(self._core.held.entries)

    def has_room(self, size: int) -> bool:
        """Whether one more call, of which ``size`` bytes have come, may wait."""
        limits = self._core.limits
        return len(self) < limits.max_waiting and self._core.held.size + size <= limits.max_outbox

    def full(self) -> Refusal:
        """Why no more calls may wait."""
        limits = self._core.limits
        facts = {
            "waiting": len(self),
            "bytes": self._core.held.size,
            "max_outbox": limits.max_outbox,
        }
        decision = Decision(
            DecisionKind.WAITING_FULL, self._core.clock(), limits.max_waiting, facts
        )
        return Code.RESOURCE_EXHAUSTED, Reason.WAITING_FULL, decision

    def is_expected(self, header: codec.Call, method: Method | None, now: float) -> bool:
        """Whether what nobody serves now should be there soon."""
        core, limits = self._core, self._core.limits
        just_started = now - core.started < limits.service_wait
        if just_started and header.service not in core.registry.services:
            return True
        return core.registry.is_expected(header.service, method, now)

    def enter(self, entry: InFlight, header: codec.Call, flags: int, payload: bytes) -> None:
        """A call begins to wait."""
        entry.request = Request(header, [(flags, payload)], self._why_expected(entry))
        self._core.held.enter(entry)
        self.timers.add(entry.started + self._core.limits.service_wait, entry.id)

    def hold(self, entry: InFlight, flags: int, payload: bytes) -> None:
        """A further frame of a long call that waits."""
        held = self._core.held
        if held.size + len(payload) > self._core.limits.max_outbox:
            self._endings.fail(entry, *self.full(), maybe_executed=False)
        else:
            held.add(entry, flags, payload)

    def _why_expected(self, entry: InFlight) -> str:
        core = self._core
        method = core.registry.methods.get((entry.service, entry.method))
        if method is not None and method.instances:
            return f"no instance served version {entry.version} then"
        if method is not None and method.gone is not None:
            return f"it had been gone for {milliseconds((entry.started - method.gone.at) * 1e3)}"
        if entry.service in core.registry.services:
            return "it had no instance then"
        age = milliseconds((entry.started - core.started) * 1e3)
        return f"the gateway had started {age} before"

    def _give_up(self, call_id: int) -> None:
        core = self._core
        entry = core.held.entries[call_id]
        method = core.registry.methods.get((entry.service, entry.method))
        if method is not None and method.instances and entry.version is not None:
            refusal = core.fitting.refuse(entry.caller.name, method, entry.version)
            self._endings.fail(entry, *refusal, maybe_executed=False)
            return
        code, reason, told = explain_call(core, entry.service, entry.method)
        because = entry.request.because if entry.request is not None else ""
        facts = {
            "call": f"{entry.service}.{entry.method}",
            "told": told,
            "because": because,
        }
        decision = Decision(DecisionKind.NOT_COME, core.clock(), core.limits.service_wait, facts)
        self._endings.fail(entry, code, reason, decision, maybe_executed=False)

    def resume(self, service_name: str) -> None:
        """Methods have come: send on the calls that waited for them."""
        for entry in list(self._core.held.entries.values()):
            if entry.service == service_name:
                method = self._core.registry.methods.get((entry.service, entry.method))
                if method is not None and method.instances:
                    self._resume_one(entry, method)

    def _resume_one(self, entry: InFlight, method: Method) -> None:
        core = self._core
        instances, version, now = method.instances, entry.version, core.clock()
        if version is not None:
            instances = core.fitting.instances(method, version)
        callee = pick(instances, core.limits.max_in_flight)
        refusal: Refusal | None = None
        if callee is None:
            caller = entry.caller.name
            refusal = core.fitting.turn_away(caller, method, instances, version, now)
            if refusal is None:
                return
        entry.series.method.in_flight -= core.observes
        entry.series = method.series(entry.caller.name)
        entry.series.method.in_flight += core.observes
        if callee is not None:
            request = core.held.leave(entry, now, core.limits.service_wait)
            (flags, payload), *rest = request.frames
            narrowed(entry, method, instances)
            forward(core, entry, callee, request.header, flags, payload, now)
            for flags, payload in rest:
                forward_more(core, entry, callee, flags, payload)
        elif refusal is not None:
            self._endings.fail(entry, *refusal, maybe_executed=False)
