"""The service named `mesh`: what the gateway tells about its mesh, on the same wire as every call.

It is served by a peer inside the gateway's own process, so that deadlines, cancellation, metrics
and limits hold for it without a second implementation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from mesh._version import __version__
from mesh.client import connect
from mesh.errors import NotFound, Reason
from mesh.gateway.registry import RESERVED
from mesh.gateway.session import HEALTH_NAMES
from mesh_telemetry import CODE_NAMES

if TYPE_CHECKING:
    from mesh.gateway.server import Gateway
    from mesh.gateway.session import Session
    from mesh.transport import Link
    from mesh_telemetry import Record


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
        for name in ("services", "status", "ping", "stats", "records"):
            client.register(name, getattr(builtin, name))
        # A call of our own returns only after the registration before it has been read.
        await client.call(RESERVED, "status")
        task_status.started()
        await trio.sleep_forever()


class Builtin:
    """The methods of the service `mesh`; each returns plain data."""

    def __init__(self, gateway: Gateway) -> None:
        self._core = gateway.core
        self._gateway = gateway
        self._token = 0

    async def services(self) -> list[dict[str, Any]]:
        """Every service, with its methods and instances."""
        now = trio.current_time()
        return [
            {
                "name": service.name,
                "methods": sorted(
                    name for name, method in service.methods.items() if method.instances
                ),
                "instances": [self._instance(session, now) for session in service.instances],
            }
            for service in sorted(self._core.registry.services.values(), key=lambda s: s.name)
        ]

    def _instance(self, session: Session, now: float) -> dict[str, Any]:
        return {
            "peer": session.name,
            "process_id": session.process_id,
            "address": session.link.address,
            "state": HEALTH_NAMES[session.health],
            "in_flight": session.load,
            "connected_s": round(now - session.connected_at, 3),
            "heartbeat_age_s": round(now - session.last_heartbeat, 3),
            "metadata": session.metadata,
        }

    async def status(self) -> dict[str, Any]:
        """The gateway itself."""
        core = self._core
        usage = core.process.usage()
        return {
            "gateway": core.instance,
            "version": __version__,
            "uptime_s": round(trio.current_time() - core.started, 3),
            "peers": sum(not session.internal for session in core.sessions.values()),
            "services": len(core.registry.services) - 1,
            "in_flight": len(core.table),
            "routed": core.table.last_id,
            "memory_bytes": usage.memory,
            "cpu_us": usage.cpu_us,
            "loop_lag_s": core.loop_lag,
            "addresses": self._gateway.addresses,
            "admin": self._gateway.admin_address,
            "draining": core.draining,
        }

    async def ping(self, service: str) -> list[dict[str, Any]]:
        """Round trips from the gateway to the event loop of each instance of a service."""
        found = self._core.registry.services.get(service)
        if found is None or not found.instances:
            raise NotFound(
                self._core.registry.explain_missing(service, "")[1]
                if found is None
                else f"service {service!r} has no instance now",
                reason=Reason.SERVICE_NOT_FOUND,
            )
        results: list[dict[str, Any]] = []

        async def one(session: Session) -> None:
            self._token += 1
            seconds = None
            with trio.move_on_after(self._core.limits.heartbeat):
                seconds = await session.ping(self._token)
            row = self._instance(session, trio.current_time())
            results.append({**row, "round_trip_us": seconds and round(seconds * 1e6, 1)})

        async with trio.open_nursery() as nursery:
            for session in list(found.instances):
                nursery.start_soon(one, session)
        return sorted(results, key=lambda row: str(row["process_id"]))

    async def stats(self) -> list[dict[str, Any]]:
        """Counts and latencies of every method called so far; seconds."""
        rows = self._core.metrics.snapshot()
        return [
            {"service": service, "method": method, **row._asdict()}
            for (service, method), row in sorted(rows.items())
            if service != RESERVED
        ]

    async def records(self, activity_id: str) -> list[dict[str, Any]]:
        """The ended calls of one activity that are still remembered, in order of their start."""
        found = self._core.recorder.by_activity(activity_id)
        return [_plain(record) for record in sorted(found, key=lambda record: record.call_id)]


def _plain(record: Record) -> dict[str, Any]:
    return {
        **record._asdict(),
        "trace_id": record.trace_id.hex(),
        "code": CODE_NAMES[record.code],
    }
