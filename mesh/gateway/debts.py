"""What peers owe of kept traces: who was asked for spans, who is asked again, and who is given up.

A peer that took part hears of a trace by KEEP. What it owes is remembered over its reconnects;
what never comes is named in the trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from mesh.gateway.losses import Losses
from mesh.wire import codec
from mesh_telemetry.texts import count_spans

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mesh.gateway.core import Core
    from mesh.gateway.session import Session
    from mesh.gateway.tracing import Trace
    from mesh_telemetry import KeptTrace, Party, TraceStore

GONE = "disconnected before it sent its spans"
PENDING = "has not answered yet"
MUTE = "does not tell what it records"
SECOND_ASKING = 1.0
"""Seconds after which a peer is asked again. A hint is lost where nobody waits for the answer any
more, and who was asked may have ceased to tell of what ends later: another peer of its process."""
PATIENCE, PATIENCE_GONE = 5.0, 30.0
"""Seconds after which what a peer owes is given up: one that is connected, and one that is not."""


class Debt(msgspec.Struct):
    """What one process owes of one trace."""

    party: Party
    since: float
    """On trio's clock."""
    urged: bool = False
    """Whether it was asked a second time."""


class Debts:
    """What the peers of one gateway owe.

    Args:
        core: The gateway's state.
        store: The kept traces.

    Attributes:
        sessions: By process: a connection, one that takes KEEP where there is one.
        losses: What peers have lost of kept traces.
    """

    def __init__(self, core: Core, store: TraceStore) -> None:
        self._core = core
        self._store = store
        self.sessions: dict[str, Session] = {}
        self.losses = Losses()
        self._owed: dict[str, dict[bytes, Debt]] = {}
        """By process: the traces of which spans are awaited."""
        self._settled: trio.Event | None = None

    def __len__(self) -> int:
        return len(self._owed)

    def involve(
        self, trace: Trace, kept: KeptTrace, party: Party, tell: dict[str, list[bytes]]
    ) -> None:
        """A party took part in a call of this trace that has just been noted.

        Args:
            trace: What the gateway recorded.
            kept: The same in the store.
            party: Who called, or served.
            tell: By process, the traces that :meth:`tell` has to tell it; is added to.
        """
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

    def _why(self, process: str) -> str:
        session = self.sessions.get(process)
        if session is None:
            return GONE
        return PENDING if session.sends_spans else MUTE

    def _missed(self, trace_id: bytes, party: Party, why: str) -> None:
        kept = self._store.get(trace_id)
        if kept is not None:
            kept.missed(party, why)

    def tell(self, tell: dict[str, list[bytes]]) -> None:
        """Tell each process that these traces are kept."""
        for process, trace_ids in tell.items():
            session = self.sessions.get(process)
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
        if session.sends_spans or process not in self.sessions:
            self.sessions[process] = session
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
        if self.sessions.get(process) is not session:
            return
        del self.sessions[process]
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
            session = self.sessions.get(process)
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
                        within = f"within {PATIENCE:g} s"
                        kept.missed(debt.party, f"did not tell {count_spans(awaited)} {within}")
                        self.losses.give_up(debt.party.name, process, now, trace_id, awaited)
                elif connected and not debt.urged and waited >= SECOND_ASKING:
                    debt.urged = True
                    again.append(trace_id)
            if again:
                self.tell({process: again})
            if not owed:
                del self._owed[process]

    def paid(self, process: str, trace_ids: Iterable[bytes]) -> None:
        """A process has told what it had of these traces; it owes what is awaited still.

        But not where it has lost as much: that will not come.
        """
        owed = self._owed.get(process, {})
        for trace_id in trace_ids:
            kept = self._store.get(trace_id)
            if kept is None:
                owed.pop(trace_id, None)
                continue
            awaited = kept.awaited(process)
            if awaited <= kept.lost(process):
                debt = owed.pop(trace_id, None)
                if awaited and debt is not None:
                    kept.missed(debt.party, f"lost {count_spans(awaited)} of it")
            self.losses.tell(process, trace_id, awaited)
        if self._settled is not None and self.is_settled:
            self._settled.set()

    @property
    def is_settled(self) -> bool:
        """Whether no peer that is connected owes anything."""
        return not any(
            session.sends_spans and self._owed.get(process)
            for process, session in self.sessions.items()
        )

    async def settle(self) -> None:
        """Return once no peer that is connected owes anything."""
        if not self.is_settled:
            self._settled = trio.Event()
            await self._settled.wait()
