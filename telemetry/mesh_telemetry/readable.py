"""Spans of the mesh as OpenTelemetry's SDK hands them to its exporters.

A span that was started and ended through the SDK costs 8 to 16 us and carries the time and the
resource of this process. Ours ended elsewhere, so `ReadableSpan` is built directly. The SDK would
rather nobody did: its range in pyproject.toml has an upper end, and tests compare what it encodes
with the fields of the span.

One span that cannot be encoded makes its whole batch fail, so what OTLP cannot express is found
here: wrong ids and times are refused, numbers and text beyond its range are made to fit.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.span import TraceState
from opentelemetry.trace.status import Status, StatusCode

from mesh_telemetry import spans

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mesh_telemetry.spans import Attributes, Span, Value

_KINDS: Mapping[int, SpanKind] = {
    spans.INTERNAL: SpanKind.INTERNAL,
    spans.SERVER: SpanKind.SERVER,
    spans.CLIENT: SpanKind.CLIENT,
    spans.PRODUCER: SpanKind.PRODUCER,
    spans.CONSUMER: SpanKind.CONSUMER,
}
_STATUSES: Mapping[int, Status] = {
    spans.UNSET: Status(StatusCode.UNSET),
    spans.OK: Status(StatusCode.OK),
    spans.ERROR: Status(StatusCode.ERROR),
}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NO_STATE = TraceState()
_STEP = 2
"""Spans encoded in one go."""
_ASIDE = 50e-6
"""Seconds; none at all would not let anybody in."""
_TIMES = range(1 << 64)
_NUMBERS = range(-(1 << 63), 1 << 63)


class Resources:
    """The SDK's resources of the processes that were last heard of, one for equal attributes."""

    def __init__(self, size: int = 256) -> None:
        self._size = size
        self._known: OrderedDict[str, Resource] = OrderedDict()

    def get(self, attributes: Attributes) -> Resource:
        """The resource with these attributes."""
        key = repr(sorted(attributes.items()))  # tells 1 from True
        resource = self._known.get(key)
        if resource is None:
            resource = self._known[key] = Resource(_fitting(attributes))
            if len(self._known) > self._size:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return resource


def readable(span: Span, resource: Resource) -> ReadableSpan:
    """A span of a process as the SDK has it.

    Raises:
        ValueError: OTLP has no place for it: ids of a wrong length or of zeros only, an unknown
            kind or status, times before 1970.
    """
    _check(span)
    trace_id = int.from_bytes(span.trace_id, "big")
    state = TraceState.from_header([span.trace_state]) if span.trace_state else _NO_STATE
    parent = None
    if span.parent_id:
        parent = SpanContext(
            trace_id,
            int.from_bytes(span.parent_id, "big"),
            # Who serves has its parent in another process; the rest is made where its parent is.
            is_remote=span.kind in (spans.SERVER, spans.CONSUMER),
            trace_flags=_SAMPLED,
        )
    return ReadableSpan(
        name=_text(span.name),
        context=SpanContext(trace_id, int.from_bytes(span.span_id, "big"), False, _SAMPLED, state),
        parent=parent,
        resource=resource,
        attributes=_fitting(span.attributes),
        events=[
            Event(_text(event.name), _fitting(event.attributes), event.time)
            for event in span.events
        ],
        links=[
            Link(
                SpanContext(
                    int.from_bytes(link.trace_id, "big"),
                    int.from_bytes(link.span_id, "big"),
                    True,
                    _SAMPLED,
                ),
                _fitting(link.attributes),
            )
            for link in span.links
        ],
        kind=_KINDS[span.kind],
        status=(
            Status(StatusCode.ERROR, _text(span.status_message))
            if span.status == spans.ERROR and span.status_message
            else _STATUSES[span.status]
        ),
        start_time=span.start,
        end_time=span.end,
        instrumentation_scope=_scope(_text(span.scope), _text(span.scope_version)),
    )


class Batch(list[ReadableSpan]):
    """Spans whose reader, the encoder, steps aside for other threads at every few.

    Encoding is Python: 70 us per span in which nothing else runs in this process. So a loop beside
    it waits for a fraction of a millisecond, and not for the whole batch.
    """

    def __iter__(self) -> Iterator[ReadableSpan]:
        for index, span in enumerate(super().__iter__()):
            if index % _STEP == 0:
                time.sleep(_ASIDE)
            yield span


def convert(batch: Iterable[tuple[Attributes, Span]], resources: Resources) -> tuple[Batch, int]:
    """The spans of a batch as the SDK has them, and how many OTLP cannot express."""
    converted, invalid = Batch(), 0
    for index, (resource, span) in enumerate(batch):
        if index % 16 == 0:
            time.sleep(_ASIDE)
        try:
            converted.append(readable(span, resources.get(resource)))
        except (ValueError, TypeError, AttributeError):  # or fields of a wrong type
            invalid += 1
    return converted, invalid


def _check(span: Span) -> None:
    if not _is_id(span.trace_id, 16) or not _is_id(span.span_id, 8):
        raise ValueError(f"ids of 16 and 8 bytes, not {span.trace_id!r} and {span.span_id!r}")
    if span.parent_id and not _is_id(span.parent_id, 8):
        raise ValueError(f"the id of a parent has 8 bytes, not {span.parent_id!r}")
    if span.kind not in _KINDS or span.status not in _STATUSES:
        raise ValueError(f"no kind and status of OTLP: {span.kind} and {span.status}")
    if span.start not in _TIMES or span.end not in _TIMES:
        raise ValueError(f"times in nanoseconds since 1970, not {span.start} and {span.end}")
    if any(event.time not in _TIMES for event in span.events):
        raise ValueError("an event has a time before 1970 or after 2554")
    if not all(_is_id(link.trace_id, 16) and _is_id(link.span_id, 8) for link in span.links):
        raise ValueError("a link has ids that are not of 16 and 8 bytes")


def _is_id(value: bytes, length: int) -> bool:
    return len(value) == length and any(value)


def _text(text: str) -> str:
    """Text that UTF-8 can express: halves of surrogate pairs become question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _fitting(attributes: Attributes) -> Attributes:
    return {_text(key): _value(value) for key, value in attributes.items()}


def _value(value: Value) -> Value:
    """A value that OTLP has a place for; a number beyond 64 bits becomes text."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list | tuple):
        return [_value(item) for item in value]  # type: ignore[misc]  # lists hold no lists
    if isinstance(value, int) and value not in _NUMBERS:
        return str(value)
    return value


@lru_cache(maxsize=256)
def _scope(name: str, version: str) -> InstrumentationScope:
    return InstrumentationScope(name, version)
