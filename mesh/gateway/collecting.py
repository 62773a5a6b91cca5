"""The parts of kept traces: the gateway's own spans, and those that it asks its peers for.

A peer that took part hears of it by KEEP and answers with SPANS. What it owes is remembered over
its reconnects; what never comes is named in the trace.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec
import trio

from mesh._version import __version__
from mesh.errors import RemoteProtocolError
from mesh.gateway.losses import Losses
from mesh.wire import codec
from mesh_telemetry import Party, Record, names, own_span_ids, spans

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.gateway.core import Core
    from mesh.gateway.session import Session
    from mesh.gateway.tracing import Trace
    from mesh_telemetry import KeptTrace, RecordRow, Sampler, TraceStore
    from mesh_telemetry.export import Exporter
    from mesh_telemetry.spans import Attributes, Span

PAUSE = 0.02
"""Seconds in which kept traces gather, so that one frame tells a peer of many."""
SLICE = 50
"""Spans that are built in one go before other tasks may run; each takes about 10 us."""
GONE = "disconnected before it sent its spans"
PENDING = "has not answered yet"
MUTE = "does not tell what it records"
ELSEWHERE = Party("unknown", "another gateway, or this one some time ago")
"""Where the calls above one went that begins what is here of a trace."""
EVICTED = Party("store", "this gateway's store")
"""What had the spans of a trace that made way before its end."""
SECOND_ASKING = 1.0
"""Seconds after which a peer is asked again. A hint is lost where nobody waits for the answer any
more, and who was asked may have ceased to tell of what ends later: another peer of its process."""
PATIENCE, PATIENCE_GONE = 5.0, 30.0
"""Seconds after which what a peer owes is given up: one that is connected, and one that is not."""

_decode = msgspec.msgpack.Decoder(spans.Batch).decode


class Debt(msgspec.Struct):
    """What one process owes of one trace."""

    party: Party
    since: float
    """On trio's clock."""
    urged: bool = False
    """Whether it was asked a second time."""


