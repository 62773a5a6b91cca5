"""What a peer counts of its own calls, and how that is shown.

A gateway tells the same of all its peers; this is for who wants to see a call from where it was
made or served, with the time that it took to get there. The histograms have the names of
OpenTelemetry's conventions for RPC in Prometheus form
(https://opentelemetry.io/docs/specs/semconv/rpc/rpc-metrics/).
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import GCCollector, PlatformCollector

from mesh_telemetry import names
from mesh_telemetry.metrics import MethodSeries
from mesh_telemetry.process import ProcessFigures
from mesh_telemetry.rendering import LE, HistogramLines, Renderer, header_of, labels_of, sliced

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mesh_telemetry.rendering import RowSource

MAX_METHODS = 1000
"""Distinct pairs of service and method on each side; what exceeds it is counted as ``_OTHER``."""


class OutcomeSeries:
    """The counts of one method, by how its calls ended.

    Attributes:
        service: Label value of ``rpc_service``.
        method: Label value of ``rpc_method``.
        in_flight: Calls that have not ended; whoever begins one adds it.
        outcomes: Durations by the status code's number; ok is there from the beginning.
    """

    __slots__ = ("in_flight", "method", "outcomes", "service")

    def __init__(self, service: str, method: str) -> None:
        self.service = service
        self.method = method
        self.in_flight = 0
        self.outcomes = {0: MethodSeries(service, method)}

    def ended(self, code: int, seconds: float) -> None:
        """Count the end of a call that was in flight."""
        self.in_flight -= 1
        outcome = self.outcomes.get(code)
        if outcome is None:
            outcome = self.outcomes[code] = MethodSeries(self.service, self.method)
        outcome.observe(seconds)


class SideMetrics:
    """The series of the calls that a peer makes, or of those that it serves, in bounded number.

    Args:
        max_methods: Distinct pairs of service and method.
    """

    def __init__(self, max_methods: int = MAX_METHODS) -> None:
        self._max_methods = max_methods
        self._methods: dict[tuple[str, str], OutcomeSeries] = {}

    def method(self, service: str, method: str) -> OutcomeSeries:
        """The series of a method, from now on also where it is never called."""
        found = self._methods.get((service, method))
        if found is None:
            # The catch-all itself may exceed the bound by one.
            if len(self._methods) >= self._max_methods:
                service = method = names.OTHER
                found = self._methods.get((service, method))
            if found is None:
                found = self._methods[service, method] = OutcomeSeries(service, method)
        return found

    def methods(self) -> tuple[OutcomeSeries, ...]:
        """All series at this moment, oldest first."""
        return tuple(self._methods.values())


class PeerExposition(Renderer):
    """Renders a peer's metrics, and what prometheus_client knows of the process.

    Args:
        client: Calls that the peer makes.
        server: Calls that it serves.
        sources: Callbacks for slow metrics; see :meth:`add`.
    """

    def __init__(
        self, client: SideMetrics, server: SideMetrics, sources: Iterable[RowSource] = ()
    ) -> None:
        self._sides = (
            (client, names.RPC_CLIENT_DURATION, names.RPC_CLIENT_IN_FLIGHT),
            (server, names.RPC_SERVER_DURATION, names.RPC_SERVER_IN_FLIGHT),
        )
        super().__init__([family for _, *families in self._sides for family in families], sources)
        self._lines: dict[MethodSeries, HistogramLines] = {}
        ProcessFigures(self.registry)
        for collector in (PlatformCollector, GCCollector):
            collector(registry=self.registry)

    def _own_slices(self, *, openmetrics: bool) -> Iterator[str]:
        for side, durations, in_flight in self._sides:
            methods = side.methods()
            yield header_of(durations, openmetrics=openmetrics)
            for series in methods:
                yield "".join(self._histograms(durations, series))
            yield from sliced(
                header_of(in_flight, openmetrics=openmetrics),
                (
                    f"{in_flight.name}{{{labels_of(in_flight.labels, (one.service, one.method))}}} "
                    f"{one.in_flight}\n"
                    for one in methods
                ),
            )

    def _histograms(self, family: names.Family, series: OutcomeSeries) -> Iterator[str]:
        for code, outcome in sorted(series.outcomes.items()):
            lines = self._lines.get(outcome)
            if lines is None:
                values = (series.service, series.method, names.CODE_NAMES[code])
                lines = self._lines[outcome] = HistogramLines(family, values, LE)
            yield lines.render(list(accumulate(outcome.buckets)), outcome.duration_sum)
