"""The registry: which connected peers serve which methods, and which of these are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.contracts.versions import Version
from mesh.errors import RemoteProtocolError
from mesh.gateway.departures import LEFT, LOST, UNREGISTERED, Departed, Departure
from mesh.gateway.schemas import Incoming, take_schema
from mesh.wire import codec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mesh.gateway.session import Session
    from mesh.limits import Limits
    from mesh_telemetry import CallMetrics, CallSeries

RESERVED = "mesh"
"""The gateway's own service; no peer may serve it."""


class Method:
    """One method of one service, and who serves it."""

    __slots__ = (
        "_metrics",
        "_series",
        "chain",
        "fitting",
        "full_name",
        "gone",
        "instances",
        "method",
        "service",
    )

    def __init__(self, service: str, method: str, metrics: CallMetrics) -> None:
        self.service = service
        self.method = method
        self.full_name = f"{service}.{method}"
        self.chain = (self.full_name,)  # of an entry call
        self.instances: list[Session] = []
        self.fitting: dict[str, list[Session]] = {}  # those for callers of a version
        self.gone: Departure | None = None  # while nobody serves it
        self._metrics = metrics
        self._series: dict[str, CallSeries] = {}

    def series(self, caller: str) -> CallSeries:
        """The counters of calls from this caller."""
        series = self._series.get(caller)
        if series is None:
            series = self._metrics.series(caller, self.service, self.method)
            if len(self._series) < 10_000:
                self._series[caller] = series
        return series


