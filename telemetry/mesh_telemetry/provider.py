"""The spans that users' code makes with the OpenTelemetry API, on their way into the mesh.

Two cases. Where the process has no provider of spans, the mesh can be it: everything is recorded,
and kept or dropped with its trace. Where the user has set one up, nothing of it is replaced: its
sampler and its exporter rule its spans, and the mesh gets copies, to show and not to export.

Importing this imports the OpenTelemetry SDK.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING, Protocol

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

from mesh_telemetry import spans
from mesh_telemetry.attributes import Bounded, clean_text, clean_time
from mesh_telemetry.callspan import (
    DROPPED_ATTRIBUTES,
    DROPPED_EVENTS,
    DROPPED_LINKS,
)
from mesh_telemetry.propagation import Ratio
from mesh_telemetry.span_limits import span_limits
from mesh_telemetry.weights import EVENT, text_weight

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanKind, TraceState
    from opentelemetry.util import types

log = logging.getLogger("mesh.telemetry")


class Collector(Protocol):
    """Who takes the spans that end in this process."""

    def ended(self, span: ReadableSpan) -> None:
        """A span has ended, in whatever thread this is. Must not block."""


class _Recording(Sampler):
    """Records every span; the flag for the outside is the parent's, or a ratio's for roots."""

    def __init__(self, ratio: Ratio) -> None:
        self._ratio = ratio

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: types.Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Record and sample, or record only."""
        del name, kind, links
        parent = trace.get_current_span(parent_context).get_span_context()
        if parent.is_valid:
            sampled = parent.trace_flags.sampled
            trace_state = parent.trace_state
        else:
            sampled = bool(self._ratio.flags(trace_id.to_bytes(16)) & trace.TraceFlags.SAMPLED)
        decision = Decision.RECORD_AND_SAMPLE if sampled else Decision.RECORD_ONLY
        return SamplingResult(decision, attributes, trace_state)

    def get_description(self) -> str:
        """What it is called."""
        return f"MeshRecording{{{self._ratio.rate}}}"


class _Tap(SpanProcessor):
    """Hands each span that ends to the collectors."""

    def __init__(self) -> None:
        self.collectors: tuple[Collector, ...] = ()  # replaced, never changed: threads read it

    def on_end(self, span: ReadableSpan) -> None:
        """Tell of it; a collector that fails is removed, and never breaks the user's code."""
        for collector in self.collectors:
            try:
                collector.ended(span)
            except Exception:
                log.exception("a collector of spans failed, and gets no more")
                self.remove(collector)

    def add(self, collector: Collector) -> None:
        """Tell this one, too."""
        with _lock:
            if collector not in self.collectors:
                self.collectors = (*self.collectors, collector)

    def remove(self, collector: Collector) -> None:
        """Tell it no more."""
        with _lock:
            self.collectors = tuple(one for one in self.collectors if one is not collector)


_lock = threading.Lock()
# A provider cannot lose a processor again, so each gets one at most.
_taps: weakref.WeakKeyDictionary[TracerProvider, _Tap] = weakref.WeakKeyDictionary()


class MeshTracerProvider(TracerProvider):
    """The provider of a process that has no other.

    Users may add processors to it; they see what the mesh's sampler lets through to the outside.

    Args:
        ratio: Which traces that begin here are told to the outside as sampled.
        resource: What this process is; None is what the environment says.
    """

    def __init__(self, ratio: Ratio, resource: spans.Attributes | None = None) -> None:
        told = Resource.create(resource)
        limits = span_limits()
        bounds = SpanLimits(
            max_span_attributes=limits.span.most,
            max_event_attributes=limits.event.most,
            max_link_attributes=limits.link.most,
            max_events=limits.events,
            max_links=limits.links,
            max_attribute_length=limits.event.length,
            max_span_attribute_length=limits.span.length,
        )
        super().__init__(
            sampler=_Recording(ratio), resource=told, shutdown_on_exit=False, span_limits=bounds
        )