class Collector:
    """Brings the parts of kept traces into the store.

    Args:
        core: The gateway's state.
        store: Where they go.
        sampler: Hears how many spans there were.
        resource: Who the gateway is.
        exporter: Where new spans go besides the store.

    Attributes:
        losses: What peers have lost of kept traces.
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
        self.losses = Losses()
        self._unwanted = self._lost_by_peers = self._too_long = 0
        self._fresh: OrderedDict[bytes, Trace] = OrderedDict()
        """Kept traces with rows whose spans have not been built."""
        self._owed: dict[str, dict[bytes, Debt]] = {}
        """By process: the traces of which spans are awaited."""
        self._sessions: dict[str, Session] = {}
        """By process: a connection, one that takes KEEP where there is one."""
        self._wake = trio.Event()
        self._settled: trio.Event | None = None

    def lost(self) -> dict[str, int]:
        """Spans that are in no trace though they were made, by reason."""
        return {
            "not_kept": self._unwanted,
            "trace_too_long": self._store.refused + self._too_long,
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
            for _ in self._collect():
                await trio.lowlevel.checkpoint()

    def collect_now(self) -> None:
        """Do at once what :meth:`run` would do in a moment."""
        for _ in self._collect():
            pass

    def _collect(self) -> Iterator[None]:
        tell: dict[str, list[bytes]] = {}
        built = 0
        while self._fresh:
            _, trace = self._fresh.popitem(last=False)
            rows, trace.rows = trace.rows, []
            made_way = bool(trace.to_wall) and self._store.get(trace.trace_id) is None
            if not trace.to_wall:
                # Once for all of a trace: a wall clock that is set must not tear it apart.
                trace.to_wall = self._core.process.wall() - self._core.clock()
            kept = self._describe(trace, rows)
            if made_way:
                kept.missed(EVICTED, "let go what had come before, as newer traces needed the room")
            made: list[Span] = []
            if kept.is_full:
                entry_calls = [row for row in rows if row[0] == row[2]]
                trace.lost += len(rows) - len(entry_calls)
                rows = entry_calls
            if trace.lost:
                self._too_long += 2 * trace.lost
                kept.lose(self._core.instance, 2 * trace.lost)
                trace.lost = 0
            for row in rows:
                record = Record._make(row)
                made += self._own_spans(record, trace.to_wall, trace.kept)
                self._note(trace, kept, record, tell)
            self._add(trace.trace_id, self._core.instance, self._resource, made)
            built += len(made)
            if built > SLICE:
                built = 0
                self._tell(tell)
                tell = {}
                yield
        self._tell(tell)

    def _describe(self, trace: Trace, rows: list[RecordRow]) -> KeptTrace:
        """Open the trace in the store, and say what its first entry call was."""
        offset = trace.to_wall
        now = int((self._core.clock() + offset) * 1e9)
        kept = self._store.open(trace.trace_id, trace.kept, now)
        if rows and not kept.activity_id:
            kept.activity_id = Record._make(rows[0]).activity_id
        if kept.method:
            return kept
        for row in rows:
            record = Record._make(row)
            # A detached call has no parent either, and may end before the entry call does.
            if record.call_id == record.entry_id or not (record.parent_id or trace.open):
                kept.caller, kept.service, kept.method = (
                    record.caller,
                    record.service,
                    record.method,
                )
                kept.started = int((record.started + offset) * 1e9)
                kept.duration, kept.code = record.duration, record.code
                kept.activity_id = record.activity_id
                if record.depth > 1:
                    kept.missed(ELSEWHERE, f"served what led to {record.service}.{record.method}")
                break
        return kept

    def _own_spans(self, record: Record, offset: float, reason: str) -> list[Span]:
        """The span in which the gateway served the call, and the one in which it passed it on."""
        core = self._core
        serving, passing = own_span_ids(record.own_span)
        caller = self._sessions.get(record.caller_process)
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
        if record.waited:
            own.attributes[names.CALL_WAITED_MS] = round(record.waited * 1e3, 3)
        if not record.instance:
            return [own]  # no instance was reached
        callee = self._sessions.get(record.instance)
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
            self._involve(trace, kept, Party(caller, record.caller), tell)
        if callee and callee != own:
            _, passing = own_span_ids(record.own_span)
            kept.expect(callee, served_from=passing)
            self._involve(trace, kept, Party(callee, record.service), tell)

    def _involve(
        self, trace: Trace, kept: KeptTrace, party: Party, tell: dict[str, list[bytes]]
    ) -> None:
        process, trace_id = party.process, trace.trace_id
        told = trace.parties is not None and process in trace.parties
        if trace.parties is not None:
            trace.parties.add(process)
        if told and not kept.awaited(process):
            return
        if not told and process != trace.hinted:
            tell.setdefault(process, []).append(trace_id)
        debt = self._owed.setdefault(process, {}).get(trace_id)
        if debt is not None:
            debt.since = self._core.clock()
            return
        self._owed[process][trace_id] = Debt(party, self._core.clock())
        if kept.awaited(process):
            kept.missed(party, self._why(process))

    # What peers owe.

    def _why(self, process: str) -> str:
        session = self._sessions.get(process)
        if session is None:
            return GONE
        return PENDING if session.sends_spans else MUTE

    def _missed(self, trace_id: bytes, party: Party, why: str) -> None:
        kept = self._store.get(trace_id)
        if kept is not None:
            kept.missed(party, why)

    def _tell(self, tell: dict[str, list[bytes]]) -> None:
        for process, trace_ids in tell.items():
            session = self._sessions.get(process)
            if session is not None and session.sends_spans:
                self._send_keep(session, trace_ids)
        self._core.flush()

    def _send_keep(self, session: Session, trace_ids: list[bytes]) -> None:
        for start in range(0, len(trace_ids), codec.MAX_TRACES):
            some = trace_ids[start : start + codec.MAX_TRACES]
            self._core.send(session.link, codec.encode_header(codec.Keep(some)))

    def connected(self, session: Session) -> None:
        """A peer has shaken hands; what it owed before is asked for again."""
        process = session.process_id
        if session.sends_spans or process not in self._sessions:
            self._sessions[process] = session
        owed = self._owed.get(process)
        if not owed or not session.sends_spans:
            return
        for trace_id, debt in owed.items():
            debt.since, debt.urged = self._core.clock(), False
            self._missed(trace_id, debt.party, PENDING)
        self._send_keep(session, list(owed))

    def disconnected(self, session: Session) -> None:
        """A connection is over."""
        process = session.process_id
        if self._sessions.get(process) is not session:
            return
        del self._sessions[process]
        others = [one for one in self._core.sessions.values() if one.process_id == process]
        others.sort(key=lambda one: one.sends_spans and not one.draining)
        if others:  # further connections of the same process
            self.connected(others[-1])
            return
        for trace_id, debt in self._owed.get(process, {}).items():
            self._missed(trace_id, debt.party, GONE)

    def expire(self, now: float) -> None:
        """Give up what is owed for too long; ask once more before that."""
        for process, owed in list(self._owed.items()):
            session = self._sessions.get(process)
            connected = session is not None
            again: list[bytes] = []
            for trace_id, debt in list(owed.items()):
                waited = now - debt.since
                kept = self._store.get(trace_id)
                awaited = kept.awaited(process) if kept is not None else 0
                if kept is None or not awaited:
                    del owed[trace_id]
                elif waited > (PATIENCE if connected else PATIENCE_GONE):
                    del owed[trace_id]
                    if session is not None and session.sends_spans:
                        what = "span" if awaited == 1 else "spans"
                        within = f"within {PATIENCE:g} s"
                        kept.missed(debt.party, f"did not tell {awaited:,} {what} {within}")
                        self.losses.note(debt.party.name, process, now, untold=awaited)
                elif connected and not debt.urged and waited >= SECOND_ASKING:
                    debt.urged = True
                    again.append(trace_id)
            if again:
                self._tell({process: again})
            if not owed:
                del self._owed[process]

    def take(self, session: Session, header: codec.Spans, payload: bytes) -> None:
        """A peer tells what it recorded.

        Raises:
            RemoteProtocolError: The payload is malformed.
        """
        try:
            batch = _decode(payload)
        except (msgspec.MsgspecError, RecursionError, ValueError) as fault:
            raise RemoteProtocolError(f"payload of SPANS: {fault}") from fault
        by_trace: dict[bytes, list[Span]] = {trace_id: [] for trace_id in header.trace_ids}
        for span in batch.spans:
            by_trace.setdefault(span.trace_id, []).append(span)
        if not self._fresh.keys().isdisjoint(by_trace):
            self.collect_now()  # a peer that heard by an answer is quicker than we are
        owed = self._owed.get(session.process_id, {})
        for trace_id, some in by_trace.items():
            kept = self._store.get(trace_id)
            if kept is None or not kept.expects(session.process_id):
                self._unwanted += len(some)
            else:
                for span in some:
                    if not span.parent_id:  # where a backend looks for why it has this trace
                        span.attributes[names.KEEP_REASON] = kept.reason
                # Of several traces there is no telling which has lost what.
                dropped = batch.dropped if len(by_trace) == 1 else 0
                self._add(
                    trace_id,
                    session.process_id,
                    batch.resource,
                    some,
                    dropped,
                    copies=batch.copies,
                )
        if batch.dropped:
            self._lost_by_peers += batch.dropped
            self.losses.note(
                session.name, session.process_id, self._core.clock(), dropped=batch.dropped
            )
        for trace_id in by_trace:
            kept = self._store.get(trace_id)
            if kept is None or not kept.awaited(session.process_id):
                owed.pop(trace_id, None)

        if self._settled is not None and self._is_settled:
            self._settled.set()

    @property
    def _is_settled(self) -> bool:
        return not any(
            session.sends_spans and self._owed.get(process)
            for process, session in self._sessions.items()
        )

    async def settle(self) -> None:
        """Return once no peer that is connected owes anything: for the end of the gateway."""
        self.collect_now()
        if not self._is_settled:
            self._settled = trio.Event()
            await self._settled.wait()

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
