"""Exemplars: for a bucket of a method's durations, a kept trace in which such a call can be seen.

They are attached where the parts of kept traces are gathered and not where calls are counted, which
therefore costs no more than without. One whose trace makes way in the store goes with it, so that
every exemplar leads to a trace that is there.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

from mesh_telemetry.names import DURATION_BOUNDS

if TYPE_CHECKING:
    from mesh_telemetry.metrics import MethodSeries
    from mesh_telemetry.store import TraceStore


class Exemplar(NamedTuple):
    """One call of a kept trace."""

    trace_id: bytes
    """16 bytes."""
    seconds: float
    """How long it took: what was counted in the bucket."""
    ended: float
    """When it ended, in seconds since 1970."""


class Exemplars:
    """Attaches exemplars to the series of methods, at most one to a bucket.

    Args:
        store: Where the traces are that they may name.
    """

    def __init__(self, store: TraceStore) -> None:
        self._stored = store.traces
        self._places: dict[bytes, set[tuple[MethodSeries, int]]] = {}
        """The buckets whose exemplar names a trace, by the trace's id."""
        store.on_evict.append(self._detach)

    def attach(self, series: MethodSeries, exemplar: Exemplar) -> None:
        """Show a call in the bucket in which it was counted, unless a newer one is shown there.

        Newer is what ended later: Prometheus takes no exemplar that is older than its last one.

        Args:
            series: Of the call's method.
            exemplar: The call. One whose trace is not in the store is not shown.
        """
        trace_id = exemplar.trace_id
        if trace_id not in self._stored:
            return
        bucket = bisect_left(DURATION_BOUNDS, exemplar.seconds)
        shown = series.exemplars.get(bucket)
        if shown is not None:
            if shown.ended > exemplar.ended:
                return
            places = self._places[shown.trace_id]
            places.discard((series, bucket))
            if not places:
                del self._places[shown.trace_id]
        series.exemplars[bucket] = exemplar
        self._places.setdefault(trace_id, set()).add((series, bucket))

    def _detach(self, trace_id: bytes) -> None:
        for series, bucket in self._places.pop(trace_id, ()):
            del series.exemplars[bucket]
