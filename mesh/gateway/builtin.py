"""The service named `mesh`: what the gateway tells about its mesh, on the same wire as every call.

It is served by a peer inside the gateway's own process, so that deadlines, cancellation, metrics
and limits hold for it without a second implementation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import msgspec
import trio

from mesh.connecting import connect
from mesh.context import current_call
from mesh.errors import InvalidArgument, NotFound, Reason
from mesh.gateway import life
from mesh.gateway.checks import check
from mesh.gateway.filters import ChangeFilters, TapFilters, TraceFilters
from mesh.gateway.registry import RESERVED
from mesh.gateway.sifting import TAP
from mesh.gateway.tapping import Taps
from mesh.units import tell_seconds
from mesh_telemetry import CODE_NAMES

if TYPE_CHECKING:
    from mesh.gateway.changes import ChangesPage
    from mesh.gateway.checks import Finding
    from mesh.gateway.kept import TraceView
    from mesh.gateway.registry import Registration
    from mesh.gateway.server import Gateway
    from mesh.gateway.session import Session
    from mesh.gateway.tapping import TapPage
    from mesh.gateway.views import EdgeView, GatewayView, SampleView, ServiceDetails, ServiceView
    from mesh.transport import Link
    from mesh_telemetry import Explanation, Record, TraceSummary


METHODS = (
    "services",
    "service",
    "missing",
    "edges",
    "status",
    "ping",
    "stats",
    "records",
    TAP,
    "traces",
    "trace",
    "sample",
    "check",
    "changes",
    "drain",
)


class TraceWanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the method `trace` is asked for."""

    id: str
    """A trace id, the first six digits of one or more, or an activity id."""
    format: str = "otlp"
    """Or ``waterfall``, ``text``, ``explain``."""
    width: int | None = None
    """Columns of the text."""


