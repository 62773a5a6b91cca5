"""The span of a served call, as users' code sees and fills it.

The call's own facts are recorded elsewhere, at a fraction of the price; this one holds what the
user adds, and :meth:`CallSpan.apply` puts that onto the span that is built if the trace is kept.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags, TraceState

from mesh_telemetry import names, spans
from mesh_telemetry.attributes import Bounded, clean_text, clean_time
from mesh_telemetry.call_lines import LEFT_OUT, CallLines, within
from mesh_telemetry.weights import EVENT, attributes_weight, text_weight

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from opentelemetry.util import types

log = logging.getLogger("mesh.telemetry")

# How formats without such fields tell of what was lost:
# https://opentelemetry.io/docs/specs/otel/common/mapping-to-non-otlp/
DROPPED_ATTRIBUTES = "otel.dropped_attributes_count"
DROPPED_EVENTS = "otel.dropped_events_count"
DROPPED_LINKS = "otel.dropped_links_count"

EMPTY = 3_000
"""Bytes that one takes in which nothing has been set."""

_MESSAGE = "exception.message"


class CallSpan(trace.Span):
    """A recording span that holds plain values, within bounds. Safe to use from any thread.

    It begins and ends with its call: the mesh calls :meth:`finish`, and a user's :meth:`end` is
    ignored. Semantics are those of the SDK's span.

    Args:
        trace_id: 128 bits.
        span_id: 64 bits.
        flags: W3C trace flags, as they came in.
        trace_state: W3C ``tracestate``, as it came in.
    """

    def __init__(self, trace_id: int, span_id: int, flags: int, trace_state: str = "") -> None:
        state = TraceState.from_header([trace_state]) if trace_state else None
        self._context = SpanContext(trace_id, span_id, False, TraceFlags(flags & 0xFF), state)
        # Reentrant: warnings are logged under it, and a handler of logs may add events here.
        self._lock = threading.RLock()
        self._bound = Bounded()
        self._bound.spend(len(trace_state))
        self._recording = True
        self._told_of_end = False
        self._attributes: spans.Attributes = {}
        self._limits = self._bound.limits
        self._events: deque[spans.SpanEvent] = deque()
        self._links: deque[spans.SpanLink] = deque()
        self._status = spans.UNSET
        self._status_message = ""
        self._name: str | None = None
        self._dropped = {DROPPED_ATTRIBUTES: 0, DROPPED_EVENTS: 0, DROPPED_LINKS: 0}
        self._lines: CallLines | None = None

    def get_span_context(self) -> SpanContext:
        """Its ids, flags and state."""
        return self._context

    def is_recording(self) -> bool:
        """Whether the call still runs."""
        return self._recording

    def set_attribute(self, key: str, value: types.AnyValue) -> None:
        """Set an attribute; a value of a type that no attribute has is left out with a warning."""
        with self._lock:
            if self._records("attribute"):
                lost = self._bound.put(self._attributes, key, value, self._limits.span)
                self._dropped[DROPPED_ATTRIBUTES] += lost

    def set_attributes(self, attributes: Mapping[str, types.AnyValue]) -> None:
        """Set several attributes."""
        with self._lock:
            if self._records("attributes"):
                lost = self._bound.put_all(self._attributes, attributes, self._limits.span)
                self._dropped[DROPPED_ATTRIBUTES] += lost

    def add_event(
        self, name: str, attributes: types.Attributes = None, timestamp: int | None = None
    ) -> None:
        """Add an event.

        Args:
            name: What happened.
            attributes: What is known of it.
            timestamp: When, in nanoseconds since 1970; None is now.
        """
        at = time.time_ns() if timestamp is None else clean_time(timestamp)
        with self._lock:
            if not self._records("event"):
                return
            if not self._has_room(self._events, self._limits.events, DROPPED_EVENTS):
                return
            told: spans.Attributes = {}
            left = self._bound.left
            lost = self._bound.put_all(told, attributes, self._limits.event)
            self._dropped[DROPPED_ATTRIBUTES] += lost
            name = clean_text(str(name))
            if not self._bound.spend(EVENT + text_weight(name)):
                self._bound.left = left
                self._dropped[DROPPED_EVENTS] += 1
                return
            self._events.append(spans.SpanEvent(name, at, told))

    def add_link(self, context: SpanContext, attributes: types.Attributes = None) -> None:
        """Add a link to another span; one that leads nowhere and says nothing is ignored."""
        if not (context.is_valid or attributes or context.trace_state):
            return
        with self._lock:
            if not self._records("link"):
                return
            if not self._has_room(self._links, self._limits.links, DROPPED_LINKS):
                return
            told: spans.Attributes = {}
            left = self._bound.left
            lost = self._bound.put_all(told, attributes, self._limits.link)
            self._dropped[DROPPED_ATTRIBUTES] += lost
            if not self._bound.spend(EVENT):
                self._bound.left = left
                self._dropped[DROPPED_LINKS] += 1
                return
            trace_id, span_id = context.trace_id.to_bytes(16), context.span_id.to_bytes(8)
            self._links.append(spans.SpanLink(trace_id, span_id, told))

    def record_exception(
        self,
        exception: BaseException,
        attributes: types.Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002 - the API's signature
    ) -> None:
        """Add the event that OpenTelemetry's conventions have for an exception.

        https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-spans/
        """
        longest = max(1, self._limits.event.length)
        told: dict[str, types.AnyValue] = {
            "exception.type": exception_type(exception),
            _MESSAGE: _text_of(exception),
            # The last lines say where it was raised: those are kept.
            "exception.stacktrace": "".join(traceback.format_exception(exception))[-longest:],
            "exception.escaped": str(escaped),
        }
        told.update(attributes or {})
        self.add_event("exception", told, timestamp)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status: ``OK`` is final, ``UNSET`` ignored, and only ``ERROR`` is described."""
        if isinstance(status, StatusCode):
            status = Status(status, description)
        elif description is not None:
            log.warning(
                "description %r ignored: the status has one, or none, of its own", description
            )
        with self._lock:
            if not self._records("status"):
                return
            if self._status == spans.OK or status.status_code is StatusCode.UNSET:
                return
            self._status = status.status_code.value
            told = clean_text(status.description or "")
            more = text_weight(told) - text_weight(self._status_message)
            if self._bound.spend(more):
                self._status_message = told

    def update_name(self, name: str) -> None:
        """Give the span another name than the method's."""
        with self._lock:
            told = clean_text(str(name))
            more = text_weight(told) - text_weight(self._name or "")
            if self._records("name") and self._bound.spend(more):
                self._name = told

    def end(self, end_time: int | None = None) -> None:  # noqa: ARG002 - the API's signature
        """Do nothing but warn, once: this span ends with its call."""
        if not self._told_of_end:
            self._told_of_end = True
            log.warning("end() of a served call's span is ignored: it ends with its call")

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        # As `use_span` does it: what is no Exception (a cancellation) is no error.
        if isinstance(exc_val, Exception) and self._recording:
            self.record_exception(exc_val, escaped=True)
            self.set_status(Status(StatusCode.ERROR, f"{type(exc_val).__name__}: {exc_val}"))
        self.end()

    @property
    def attributes(self) -> spans.Attributes:
        """A copy of what has been set; some instrumentations look there."""
        with self._lock:
            return dict(self._attributes)

    # The mesh's side.

    def finish(self) -> None:
        """The call has ended: record no more."""
        with self._lock:
            self._recording = False
            if self._lines is not None:
                self._lines.finish()

    def add_line(self, span_id: int, level: int, severity: str, text: str, at: float) -> None:
        """Add a log line of the call; one that comes after its end is ignored.

        Args:
            span_id: The span that it was made in: this one, or one of users' code.
            level: Its level as a number.
            severity: The same by its name.
            text: What it says.
            at: Nanoseconds since 1970.
        """
        with self._lock:
            if not self._recording:
                return  # and no warning: that would be another line
            if self._lines is None:
                told = self._context
                self._lines = CallLines(told.trace_id.to_bytes(16), told.span_id.to_bytes(8))
            self._lines.add(span_id.to_bytes(8), level, severity, text, at)

    @property
    def weight(self) -> int:
        """Bytes, roughly, that it takes."""
        return EMPTY + self._bound.used + (self._lines.size if self._lines is not None else 0)

    def apply(self, span: spans.Span) -> spans.Span:
        """Put what the user has set onto the span that was built of the same call.

        What the mesh knows itself stays, except that the user knows better what ``error.type`` is.
        A status that the user has set rules; so does the name. An exception that the user has
        recorded, which has a traceback, is not told twice.

        Args:
            span: Is changed.

        Returns:
            The same span.
        """
        with self._lock:
            own = span.attributes
            span.attributes = {**own, **{k: v for k, v in self._attributes.items() if k not in own}}
            if names.ERROR_TYPE in own and names.ERROR_TYPE in self._attributes:
                span.attributes[names.ERROR_TYPE] = self._attributes[names.ERROR_TYPE]
            span.attributes.update((k, count) for k, count in self._dropped.items() if count)
            built = [event for event in span.events if not self._has(event)]
            span.events = (*self._events, *built)
            span.links = (*span.links, *self._links)
            if self._name is not None:
                span.name = self._name
            if self._status == spans.OK:
                span.status, span.status_message = spans.OK, ""
            elif self._status == spans.ERROR:
                span.status = spans.ERROR
                span.status_message = self._status_message or span.status_message
            span.trace_state = self._context.trace_state.to_header()
            if self._lines is not None:
                span.events = (*span.events, *within(self._lines.rest(), span))
                if self._lines.left_out:
                    span.attributes[LEFT_OUT] = self._lines.left_out
        return span

    def _has(self, built: spans.SpanEvent) -> bool:
        """Whether the user has recorded this exception, too.

        The mesh's message may begin with its type, or be clipped.
        """
        if built.name != "exception":
            return False
        kind, message = built.attributes.get("exception.type"), str(built.attributes.get(_MESSAGE))
        for event in self._events:
            if event.name == "exception" and event.attributes.get("exception.type") == kind:
                own = str(event.attributes.get(_MESSAGE))
                if message.endswith(own) or (message and own.startswith(message)):
                    return True
        return False

    def _has_room(
        self, some: deque[spans.SpanEvent] | deque[spans.SpanLink], most: int, dropped: str
    ) -> bool:
        """Whether there may be one more, for which the oldest makes way."""
        if len(some) >= most:
            self._dropped[dropped] += 1
            if not some:
                return False
            gone = some.popleft()
            name = gone.name if isinstance(gone, spans.SpanEvent) else ""
            self._bound.free(EVENT + text_weight(name) + attributes_weight(gone.attributes))
        return True

    def _records(self, what: str) -> bool:
        if not self._recording:
            log.warning("%s set on the span of a call that has ended: ignored", what)
        return self._recording

    def __repr__(self) -> str:
        return f"CallSpan({self._context!r})"


def exception_type(exception: BaseException) -> str:
    """The qualified name of its type; without a module for Python's own."""
    kind = type(exception)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def _text_of(exception: BaseException) -> str:
    try:
        return str(exception)
    except Exception as fault:  # noqa: BLE001 - whatever a user's __str__ raises
        return f"<its text raised {type(fault).__name__}>"
