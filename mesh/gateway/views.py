"""What a gateway tells about its mesh, as plain structures: for programs, the command and HTTP.

One room builds them, so that `Gateway.services()`, the built-in service `mesh` and `/api` say the
same. Every structure is a `msgspec.Struct`: it encodes as a map of its fields. Durations are
seconds; moments are Unix time, so that they mean something to whoever reads them elsewhere.
"""

from __future__ import annotations

import time
from operator import add
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from mesh._version import __version__
from mesh.gateway.changes import ChangesPage
from mesh.gateway.filters import read_cursor
from mesh.gateway.missing import explain_service
from mesh.gateway.registry import RESERVED
from mesh.units import tell_seconds
from mesh_telemetry import CODE_NAMES, quantile
from mesh_telemetry.metrics import errors_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mesh.contracts.versions import Version
    from mesh.gateway.core import Core
    from mesh.gateway.departures import Departure
    from mesh.gateway.filters import ChangeFilters
    from mesh.gateway.registry import Registration, Service
    from mesh.gateway.session import Session


STEP = 200
"""Series told before others may run."""


class InstanceView(msgspec.Struct, frozen=True, kw_only=True):
    """One connected peer that serves a service."""

    peer: str
    """What it calls itself."""
    process_id: str
    """Which process it is, for as long as that lives."""
    address: str
    """Which of the gateway's addresses it is connected at."""
    remote: str
    """Where it connects from: ``127.0.0.1:51234``, or ``pid 4711`` on a Unix socket; empty where
    that is not known."""
    state: str
    """``healthy``, ``late``, ``unresponsive`` or ``draining``."""
    version: str
    """What it registered; empty where it named none."""
    methods: list[str]
    metadata: dict[str, str]
    in_flight: int
    """Calls that it works on, as the gateway sees it."""
    queued_bytes: int
    """What waits in the gateway to be read by it."""
    queue_limit_bytes: int
    connected_at: float
    connected_s: float
    heartbeat_at: float
    heartbeat_age_s: float
    loop_lag_s: float | None
    """As it reported in its last heartbeat, like the next two; None before the first."""
    memory_bytes: int | None
    cpu_us: int | None


class GoneView(msgspec.Struct, frozen=True, kw_only=True):
    """How the last instance of a service went."""

    gone_at: float
    gone_s: float
    peer: str
    process_id: str
    how: str
    """``was disconnected``, ``left in order``, or ``unregistered it``."""


class ServiceView(msgspec.Struct, frozen=True, kw_only=True):
    """One service, with all that serve it; with none where it is gone and remembered."""

    name: str
    versions: list[str]
    """Those that its instances registered."""
    methods: list[str]
    """Those that can be called now."""
    instances: list[InstanceView]
    gone: GoneView | None
    """How it went, where nobody takes new calls of it."""


class ContractView(msgspec.Struct, frozen=True, kw_only=True):
    """A contract as instances have registered it."""

    version: str
    instances: list[str]
    """The process ids of those that have registered this very one."""
    schema: dict[str, Any]
    """Its methods with their types, as JSON Schema; see the wire protocol's REGISTER."""


class ServiceDetails(ServiceView, frozen=True, kw_only=True):
    """One service with all that is known of it."""

    contracts: list[ContractView]
    """Those that its instances have, the newest first; none where they have told none."""


class EdgeView(msgspec.Struct, frozen=True, kw_only=True):
    """What one caller has asked of one method, since the gateway's start."""

    caller: str
    service: str
    method: str
    calls: int
    """Ended attempts, refused ones included."""
    errors: dict[str, int]
    """Those that did not end with ok, by the code's name; no zeros."""
    p50: float | None
    """Seconds, estimated; refused calls are left out. None before the first."""
    p99: float | None
    duration_s: float
    """Seconds that the calls in ``buckets`` took together."""
    buckets: list[int]
    """Calls by duration, as in :class:`~mesh_telemetry.CallSeries`: of two answers, what happened
    between them."""