class Service:
    """One service: its methods, its instances, and those that take no new calls before they go.

    Where it has no instances, ``left`` says how the last one went.
    """

    __slots__ = ("draining", "gone", "instances", "left", "methods", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.methods: dict[str, Method] = {}
        self.instances: dict[Session, Registration] = {}
        self.draining: dict[Session, Registration] = {}
        self.left: Departure | None = None
        self.gone: dict[Version | None, float] = {}  # versions that left and are expected back

    def changed(self) -> None:
        """Forget who serves which callers, as instances have come, gone or changed."""
        for method in self.methods.values():
            method.fitting.clear()


class Registration:
    """What one instance said when it registered a service."""

    __slots__ = ("metadata", "methods", "parsed", "schema", "version")

    def __init__(self) -> None:
        self.version = ""
        self.parsed: Version | None = None
        self.metadata: dict[str, str] = {}
        self.schema = Incoming()
        self.methods: dict[str, None] = {}  # an ordered set


class Registry:
    """All services, with those that are gone: see :class:`~mesh.gateway.departures.Departed`."""

    def __init__(self, limits: Limits, metrics: CallMetrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._departed = Departed(limits.service_memory)
        self.services: dict[str, Service] = {}
        self.methods: dict[tuple[str, str], Method] = {}

    def add(self, session: Session, header: codec.Register) -> list[str]:
        """A peer serves these methods from now on; those it served before stay.

        Returns:
            Those that it did not serve before.

        Raises:
            RemoteProtocolError: The name is the gateway's own, the version none, or there are too
                many methods.
        """
        service_name, version = header.service, header.version
        methods, metadata = header.methods, header.metadata
        if service_name == RESERVED and not session.internal:
            raise RemoteProtocolError(
                f"service name {RESERVED!r} is the gateway's own; choose another"
            )
        if not methods:
            return []  # a service without methods would never be forgotten
        own = session.services.get(service_name)
        new = [name for name in methods if own is None or name not in own.methods]
        total = sum(len(one.methods) for one in session.services.values()) + len(new)
        if total > self._limits.max_methods:
            raise RemoteProtocolError(
                f"{total:,} methods of one connection exceed max_methods of "
                f"{self._limits.max_methods:,}"
            )
        required = codec.REQUIRES + service_name
        if len(metadata.get(required, "")) > codec.MAX_REQUIRES:
            raise RemoteProtocolError(
                f"{len(metadata[required]):,} characters of what {service_name!r} requires exceed "
                f"{codec.MAX_REQUIRES:,}"
            )
        size = len(version) + sum(
            len(key) + len(value) for key, value in metadata.items() if key != required
        )
        if size > codec.MAX_TEXT:
            raise RemoteProtocolError(
                f"version and metadata of {size:,} characters exceed {codec.MAX_TEXT:,}"
            )
        try:
            parsed = Version.parse(version) if version else None
        except ValueError as fault:
            raise RemoteProtocolError(f"service {service_name!r}: {fault}") from fault
        service = self.services.get(service_name)
        if service is None:
            service = self.services[service_name] = Service(service_name)
        registration = service.instances.get(session)
        if registration is None:
            registration = service.instances[session] = Registration()
        registration.version, registration.parsed = version, parsed
        registration.metadata = metadata
        service.gone.pop(parsed, None)
        service.left = None
        service.changed()
        for name, options in methods.items():
            method = service.methods.get(name)
            if method is None:
                method = Method(service_name, name, self._metrics)
                service.methods[name] = self.methods[service_name, name] = method
            registration.methods[name] = None
            if method.gone is not None:
                method.gone = None
                self._departed.remove(method)
            if session not in method.instances:
                method.instances.append(session)
            deprecated = isinstance(options.get("deprecated"), str)
            objective = _objective(options.get("slo"))
            self._metrics.declare(service_name, name, objective=objective, deprecated=deprecated)
        session.services[service_name] = registration
        return new

    def take_schema(self, session: Session, header: codec.Register, piece: bytes) -> None:
        """The payload of a REGISTER has come: a piece of its service's schema, if it says so.

        Raises:
            RemoteProtocolError: It is too long, or no JSON object.
        """
        service = self.services.get(header.service)
        if header.schema_size and service is not None:
            take_schema(session, service, header.schema_size, piece, self._limits.max_schema)

    def remove(
        self, session: Session, service_name: str, names: Iterable[str], now: float
    ) -> list[str]:
        """A peer no longer serves these methods, or with none named the whole service.

        Args:
            session: The peer.
            service_name: The service.
            names: Its methods.
            now: On trio's clock.

        Returns:
            Those of them that it did serve.
        """
        service = self.services.get(service_name)
        registration = session.services.get(service_name)
        if service is None or registration is None:
            return []
        service.changed()
        served = registration.methods
        departure = Departure(now, session.name, session.process_id, UNREGISTERED)
        gone = [name for name in tuple(names) or tuple(served) if name in served]
        for name in gone:
            served.pop(name, None)
            method = service.methods.get(name)
            if method is not None and session in method.instances:
                method.instances.remove(session)
                self._note(method, departure)
        if not registration.methods:
            del session.services[service_name]
            del service.instances[session]
            if not service.instances:
                service.left = departure
        self._forget(now)
        return gone

    def withdraw(self, session: Session, now: float, *, draining: bool = False) -> None:
        """A peer leaves or will soon: no more calls for it, but its services are expected back.

        Args:
            session: The peer.
            now: On trio's clock.
            draining: Whether it stays connected until its calls have ended.
        """
        for service_name in session.drained:
            left = self.services.get(service_name)
            if left is not None:
                left.draining.pop(session, None)
        session.drained = tuple(session.services) if draining else ()
        departure = Departure(now, session.name, session.process_id, LEFT if draining else LOST)
        for service_name, registration in session.services.items():
            service = self.services[service_name]
            service.instances.pop(session, None)
            if not service.instances:
                service.left = departure
            service.gone[registration.parsed] = now
            service.changed()
            if draining:
                service.draining[session] = registration
            for name in registration.methods:
                method = service.methods[name]
                if session in method.instances:
                    method.instances.remove(session)
                    self._note(method, departure)
        session.services = {}

    def sweep(self, now: float) -> None:
        """Forget what has been gone for too long."""
        memory = self._limits.service_memory
        self._forget(now)
        for service in self.services.values():
            if service.gone:
                service.gone = {
                    version: at for version, at in service.gone.items() if now - at <= memory
                }

    def _note(self, method: Method, departure: Departure) -> None:
        """An instance serves a method no longer; it may have been the last one."""
        if not method.instances:
            method.gone = departure
            self._departed.add(method, departure)

    def _forget(self, now: float) -> None:
        for method in self._departed.forget(now):
            del self.methods[method.service, method.method]
            service = self.services[method.service]
            del service.methods[method.method]
            if not service.methods:
                del self.services[method.service]

    def is_expected(self, service_name: str, method: Method | None, now: float) -> bool:
        """Whether a method that nobody serves should be there soon."""
        service = self.services.get(service_name)
        gone = method.gone if method is not None else service.left if service is not None else None
        return gone is not None and gone.is_awaited(now, self._limits.service_memory)


def _objective(told: object) -> float | None:
    """Seconds, of an option that may be anything."""
    if isinstance(told, bool) or not isinstance(told, (int, float)):
        return None
    return told if told > 0 else None
