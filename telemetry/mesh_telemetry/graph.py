"""Who calls whom, service by service: the edges that Grafana draws a service graph of.

The names and labels are those of Tempo's metrics generator
(https://grafana.com/docs/tempo/latest/metrics-generator/service_graphs/), of which Grafana reads
the total, the failed ones, and the sum and the buckets of the server's seconds. Tempo's label
``connection_type`` marks queues, databases and what has no telemetry: there is none of that here.
The client of an edge is the calling peer's name, the server the service, so that the edges of a
chain join where a peer is named after what it serves. Everything is added up from the call series
when somebody asks.
"""

from __future__ import annotations

from operator import add
from typing import TYPE_CHECKING

from mesh_telemetry.names import DURATION_BOUNDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh_telemetry.metrics import CallMetrics

STEP = 400
"""Call series added up before others may run: about half a millisecond."""


class Edge:
    """What one peer has asked of one service.

    Attributes:
        ends: The labels ``client`` and ``server``.
        requests: Ended attempts, refused ones included.
        failed: Those of them that did not end with ok: to a caller, every other code is an error.
        buckets: Calls by duration, not cumulated, refused ones left out.
        duration_sum: Seconds, over the calls in ``buckets``.
    """

    __slots__ = ("buckets", "duration_sum", "ends", "failed", "requests")

    def __init__(self, client: str, server: str) -> None:
        self.ends = (client, server)
        self.requests = 0
        self.failed = 0
        self.buckets = [0] * (len(DURATION_BOUNDS) + 1)
        self.duration_sum = 0.0


class ServiceGraph:
    """The edges of one gateway's call series.

    Args:
        calls: The series.
        without: A service that is left out, as it is what people look through; none where empty.
    """

    def __init__(self, calls: CallMetrics, without: str = "") -> None:
        self._calls = calls
        self._without = without
        self._edges: dict[tuple[str, str], Edge] = {}

    def collect(self) -> Iterator[str]:
        """Add the call series up; yields an empty text wherever others may run."""
        edges: dict[tuple[str, str], Edge] = {}
        for number, series in enumerate(self._calls.calls(), 1):
            requests = sum(series.codes)
            if requests and series.method.service != self._without:
                ends = series.caller, series.method.service
                edge = edges.get(ends)
                if edge is None:
                    edge = edges[ends] = Edge(*ends)
                edge.requests += requests
                edge.failed += requests - series.codes[0]
                edge.buckets = list(map(add, edge.buckets, series.buckets))
                edge.duration_sum += series.duration_sum
            if number % STEP == 0:
                yield ""
        self._edges = edges

    def edges(self) -> list[Edge]:
        """The edges as last collected."""
        return list(self._edges.values())
