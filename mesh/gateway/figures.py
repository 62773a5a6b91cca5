"""The gateway's figures for `/metrics`: what is counted elsewhere, named and labelled here."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import trio

from mesh._version import __version__
from mesh.gateway.session import HEALTH_NAMES
from mesh_telemetry import Exposition, names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.gateway.core import Core
    from mesh_telemetry import Row


class Figures:
    """Reads a gateway's state at each scrape."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.exposition = Exposition(
            core.metrics, core.counters, [self._instances, self._heartbeats, self._gateway]
        )

    def _instances(self) -> Iterator[Row]:
        for service in self._core.registry.services.values():
            states = Counter(HEALTH_NAMES[session.health] for session in service.instances)
            for state in HEALTH_NAMES:
                labels = {"rpc_service": service.name, "state": state}
                yield names.SERVICE_INSTANCES.name, labels, states[state]

    def _heartbeats(self) -> Iterator[Row]:
        # Peers are told apart by the process, as several instances share one name.
        to_unix = time.time() - trio.current_time()
        for service in self._core.registry.services.values():
            last: dict[str, float] = {}
            for session in service.instances:
                peer = session.process_id
                last[peer] = max(last.get(peer, 0.0), session.last_heartbeat)
            for peer, heartbeat in last.items():
                labels = {"rpc_service": service.name, "peer": peer}
                yield names.PEER_LAST_HEARTBEAT.name, labels, heartbeat + to_unix

    def _gateway(self) -> Iterator[Row]:
        core = self._core
        peers = [session for session in core.sessions.values() if not session.internal]
        yield names.CONNECTIONS.name, {}, len(peers)
        yield names.OUTBOX_BYTES.name, {}, sum(session.link.queued for session in peers)
        yield names.GATEWAY_LOOP_LAG.name, {}, core.loop_lag
        yield names.BUILD_INFO.name, {"version": __version__}, 1
