"""The kept traces of a gateway, as it tells them: lists by filters, and one trace in full.

The same for Python, for the built-in service `mesh` and for `/api/traces`. A trace may have
thousands of spans, and telling one takes up to 20 us, so everything here lets other tasks run.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import trio

from mesh.errors import FailedPrecondition, InvalidArgument, NotFound
from mesh.gateway.tracing import LINGER
from mesh.units import parse_duration
from mesh.wire.codec import is_activity_id
from mesh_telemetry import (
    CODE_NAMES,
    Reason,
    TraceSummary,
    WaterfallRow,
    otlp_steps,
    summary,
    waterfall_rows,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mesh.gateway.calls import InFlight
    from mesh.gateway.core import Core
    from mesh_telemetry import KeptTrace, TraceStore

SLICE = 100
"""Spans that are told in one go: about 2 ms."""
SLICE_TRACES = 500
"""Traces that are looked at in one go: about 1 ms."""
SHORTEST_PREFIX = 6
"""Hexadecimal digits of a trace id that name it well enough."""
MOST = 1000
"""Traces that one list may have."""
FORMATS = ("otlp", "waterfall")

_PREFIX = re.compile(rf"[0-9a-fA-F]{{{SHORTEST_PREFIX},32}}")
_NAMED_BY = (
    f"an id is that of a trace, 32 hexadecimal digits, its first {SHORTEST_PREFIX} or more, or an "
    "activity id, 1 to 128 printable ASCII characters"
)
_LONGEST_NAME = 257
"""Characters of a method with its service."""

T = TypeVar("T")


class TraceFilters(msgspec.Struct, frozen=True, kw_only=True):
    """Which kept traces are asked for: those that fit all of it."""

    service: str = ""
    """A service that was called anywhere in it."""
    method: str = ""
    """Likewise, with its service or without: ``users.get`` or ``get``."""
    code: str = ""
    """How a call to that service and method ended: ``ok``, ``not_found`` and so on."""
    min_duration: float = 0.0
    """Seconds that the entry call took at least."""
    activity_id: str = ""
    """Of any call in it."""
    reason: str = ""
    """Why it was kept."""
    limit: int = 50
    """Traces at most, 1 to 1,000."""

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> TraceFilters:
        """Read filters as people and programs write them; empty ones ask for nothing.

        Args:
            given: By name; numbers may be text, and ``min_duration`` may have a unit: ``250ms``.

        Raises:
            InvalidArgument: A filter is not known, or cannot be that; the message names it and what
                it takes.
        """
        found: dict[str, Any] = {}
        for name, value in given.items():
            if name not in _READ:
                raise InvalidArgument(f"no filter {name!r:.60}; there are {', '.join(_READ)}")
            if value is not None and value != "":
                found[name] = _READ[name](name, value)
        return cls(**found)


def _wrong(name: str, value: object, wanted: str) -> InvalidArgument:
    return InvalidArgument(f"filter {name} must be {wanted}, not {value!r:.60}")


def _name(name: str, value: object) -> str:
    if isinstance(value, str) and len(value) <= _LONGEST_NAME:
        return value
    raise _wrong(name, value, f"the name of a {name}, at most {_LONGEST_NAME} characters")


def _word(known: Iterable[str]) -> Callable[[str, object], str]:
    words = tuple(map(str, known))

    def read(name: str, value: object) -> str:
        if isinstance(value, str) and value.lower() in words:
            return value.lower()
        raise _wrong(name, value, f"one of {', '.join(words)}")

    return read


def _seconds(name: str, value: object) -> float:
    try:
        seconds = parse_duration(value) if isinstance(value, str) else value
    except ValueError:
        seconds = None
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < 1e9:
        return float(seconds)
    raise _wrong(name, value, "a duration, in seconds or such as 250ms")


def _activity(name: str, value: object) -> str:
    if isinstance(value, str) and is_activity_id(value):
        return value
    raise _wrong(name, value, "1 to 128 printable ASCII characters")


def _limit(name: str, value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:9])
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST:
        return value
    raise _wrong(name, value, f"a whole number from 1 to {MOST:,}")


_READ: dict[str, Callable[[str, object], Any]] = {
    "service": _name,
    "method": _name,
    "code": _word(CODE_NAMES),
    "min_duration": _seconds,
    "activity_id": _activity,
    "reason": _word(Reason),
    "limit": _limit,
}


def _summary(trace: KeptTrace, entry: InFlight | None) -> TraceSummary:
    """What a list shows of a trace; while its entry call runs, only that one knows what it is."""
    told = summary(trace)
    if told.method or entry is None:
        return told
    return msgspec.structs.replace(
        told, caller=entry.caller.name, service=entry.service, method=entry.method
    )


class TraceView(msgspec.Struct, frozen=True, kw_only=True):
    """One kept trace, for people."""

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

    def get(self, id: str) -> KeptTrace:  # noqa: A002 - the field's word
        """One kept trace.

        Args:
            id: A trace id in hexadecimal, the first six digits of one or more, or an activity id:
                then the newest of that activity.

        Raises:
            InvalidArgument: It can be neither, or several traces begin so.
            NotFound: There is none.
        """
        store = self._store
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
        elif not is_activity_id(id):
            raise InvalidArgument(f"{id!r:.60} names no trace: {_NAMED_BY}")
        newest = store.find(activity_id=id, limit=1)
        if not newest:
            raise NotFound(
                f"no kept trace {id!r:.130}: {self._what_is_kept()} ({_NAMED_BY})",
                reason="TRACE_NOT_FOUND",
            )
        return newest[0]

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
            f"ago; they stay until newer ones need the room of {store.max_spans:,} spans, and "
            f"{forgotten}"
        )

    async def waterfall(self, id: str) -> TraceView:  # noqa: A002
        """One kept trace for people; see :meth:`get`."""
        trace = self.get(id)
        rows: list[WaterfallRow] = []
        for row in waterfall_rows(trace):
            rows.append(row)
            if len(rows) % SLICE == 0:
                await trio.lowlevel.checkpoint()
        running = self._running() if trace.duration is None else {}
        return TraceView(summary=_summary(trace, running.get(trace.trace_id)), rows=rows)

    async def otlp(self, id: str) -> dict[str, Any]:  # noqa: A002
        """One kept trace as OTLP's JSON; see :meth:`get`."""
        made, steps = otlp_steps(self.get(id))
        for number, _ in enumerate(steps, 1):
            if number % SLICE == 0:
                await trio.lowlevel.checkpoint()
        return made

    async def tell(self, id: str, form: str) -> TraceView | dict[str, Any]:  # noqa: A002
        """One kept trace in a form that is asked for by name.

        Raises:
            InvalidArgument: There is no such form; and as :meth:`get`.
        """
        if form not in FORMATS:
            raise InvalidArgument(f"format must be one of {', '.join(FORMATS)}, not {form!r:.60}")
        return await (self.otlp(id) if form == "otlp" else self.waterfall(id))
