"""A gateway's metrics for Prometheus, as text in the formats of :mod:`mesh_telemetry.rendering`."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from mesh_telemetry import names
from mesh_telemetry.graph import ServiceGraph
from mesh_telemetry.rendering import (
    LE,
    SLICE_LINES,
    HistogramLines,
    Renderer,
    header_of,
    labels_of,
    sliced,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mesh_telemetry.metrics import CallMetrics, CallSeries, GatewayCounters, MethodSeries
    from mesh_telemetry.rendering import RowSource

_DEPTH_LE = [*(repr(float(bound)) for bound in names.DEPTH_BOUNDS), "+Inf"]
_OWN = (
    names.CALLS,
    names.CALL_DURATION,
    names.CALL_DEPTH,
    names.CALLS_IN_FLIGHT,
    names.CALLS_ABANDONED,
    names.CALLS_LATE,
    names.DEPRECATED_CALLS,
    names.CALLS_REJECTED,
    names.CONNECTIONS_OPENED,
    names.CONNECTIONS_CLOSED,
    names.CONNECTIONS_REFUSED,
    names.PROTOCOL_ERRORS,
    names.SERVICE_GRAPH_REQUESTS,
    names.SERVICE_GRAPH_FAILED,
    names.SERVICE_GRAPH_SECONDS,
    names.TLS_HANDSHAKES_FAILED,
)
_CODE_ENDS = [f'{name}"}} ' for name in names.CODE_NAMES]


class Exposition(Renderer):
    """Renders a gateway's metrics.

    Args:
        calls: The call series.
        counters: The gateway's other counters.
        sources: Callbacks for slow metrics; see :meth:`add`.
        own_service: The gateway's own service, which the service graph leaves out.
    """

    def __init__(
        self,
        calls: CallMetrics,
        counters: GatewayCounters,
        sources: Iterable[RowSource] = (),
        *,
        own_service: str = "",
    ) -> None:
        super().__init__(_OWN, sources)
        self._calls = calls
        self._counters = counters
        self._call_prefixes: dict[CallSeries, str] = {}
        self._method_lines: dict[MethodSeries, _MethodLines] = {}
        self._graph = ServiceGraph(calls, own_service)
        self._edge_lines: dict[tuple[str, str], HistogramLines] = {}

    def _own_slices(self, *, openmetrics: bool) -> Iterator[str]:
        yield from self._call_slices(openmetrics=openmetrics)
        yield from self._method_slices(openmetrics=openmetrics)
        yield from self._counter_slices(openmetrics=openmetrics)
        yield from self._graph_slices(openmetrics=openmetrics)

    def _call_slices(self, *, openmetrics: bool) -> Iterator[str]:
        lines = [header_of(names.CALLS, openmetrics=openmetrics)]
        for series in self._calls.calls():
            prefix = self._call_prefixes.get(series)
            if prefix is None:
                prefix = self._call_prefixes[series] = _call_prefix(series)
            for number, count in enumerate(series.codes):
                if count:
                    lines.append(f"{prefix}{_CODE_ENDS[number]}{count}\n")
            if len(lines) >= SLICE_LINES:
                yield "".join(lines)
                lines.clear()
        yield "".join(lines)
        family = names.DEPRECATED_CALLS
        yield from sliced(
            header_of(family, openmetrics=openmetrics),
            (
                f"{family.name}{{{labels_of(family.labels, _of_call(series))}}} {count}\n"
                for series, count in self._calls.deprecated()
            ),
        )

    def _method_slices(self, *, openmetrics: bool) -> Iterator[str]:
        methods: list[tuple[MethodSeries, _MethodLines]] = []
        for series in self._calls.methods():
            prepared = self._method_lines.get(series)
            if prepared is None:
                prepared = self._method_lines[series] = _MethodLines(series)
                if len(self._method_lines) % _METHODS_PER_SLICE == 0:
                    yield ""  # a pause: preparing costs more than rendering
            methods.append((series, prepared))
        blocks = [header_of(names.CALL_DURATION, openmetrics=openmetrics)]
        for series, prepared in methods:
            blocks.append(prepared.histogram(series, openmetrics=openmetrics))
            if len(blocks) >= _METHODS_PER_SLICE:
                yield "".join(blocks)
                blocks.clear()
        yield "".join(blocks)
        yield from sliced(
            header_of(names.CALLS_IN_FLIGHT, openmetrics=openmetrics),
            (f"{prepared.in_flight} {series.in_flight}\n" for series, prepared in methods),
        )
        yield from sliced(
            header_of(names.CALLS_ABANDONED, openmetrics=openmetrics),
            (f"{prepared.abandoned} {series.abandoned}\n" for series, prepared in methods),
        )
        yield from sliced(
            header_of(names.CALLS_LATE, openmetrics=openmetrics),
            (f"{prepared.late} {series.late}\n" for series, prepared in methods),
        )

    def _counter_slices(self, *, openmetrics: bool) -> Iterator[str]:
        counters = self._counters
        rejected = names.CALLS_REJECTED
        yield from sliced(
            header_of(rejected, openmetrics=openmetrics),
            (
                f"{rejected.name}{{{labels_of(rejected.labels, key)}}} {count}\n"
                for key, count in tuple(counters.rejected.items())
            ),
        )
        failed = names.TLS_HANDSHAKES_FAILED
        yield from sliced(
            header_of(failed, openmetrics=openmetrics),
            (
                f"{failed.name}{{{labels_of(failed.labels, (reason,))}}} {count}\n"
                for reason, count in tuple(counters.tls_handshakes_failed.items())
            ),
        )
        yield "".join(
            f"{header_of(family, openmetrics=openmetrics)}{family.name} {count}\n"
            for family, count in (
                (names.CONNECTIONS_OPENED, counters.connections_opened),
                (names.CONNECTIONS_CLOSED, counters.connections_closed),
                (names.CONNECTIONS_REFUSED, counters.connections_refused),
                (names.PROTOCOL_ERRORS, counters.protocol_errors),
            )
        )

        depths = counters.depths
        ends = [min(bound + 1, len(depths)) for bound in names.DEPTH_BOUNDS]
        cumulated = [*(sum(depths[:end]) for end in ends), sum(depths)]
        links = sum(depth * count for depth, count in enumerate(depths))
        lines = HistogramLines(names.CALL_DEPTH, (), _DEPTH_LE)
        yield header_of(names.CALL_DEPTH, openmetrics=openmetrics) + lines.render(cumulated, links)

    def _graph_slices(self, *, openmetrics: bool) -> Iterator[str]:
        yield from self._graph.collect()
        edges = self._graph.edges()
        for family, attribute in (
            (names.SERVICE_GRAPH_REQUESTS, "requests"),
            (names.SERVICE_GRAPH_FAILED, "failed"),
        ):
            yield from sliced(
                header_of(family, openmetrics=openmetrics),
                (
                    f"{family.name}{{{labels_of(family.labels, edge.ends)}}} "
                    f"{getattr(edge, attribute)}\n"
                    for edge in edges
                ),
            )
        blocks = [header_of(names.SERVICE_GRAPH_SECONDS, openmetrics=openmetrics)]
        for number, edge in enumerate(edges, 1):
            lines = self._edge_lines.get(edge.ends)
            if lines is None:
                lines = HistogramLines(names.SERVICE_GRAPH_SECONDS, edge.ends, LE)
                self._edge_lines[edge.ends] = lines
            blocks.append(lines.render(list(accumulate(edge.buckets)), edge.duration_sum))
            if number % _METHODS_PER_SLICE == 0:
                yield "".join(blocks)
                blocks.clear()
        yield "".join(blocks)


_METHODS_PER_SLICE = max(1, SLICE_LINES // (len(LE) + 2))


class _MethodLines:
    """The constant parts of one method's lines."""

    __slots__ = ("_histogram", "abandoned", "in_flight", "late")

    def __init__(self, series: MethodSeries) -> None:
        labels = labels_of(names.CALL_DURATION.labels, (series.service, series.method))
        self.in_flight = f"{names.CALLS_IN_FLIGHT.name}{{{labels}}}"
        self.abandoned = f"{names.CALLS_ABANDONED.name}{{{labels}}}"
        self.late = f"{names.CALLS_LATE.name}{{{labels}}}"
        values = (series.service, series.method)
        self._histogram = HistogramLines(names.CALL_DURATION, values, LE)

    def histogram(self, series: MethodSeries, *, openmetrics: bool) -> str:
        exemplars = series.exemplars if openmetrics else None
        cumulated = list(accumulate(series.buckets))
        return self._histogram.render(cumulated, series.duration_sum, exemplars)


def _call_prefix(series: CallSeries) -> str:
    """A line of ``mesh_calls_total`` up to the code's name."""
    *labels, code = names.CALLS.labels
    return f'{names.CALLS.name}{{{labels_of(labels, _of_call(series))},{code}="'


def _of_call(series: CallSeries) -> tuple[str, str, str]:
    return series.caller, series.method.service, series.method.method
