"""One kept trace: its spans by process, what is missing of it, and what it is found by."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mesh_telemetry import names
from mesh_telemetry.spans import SERVER, SERVER_ERRORS, Attributes, Span, SpanEvent
from mesh_telemetry.weights import attributes_weight, event_weight, span_weight

if TYPE_CHECKING:
    from collections.abc import Iterator

RESERVED = 8
"""The part of a trace's room that is left for spans that tell of the whole of it: they end last."""

EMPTY = 2_000
"""Bytes that a trace takes in which there are no spans yet, and a process of which there are."""


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
        reasons: All that spoke for it, also before and after that.
        started: Nanoseconds since 1970.
        duration: Seconds that the entry call took; of several, from the first start to the last
            end. None until one has ended.
        longest: Seconds that the longest entry call took.
        entry_calls: How many have ended: a program that is in a trace already may make several.
        caller: Who made the entry call; this and the next two are of the one that began first.
        service: The entry call's service; empty until known.
        method: The entry call's method, without its service; empty until known.
        code: Number of the entry call's status code; of several, the worst.
        activity_id: Of the entry call.
        batches: By process id and service name, its resource and its spans: several peers may live
            in one process.
        missing: What was not delivered and why, as sentences; see :meth:`missed`.
        size: Bytes that it takes, roughly.
        too_large: Spans among the :attr:`refused` ones that would have taken too many bytes.
    """

    __slots__ = (
        "_activities",
        "_awaited",
        "_calls",
        "_lost",
        "_max_bytes",
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
        "entry_calls",
        "longest",
        "method",
        "missing",
        "reason",
        "reasons",
        "service",
        "size",
        "started",
        "too_large",
        "trace_id",
    )

    def __init__(
        self, trace_id: bytes, reason: str, started: int, max_spans: int, max_bytes: int
    ) -> None:
        self.trace_id = trace_id
        self.reason = reason
        self.reasons: tuple[str, ...] = (reason,)
        self.started = started
        self.duration: float | None = None
        self.caller = self.service = self.method = self.activity_id = ""
        self.code = self.entry_calls = 0
        self.longest = 0.0
        self.batches: dict[tuple[str, str], tuple[Attributes, list[Span]]] = {}
        self.missing: list[str] = []
        self._max_spans = max_spans
        self._max_bytes = max_bytes
        self.size = EMPTY
        self.too_large = 0
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

    def entered(
        self,
        *,
        caller: str,
        service: str,
        method: str,
        started: int,
        duration: float,
        code: int,
        stands_in: bool = False,
    ) -> None:
        """Say that an entry call of it has ended.

        Args:
            caller: Who made it.
            service: Its service.
            method: Its method, without its service.
            started: Nanoseconds since 1970.
            duration: Seconds.
            code: Number of its status code.
            stands_in: Whether it is none, and tells of the trace as long as no entry call does.
        """
        if len(self._calls) < self._max_spans:
            self._calls.add((f"{service}.{method}", names.CODE_NAMES[code]))
        if not self.entry_calls or started < self.started:
            self.caller, self.service, self.method = caller, service, method
        longest = duration
        if self.entry_calls and self.duration is not None:
            longest = max(longest, self.longest)
            code = max(self.code, code, key=_badness)
            first = min(started, self.started)
            until = max(started + duration * 1e9, self.started + self.duration * 1e9)
            started, duration = first, (until - first) / 1e9
        self.started, self.duration, self.longest, self.code = started, duration, longest, code
        self.entry_calls += not stands_in

    def lose(self, process: str, spans: int) -> None:
        """Say that a process has lost further spans, which will never come."""
        self._lost[process] = self._lost.get(process, 0) + spans

    def lost(self, process: str) -> int:
        """How many spans a process is known to have lost."""
        return self._lost.get(process, 0)

    @property
    def is_full(self) -> bool:
        """Whether it takes no further spans but those that tell of the whole trace."""
        return (
            len(self._span_ids) >= self._max_spans - self._max_spans // RESERVED
            or self.size >= self._max_bytes - self._max_bytes // RESERVED
        )

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
        # Either name may have dots in it, so that there is no telling where to split.
        either = {method, f"{service}.{method}"}
        return any(
            (not service or called.startswith(f"{service}."))
            and (not method or called in either or called.endswith(f".{method}"))
            and (not (service and method) or called in either)
            and (wanted is None or wanted == ended)
            for called, ended in self._calls
        )

    def has_activity(self, activity_id: str) -> bool:
        """Whether anything in it was done on behalf of this activity."""
        return activity_id == self.activity_id or activity_id in self._activities

    def add(
        self, process: str, resource: Attributes, spans: list[Span], dropped: int
    ) -> list[Span]:
        """Add spans of a process; see :meth:`TraceStore.add`, which counts them."""
        if dropped > self._lost.get(process, 0):
            self._lost[process] = dropped
        taken = []
        awaited = self._awaited.get(process, set())
        key = process, str(resource.get(names.SERVICE_NAME, ""))
        known = self.batches.get(key)
        of_resource = EMPTY + attributes_weight(resource) if known is None else 0
        for span in spans:
            span_id = span.span_id
            if span_id in self._span_ids or not _is_of(span, self.trace_id):
                continue
            awaited.discard(span_id)
            if span.kind == SERVER and len(self._served) < 2 * self._max_spans:
                self._served.add(_SERVED + span.parent_id)
                awaited.discard(_SERVED + span.parent_id)
            weight = span_weight(span) + of_resource
            room = (
                self._max_bytes if _is_top(span) else self._max_bytes - self._max_bytes // RESERVED
            )
            too_large = self.size + weight > room
            too_long = self.is_full and (
                len(self._span_ids) >= self._max_spans or not _is_top(span)
            )
            if too_long or too_large:
                # Remembered, so that sending them again does not count them again; of what has
                # more than twice its share, roughly how many is enough.
                if span_id not in self._refused:
                    if len(self._refused) < self._max_spans:
                        self._refused.add(span_id)
                    else:
                        self._refused_more += 1
                    self.too_large += too_large and not too_long
                continue
            self.size += weight
            of_resource = 0
            self._span_ids.add(span_id)
            self._note(span)
            taken.append(span)
        if not awaited:
            self._recovered(process)
        if known is not None:
            known[1].extend(taken)
        elif taken:
            self.batches[key] = (resource, taken.copy())
        return taken

    def happened(self, span_id: bytes, event: SpanEvent) -> None:
        """Add an event to a span of it; see :meth:`TraceStore.happened`, which counts that."""
        weight = event_weight(event)
        found = next((span for _, span in self.spans() if span.span_id == span_id), None)
        if found is not None and self.size + weight <= self._max_bytes:
            found.events = (*found.events, event)
            self.size += weight

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


def _badness(code: int) -> int:
    """How bad it is that a call ended so: as a service's fault, as its caller's, or well."""
    return 2 if code in SERVER_ERRORS else int(code != 0)


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
