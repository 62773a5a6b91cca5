"""The log lines of a served call, held with its span until it is known whether the trace is kept.

A line is told as an event of the span that it was made in. OpenTelemetry itself makes events only
of such log records as name one (https://opentelemetry.io/docs/specs/otel/logs/sdk/, the bridge to
span events), and has no words for a text. So a line has the form that it has in libraries which
have long done the same: an event ``log`` with ``log.severity`` and ``log.message``
(https://github.com/uptrace/opentelemetry-go-extra/tree/main/otelzap).
"""

from __future__ import annotations

import threading
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from mesh_telemetry.attributes import clean_text, clean_time
from mesh_telemetry.bounds import CALL_LINES, CALL_LINES_BYTES, RUNNING_LINES_BYTES
from mesh_telemetry.spans import SpanEvent
from mesh_telemetry.texts import ELLIPSIS
from mesh_telemetry.weights import EVENT, attributes_weight

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mesh_telemetry.spans import Attributes, Span

LOG = "log"
"""What the event of a log line is called."""
SEVERITY = "log.severity"
"""Its level, as the program's logging names it."""
MESSAGE = "log.message"
LEFT_OUT = "mesh.log.lines_left_out"
"""On the SERVER span of a call: how many of its lines there was no room for."""

LONGEST = 2_000
"""Characters of a line; what is longer is cut, and ends with an ellipsis."""


class Room:
    """How many bytes the lines of all calls that run in this process may take.

    Those of calls that have ended count with their records.
    """

    def __init__(self, size: int) -> None:
        self._left = size
        # Reentrant, as that of each call's lines: a destructor may log while one is held.
        self._lock = threading.RLock()

    def take(self, size: int) -> bool:
        """Take so much; false if there is less."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give(self, size: int) -> None:
        """Give so much back."""
        with self._lock:
            self._left += size


_running = Room(RUNNING_LINES_BYTES)
_by_span: WeakValueDictionary[tuple[bytes, bytes], CallLines] = WeakValueDictionary()
"""Where the lines are that were made in a span of users' code, by its trace and its id."""


class CallLines:
    """The newest lines of one call, those of a higher level first. Safe to use from any thread.

    Args:
        trace_id: 16 bytes.
        span_id: The call's own span, 8 bytes.
        room: What all calls that run share.

    Attributes:
        size: Bytes, roughly, that the lines take.
        left_out: Lines that there was no room for.
    """

    def __init__(self, trace_id: bytes, span_id: bytes, room: Room = _running) -> None:
        self._trace_id, self._own = trace_id, span_id
        self._room = room
        self._lock = threading.RLock()
        self._lines: dict[int, deque[tuple[bytes, SpanEvent, int]]] = {}
        """By the numbers of their levels."""
        self._count = 0
        self._goes_with_span: dict[bytes, bool | None] = {}
        """Of each span of users' code with lines, whether they are told with it or with the call's
        own; None until one of both has been told."""
        self._runs = True
        self.size = 0
        self.left_out = 0

    def add(self, span_id: bytes, level: int, severity: str, text: str, at: float) -> None:
        """Add a line, for which the oldest of the lowest level make way.

        Args:
            span_id: The span that it was made in: the call's own, or one of users' code.
            level: Its level as a number: a higher one matters more.
            severity: The same, as the program's logging names it.
            text: Is cut to :data:`LONGEST` characters.
            at: Nanoseconds since 1970, which a record made by hand may say as it likes.
        """
        if len(text) > LONGEST:
            text = text[: LONGEST - 1] + ELLIPSIS
        told: Attributes = {SEVERITY: clean_text(severity), MESSAGE: clean_text(text)}
        event = SpanEvent(LOG, clean_time(at), told)
        weight = EVENT + attributes_weight(event.attributes)
        with self._lock:
            if not self._runs:
                return
            if not self._room.take(weight):
                self.left_out += 1
                return
            self._lines.setdefault(level, deque()).append((span_id, event, weight))
            self._count += 1
            self.size += weight
            if span_id != self._own and span_id not in self._goes_with_span:
                self._goes_with_span[span_id] = None
                _by_span[self._trace_id, span_id] = self
            while self._count > CALL_LINES or self.size > CALL_LINES_BYTES:
                self._let_go()

    def _let_go(self) -> None:
        """Drop the line that matters least, and all that is known of its span if it was the last.

        A hundred infos after it must not push out the one warning.
        """
        lowest = min(self._lines)
        where, _, freed = self._lines[lowest].popleft()
        if not self._lines[lowest]:
            del self._lines[lowest]
        self._count -= 1
        self.size -= freed
        self._room.give(freed)
        self.left_out += 1
        if where in self._goes_with_span and all(where != one for one, _ in self._held()):
            del self._goes_with_span[where]
            _by_span.pop((self._trace_id, where), None)

    def _held(self) -> Iterator[tuple[bytes, SpanEvent]]:
        """The lines with their spans, level by level."""
        for lines in self._lines.values():
            for where, event, _ in lines:
                yield where, event

    def finish(self) -> None:
        """The call has ended: what it holds counts no more as that of a running one."""
        with self._lock:
            if self._runs:
                self._runs = False
                self._room.give(self.size)

    def of(self, span_id: bytes) -> tuple[SpanEvent, ...]:
        """Those of a span of users' code that is told now, unless the call's own has told them."""
        with self._lock:
            if self._decide(span_id, with_span=True):
                return _by_time(event for where, event in self._held() if where == span_id)
        return ()

    def rest(self) -> tuple[SpanEvent, ...]:
        """All others, for the call's own span: a span of users' code may never be told."""
        with self._lock:
            return _by_time(
                event
                for where, event in self._held()
                if where == self._own or not self._decide(where, with_span=False)
            )

    def _decide(self, span_id: bytes, *, with_span: bool) -> bool:
        """Whether a span's lines go with it; said once, as traces are told again on reconnects."""
        known = self._goes_with_span.get(span_id)
        if known is None:
            known = self._goes_with_span[span_id] = with_span
        return known


def within(lines: Iterable[SpanEvent], span: Span) -> Iterator[SpanEvent]:
    """Lines of a span, none of them before its start or after its end.

    They were handed to their logger in between, whatever their records, or another clock, say.
    """
    for line in lines:
        yield SpanEvent(line.name, min(max(line.time, span.start), span.end), line.attributes)


def _by_time(events: Iterable[SpanEvent]) -> tuple[SpanEvent, ...]:
    return tuple(sorted(events, key=attrgetter("time")))


def add_lines(span: Span) -> Span:
    """Put the lines that were made in a span of users' code onto it.

    Args:
        span: Is changed.

    Returns:
        The same span.
    """
    lines = _by_span.get((span.trace_id, span.span_id))
    if lines is not None:
        span.events = (*span.events, *within(lines.of(span.span_id), span))
    return span
