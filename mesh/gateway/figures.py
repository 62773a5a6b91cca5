"""The gateway's figures for `/metrics`: what is counted elsewhere, named and labelled here."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import trio

from mesh._version import __version__
from mesh.gateway.life import DRAINING, HEALTH_NAMES
from mesh.gateway.registry import RESERVED
from mesh.wire.frames import Kind
from mesh_telemetry import CallMetrics, Exposition, names
from mesh_telemetry.process import ProcessFigures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.gateway.core import Core
    from mesh.gateway.session import Session
    from mesh_telemetry import Row

STATES = (*HEALTH_NAMES, DRAINING)
_KIND_NAMES = {int(kind): kind.name.lower() for kind in Kind}


class Figures:
    """Reads a gateway's state at each scrape."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.exposition = Exposition(
            # Zeros for calls that nobody counts would be a lie: their families are left out.
            core.metrics if core.observes else CallMetrics(),
            core.counters,
            [
                self._instances,
                self._versions,
                self._peers,
                self._gateway,
                self._traffic,
                self._traces,
            ],
            own_service=RESERVED,
        )
        ProcessFigures(self.exposition.registry)

    def _instances(self) -> Iterator[Row]:
        for service in self._core.registry.services.values():
            sessions = (*service.instances, *service.draining)
            states = Counter(session.state for session in sessions)
            for state in STATES:
                labels = {"rpc_service": service.name, "state": state}
                yield names.SERVICE_INSTANCES.name, labels, states[state]

    def _versions(self) -> Iterator[Row]:
        for service in self._core.registry.services.values():
            served = (*service.instances.values(), *service.draining.values())
            for version, count in Counter(one.version or "none" for one in served).items():
                labels = {names.RPC_SERVICE: service.name, names.VERSION: version}
                yield names.SERVICE_VERSIONS.name, labels, count

    def _peers(self) -> Iterator[Row]:
        # Peers are told apart by the process, as several instances share one name. Where one
        # process serves through several connections, its loop and its work are those of all.
        to_unix = time.time() - trio.current_time()
        for service in self._core.registry.services.values():
            processes: dict[str, list[Session]] = {}
            for session in (*service.instances, *service.draining):
                processes.setdefault(session.process_id, []).append(session)
            for peer, sessions in processes.items():
                labels = {"rpc_service": service.name, "peer": peer}
                last = max(session.last_heartbeat for session in sessions)
                yield names.PEER_LAST_HEARTBEAT.name, labels, last + to_unix
                beats = [session.heartbeat for session in sessions if session.heartbeat is not None]
                if beats:
                    lag = max(beat.loop_lag_us for beat in beats) / 1e6
                    yield names.PEER_LOOP_LAG.name, labels, lag
                    yield names.PEER_IN_FLIGHT.name, labels, sum(beat.in_flight for beat in beats)

    def _gateway(self) -> Iterator[Row]:
        core = self._core
        peers = [session for session in core.sessions.values() if not session.internal]
        yield names.CONNECTIONS.name, {}, len(peers)
        queued = [session.link.queued for session in peers]
        yield names.OUTBOX_BYTES.name, {}, sum(queued)
        yield names.OUTBOX_FULLEST.name, {}, max(queued, default=0)
        yield names.OUTBOX_LIMIT.name, {}, core.limits.max_outbox
        yield names.IN_FLIGHT_LIMIT.name, {}, core.limits.max_in_flight
        yield names.EVENTS_DROPPED.name, {}, core.events.untold
        yield names.GATEWAY_LOOP_LAG.name, {}, core.loop_lag
        yield names.GATEWAY_DRAINING.name, {}, int(core.draining)
        yield names.BUILD_INFO.name, {"version": __version__}, 1

    def _traces(self) -> Iterator[Row]:
        tracing = self._core.tracing
        if tracing is None:
            return
        for decision, count in tracing.sampler.counts.items():
            yield names.TRACES.name, {names.DECISION: decision}, count
        for reason, count in tracing.collector.lost().items():
            yield names.SPANS_DROPPED.name, {names.REASON: reason}, count
        yield names.TRACES_PENDING.name, {}, tracing.pending
        yield names.TRACES_STORED.name, {}, len(tracing.store)
        yield names.SPANS_STORED.name, {}, tracing.store.span_count
        yield names.TRACES_EVICTED.name, {}, tracing.store.evicted
        exporter = tracing.collector.exporter
        if exporter is not None:
            yield names.SPANS_EXPORTED.name, {}, exporter.exported
            yield names.SPANS_WAITING.name, {}, exporter.pending

    def _traffic(self) -> Iterator[Row]:
        traffic = self._core.traffic
        for direction, frames, size in (
            ("in", traffic.frames_in, traffic.bytes_in),
            ("out", traffic.frames_out, traffic.bytes_out),
        ):
            for kind, count in enumerate(frames):
                if count:
                    labels = {"kind": _KIND_NAMES[kind], "direction": direction}
                    yield names.FRAMES.name, labels, count
            yield names.BYTES.name, {"direction": direction}, size
