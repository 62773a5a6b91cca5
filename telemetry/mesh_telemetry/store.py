"""The gateway's store of kept traces: bounded, in memory, the oldest make way.

What is in it can be looked at without any backend. Spans come from many processes, late, and maybe
twice, since what may not have arrived is sent again; a span's id tells.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from mesh_telemetry import names
from mesh_telemetry.spans import SERVER, Attributes, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_log = logging.getLogger(__name__)

TRACE_SHARE = 10
"""One trace may have at most this part of the store's spans: a tenth."""
RESERVED = 8
"""The part of a trace's room that is left for spans that tell of the whole of it: they end last."""
SPANS_PER_TRACE = 4
"""A hop has four spans; so many traces of a single hop fill the store, and no more are kept."""


class Party(NamedTuple):
    """A peer that took part in a trace."""

    process: str
    """Its process id."""
    name: str


class KeptTrace:
    """One kept trace. The gateway fills the attributes in as it comes to know them.

    Attributes:
        trace_id: 16 bytes.
        reason: Why it was kept, a :class:`~mesh_telemetry.sampling.Reason`.
        started: Nanoseconds since 1970.
        duration: Seconds that the entry call took; None while it runs.
        caller: Who made the entry call.
        service: The entry call's service; empty until known.
        method: The entry call's method, without its service; empty until known.
        code: Number of the entry call's status code.
        activity_id: Of the entry call.
        batches: By process id and service name, its resource and its spans: several peers may live
            in one process.
        missing: What was not delivered and why, as sentences; see :meth:`missed`.
    """

    __slots__ = (
        "_activities",
        "_awaited",
        "_calls",
        "_lost",
        "_max_spans",
        "_missed",
        "_refused",
        "_refused_more",
        "_served",
        "_span_ids",
        "activity_id",
        "batches",
        "caller",
        "code",
        "duration",
        "method",
        "missing",
        "reason",
        "service",
        "started",
        "trace_id",
    )

    def __init__(self, trace_id: bytes, reason: str, started: int, max_spans: int) -> None:
        self.trace_id = trace_id
        self.reason = reason
        self.started = started
        self.duration: float | None = None
        self.caller = self.service = self.method = self.activity_id = ""
        self.code = 0
        self.batches: dict[tuple[str, str], tuple[Attributes, list[Span]]] = {}
        self.missing: list[str] = []
        self._max_spans = max_spans
        self._missed: dict[str, str] = {}
        self._awaited: dict[str, set[bytes]] = {}
        self._served: set[bytes] = set()
        self._span_ids: set[bytes] = set()
        self._refused: set[bytes] = set()
        self._refused_more = 0
        self._lost: dict[str, int] = {}
        self._calls: set[tuple[str, str]] = set()
        self._activities: set[str] = set()

    def __len__(self) -> int:
        return len(self._span_ids)

    def __bool__(self) -> bool:
        return True

    def spans(self) -> Iterator[tuple[Attributes, Span]]:
        """Every span with the resource of its process, process by process."""
        for resource, spans in self.batches.values():
            for span in spans:
                yield resource, span

    @property
    def dropped(self) -> int:
        """Spans that are known to have been made and are not here."""
        return sum(self._lost.values()) + self.refused

    @property
    def refused(self) -> int:
        """Spans that came and were too many."""
        return len(self._refused) + self._refused_more

    @property
    def complete(self) -> bool:
        """Whether the entry call has ended and nothing is known to be missing."""
        return self.duration is not None and not self.missing and not self.dropped

    def lose(self, process: str, spans: int) -> None:
        """Say that a process has lost further spans, which will never come."""
        self._lost[process] = self._lost.get(process, 0) + spans

    @property
    def is_full(self) -> bool:
        """Whether it takes no further spans but those that tell of the whole trace."""
        return len(self._span_ids) >= self._max_spans - self._max_spans // RESERVED

    def expect(self, process: str, *, span_id: bytes = b"", served_from: bytes = b"") -> None:
        """Say that a process has a span to deliver; until it has, see :meth:`awaited`.

        Args:
            process: Its id.
            span_id: The span's id, if that is known.
            served_from: Else the parent of the SERVER span.
        """
        awaited = self._awaited.setdefault(process, set())
        if len(awaited) >= self._max_spans:
            return  # more than the trace may have: what comes of it is counted as dropped
        if span_id:
            if span_id not in self._span_ids and span_id not in self._refused:
                awaited.add(span_id)
        elif _SERVED + served_from not in self._served:
            awaited.add(_SERVED + served_from)

    def expects(self, process: str) -> bool:
        """Whether a process is known to have taken part."""
        return process in self._awaited

    def awaited(self, process: str) -> int:
        """How many spans a process has yet to deliver."""
        return len(self._awaited.get(process, ()))

    def missed(self, party: Party, why: str) -> None:
        """Say that a party has not delivered its spans. Should it still do so, that is forgotten.

        Args:
            party: Who it is.
            why: What happened: ``disconnected before it sent its spans``.
        """
        self._recovered(party.process)
        sentence = f"{party.name} ({party.process}): {why}"
        self._missed[party.process] = sentence
        self.missing.append(sentence)

    def _recovered(self, process: str) -> None:
        sentence = self._missed.pop(process, None)
        if sentence in self.missing:
            self.missing.remove(sentence)

    def has_call(self, service: str = "", method: str = "", code: int | None = None) -> bool:
        """Whether one and the same call in it was of this service and method, and ended so."""
        wanted = None if code is None else names.CODE_NAMES[code]
        calls = self._calls
        if self.duration is not None:
            calls = calls | {(f"{self.service}.{self.method}", names.CODE_NAMES[self.code])}
        # Either name may have dots in it, so that there is no telling where to split.
        either = {method, f"{service}.{method}"}
        return any(
            (not service or called.startswith(f"{service}."))
            and (not method or called in either or called.endswith(f".{method}"))
            and (not (service and method) or called in either)
            and (wanted is None or wanted == ended)
            for called, ended in calls
        )

    def has_activity(self, activity_id: str) -> bool:
        """Whether anything in it was done on behalf of this activity."""
        return activity_id == self.activity_id or activity_id in self._activities

    def _add(
        self, process: str, resource: Attributes, spans: list[Span], dropped: int
    ) -> list[Span]:
        if dropped > self._lost.get(process, 0):
            self._lost[process] = dropped
        taken = []
        awaited = self._awaited.get(process, set())
        for span in spans:
            span_id = span.span_id
            if span_id in self._span_ids or not _is_of(span, self.trace_id):
                continue
            awaited.discard(span_id)
            if span.kind == SERVER and len(self._served) < 2 * self._max_spans:
                self._served.add(_SERVED + span.parent_id)
                awaited.discard(_SERVED + span.parent_id)
            if self.is_full and (len(self._span_ids) >= self._max_spans or not _is_top(span)):
                # Remembered, so that sending them again does not count them again; of what has
                # more than twice its share, roughly how many is enough.
                if len(self._refused) < self._max_spans:
                    self._refused.add(span_id)
                elif span_id not in self._refused:
                    self._refused_more += 1
                continue
            self._span_ids.add(span_id)
            self._note(span)
            taken.append(span)
        if not awaited:
            self._recovered(process)
        key = process, str(resource.get(names.SERVICE_NAME, ""))
        known = self.batches.get(key)
        if known is not None:
            known[1].extend(taken)
        elif taken:
            self.batches[key] = (resource, taken.copy())
        return taken

    def _note(self, span: Span) -> None:
        """What traces are found by: the calls as their servers, and the gateway, saw them."""
        attributes = span.attributes
        if span.kind == SERVER and attributes.get(names.RPC_SYSTEM_NAME) == names.RPC_SYSTEM:
            method = attributes.get(
                names.RPC_METHOD_ORIGINAL, attributes.get(names.RPC_METHOD_NAME)
            )
            self._calls.add((str(method), str(attributes.get(names.RPC_STATUS_CODE, ""))))
        activity = attributes.get(names.ACTIVITY_ID)
        if isinstance(activity, str):
            self._activities.add(activity)