def install(
    collector: Collector,
    resource: spans.Attributes | None = None,
    environ: Mapping[str, str] = os.environ,
) -> bool:
    """Have the users' spans of this process collected, if the process has no provider of its own.

    A provider is set once per process and stays; another collector joins it.

    Args:
        collector: Is told of every span that ends.
        resource: What this process is, for processors that users add.
        environ: ``OTEL_SDK_DISABLED`` and ``OTEL_TRACES_SAMPLER`` count.

    Returns:
        Whether the provider is the mesh's. If not, :func:`attach` gets copies from the other one.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):
        trace.set_tracer_provider(MeshTracerProvider(Ratio.from_environment(environ), resource))
        provider = trace.get_tracer_provider()  # another thread's, perhaps
    return isinstance(provider, MeshTracerProvider) and attach(provider, collector)


def attach(provider: trace.TracerProvider, collector: Collector) -> bool:
    """Get copies of the spans that a provider's own sampler records.

    Args:
        provider: The user's.
        collector: Is told of every span that ends.

    Returns:
        Whether that works: the provider is the SDK's, or derived from it.
    """
    if not isinstance(provider, TracerProvider):
        return False
    with _lock:
        tap = _taps.get(provider)
        is_new = tap is None
        if tap is None:
            tap = _taps[provider] = _Tap()
    tap.add(collector)
    if is_new:
        provider.add_span_processor(tap)
    return True


def convert(span: ReadableSpan) -> spans.Span:
    """A span of the SDK's as the mesh sends it: plain, and bounded as a served call's own is."""
    bound = Bounded()
    limits = bound.limits
    attributes: spans.Attributes = {}
    told = {key: value for key, value in (span.attributes or {}).items() if value is not None}
    lost = span.dropped_attributes + bound.put_all(attributes, told, limits.span)
    events: list[spans.SpanEvent] = []
    for event in span.events[max(0, len(span.events) - limits.events) :]:
        name = clean_text(str(event.name))
        if not bound.spend(EVENT + text_weight(name)):
            break
        of_event: spans.Attributes = {}
        lost += bound.put_all(of_event, event.attributes, limits.event)
        events.append(spans.SpanEvent(name, clean_time(event.timestamp), of_event))
    links: list[spans.SpanLink] = []
    for link in span.links[max(0, len(span.links) - limits.links) :]:
        if not bound.spend(EVENT):
            break
        of_link: spans.Attributes = {}
        lost += bound.put_all(of_link, link.attributes, limits.link)
        trace_id, span_id = link.context.trace_id.to_bytes(16), link.context.span_id.to_bytes(8)
        links.append(spans.SpanLink(trace_id, span_id, of_link))
    dropped = {
        DROPPED_ATTRIBUTES: lost,
        DROPPED_EVENTS: span.dropped_events + len(span.events) - len(events),
        DROPPED_LINKS: span.dropped_links + len(span.links) - len(links),
    }
    attributes.update((name, count) for name, count in dropped.items() if count)
    context = span.get_span_context() or trace.INVALID_SPAN_CONTEXT
    scope = span.instrumentation_scope
    status = span.status
    return spans.Span(
        trace_id=context.trace_id.to_bytes(16),
        span_id=context.span_id.to_bytes(8),
        parent_id=span.parent.span_id.to_bytes(8) if span.parent else b"",
        name=clean_text(str(span.name)),
        kind=span.kind.value + 1,  # OTLP's numbers begin with "unspecified"
        start=clean_time(span.start_time),
        end=clean_time(span.end_time),
        attributes=attributes,
        status=status.status_code.value,
        status_message=clean_text(status.description or ""),
        events=tuple(events),
        links=tuple(links),
        scope=clean_text(str(scope.name)) if scope else "",
        scope_version=clean_text(str(scope.version or "")) if scope else "",
        trace_state=context.trace_state.to_header(),
    )
