"""The parts of kept traces: the gateway's own spans, and those that it asks its peers for.

A peer that took part hears of it by KEEP and answers with SPANS. What it owes is remembered over
its reconnects; what never comes is named in the trace.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
import trio

from mesh.errors import RemoteProtocolError
from mesh.wire import codec
from mesh_telemetry import Party, Record, names, own_span_ids, spans

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.gateway.core import Core
    from mesh.gateway.session import Session
    from mesh.gateway.tracing import Trace
    from mesh_telemetry import Sampler, TraceStore
    from mesh_telemetry.export import Exporter
    from mesh_telemetry.spans import Attributes, Span

PAUSE = 0.02
"""Seconds in which kept traces gather, so that one frame tells a peer of many."""
SLICE = 50
"""Spans that are built in one go before other tasks may run; each takes about 10 us."""
GONE = "disconnected before it sent its spans"
PATIENCE, PATIENCE_GONE = 5.0, 30.0
"""Seconds after which what a peer owes is given up: one that is connected, and one that is not."""

_decode = msgspec.msgpack.Decoder(spans.Batch).decode


class Collector:
    """Brings the parts of kept traces into the store.

    Args:
        core: The gateway's state.
        store: Where they go.
        sampler: Hears how many spans there were.
        resource: Who the gateway is.
        exporter: Where new spans go besides the store.

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
        self._unwanted = self._lost_by_peers = 0
        self._fresh: dict[bytes, Trace] = {}
        """Kept traces with rows whose spans have not been built."""
        self._owed: dict[str, dict[bytes, tuple[Party, float]]] = {}
        """By process: the traces of which it was told and has not answered; who, since when."""
        self._sessions: dict[str, Session] = {}
        """By process: a connection that takes KEEP."""
        self._wake = trio.Event()

    def lost(self) -> dict[str, int]:
        """Spans that are in no trace though they were made, by reason."""
        return {
            "not_kept": self._unwanted,
            "trace_too_long": self._store.refused,
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
        fresh, self._fresh = self._fresh, {}
        tell: dict[str, list[bytes]] = {}
        offset, built = time.time() - self._core.clock(), 0
        for trace in fresh.values():
            rows = trace.rows[trace.collected :]
            trace.collected += len(rows)
            self._describe(trace, offset)  # before it is noted there who owes what
            made: list[Span] = []
            for row in rows:
                record = Record._make(row)
                made += self._own_spans(record, offset, trace.kept)
                self._note(trace, record, tell)
            self._add(trace.trace_id, self._core.instance, self._resource, made)
            built += len(made)
            if built > SLICE:
                built = 0
                self._tell(tell)
                tell = {}
                yield
        self._tell(tell)

    def _describe(self, trace: Trace, offset: float) -> None:
        """Open the trace in the store, and say what its first entry call was."""
        now = int((self._core.clock() + offset) * 1e9)
        kept = self._store.open(trace.trace_id, trace.kept, now)
        for row in trace.rows:
            record = Record._make(row)
            if not record.parent_id and not kept.method:
                kept.caller, kept.service, kept.method = (
                    record.caller,
                    record.service,
                    record.method,
                )
                kept.started = int((record.started + offset) * 1e9)
                kept.duration, kept.code = record.duration, record.code
            kept.activity_id = kept.activity_id or record.activity_id

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
        )
        own = spans.build(facts)
        if not record.parent_id:
            own.attributes[names.KEEP_REASON] = reason
        if not record.instance:
            return [own]  # no instance was reached
        callee = self._sessions.get(record.instance)
        passed = msgspec.structs.replace(
            facts,
            span_id=passing,
            parent_id=serving,
            kind=spans.CLIENT,
            peer_address="",
            server_address=callee.remote if callee is not None else "",
        )
        return [own, spans.build(passed)]

    def _note(self, trace: Trace, record: Record, tell: dict[str, list[bytes]]) -> None:
        """The caller and the callee of this call have to hear of the trace."""
        if trace.parties is None:
            trace.parties = {}
        for process, name in (
            (record.caller_process, record.caller),
            (record.instance, record.service),
        ):
            if process and process not in trace.parties and process != self._core.instance:
                trace.parties[process] = name
                self._owe(Party(process, name), trace.trace_id)
                if process != trace.hinted:
                    tell.setdefault(process, []).append(trace.trace_id)

    # What peers owe.

    def _owe(self, party: Party, trace_id: bytes) -> None:
        owed = self._owed.setdefault(party.process, {})
        owed[trace_id] = party, self._core.clock()
        connected = party.process in self._sessions
        self._missed(trace_id, party, "has not answered yet" if connected else GONE)

    def _missed(self, trace_id: bytes, party: Party, why: str) -> None:
        kept = self._store.get(trace_id)
        if kept is not None:
            kept.missed(party, why)

    def _tell(self, tell: dict[str, list[bytes]]) -> None:
        for process, trace_ids in tell.items():
            session = self._sessions.get(process)
            if session is not None:
                self._send_keep(session, trace_ids)
        self._core.flush()

    def _send_keep(self, session: Session, trace_ids: list[bytes]) -> None:
        for start in range(0, len(trace_ids), codec.MAX_TRACES):
            some = trace_ids[start : start + codec.MAX_TRACES]
            self._core.send(session.link, codec.encode_header(codec.Keep(some)))

    def connected(self, session: Session) -> None:
        """A peer that takes KEEP has shaken hands; what it owed before is asked for again."""
        self._sessions[session.process_id] = session
        owed = self._owed.get(session.process_id)
        if owed:
            self._send_keep(session, list(owed))

    def disconnected(self, session: Session) -> None:
        """A connection is over."""
        process = session.process_id
        if self._sessions.get(process) is not session:
            return
        del self._sessions[process]
        for other in self._core.sessions.values():  # another connection of the same process
            if other.process_id == process and other.sends_spans:
                self.connected(other)
                return
        for trace_id, (party, _) in self._owed.get(process, {}).items():
            self._missed(trace_id, party, GONE)

    def expire(self, now: float) -> None:
        """Give up what is owed for too long."""
        for process, owed in list(self._owed.items()):
            connected = process in self._sessions
            patience = PATIENCE if connected else PATIENCE_GONE
            for trace_id, (party, since) in list(owed.items()):
                if now - since > patience:
                    del owed[trace_id]
                    if connected:
                        self._missed(trace_id, party, f"did not answer within {PATIENCE:g} s")
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
        owed = self._owed.get(session.process_id, {})
        for trace_id, some in by_trace.items():
            if self._store.get(trace_id) is None:
                self._unwanted += len(some)
            else:
                self._add(
                    trace_id,
                    session.process_id,
                    batch.resource,
                    some,
                    batch.dropped,
                    copies=batch.copies,
                )
        for trace_id in header.trace_ids:
            owed.pop(trace_id, None)

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
        self._lost_by_peers += dropped
        self._sampler.spent(len(new))
        if self.exporter is not None and not copies:
            for span in new:
                self.exporter.add(resource, span)
