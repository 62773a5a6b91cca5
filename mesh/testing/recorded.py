"""What a local mesh saw, for tests to assert on: calls, traces, spans and metrics."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import wait_all_tasks_blocked

from mesh.errors import CODES, Code, UsageError
from mesh.gateway.figures import Figures
from mesh.gateway.filters import MOST
from mesh.gateway.registry import RESERVED
from mesh.testing.faults import service_name
from mesh_telemetry import FAMILIES
from mesh_telemetry.names import SERVICE_NAME
from mesh_telemetry.spans import ERROR
from mesh_telemetry.waterfall import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.contracts.contract import Contract
    from mesh.gateway import Gateway
    from mesh_telemetry import Record, TraceSummary
    from mesh_telemetry.spans import Attributes, Span, SpanEvent

LONGEST_WAIT = 1.0
"""Seconds that peers have to tell their parts of what has ended, as at the end of a gateway."""
_PARTS = ("_bucket", "_sum", "_count")
"""What the names of a histogram's samples end in."""


@dataclass(frozen=True, kw_only=True)
class RecordedCall:
    """A call that has ended, as the gateway recorded it."""

    caller: str
    """The name of the peer that called."""
    service: str
    method: str
    code: Code
    """``ok``, or what failed."""
    reason: str
    """Why it failed, upper case; empty for ok."""
    message: str
    """What the failure says to people; empty for ok."""
    chain: tuple[str, ...]
    """The hops that led here, this one last."""
    duration: float
    """Seconds, on trio's clock."""
    refused: bool
    """Whether the gateway turned it away before any instance saw it."""
    activity_id: str
    trace_id: str
    """Hexadecimal, as in traces and spans."""

    @property
    def depth(self) -> int:
        """Links of nested calls; an entry call has 1."""
        return len(self.chain)


@dataclass(frozen=True, kw_only=True)
class RecordedSpan:
    """A span that has ended, as whoever made it told it. Ids are those of calls and traces."""

    trace_id: str
    """Hexadecimal."""
    span_id: str
    """Hexadecimal."""
    parent_id: str
    """Hexadecimal; empty for a root."""
    service: str
    """The ``service.name`` of who made it."""
    name: str
    kind: str
    """``internal``, ``server``, ``client``, ``producer`` or ``consumer``."""
    start: int
    """Nanoseconds since 1970."""
    duration: float
    """Seconds."""
    error: bool
    message: str
    """What its status says to people; mostly empty."""
    attributes: Attributes
    events: tuple[SpanEvent, ...]


class Recorded:
    """What one gateway recorded. Whoever asks first waits until what has ended is told.

    Calls of the gateway's own service, `mesh`, are left out of the calls.

    Args:
        gateway: It runs, and keeps every trace.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    async def settled(self) -> None:
        """Return once all that can happen without time passing has happened, and been told.

        So cancellations have arrived, disconnections were noticed, and traces of what has ended are
        whole. What sleeps, or works in a thread, is not waited for. Peers tell their parts of
        traces after some hundredths of a second, for which a clock that the test moves by hand has
        to be moved.
        """
        await wait_all_tasks_blocked()
        tracing = self.gateway.core.tracing
        if tracing is not None:
            with trio.move_on_after(LONGEST_WAIT):
                await tracing.collector.settle()

    async def calls(
        self, service: str | type[Contract] | None = None, method: str | None = None
    ) -> list[RecordedCall]:
        """Calls that have ended, in the order in which they did; the last 10,000.

        Args:
            service: Those of this one alone: a name or a contract.
            method: Those of this one alone.
        """
        await wait_all_tasks_blocked()  # the gateway knows them by itself
        recorder = self.gateway.core.recorder
        name = service_name(service) if service is not None else None
        return [
            _told(row)
            for row in reversed(recorder.recent(recorder.capacity))
            if row.service != RESERVED
            and name in {None, row.service}
            and method in {None, row.method}
        ]

    async def traces(self, **filters: Any) -> list[TraceSummary]:
        """Traces, newest first, the last 1,000; ``gateway.traces`` has more of each by its id.

        Args:
            filters: As of ``gateway.traces.find``: ``service``, ``method``, ``code``,
                ``activity_id`` and so on.

        Raises:
            InvalidArgument: A filter is not known or cannot be that.
        """
        await self.settled()
        return await self.gateway.traces.find(**{"limit": MOST, **filters})

    async def spans(
        self, name: str | None = None, *, trace_id: str | None = None
    ) -> list[RecordedSpan]:
        """The spans of every trace, from all who took part, by their start.

        Those that a handler's own code makes are among them where the process has the mesh's
        provider (:func:`mesh.install_tracer_provider`).

        Args:
            name: Those of this name alone: ``"users.get"``, or what the program called it.
            trace_id: Those of this trace alone, as traces and calls have it.
        """
        await self.settled()
        tracing = self.gateway.core.tracing
        spans = [
            _told_span(resource, span)
            for trace in (tracing.store.newest() if tracing is not None else ())
            if trace_id in {None, trace.trace_id.hex()}
            for resource, span in trace.spans()
            if name in {None, span.name}
        ]
        return sorted(spans, key=lambda span: span.start)

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels; 0 where there is none.

        Those of the gateway's own service, which peers of this mesh call by themselves, are left
        out unless ``rpc_service="mesh"`` asks for them.

        Args:
            name: As in ``/metrics``: ``"mesh_calls_total"``, or of a histogram
                ``"mesh_call_duration_seconds_count"``.
            labels: ``rpc_service="users"``, and so on.

        Raises:
            UsageError: There is no such metric, or it has no such label.
        """
        _check_metric(name, labels)
        await self.settled()
        wanted = labels.items()
        return sum(
            value
            for sample, has, value in self._samples()
            if sample == name
            and wanted <= has
            and ("rpc_service" in labels or ("rpc_service", RESERVED) not in has)
        )

    def _samples(self) -> Iterator[tuple[str, Any, float]]:
        _, slices = Figures(self.gateway.core).exposition.render()
        for family in text_string_to_metric_families("".join(slices)):
            for sample in family.samples:
                yield sample.name, sample.labels.items(), sample.value


def _told(row: Record) -> RecordedCall:
    return RecordedCall(
        caller=row.caller,
        service=row.service,
        method=row.method,
        code=CODES[row.code],
        reason=str(row.reason),
        message=row.message,
        chain=row.chain,
        duration=row.duration,
        refused=row.refused,
        activity_id=row.activity_id,
        trace_id=row.trace_id.hex(),
    )


def _told_span(resource: Attributes, span: Span) -> RecordedSpan:
    return RecordedSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_id.hex(),
        service=str(resource.get(SERVICE_NAME, "")),
        name=span.name,
        kind=KINDS[span.kind],
        start=span.start,
        duration=(span.end - span.start) / 1e9,
        error=span.status == ERROR,
        message=span.status_message,
        attributes=span.attributes,
        events=span.events,
    )


def _check_metric(name: str, labels: dict[str, str]) -> None:
    family = FAMILIES.get(name)
    known = family.labels if family is not None else ()
    for part in _PARTS:
        whole = FAMILIES.get(name.removesuffix(part)) if name.endswith(part) else None
        if whole is not None and whole.type == "histogram":
            family = whole
            known = (*whole.labels, "le") if part == "_bucket" else whole.labels
    if family is None:
        near = difflib.get_close_matches(name, FAMILIES, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"the gateway has no metric {name!r}{hint}")
    for label in labels:
        if label not in known:
            there = f"its labels are {', '.join(known)}" if known else "it has none"
            raise UsageError(f"{name} has no label {label!r}; {there}")