class Required(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the method `missing` is asked for."""

    services: dict[str, str]
    """Services by the version of their contract that is needed."""
    waited_s: float = 0.0
    """Seconds for which they have been waited for."""

    @classmethod
    def read(cls, given: dict[str, Any]) -> Self:
        """Read it as peers send it; older ones send services by version alone.

        There each value is text, and here that of ``services`` never is.

        Raises:
            InvalidArgument: It is neither.
        """
        if all(isinstance(value, str) for value in given.values()):
            return cls(given)
        try:
            return msgspec.convert(given, cls)
        except msgspec.ValidationError as fault:
            raise InvalidArgument(
                f"parameters of mesh.missing: {fault}",
                reason=Reason.UNDECODABLE,
                maybe_executed=False,
            ) from fault


class _InternalDialer:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def dial(self, limit: int) -> Link:
        return self._gateway._dial(limit, internal=True)


async def serve_builtin(
    gateway: Gateway, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve `mesh.*` until cancelled."""
    builtin = Builtin(gateway)
    dialer = _InternalDialer(gateway)
    async with connect(
        RESERVED, gateway=dialer, limits=gateway.limits, process=gateway._process
    ) as client:
        for name in METHODS:
            client.register(name, getattr(builtin, name))
        # The answer to a ping follows the registrations, which have been read by then. A call would
        # do as well, but be counted as one that somebody made.
        (own,) = [one for one in gateway.core.sessions.values() if one.internal]
        await life.ping(gateway.core, own, 0)
        task_status.started()
        await trio.sleep_forever()


class Builtin:
    """The methods of the service `mesh`; each returns plain data."""

    def __init__(self, gateway: Gateway) -> None:
        self._core = gateway.core
        self._gateway = gateway
        self._views, self._traces = gateway.views, gateway.traces
        self._taps = Taps(gateway.core, shows_payloads=gateway._allow_tap_payloads)
        self._token = 0

    async def services(self) -> list[ServiceView]:
        """Every service, with its methods and instances."""
        return self._views.services()

    async def missing(self, required: dict[str, Any]) -> list[str]:
        """Those of some services that nobody serves, nor has served while they were waited for."""
        wanted, served = Required.read(required), self._core.fitting.was_served
        since = self._core.clock() - wanted.waited_s
        return [
            name for name, version in wanted.services.items() if not served(name, version, since)
        ]

    async def service(self, name: str) -> ServiceDetails:
        """One service, with its methods, instances and contracts."""
        found = self._views.service(name)
        if found is None:
            raise NotFound(self._views.explain_missing(name), reason=Reason.SERVICE_NOT_FOUND)
        return found

    async def edges(self) -> list[EdgeView]:
        """Who has called which method, how often, with which errors and latencies."""
        return await self._views.all_edges()

    async def status(self) -> GatewayView:
        """The gateway itself."""
        return self._gateway.status()

    async def check(self) -> list[Finding]:
        """What is not in order now, and what to do about it."""
        return check(self._core, self._views)

    async def changes(self, filters: dict[str, Any] | None = None) -> ChangesPage:
        """What came, went and changed in the mesh; the filters are those of `/api/changes`."""
        return self._views.changes(ChangeFilters.read(filters or {}))

    async def sample(self) -> SampleView:
        """Counts so far of everything, of which two make rates and latencies."""
        return await self._views.sample(self._gateway.status)

    async def drain(self) -> GatewayView:
        """Have the gateway take no new calls, let those in flight end, then stop."""
        self._gateway.drain()
        return self._gateway.status()

    async def ping(self, service: str) -> list[dict[str, Any]]:
        """Round trips from the gateway to the event loop of each instance of a service."""
        found = self._core.registry.services.get(service)
        if found is None or not found.instances:
            raise NotFound(self._views.explain_missing(service), reason=Reason.SERVICE_NOT_FOUND)
        results: list[dict[str, Any]] = []

        async def one(session: Session, registration: Registration) -> None:
            self._token += 1
            seconds = None
            with trio.move_on_after(self._core.limits.heartbeat):
                seconds = await life.ping(self._core, session, self._token)
            row = msgspec.to_builtins(self._views.instance(session, registration))
            results.append({**row, "round_trip_us": seconds and round(seconds * 1e6, 1)})

        async with trio.open_nursery() as nursery:
            for session, registration in list(found.instances.items()):
                nursery.start_soon(one, session, registration)
        return sorted(results, key=lambda row: str(row["process_id"]))

    async def stats(self, service: str | None = None) -> list[dict[str, Any]]:
        """Counts and latencies in seconds, since the start, of every method of a service.

        Without one, of all services but this one.
        """
        rows = self._core.metrics.snapshot(service)
        return [
            {
                "service": name,
                "method": method,
                **row._asdict(),
                "p50": tell_seconds(row.p50),
                "p95": tell_seconds(row.p95),
                "p99": tell_seconds(row.p99),
            }
            for (name, method), row in sorted(rows.items())
            if service is not None or name != RESERVED
        ]

    async def records(self, activity_id: str) -> list[dict[str, Any]]:
        """The ended calls of one activity that are still remembered, in order of their start."""
        found = self._core.recorder.by_activity(activity_id)
        return [_plain(record) for record in sorted(found, key=lambda record: record.call_id)]

    async def tap(self, filters: dict[str, Any] | None = None) -> TapPage:
        """Calls that have ended since the last answer; waits for one that fits the filters."""
        call = current_call()
        entry = self._core.table.by_id.get(call.call_id) if call is not None else None
        asker = entry.caller if entry is not None else None
        return await self._taps.page(TapFilters.read(filters or {}), asker)

    async def traces(self, filters: dict[str, Any] | None = None) -> list[TraceSummary]:
        """Kept traces, newest first; the filters are those of `/api/traces`."""
        return await self._traces.search(TraceFilters.read(filters or {}))

    async def trace(
        self, wanted: str | TraceWanted
    ) -> TraceView | Explanation | dict[str, Any] | str:
        """One kept trace: as OTLP's JSON, as rows, as text for people, or as its decisions."""
        if isinstance(wanted, str):
            wanted = TraceWanted(wanted)
        return await self._traces.tell(wanted.id, wanted.format, wanted.width)


def _plain(record: Record) -> dict[str, Any]:
    fields = msgspec.structs.asdict(record)
    del fields["own_span"], fields["picked"]
    return {
        **fields,
        "span_id": record.span_id.hex(),
        "depth": record.depth,
        "started": tell_seconds(record.started),
        "duration": tell_seconds(record.duration),
        "trace_id": record.trace_id.hex(),
        "code": CODE_NAMES[record.code],
        "decisions": [decision.details() for decision in record.decisions],
    }
