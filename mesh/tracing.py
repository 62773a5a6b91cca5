"""A peer's part in traces: what it recorded of its calls, told to the gateway where that asks.

Every call made or served appends one small row to a bounded buffer of the process. KEEP names the
traces that are worth telling; only for these are spans built and sent, now and for calls that end
later.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections import Counter
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, TypeVar

import msgspec
import trio

from mesh import _version
from mesh.process import this_process
from mesh.wire import codec
from mesh_telemetry import spans
from mesh_telemetry.attributes import clean_text
from mesh_telemetry.backlog import Backlog
from mesh_telemetry.bounds import UNTOLD, UNTOLD_BYTES
from mesh_telemetry.current import BAGGAGE, TRACESTATE, outgoing
from mesh_telemetry.peer_records import MAX_KEPT
from mesh_telemetry.propagation import RANDOM, SAMPLED, Ratio
from mesh_telemetry.resource import describe
from mesh_telemetry.spans import clip
from mesh_telemetry.user_spans import collect, convert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opentelemetry.sdk.trace import ReadableSpan

    from mesh.context import Call
    from mesh.transport.links import Link
    from mesh.uplink import Uplink
    from mesh_telemetry.peer_records import PeerRow, Source
    from mesh_telemetry.spans import Attributes, Span

_ratio = Ratio.from_environment(os.environ)
root_flags = _ratio.flags if _ratio.rate < 1.0 else lambda _: SAMPLED | RANDOM
"""W3C flags of traces that begin here: the mesh records all, those outside hear a set ratio."""
CARRIED = (BAGGAGE, TRACESTATE)
PAUSE = 0.02
"""Seconds in which answers to KEEP gather."""

QUIET = 60.0
"""Seconds from one complaint in the log to the next."""
ENVELOPE = 16
"""Bytes of a frame's payload beside the resource and the spans."""
CLIPPED = (4096, 1024, 256, 64, 0)
"""To how many characters the texts of a span are clipped, by turns, that does not fit a frame."""

TRACES = 50
"""Traces that are looked for in one go."""
ROWS = 1_000
"""Rows that are put in order in one go."""
SLICE, USUAL = 100, 512
"""Spans that are built and packed in one go before other tasks may run, and the bytes of one: each
takes about 10 us, and a large one as much as several."""
ROW = 500
"""Bytes that a row takes which no handler has touched."""

_TRACE = attrgetter("trace_id")
T = TypeVar("T")
_END = object()

log = logging.getLogger("mesh.client")

_encode = msgspec.msgpack.Encoder().encode
_decode_span = msgspec.msgpack.Decoder(spans.Span).decode


def continued(
    parent: Call | None, bits: Callable[[int], int]
) -> tuple[bytes, int, int, dict[str, str] | None]:
    """What a call made here continues: the call being served, or the current OpenTelemetry span.

    Args:
        parent: The call being served.
        bits: Draws random bits.

    Returns:
        Its trace id, the parent of its span (0 for none), W3C flags, and what its metadata carries.
    """
    current = outgoing()
    if parent is None:
        if current is None or not current.trace_id:
            carried = current.metadata if current is not None else None
            trace_id = bits(128).to_bytes(16, "big")
            return trace_id, 0, root_flags(trace_id), carried
        return current.trace_id, current.span_id, current.flags, current.metadata
    if current is None:
        came = parent.metadata
        carried = {key: came[key] for key in CARRIED if key in came} if came else None
        return parent.trace_id, parent.own_span, parent.trace_flags, carried
    if current.trace_id == parent.trace_id:
        above = current.span_id or parent.own_span
        return parent.trace_id, above, parent.trace_flags, current.metadata
    # Another trace, begun by hand inside a handler, is none that the gateway could follow.
    carried = current.metadata
    if carried and TRACESTATE in carried:
        carried = {key: text for key, text in carried.items() if key != TRACESTATE}
    return parent.trace_id, parent.own_span, parent.trace_flags, carried


def install_tracer_provider() -> bool:
    """Have the spans that code of this process makes with the OpenTelemetry API join its calls.

    Spans that are made inside a call, by your code or by a library's instrumentation, are then
    shown and exported by the gateway with the trace of the call, and dropped with it. `mesh.run`
    does this by itself; with `mesh.connect`, call it once, at any time.

    Where the process has a provider of its own, nothing is replaced: its sampler and exporter rule
    its spans, and the gateway shows copies. ``OTEL_SDK_DISABLED=true`` leaves everything alone.

    Returns:
        Whether the mesh's provider is in place.
    """
    return collect(this_process().records.users, install=True)