class MethodView(msgspec.Struct, frozen=True, kw_only=True):
    """What all callers together have asked of one method, since the gateway's start."""

    service: str
    method: str
    calls: int
    """Ended attempts, refused ones included."""
    errors: dict[str, int]
    """Those that did not end with ok, by the code's name; no zeros."""
    in_flight: int
    duration_s: float
    """Seconds that the calls in ``buckets`` took together."""
    buckets: list[int]
    """Calls by duration, as in :class:`~mesh_telemetry.MethodSeries`; refused ones are left out."""


class GatewayView(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway itself."""

    gateway: str
    """Its process-lifetime id."""
    version: str
    state: str
    """``running``, ``draining`` or ``stopped``."""
    draining: bool
    uptime_s: float
    telemetry: bool
    """Whether calls are counted and recorded."""
    peers: int
    services: int
    in_flight: int
    waiting: int
    """Calls in flight that wait for a service which is not there yet."""
    routed: int
    """Calls that came since the start."""
    outbox_bytes: int
    memory_bytes: int
    cpu_us: int
    loop_lag_s: float
    addresses: list[str]
    admin: str | None


class SampleView(msgspec.Struct, frozen=True, kw_only=True):
    """All counts so far: of two samples of one gateway, what happened between them."""

    gateway: GatewayView
    """Its id and its uptime say whether and how much later another sample is one of the same."""
    services: list[ServiceView]
    methods: list[MethodView]


def _registered(service: Service) -> dict[Session, Registration]:
    """All that serve it, those included that finish what they have."""
    return {**service.instances, **service.draining}


def _gone(departure: Departure) -> GoneView:
    now = trio.current_time()
    return GoneView(
        gone_at=tell_seconds(departure.at + time.time() - now),
        gone_s=tell_seconds(now - departure.at),
        peer=departure.peer,
        process_id=departure.process_id,
        how=departure.how,
    )


def _contracts(service: Service) -> list[ContractView]:
    found: dict[tuple[Version | None, bytes], ContractView] = {}
    for session, how in _registered(service).items():
        schema = how.schema.whole
        if not schema:
            continue
        view = found.get((how.parsed, schema))
        if view is None:
            told = msgspec.json.decode(schema)  # read before, when it came
            view = ContractView(version=how.version, instances=[], schema=told)
            found[how.parsed, schema] = view
        view.instances.append(session.process_id)
    newest = sorted(found, key=lambda key: key[0] or (), reverse=True)
    return [found[key] for key in newest]


class Views:
    """Builds the structures of one gateway."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def services(self) -> list[ServiceView]:
        """Every service, the gateway's own included, by name."""
        services = self._core.registry.services
        return [self._service(services[name]) for name in sorted(services)]

    def service(self, name: str) -> ServiceDetails | None:
        """One service; None where none of this name is known."""
        found = self._core.registry.services.get(name)
        if found is None:
            return None
        view = self._service(found)
        return ServiceDetails(**msgspec.structs.asdict(view), contracts=_contracts(found))

    def explain_missing(self, name: str) -> str:
        """What to say where there is no service of this name."""
        return explain_service(self._core, name)

    def is_connected(self, name: str) -> bool:
        """Whether a peer of this name, or one that serves this service, is connected."""
        service = self._core.registry.services.get(name)
        if service is not None and service.instances:
            return True
        return any(session.name == name for session in self._core.sessions.values())

    def changes(self, wanted: ChangeFilters) -> ChangesPage:
        """What came, went and changed.

        Raises:
            InvalidArgument: The cursor is none that this gateway, or one before it, has told.
        """
        core = self._core
        changes = core.events.changes
        after = read_cursor(wanted.cursor, core.instance, changes.last) if wanted.cursor else 0
        return ChangesPage(
            gateway=core.instance,
            cursor=f"{core.instance}:{changes.last}",
            dropped=changes.dropped,
            changes=changes.find(wanted, core.process.wall(), after),
        )

    def _service(self, service: Service) -> ServiceView:
        registered = _registered(service)
        return ServiceView(
            name=service.name,
            versions=sorted({one.version for one in registered.values() if one.version}),
            methods=sorted(name for name, method in service.methods.items() if method.instances),
            instances=[self.instance(session, how) for session, how in registered.items()],
            gone=_gone(service.left) if service.left is not None else None,
        )

    def instance(self, session: Session, registration: Registration) -> InstanceView:
        """One instance."""
        now = trio.current_time()
        to_unix = time.time() - now
        beat = session.heartbeat
        return InstanceView(
            peer=session.name,
            process_id=session.process_id,
            address=session.link.address,
            remote=session.remote,
            state=session.state,
            version=registration.version,
            methods=sorted(registration.methods),
            metadata={**session.metadata, **registration.metadata},
            in_flight=session.load,
            queued_bytes=session.link.queued,
            queue_limit_bytes=session.link.limit,
            connected_at=tell_seconds(session.connected_at + to_unix),
            connected_s=tell_seconds(now - session.connected_at),
            heartbeat_at=tell_seconds(session.last_heartbeat + to_unix),
            heartbeat_age_s=tell_seconds(now - session.last_heartbeat),
            loop_lag_s=tell_seconds(beat.loop_lag_us / 1e6) if beat is not None else None,
            memory_bytes=beat.memory if beat is not None else None,
            cpu_us=beat.cpu_us if beat is not None else None,
        )

    def edges(self) -> Iterator[EdgeView]:
        """Every caller of every method, oldest first. There can be many: pause between them."""
        for series in self._core.metrics.calls():
            calls, took = sum(series.codes), series.duration_sum
            if calls:
                yield EdgeView(
                    caller=series.caller,
                    service=series.method.service,
                    method=series.method.method,
                    calls=calls,
                    errors=errors_of(series.codes),
                    p50=tell_seconds(quantile(series.buckets, 0.50, total=took)),
                    p99=tell_seconds(quantile(series.buckets, 0.99, total=took)),
                    duration_s=tell_seconds(took),
                    buckets=series.buckets.copy(),
                )

    async def all_edges(self) -> list[EdgeView]:
        """The same as a list, built without holding the loop for long."""
        edges: list[EdgeView] = []
        for edge in self.edges():
            edges.append(edge)
            if len(edges) % STEP == 0:
                await trio.lowlevel.checkpoint()
        return edges

    async def sample(self, status: Callable[[], GatewayView]) -> SampleView:
        """All counts so far, built without holding the loop for long.

        Args:
            status: Tells of the gateway itself.
        """
        metrics = self._core.metrics
        codes = {series: [0] * len(CODE_NAMES) for series in metrics.methods()}
        for number, calls in enumerate(metrics.calls(), 1):
            codes[calls.method] = list(map(add, codes[calls.method], calls.codes))
            if number % STEP == 0:
                await trio.lowlevel.checkpoint()
        methods: list[MethodView] = []
        for series, totals in codes.items():
            methods.append(
                MethodView(
                    service=series.service,
                    method=series.method,
                    calls=sum(totals),
                    errors=errors_of(totals),
                    in_flight=series.in_flight,
                    duration_s=tell_seconds(series.duration_sum),
                    buckets=series.buckets.copy(),
                )
            )
            if len(methods) % STEP == 0:
                await trio.lowlevel.checkpoint()
        return SampleView(gateway=status(), services=self.services(), methods=methods)

    def status(self, addresses: list[str], admin: str | None, *, running: bool) -> GatewayView:
        """The gateway itself.

        Args:
            addresses: Where it listens.
            admin: Where it serves HTTP, if it does.
            running: Whether it has not ended yet.
        """
        core = self._core
        usage = core.process.usage()
        peers = [session for session in core.sessions.values() if not session.internal]
        return GatewayView(
            gateway=core.instance,
            version=__version__,
            state="stopped" if not running else "draining" if core.draining else "running",
            draining=core.draining,
            uptime_s=tell_seconds(core.clock() - core.started),
            telemetry=core.observes,
            peers=len(peers),
            services=sum(
                bool(one.instances) and one.name != RESERVED
                for one in core.registry.services.values()
            ),
            in_flight=len(core.table),
            waiting=len(core.held.entries),
            routed=core.table.last_id,
            outbox_bytes=sum(session.link.queued for session in peers),
            memory_bytes=usage.memory,
            cpu_us=usage.cpu_us,
            loop_lag_s=tell_seconds(core.loop_lag),
            addresses=addresses,
            admin=admin,
        )