_SERVED = b"<"
"""Tells the parent of a SERVER span that is awaited from the id of one that is."""


def _is_top(span: Span) -> bool:
    """Whether a span tells of the whole trace: its root, or the gateway's of the entry call."""
    return not span.parent_id or names.KEEP_REASON in span.attributes


def _is_of(span: Span, trace_id: bytes) -> bool:
    """Whether a span that came from elsewhere belongs here and has ids that can be shown."""
    return (
        span.trace_id == trace_id
        and len(span.span_id) == 8
        and len(span.parent_id) in {0, 8}
        and any(span.span_id)
    )


class TraceStore:
    """Kept traces, in bounded number and size.

    Args:
        max_spans: Spans in it; of one trace a tenth at most. A quarter as many traces are kept.

    Attributes:
        traces: Those in it, by id, the oldest first; to be read only.
        span_count: Spans in it now.
        evicted: Traces that have made way for newer ones.
        refused: Spans that would have made a trace too long.
        on_evict: Called with the trace id of each of those. One that raises is removed and logged.

    Raises:
        ValueError: ``max_spans`` is less than 10.
    """

    def __init__(self, max_spans: int) -> None:
        if max_spans < TRACE_SHARE:
            raise ValueError(f"max_spans {max_spans} is less than {TRACE_SHARE}")
        self._max_spans = max_spans
        self._max_traces = max(1, max_spans // SPANS_PER_TRACE)
        self.traces: dict[bytes, KeptTrace] = {}
        self.span_count = 0
        self.evicted = self.refused = 0
        self.on_evict: list[Callable[[bytes], None]] = []

    def __len__(self) -> int:
        return len(self.traces)

    @property
    def max_spans(self) -> int:
        """How many spans it holds at most."""
        return self._max_spans

    def open(self, trace_id: bytes, reason: str, started: int) -> KeptTrace:
        """The trace of this id, from now on in the store.

        Args:
            trace_id: 16 bytes.
            reason: Why it is kept; of no effect where it is there already, as is ``started``.
            started: Nanoseconds since 1970.
        """
        trace = self.traces.get(trace_id)
        if trace is None:
            trace = KeptTrace(trace_id, reason, started, self._max_spans // TRACE_SHARE)
            self.traces[trace_id] = trace
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
        before = trace.refused
        taken = trace._add(process, resource, spans, dropped)
        self.refused += trace.refused - before
        self.span_count += len(taken)
        self._make_room(trace)
        return taken

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
            min_duration: Seconds that the entry call took at least.
            activity_id: Of any call in it.
            reason: Why it was kept.
            limit: Traces at most.
            among: Look at these only, for a search in several goes; all where None.
        """
        found: list[KeptTrace] = []
        asks_for_call = bool(service or method) or code is not None
        for trace in self._newest() if among is None else among:
            if len(found) >= limit:
                break
            if (
                (not reason or trace.reason == reason)
                and (min_duration <= 0 or (trace.duration or 0.0) >= min_duration)
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

    def _make_room(self, newest: KeptTrace) -> None:
        """Let the oldest go, but not the one that something has just been added to."""
        while self.span_count > self._max_spans or len(self.traces) > self._max_traces:
            oldest = next((trace for trace in self.traces.values() if trace is not newest), None)
            if oldest is None:
                return
            del self.traces[oldest.trace_id]
            self.span_count -= len(oldest)
            self.evicted += 1
            for hook in tuple(self.on_evict):
                try:
                    hook(oldest.trace_id)
                except Exception:  # noqa: BLE001 - whatever it is, the store goes on
                    self.on_evict.remove(hook)
                    _log.exception("a hook of the trace store failed and is removed")
