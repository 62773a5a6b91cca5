"""The gateway's store of kept traces: bounded, in memory, the oldest make way.

Those of the baseline come all the time, and would push out within minutes what somebody will want
to look at: beyond their share, theirs make way first.

What is in it can be looked at without any backend. Spans come from many processes, late, and maybe
twice, since what may not have arrived is sent again; a span's id tells.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mesh_telemetry.bounds import STORE_BYTES
from mesh_telemetry.kept_trace import KeptTrace
from mesh_telemetry.sampling import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mesh_telemetry.spans import Attributes, Span, SpanEvent

_log = logging.getLogger(__name__)

TRACE_SHARE = 10
"""One trace may have at most this part of the store's spans and bytes: a tenth."""
BASELINE_SHARE = 4
"""The part of the traces that those of the baseline keep against all others: a quarter."""
SPANS_PER_TRACE = 4
"""A hop has four spans; so many traces of a single hop fill the store, and no more are kept."""


class TraceStore:
    """Kept traces, in bounded number and size.

    Args:
        max_spans: Spans in it; of one trace a tenth at most. A quarter as many traces are kept.
        max_bytes: What they may take; those of one trace a tenth of that.

    Attributes:
        traces: Those in it, by id, the oldest first; to be read only.
        span_count: Spans in it now.
        size: Bytes that the traces in it take, roughly.
        evicted: Traces that have made way for newer ones.
        refused: Spans that would have made a trace too long, or too large.
        too_large: Those among them that would have made it too large.
        on_evict: Called with the trace id of each of those. One that raises is removed and logged.

    Raises:
        ValueError: ``max_spans`` is less than 10.
    """

    def __init__(self, max_spans: int, max_bytes: int = STORE_BYTES) -> None:
        if max_spans < TRACE_SHARE:
            raise ValueError(f"max_spans {max_spans} is less than {TRACE_SHARE}")
        self._max_spans = max_spans
        self._max_bytes = max_bytes
        self._max_traces = max(1, max_spans // SPANS_PER_TRACE)
        self.traces: dict[bytes, KeptTrace] = {}
        self._ordinary: dict[bytes, KeptTrace] = {}
        """Those that only the baseline has kept; and some that more speaks for by now."""
        self._others: dict[bytes, KeptTrace] = {}
        self.span_count = self.size = 0
        self.evicted = self.refused = self.too_large = 0
        self.on_evict: list[Callable[[bytes], None]] = []

    def __len__(self) -> int:
        return len(self.traces)

    @property
    def max_spans(self) -> int:
        """How many spans it holds at most."""
        return self._max_spans

    @property
    def max_bytes(self) -> int:
        """What these may take."""
        return self._max_bytes

    def open(self, trace_id: bytes, reason: str, started: int) -> KeptTrace:
        """The trace of this id, from now on in the store.

        Args:
            trace_id: 16 bytes.
            reason: Why it is kept; of no effect where it is there already, as is ``started``.
            started: Nanoseconds since 1970.
        """
        trace = self.traces.get(trace_id)
        if trace is None:
            share, of_bytes = self._max_spans // TRACE_SHARE, self._max_bytes // TRACE_SHARE
            trace = KeptTrace(trace_id, reason, started, share, of_bytes)
            self.traces[trace_id] = trace
            group = self._ordinary if reason == Reason.BASELINE else self._others
            group[trace_id] = trace
            self.size += trace.size
            self._make_room(trace)
        return trace

    def get(self, trace_id: bytes) -> KeptTrace | None:
        """The trace of this id, if it is there."""
        return self.traces.get(trace_id)

    def starting_with(self, prefix: str) -> list[KeptTrace]:
        """The traces whose id, in hexadecimal, starts so; newest first."""
        prefix = prefix.lower()
        return [trace for trace in self._newest() if trace.trace_id.hex().startswith(prefix)]

    def add(
        self,
        trace_id: bytes,
        process: str,
        resource: Attributes,
        spans: list[Span],
        dropped: int = 0,
    ) -> list[Span]:
        """Add spans that a process has sent. The same may come again.

        Spans with ids that are none, or of another trace, are left out.

        Args:
            trace_id: Whose they are.
            process: The id of the process that made them.
            resource: Who that is.
            spans: Some or all that it has of this trace.
            dropped: How many it has lost of this trace so far.

        Returns:
            Those that were new, and are now in the store; none for a trace that is not.
        """
        trace = self.traces.get(trace_id)
        if trace is None:
            return []
        before = trace.refused, trace.too_large, trace.size
        taken = trace.add(process, resource, spans, dropped)
        self.refused += trace.refused - before[0]
        self.too_large += trace.too_large - before[1]
        self.size += trace.size - before[2]
        self.span_count += len(taken)
        self._make_room(trace)
        return taken

    def happened(self, trace_id: bytes, span_id: bytes, event: SpanEvent) -> None:
        """Add an event to a span that is in the store; of no effect where it is not.

        Args:
            trace_id: Whose span it is.
            span_id: Which.
            event: What has happened since the span came.
        """
        trace = self.traces.get(trace_id)
        if trace is None:
            return
        before = trace.size
        trace.happened(span_id, event)
        self.size += trace.size - before
        self._make_room(trace)

    def find(
        self,
        *,
        service: str = "",
        method: str = "",
        code: int | None = None,
        min_duration: float = 0.0,
        activity_id: str = "",
        reason: str = "",
        limit: int = 50,
        among: Iterable[KeptTrace] | None = None,
    ) -> list[KeptTrace]:
        """Traces that fit all that is asked for, newest first.

        Args:
            service: A service that was called anywhere in it.
            method: Likewise, with its service or without: ``users.get`` or ``get``.
            code: Number of the status code of a call to that service and method.
            min_duration: Seconds that the entry call, or one of several, took at least.
            activity_id: Of any call in it.
            reason: One of those for which it was, or would have been, kept.
            limit: Traces at most.
            among: Look at these only, for a search in several goes; all where None.
        """
        found: list[KeptTrace] = []
        asks_for_call = bool(service or method) or code is not None
        for trace in self._newest() if among is None else among:
            if len(found) >= limit:
                break
            if (
                (not reason or reason in trace.reasons)
                and trace.longest >= min_duration
                and (not activity_id or trace.has_activity(activity_id))
                and (not asks_for_call or trace.has_call(service, method, code))
            ):
                found.append(trace)
        return found

    def newest(self) -> list[KeptTrace]:
        """All of them, newest first."""
        return list(self._newest())

    def _newest(self) -> Iterator[KeptTrace]:
        return reversed(self.traces.values())

    def _next_to_go(self, newest: KeptTrace) -> KeptTrace | None:
        """The trace that makes way: the oldest of those that have more than their share."""
        ordinary, others = self._ordinary, self._others
        while True:
            too_many = BASELINE_SHARE * len(ordinary) > len(self.traces)
            for group in (ordinary, others) if too_many else (others, ordinary):
                oldest = next((trace for trace in group.values() if trace is not newest), None)
                if oldest is not None:
                    break
            if oldest is None or group is others or len(oldest.reasons) == 1:
                return oldest
            others[oldest.trace_id] = ordinary.pop(oldest.trace_id)

    def _make_room(self, newest: KeptTrace) -> None:
        """Let the oldest go, but not the one that something has just been added to."""
        while (
            self.span_count > self._max_spans
            or self.size > self._max_bytes
            or len(self.traces) > self._max_traces
        ):
            oldest = self._next_to_go(newest)
            if oldest is None:
                return
            del self.traces[oldest.trace_id]
            for group in (self._ordinary, self._others):
                group.pop(oldest.trace_id, None)
            self.span_count -= len(oldest)
            self.size -= oldest.size
            self.evicted += 1
            for hook in tuple(self.on_evict):
                try:
                    hook(oldest.trace_id)
                except Exception:  # noqa: BLE001 - whatever it is, the store goes on
                    self.on_evict.remove(hook)
                    _log.exception("a hook of the trace store failed and is removed")