class Reporter:
    """Tells one gateway, over one peer's connections, of kept traces.

    Traces are told in slices, between which other tasks run, and no more than the outbox takes.
    What was asked for stays so until it has been sent, or there is another connection, over which
    the gateway asks again.
    """

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        self._recorder = uplink.process.records
        self._resources: dict[str, Attributes] = {}
        self._asked: dict[bytes, None] = {}
        self._late: Backlog[PeerRow] = Backlog(UNTOLD, UNTOLD_BYTES)
        self._late_spans: Backlog[ReadableSpan] = Backlog(UNTOLD, UNTOLD_BYTES)
        self._untold: Counter[bytes] = Counter()
        """Spans that were lost here, and of which the gateway has yet to hear: those of calls by
        their trace, all others under no bytes."""
        self._unsaid = 0
        """How often no frame could be made of one, and the log has not said so."""
        self._complain_from = float("-inf")
        self._counted = 0
        """Those among them that made way in a backlog."""
        self._telling: tuple[Link, Iterator[None]] | None = None
        """The steps under way, and over which connection; whoever runs them goes on with these."""
        self._wake = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None

    def keep(self, trace_ids: Iterable[bytes]) -> None:
        """The gateway keeps these traces."""
        for trace_id in trace_ids:
            self._asked[trace_id] = None
            self._recorder.keep(trace_id, self)
        while len(self._asked) > MAX_KEPT:  # more than the process remembers
            del self._asked[next(iter(self._asked))]
        self._wake.set()

    def add(self, row: PeerRow) -> None:
        """A call of a trace that is kept already has ended, perhaps in another loop of trio's."""
        if self._uplink.link is None:
            return  # asked for again after the reconnect
        self._late.put(row, ROW if row.touched is None else ROW + row.touched.weight)
        if self._token is trio.lowlevel.current_trio_token():
            self._wake.set()
        else:
            self._rouse()

    def add_span(self, span: ReadableSpan, weight: int) -> None:
        """A span of the user's in a trace that is kept already has ended, in whatever thread."""
        self._late_spans.put(span, weight)
        self._rouse()

    def _rouse(self) -> None:
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._awake, idempotent=True)

    def _awake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Answer, until cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        while True:
            await self._wake.wait()
            await trio.sleep(PAUSE)
            self._wake = trio.Event()
            await self.flush()

    async def flush(self) -> None:
        """Send what is to be told; waits where the gateway does not read, for calls go first."""
        while (link := self._uplink.link) is not None:
            if self._telling is None or self._telling[0] is not link:
                self._telling = link, self._steps(link)
            if link.full:
                await self._uplink.wait_room()
                await trio.lowlevel.checkpoint()  # it may be broken, which is noticed elsewhere
            elif next(self._telling[1], _END) is _END:
                self._telling = None
                link.flush()
                return
            else:
                link.flush()
                await trio.lowlevel.checkpoint()
        self._telling = None  # asked again after the reconnect
        self._asked.clear()
        self._late.empty()
        self._late_spans.empty()

    def _steps(self, link: Link) -> Iterator[None]:
        """Put what is to be told into the outbox, about 2 ms of work at a time."""
        name, users = self._uplink.name, self._recorder.users
        while self._asked or self._late or self._late_spans:
            asked = list(itertools.islice(self._asked, TRACES))
            known = frozenset(asked)
            # Looked for before spans, which end before the call in which they were made.
            late = self._late.empty()
            rows = self._recorder.find(known) if known else []
            rows += [row for row in late if row.trace_id not in self._asked]
            yield
            # Told before those of the calls: the gateway knows how many of these have to come, and
            # may end once they are there.
            theirs = self._users(known)
            for frame in self._batches(name, theirs, convert, _of_none, copies=users.copies):
                if frame:
                    link.put_bulk(0, frame)
                yield
            for source, some in _by_source(rows):
                offset = self._uplink.process.wall() - source.clock()
                make = partial(self._span, offset=offset)
                for frame in self._batches(source.name, some, make, _TRACE):
                    if frame:
                        link.put_bulk(0, frame)
                    yield
            yield from self._tell_lost(link)
            most = max(1, min(codec.MAX_TRACES, self._uplink.max_header // 20))
            for start in range(0, len(asked), most):
                link.put_bulk(0, self._frame(name, asked[start : start + most], [], 0))
            for trace_id in asked:
                self._asked.pop(trace_id, None)
            yield
        yield from self._tell_lost(link)

    def _tell_lost(self, link: Link) -> Iterator[None]:
        made_way = sum(self._late.dropped.values()) + sum(self._late_spans.dropped.values())
        if made_way > self._counted:
            self._untold[b""] += made_way - self._counted
            self._counted = made_way
        while self._untold:
            trace_id, lost = self._untold.popitem()
            of = [trace_id] if trace_id else []
            link.put_bulk(0, self._frame(self._uplink.name, of, [], lost))
            if len(self._untold) % SLICE == 0:
                yield

    def _users(self, known: frozenset[bytes]) -> Iterator[ReadableSpan]:
        """The spans that users' code made in these traces, and since in others that are kept."""
        spans_of_users = self._recorder.users
        # Held to the end, so that no other span gets the place in memory of one that was told.
        found = spans_of_users.find(known) if known else []
        told = {id(span) for span in found}
        yield from found
        while (late := self._late_spans.take()) is not None:
            if id(late) not in told:
                yield late

    def _packed(self, make: Callable[[], Span], room: int) -> bytes | None:
        """A span as it travels; None where even what is clipped of it does not fit."""
        try:
            span = make()
            packed = _encode(span)
            for longest in CLIPPED if len(packed) > room else ():
                packed = _encode(clip(span, longest))
                if len(packed) <= room:
                    break
            _decode_span(packed)  # as the gateway will: what it cannot read ends the connection
        except Exception as fault:  # noqa: BLE001 - what users' code has put into it
            self._complain(fault)  # it must not cost the peer its connection
            return None
        return packed if len(packed) <= room else None

    def _complain(self, fault: Exception) -> None:
        """Say in the log that a span cannot be told, once a minute at most."""
        now = trio.current_time()
        if now < self._complain_from:
            self._unsaid += 1
            return
        log.error(
            "a span cannot be told to the gateway (%d more times since this was said last)",
            self._unsaid,
            exc_info=fault,
        )
        self._unsaid, self._complain_from = 0, now + QUIET

    def _batches(
        self,
        name: str,
        some: Iterable[T],
        make: Callable[[T], Span],
        trace_of: Callable[[T], bytes],
        *,
        copies: bool = False,
    ) -> Iterator[bytes]:
        """SPANS of one peer of this process, each within what one frame may carry.

        And nothing now and then, where other tasks should run before there is a whole frame.
        """
        room = self._uplink.max_chunk - self._overhead(name)
        batch: list[msgspec.Raw] = []
        size = work = 0
        for one in some:
            if work >= SLICE:
                work = 0
                yield b""
            packed = self._packed(partial(make, one), room)
            if packed is None:
                self._untold[trace_of(one)] += 1
                continue
            if size + len(packed) > room:
                yield self._frame(name, [], batch, 0, copies=copies)
                batch, size, work = [], 0, 0
            work += 1 + len(packed) // USUAL
            batch.append(msgspec.Raw(packed))
            size += len(packed)
        if batch:
            yield self._frame(name, [], batch, 0, copies=copies)

    def _frame(
        self,
        name: str,
        asked: list[bytes],
        batch: list[msgspec.Raw],
        dropped: int,
        *,
        copies: bool = False,
    ) -> bytes:
        payload = _encode((self._resource(name), batch, dropped, copies))
        return codec.encode_header(codec.Spans(asked, len(batch)), payload)

    def _resource(self, name: str) -> Attributes:
        """Who that peer is; nothing where even that exceeds what a frame may carry."""
        resource = self._resources.get(name)
        if resource is None:
            resource = describe(name, self._uplink.process.id, _version.__version__)
            self._resources[name] = resource
        return resource if len(_encode(resource)) + ENVELOPE <= self._uplink.max_chunk else {}

    def _overhead(self, name: str) -> int:
        """Bytes of a frame's payload that are not spans."""
        return len(_encode(self._resource(name))) + ENVELOPE

    def _span(self, row: PeerRow, *, offset: float) -> Span:
        served = row.kind == spans.SERVER
        built = spans.build(
            spans.CallFacts(
                trace_id=row.trace_id,
                span_id=row.span_id.to_bytes(8, "big"),
                parent_id=row.parent_id,
                kind=row.kind,
                method=row.method,
                start=int((row.started + offset) * 1e9),
                end=int((row.ended + offset) * 1e9),
                code=row.code,
                reason=clean_text(row.reason),
                message=clean_text(row.message),
                exception=row.exception,
                activity_id=row.activity_id or row.trace_id.hex(),
                chain=row.chain if served else (*row.chain, row.method),
                deadline_ms=row.allowed * 1e3,
                attempt=row.attempt,
                caller=row.caller,
                instance=self._uplink.process.id if served else "",
                server_address="" if served else self._uplink.address,
                version=_version.__version__,
            )
        )
        return row.touched.apply(built) if row.touched is not None else built


def _of_none(_: object) -> bytes:
    """Of users' spans the gateway awaits none, and would take a lost one for that of a call."""
    return b""


def _by_source(rows: list[PeerRow]) -> Iterator[tuple[Source, list[PeerRow]]]:
    """The rows by the peer of this process that they are of, so many at a time."""
    for start in range(0, len(rows), ROWS):
        by_source: dict[Source, list[PeerRow]] = {}
        for row in rows[start : start + ROWS]:
            by_source.setdefault(row.source, []).append(row)
        yield from by_source.items()
