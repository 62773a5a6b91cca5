"""Calls for a service that is not there yet: they wait, bounded in number, bytes and time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mesh.errors import Code, Reason
from mesh.gateway.balancing import pick
from mesh.gateway.calls import Request
from mesh.gateway.forwarding import forward, forward_more, overloaded
from mesh.timers import Timers

if TYPE_CHECKING:
    from mesh.gateway.calls import InFlight
    from mesh.gateway.core import Core
    from mesh.gateway.endings import Endings
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

    def full(self) -> tuple[Code, Reason, str]:
        """Why no more calls may wait."""
        limits = self._core.limits
        return (
            Code.RESOURCE_EXHAUSTED,
            Reason.WAITING_FULL,
            (
                f"{len(self):,} calls wait for services, {self._core.held.size:,} bytes; the "
                f"limits are {limits.max_waiting:,} and {limits.max_outbox:,}"
            ),
        )

    def is_expected(self, header: codec.Call, method: Method | None, now: float) -> bool:
        """Whether what nobody serves now should be there soon."""
        core, limits = self._core, self._core.limits
        just_started = now - core.started < limits.service_wait
        if just_started and header.service not in core.registry.services:
            return True
        return core.registry.is_expected(header.service, method, now)

    def enter(self, entry: InFlight, header: codec.Call, flags: int, payload: bytes) -> None:
        """A call begins to wait."""
        entry.request = Request(header, [(flags, payload)])
        self._core.held.enter(entry)
        self.timers.add(entry.started + self._core.limits.service_wait, entry.id)

    def hold(self, entry: InFlight, flags: int, payload: bytes) -> None:
        """A further frame of a long call that waits."""
        held = self._core.held
        if held.size + len(payload) > self._core.limits.max_outbox:
            self._fail(entry, *self.full())
        else:
            held.add(entry, flags, payload)

    def _give_up(self, call_id: int) -> None:
        entry = self._core.held.entries[call_id]
        registry = self._core.registry
        waited = f"waited {self._core.limits.service_wait:g} s for {entry.service}.{entry.method}"
        method = registry.methods.get((entry.service, entry.method))
        no_service, missing = registry.explain_missing(entry.service, entry.method)
        if method is not None and method.instances and entry.version is not None:
            self._fail_unfit(entry, method, entry.version)
        elif method is not None:
            gone = f"{waited}; it was here a moment ago, and no instance has come back"
            self._fail(entry, Code.UNAVAILABLE, Reason.NO_INSTANCE, gone)
        elif no_service:
            self._fail(entry, Code.NOT_FOUND, Reason.SERVICE_NOT_FOUND, f"{waited}; {missing}")
        else:
            self._fail(entry, Code.UNIMPLEMENTED, Reason.METHOD_NOT_FOUND, f"{waited}; {missing}")

    def _fail(
        self,
        entry: InFlight,
        code: Code,
        reason: Reason,
        message: str,
        details: dict[str, Any] | None = None,
    ) -> None:
        entry.waited = self._core.clock() - entry.started
        self._endings.fail(entry, code, reason, message, maybe_executed=False, details=details)

    def _fail_unfit(self, entry: InFlight, method: Method, version: str) -> None:
        refusal, details = self._core.fitting.refuse(entry.caller.name, method, version)
        self._fail(entry, *refusal, details)

    def resume(self, service_name: str) -> None:
        """Methods have come: send on the calls that waited for them."""
        for entry in list(self._core.held.entries.values()):
            if entry.service == service_name:
                method = self._core.registry.methods.get((entry.service, entry.method))
                if method is not None and method.instances:
                    self._resume_one(entry, method)

    def _resume_one(self, entry: InFlight, method: Method) -> None:
        core = self._core
        instances, version = method.instances, entry.version
        if version is not None:
            instances = core.fitting.instances(method, version)
            if not instances and core.fitting.is_expected(method, version, core.clock()):
                return
        callee = pick(instances, core.limits.max_in_flight)
        entry.series.method.in_flight -= core.observes
        entry.series = method.series(entry.caller.name)
        entry.series.method.in_flight += core.observes
        if callee is not None:
            request = core.held.leave(entry)
            (flags, payload), *rest = request.frames
            now = core.clock()
            entry.waited = now - entry.started
            forward(core, entry, callee, request.header, flags, payload, now)
            for flags, payload in rest:
                forward_more(core, entry, callee, flags, payload)
        elif instances or version is None:
            limit = core.limits.max_in_flight
            self._fail(entry, *overloaded(method.full_name, instances, limit))
        else:
            self._fail_unfit(entry, method, version)
