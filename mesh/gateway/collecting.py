"""The parts of kept traces: the gateway's own spans, and those that it asks its peers for.

A peer that took part hears of it by KEEP (see `debts`) and answers with SPANS.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec
import trio

from mesh._version import __version__
from mesh.errors import RemoteProtocolError
from mesh.gateway.debts import Debts
from mesh_telemetry import Exemplar, Exemplars, Party, names, own_span_ids, spans
from mesh_telemetry.decisions import picked, tell_decisions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.gateway.core import Core
    from mesh.gateway.session import Session
    from mesh.gateway.tracing import Trace
    from mesh.wire import codec
    from mesh_telemetry import Decision, KeptTrace, Record, Sampler, TraceStore
    from mesh_telemetry.export import Exporter
    from mesh_telemetry.spans import Attributes, Span

PAUSE = 0.02
"""Seconds in which kept traces gather, so that one frame tells a peer of many."""
SLICE = 25
"""Rows of which spans are built in one go before other tasks may run: two of each, of 10 us."""
ELSEWHERE = Party("unknown", "another gateway, or this one some time ago")
"""Where the calls above one went that begins what is here of a trace."""
EVICTED = Party("store", "this gateway's store")
"""What had the spans of a trace that made way before its end."""
CROWDED = Party("rows", "this gateway")
"""What had the rows of a trace that made way before their spans were built."""
_decode = msgspec.msgpack.Decoder(spans.Batch).decode


def _is_entry(row: Record) -> bool:
    """Whether it is of an entry call: the first of its tree."""
    return row.call_id == row.entry_id


class Collector:
    """Brings the parts of kept traces into the store.

    Args:
        core: The gateway's state.
        store: Where they go.
        sampler: Hears how many spans there were.
        resource: Who the gateway is.
        exporter: Where new spans go besides the store.

    Attributes:
        debts: What peers owe.
    """

    def __init__(
        self,
        core: Core,
        store: TraceStore,
        sampler: Sampler,
        resource: Attributes,
        exporter: Exporter | None,
    ) -> None:
        self._core = core
        self._store = store
        self._sampler = sampler
        self._resource = resource
        self.exporter = exporter
        self.debts = Debts(core, store)
        self._exemplars = Exemplars(store)
        self._unwanted = self._lost_by_peers = self._too_long = self._crowded_out = 0
        self._fresh: OrderedDict[bytes, Trace] = OrderedDict()
        """Kept traces with rows whose spans have not been built."""
        self._wake = trio.Event()

    def lost(self) -> dict[str, int]:
        """Spans that are in no trace though they were made, by reason."""
        return {
            "not_kept": self._unwanted,
            "trace_too_long": self._store.refused - self._store.too_large + self._too_long,
            "trace_too_large": self._store.too_large,
            "crowded_out": self._crowded_out,
            "lost_by_peer": self._lost_by_peers,
        } | {
            f"export_{reason}": count
            for reason, count in (
                self.exporter.dropped if self.exporter is not None else {}
            ).items()
        }

    def gather(self, trace: Trace) -> None:
        """A kept trace has new rows."""
        self._fresh[trace.trace_id] = trace
        self._wake.set()

    async def run(self) -> None:
        """Build spans and tell peers, until cancelled."""
        while True:
            await self._wake.wait()
            await trio.sleep(PAUSE)
            self._wake = trio.Event()
            for _ in self._slices():
                await trio.lowlevel.checkpoint()

    def collect_now(self) -> None:
        """Do at once what :meth:`run` would do in a moment."""
        for _ in self._slices():
            pass

    def leftover(self) -> list[Trace]:
        """Traces that have ended and still have rows here, the oldest first."""
        return [trace for trace in self._fresh.values() if trace.gone]

    def _slices(self) -> Iterator[None]:
        tell: dict[str, list[bytes]] = {}
        rows = 0
        while self._fresh:
            rows += self._collect(next(iter(self._fresh.values())), tell)
            if rows >= SLICE:
                rows = 0
                self.debts.tell(tell)
                tell = {}
                yield
        self.debts.tell(tell)

    def _collect(self, trace: Trace, tell: dict[str, list[bytes]]) -> int:
        """Build the spans of some of a trace's rows; of the others, when it is its turn again.

        What may have happened to the trace since the last turn is looked at anew in each.

        Args:
            trace: One with new rows.
            tell: By process, the traces that it has to be told of; is added to.

        Returns:
            How many rows these were.
        """
        rows = trace.rows[:SLICE]
        del trace.rows[:SLICE]
        if not trace.rows:
            del self._fresh[trace.trace_id]
        made_way = bool(trace.to_wall) and self._store.get(trace.trace_id) is None
        if not trace.to_wall:
            # Once for all of a trace: a wall clock that is set must not tear it apart.
            trace.to_wall = self._core.process.wall() - self._core.clock()
        kept = self._describe(trace, rows)
        if made_way:
            kept.missed(EVICTED, "let go what had come before, as newer traces needed the room")
        if trace.crowded_out:
            kept.missed(CROWDED, "let go what had come before, as more calls went on than it holds")
            self._crowded_out += 2 * trace.crowded_out
            trace.crowded_out = 0
        if kept.is_full:
            entry_calls = [row for row in rows if _is_entry(row)]
            trace.lost += len(rows) - len(entry_calls)
            rows = entry_calls
        if trace.lost:
            self._too_long += 2 * trace.lost
            kept.lose(self._core.instance, 2 * trace.lost)
            trace.lost = 0
        made: list[Span] = []
        for record in rows:
            own = self._own_spans(record, trace.to_wall, trace.kept)
            made += own
            if trace.why is not None and not record.parent_id:
                tell_decisions(own[0], [trace.why], trace.to_wall)
                trace.why = None
            self._note(trace, kept, record, tell)
            self._exemplify(record, trace.to_wall)
        self._add(trace.trace_id, self._core.instance, self._resource, made)
        if not trace.rows:
            self._tell_late(trace)
        return len(rows)

    def add_late(self, trace: Trace, own_span: int, late: Decision) -> None:
        """An answer came after its call had ended: to be told with that, if the trace is kept."""
        if trace.kept:
            trace.late = (*trace.late, (own_span, late))
            if trace.trace_id not in self._fresh:
                self._tell_late(trace)

    def _tell_late(self, trace: Trace) -> None:
        for own_span, late in trace.late:
            event = late.event(int((late.at + trace.to_wall) * 1e9))
            self._store.happened(trace.trace_id, own_span_ids(own_span)[0], event)
        trace.late = ()

    def _took_part(self, trace_id: bytes, process: str) -> bool:
        """Whether spans of this process are expected in a trace that is kept."""
        trace = self._fresh.get(trace_id)
        if trace is not None and self._store.get(trace_id) is None:
            tell: dict[str, list[bytes]] = {}
            self._collect(trace, tell)  # a peer that heard by an answer is quicker than we are
            self.debts.tell(tell)
        kept = self._store.get(trace_id)
        if kept is None:
            return False
        rows = trace.rows if trace is not None else ()
        return kept.expects(process) or any(
            process in {row.caller_process, row.instance} for row in rows
        )

    def _describe(self, trace: Trace, rows: list[Record]) -> KeptTrace:
        """Open the trace in the store, and say what its entry calls were."""
        offset = trace.to_wall
        now = int((self._core.clock() + offset) * 1e9)
        kept = self._store.open(trace.trace_id, trace.kept, now)
        kept.reasons = trace.reasons
        if rows and not kept.activity_id:
            kept.activity_id = rows[0].activity_id
        for row in rows:
            if _is_entry(row):
                self._enter(kept, row, offset)
        # A detached call has no parent either: it says what the trace is where no entry call does,
        # and none will.
        if not (kept.method or trace.open or any(map(_is_entry, trace.rows))):
            top = next((row for row in rows if not row.parent_id), None)
            if top is not None:
                self._enter(kept, top, offset, stands_in=True)
        return kept

    def _enter(
        self, kept: KeptTrace, record: Record, offset: float, *, stands_in: bool = False
    ) -> None:
        if not kept.entry_calls:
            kept.activity_id = record.activity_id
        kept.entered(
            caller=record.caller,
            service=record.service,
            method=record.method,
            started=int((record.started + offset) * 1e9),
            duration=record.duration,
            code=record.code,
            stands_in=stands_in,
        )
        if record.depth > 1:
            kept.missed(ELSEWHERE, f"served what led to {record.service}.{record.method}")

    def _own_spans(self, record: Record, offset: float, reason: str) -> list[Span]:
        """The span in which the gateway served the call, and the one in which it passed it on."""
        core = self._core
        serving, passing = own_span_ids(record.own_span)
        caller = self.debts.sessions.get(record.caller_process)
        facts = spans.CallFacts(
            trace_id=record.trace_id,
            span_id=serving,
            parent_id=record.span_id,
            kind=spans.SERVER,
            method=f"{record.service}.{record.method}",
            start=int((record.started + offset) * 1e9),
            end=int((record.started + record.duration + offset) * 1e9),
            code=record.code,
            reason=record.reason,
            message=record.message,
            activity_id=record.activity_id,
            chain=record.chain,
            deadline_ms=record.allowed * 1e3,
            attempt=record.attempt,
            caller=record.caller,
            instance=record.instance,
            peer_address=caller.remote if caller is not None else "",
            known_method=(record.service, record.method) in core.registry.methods,
            version=__version__,
        )
        own = spans.build(facts)
        if not record.parent_id:
            own.attributes[names.KEEP_REASON] = reason
            if record.entry_id not in {0, record.call_id}:
                own.attributes[names.CALL_DETACHED] = True
        if record.waited:
            own.attributes[names.CALL_WAITED_MS] = round(record.waited * 1e3, 3)
        decisions = record.decisions
        if record.picked:
            chosen = picked(
                record.started + record.waited,
                record.instance,
                record.picked,
                core.limits.max_in_flight,
            )
            decisions = (*decisions, chosen)
        if decisions:
            tell_decisions(own, decisions, offset)
        if not record.instance:
            return [own]  # no instance was reached
        callee = self.debts.sessions.get(record.instance)
        passed = msgspec.structs.replace(
            facts,
            span_id=passing,
            parent_id=serving,
            kind=spans.CLIENT,
            start=int((record.started + record.waited + offset) * 1e9),
            peer_address="",
            server_address=callee.remote if callee is not None else "",
        )
        return [own, spans.build(passed)]

    def _note(
        self, trace: Trace, kept: KeptTrace, record: Record, tell: dict[str, list[bytes]]
    ) -> None:
        """The caller and the callee of this call have to hear of the trace."""
        if trace.parties is None:
            trace.parties = set()
        own = self._core.instance
        caller, callee = record.caller_process, record.instance
        if caller != own:
            kept.expect(caller, span_id=record.span_id)
            self.debts.involve(trace, kept, Party(caller, record.caller), tell)
        if callee and callee != own:
            _, passing = own_span_ids(record.own_span)
            kept.expect(callee, served_from=passing)
            self.debts.involve(trace, kept, Party(callee, record.service), tell)

    def _exemplify(self, record: Record, offset: float) -> None:
        """Have the histogram of the call's method name its trace."""
        if record.refused:
            return  # it is in no histogram
        series = self._core.metrics.counted_in(record.service, record.method)
        if series is not None:
            ended = record.started + record.duration + offset
            self._exemplars.attach(series, Exemplar(record.trace_id, record.duration, ended))

    def take(self, session: Session, header: codec.Spans, payload: bytes) -> None:
        """A peer tells what it recorded.

        Raises:
            RemoteProtocolError: The payload is malformed.
        """
        try:
            batch = _decode(payload)
        except (msgspec.MsgspecError, RecursionError, ValueError) as fault:
            raise RemoteProtocolError(f"payload of SPANS: {fault}") from fault
        batch.resource.pop(names.ROLE, None)  # what a gateway's spans say is believed
        lost = batch.dropped
        if lost:
            now = self._core.clock()
            lost = self.debts.losses.drop(session.name, session.process_id, now, lost)
            self._lost_by_peers += lost
        by_trace: dict[bytes, list[Span]] = {trace_id: [] for trace_id in header.trace_ids}
        for span in batch.spans:
            by_trace.setdefault(span.trace_id, []).append(span)
        for trace_id, some in by_trace.items():
            part = self._took_part(trace_id, session.process_id)
            kept = self._store.get(trace_id)
            if kept is None or not part:
                self._unwanted += len(some)
            else:
                for span in some:
                    if not span.parent_id:  # where a backend looks for why it has this trace
                        span.attributes[names.KEEP_REASON] = kept.reason
                # Of several traces there is no telling which has lost what.
                dropped = lost if len(by_trace) == 1 else 0
                self._add(
                    trace_id,
                    session.process_id,
                    batch.resource,
                    some,
                    dropped,
                    copies=batch.copies,
                )
        self.debts.paid(session.process_id, by_trace)

    async def settle(self) -> None:
        """Return once no peer that is connected owes anything: for the end of the gateway."""
        self.collect_now()
        await self.debts.settle()

    def _add(
        self,
        trace_id: bytes,
        process: str,
        resource: Attributes,
        some: list[Span],
        dropped: int = 0,
        *,
        copies: bool = False,
    ) -> None:
        new = self._store.add(trace_id, process, resource, some, dropped)
        self._sampler.spent(len(new))
        if self.exporter is not None and not copies:
            for span in new:
                self.exporter.add(resource, span)
