"""The spans that users' code made in this process, held until it is known whether they are wanted.

They end in any thread; whoever tells of them reads in one.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from opentelemetry.sdk.trace import ReadableSpan

    from mesh_telemetry.spans import Span

CAPACITY = 5_000
"""Spans held; older ones make way."""


class UserSpans:
    """Takes what ends, gives what is asked for.

    Args:
        is_kept: Whether a trace is known to be kept, by its id.
        tell: Is called, in the thread in which the span ended, for each one of such a trace.

    Attributes:
        copies: Whether the spans go elsewhere as well, by the user's own provider.
        dropped: Spans that have made way for newer ones.
    """

    def __init__(
        self, is_kept: Callable[[bytes], bool], tell: Callable[[bytes, ReadableSpan], None]
    ) -> None:
        self._spans: deque[tuple[bytes, ReadableSpan]] = deque(maxlen=CAPACITY)
        self._is_kept = is_kept
        self._tell = tell
        self.copies = False
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._spans)

    def ended(self, span: ReadableSpan) -> None:
        """A span has ended, in whatever thread this is."""
        context = span.get_span_context()
        if context is None:
            return
        trace_id = context.trace_id.to_bytes(16)
        self.dropped += len(self._spans) == CAPACITY
        self._spans.append((trace_id, span))
        if self._is_kept(trace_id):
            self._tell(trace_id, span)

    def find(self, trace_ids: Container[bytes]) -> list[ReadableSpan]:
        """The spans of these traces."""
        # A copy, made in one go: other threads append meanwhile.
        return [span for trace_id, span in self._spans.copy() if trace_id in trace_ids]

    def forget(self, before: int) -> None:
        """Drop spans that ended before this moment, in nanoseconds since 1970."""
        spans = self._spans
        while spans and (spans[0][1].end_time or 0) < before:
            spans.popleft()


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
    """See :func:`mesh_telemetry.provider.convert`."""
    from mesh_telemetry import provider  # noqa: PLC0415 - there are spans of the SDK, so it is there

    return provider.convert(span)
