"""The kept traces of a gateway, as it tells them: lists by filters, and one trace in full.

The same for Python, for the built-in service `mesh` and for `/api/traces`. A trace may have
thousands of spans, and telling one takes up to 20 us, so everything here lets other tasks run.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from mesh.errors import FailedPrecondition, InvalidArgument, NotFound
from mesh.gateway.filters import TraceFilters, read_id
from mesh.gateway.tracing import LINGER
from mesh.units import format_size
from mesh.wire.codec import is_activity_id
from mesh_telemetry import (
    CODE_NAMES,
    Drawing,
    Explanation,
    TraceSummary,
    WaterfallRow,
    otlp_steps,
    summary,
    waterfall_rows,
)
from mesh_telemetry.drawing import WIDTH
from mesh_telemetry.explaining import BY_TIME, explain_steps
from mesh_telemetry.texts import shorten, to_text

if TYPE_CHECKING:
    from mesh.gateway.calls import InFlight
    from mesh.gateway.core import Core
    from mesh_telemetry import KeptTrace, Step, TraceStore

SLICE = 100
"""Spans that are told in one go: about 2 ms."""
SLICE_TRACES = 500
"""Traces that are looked at in one go: about 1 ms."""
SHORTEST_PREFIX = 6
"""Hexadecimal digits of a trace id that name it well enough."""
FORMATS = ("otlp", "waterfall", "text", "explain")
NARROWEST, WIDEST = 40, 1000
"""Columns that a drawing may have."""
STEPS = 20
"""Of a drawing, in one go: about 1 ms."""

_PREFIX = re.compile(rf"[0-9a-fA-F]{{{SHORTEST_PREFIX},32}}")
_NAMED_BY = (
    f"an id is that of a trace, 32 hexadecimal digits, its first {SHORTEST_PREFIX} or more, or an "
    "activity id, 1 to 128 printable ASCII characters"
)


def _summary(trace: KeptTrace, entry: InFlight | None) -> TraceSummary:
    """What a list shows of a trace; while its entry call runs, only that one knows what it is."""
    told = summary(trace)
    if told.method or entry is None:
        return told
    return msgspec.structs.replace(
        told, caller=entry.caller.name, service=entry.service, method=entry.method
    )


class TraceView(msgspec.Struct, frozen=True, kw_only=True):
    """One kept trace as what its drawing is made of."""

    summary: TraceSummary
    rows: list[WaterfallRow]
    """Its spans as a tree, depth first."""


class TraceViews:
    """What one gateway tells of the traces that it has kept.

    Every method raises :class:`~mesh.FailedPrecondition` where the gateway's telemetry is off.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    @property
    def _store(self) -> TraceStore:
        if self._core.tracing is None:
            raise FailedPrecondition(
                "this gateway keeps no traces, as its telemetry is off; start it without "
                "`--telemetry off` (MESH_TELEMETRY, Gateway(telemetry=...))",
                reason="TELEMETRY_OFF",
            )
        return self._core.tracing.store

    async def find(self, **filters: Any) -> list[TraceSummary]:
        """Kept traces, newest first.

        Args:
            filters: The fields of :class:`TraceFilters`.

        Raises:
            InvalidArgument: A filter is not known or cannot be that.
        """
        return await self.search(TraceFilters.read(filters))

    async def search(self, wanted: TraceFilters) -> list[TraceSummary]:
        """Kept traces, newest first."""
        store = self._store
        traces = store.newest()
        found: list[KeptTrace] = []
        for start in range(0, len(traces), SLICE_TRACES):
            found += store.find(
                service=wanted.service,
                method=wanted.method,
                code=CODE_NAMES.index(wanted.code) if wanted.code else None,
                min_duration=wanted.min_duration,
                activity_id=wanted.activity_id,
                reason=wanted.reason,
                limit=wanted.limit - len(found),
                among=traces[start : start + SLICE_TRACES],
            )
            if len(found) >= wanted.limit:
                break
            await trio.lowlevel.checkpoint()
        told: list[TraceSummary] = []
        spans = 0
        running = self._running() if any(trace.duration is None for trace in found) else {}
        for trace in found:
            told.append(_summary(trace, running.get(trace.trace_id)))
            spans += len(trace)
            if spans > SLICE * 20:  # far cheaper than telling them all
                spans = 0
                await trio.lowlevel.checkpoint()
        return told

    def _running(self) -> dict[bytes, InFlight]:
        """The entry calls in flight, by trace; the oldest of each."""
        entries = reversed(self._core.table.by_id.values())
        return {entry.trace_id: entry for entry in entries if entry.id == entry.entry_id}

    def get(self, id: str) -> KeptTrace:
        """One kept trace.

        Args:
            id: A trace id in hexadecimal, the first six digits of one or more, or an activity id:
                then the newest of that activity. Space around it, the dashes of a UUID and a
                whole ``traceparent`` do no harm.

        Raises:
            InvalidArgument: It can be neither, or several traces begin so.
            NotFound: There is none.
        """
        store = self._store
        meant = read_id(id)
        for one in meant:
            found = _named(store, one)
            if found is not None:
                return found
        if not any(map(is_activity_id, meant)):
            raise InvalidArgument(f"{id!r:.60} names no trace: {_NAMED_BY}")
        raise NotFound(
            f"no kept trace {shorten(id, 60)!r}: it was not kept, or has made way; or the call "
            "failed in its caller and never came here, so that only its error tells why",
            reason="TRACE_NOT_FOUND",
            details={"kept": self._what_is_kept(), "ids": _NAMED_BY},
        )

    def _what_is_kept(self) -> str:
        store = self._store
        count = len(store)
        forgotten = f"what is over its quota or the baseline is forgotten after {LINGER:g} s"
        if not count:
            return f"none is kept yet, and {forgotten}"
        oldest = store.newest()[-1]
        age = max(0.0, time.time() - oldest.started / 1e9)
        return (
            f"{count:,} are kept now, of {store.span_count:,} spans, the oldest from {age:,.0f} s "
            f"ago; they stay until newer ones need the room of {store.max_spans:,} spans or "
            f"{format_size(store.max_bytes)}, and {forgotten}"
        )

    async def waterfall(self, id: str) -> TraceView:
        """One kept trace as rows of a waterfall; see :meth:`get`."""
        trace = self.get(id)
        running = self._running() if trace.duration is None else {}
        # Of the same moment as the rows, which the first of them settles.
        about = _summary(trace, running.get(trace.trace_id))
        rows: list[WaterfallRow] = []
        for row in waterfall_rows(trace):
            rows.append(row)
            if len(rows) % SLICE == 0:
                await trio.lowlevel.checkpoint()
        return TraceView(summary=about, rows=rows)

    async def otlp(self, id: str) -> dict[str, Any]:
        """One kept trace as OTLP's JSON; see :meth:`get`."""
        made, steps = otlp_steps(self.get(id))
        for number, _ in enumerate(steps, 1):
            if number % SLICE == 0:
                await trio.lowlevel.checkpoint()
        return made

    async def text(self, id: str, width: int = WIDTH) -> str:
        """One kept trace as `mesh trace` draws it in a pipe; see :meth:`get`.

        Args:
            id: Which.
            width: Columns that labels and bars keep to, 40 to 1,000; texts are whole.

        Raises:
            InvalidArgument: The width is none of these; and as :meth:`get`.
        """
        if not NARROWEST <= width <= WIDEST:
            raise _wrong_width(width)
        told = await self.waterfall(id)
        lines: list[str] = []
        for number, line in enumerate(Drawing(told.summary, told.rows, width=width).steps(), 1):
            if line is not None:
                lines.append(to_text(line))
            if line is None or number % STEPS == 0:
                await trio.lowlevel.checkpoint()
        return "\n".join([*lines, ""])

    async def explain(self, id: str) -> Explanation:
        """Every decision made for the calls of one kept trace, in order; see :meth:`get`."""
        told = await self.waterfall(id)
        steps: list[Step] = []
        for number, step in enumerate(explain_steps(told.rows), 1):
            if step is not None:
                steps.append(step)
            if number % SLICE == 0:
                await trio.lowlevel.checkpoint()
        return Explanation(summary=told.summary, steps=sorted(steps, key=BY_TIME))

    async def tell(
        self,
        id: str,
        form: str,
        width: int | str | None = None,
    ) -> TraceView | Explanation | dict[str, Any] | str:
        """One kept trace in a form that is asked for by name.

        Args:
            id: Which.
            form: One of :data:`FORMATS`.
            width: Of the text, as a number or as people write it; None is :meth:`text`'s own.

        Raises:
            InvalidArgument: There is no such form, or the width is not for it or cannot be that;
                and as :meth:`get`.
        """
        if form not in FORMATS:
            raise InvalidArgument(f"format must be one of {', '.join(FORMATS)}, not {form!r:.60}")
        if form == "text":
            return await (self.text(id) if width is None else self.text(id, _columns(width)))
        if width is not None:
            raise InvalidArgument(f"width is for format text, not for {form}")
        if form == "explain":
            return await self.explain(id)
        return await (self.otlp(id) if form == "otlp" else self.waterfall(id))


def _named(store: TraceStore, id: str) -> KeptTrace | None:
    """The trace of exactly this id, the only one that begins so, or the newest of an activity.

    Raises:
        InvalidArgument: Several begin so.
    """
    if _PREFIX.fullmatch(id):
        exact = store.get(bytes.fromhex(id)) if len(id) == 32 else None
        found = [exact] if exact is not None else store.starting_with(id)
        if len(found) == 1:
            return found[0]
        if found:
            some = ", ".join(trace.trace_id.hex() for trace in found[:3])
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise InvalidArgument(
                f"{len(found)} kept traces begin with {id}: {some}{more}",
                reason="AMBIGUOUS_TRACE",
            )
    return next(iter(store.find(activity_id=id, limit=1)), None)


def _columns(width: int | str) -> int:
    if isinstance(width, int):
        return width
    if width.isascii() and width.isdigit():
        return int(width.lstrip("0")[:9] or "0")
    raise _wrong_width(width)


def _wrong_width(width: int | str) -> InvalidArgument:
    return InvalidArgument(
        f"width must be a whole number from {NARROWEST} to {WIDEST:,}, not {width!r:.60}"
    )
