"""The spans that users' code made in this process, held until it is known whether they are wanted.

They end in any thread; whoever tells of them reads in one.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mesh_telemetry.backlog import Backlog
from mesh_telemetry.bounds import USER_SPAN_BYTES, USER_SPANS
from mesh_telemetry.call_lines import add_lines
from mesh_telemetry.weights import EVENT, attributes_weight, text_weight

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from opentelemetry.sdk.trace import ReadableSpan

    from mesh_telemetry.spans import Span

EMPTY = 3_000
"""Bytes that a span of the SDK takes in which nothing has been set."""


class UserSpans:
    """Takes what ends, gives what is asked for.

    Args:
        is_kept: Whether a trace is known to be kept, by its id.
        tell: Is called, in the thread in which the span ended, for each one of such a trace, with
            its weight in bytes.
        capacity: Spans held; older ones make way.
        max_bytes: What these may take.

    Attributes:
        copies: Whether the spans go elsewhere as well, by the user's own provider.
    """

    def __init__(
        self,
        is_kept: Callable[[bytes], bool],
        tell: Callable[[bytes, ReadableSpan, int], None],
        capacity: int = USER_SPANS,
        max_bytes: int = USER_SPAN_BYTES,
    ) -> None:
        self._spans: Backlog[tuple[bytes, ReadableSpan]] = Backlog(capacity, max_bytes)
        self._is_kept = is_kept
        self._tell = tell
        self.copies = False

    def __len__(self) -> int:
        return len(self._spans)

    @property
    def size(self) -> int:
        """What the spans that are held take."""
        return self._spans.size

    @property
    def dropped(self) -> dict[str, int]:
        """Spans that have made way, by reason."""
        return self._spans.dropped

    def ended(self, span: ReadableSpan) -> None:
        """A span has ended, in whatever thread this is."""
        context = span.get_span_context()
        if context is None:
            return
        trace_id, weight = context.trace_id.to_bytes(16), weigh(span)
        self._spans.put((trace_id, span), weight)
        if self._is_kept(trace_id):
            self._tell(trace_id, span, weight)

    def find(self, trace_ids: Container[bytes]) -> list[ReadableSpan]:
        """The spans of these traces."""
        return [span for trace_id, span in self._spans.look() if trace_id in trace_ids]

    def forget(self, before: int) -> None:
        """Drop spans that ended before this moment, in nanoseconds since 1970."""
        while (oldest := self._spans.oldest()) is not None and (oldest[1].end_time or 0) < before:
            self._spans.take()


def weigh(span: ReadableSpan) -> int:
    """Bytes, roughly, that a span of the SDK takes; its sampler may let any size of value in."""
    size = EMPTY + text_weight(str(span.name)) + attributes_weight(span.attributes)
    size += text_weight(str(span.status.description or ""))
    for event in span.events:
        size += 2 * EVENT + text_weight(str(event.name)) + attributes_weight(event.attributes)
    for link in span.links:
        size += 2 * EVENT + attributes_weight(link.attributes)
    return size


def collect(spans: UserSpans, *, install: bool) -> bool:
    """Have the spans of users' code collected.

    Args:
        spans: Where they go.
        install: Whether a process without a provider of spans shall have the mesh's.

    Returns:
        Whether the mesh's own provider is in place. Else a provider of the user's, if there is one,
        gives copies.
    """
    if not install and "opentelemetry.sdk.trace" not in sys.modules:
        return False  # nobody can have set a provider up
    from opentelemetry import trace  # noqa: PLC0415 - slow, and mostly not needed

    from mesh_telemetry import provider  # noqa: PLC0415

    if install and provider.install(spans):
        return True
    theirs = trace.get_tracer_provider()
    if isinstance(theirs, provider.MeshTracerProvider):
        provider.attach(theirs, spans)
        return True
    spans.copies = provider.attach(theirs, spans)
    return False


def convert(span: ReadableSpan) -> Span:
    """See :func:`mesh_telemetry.provider.convert`; with the log lines that were made in it."""
    from mesh_telemetry import provider  # noqa: PLC0415 - there are spans of the SDK, so it is there

    return add_lines(provider.convert(span))
