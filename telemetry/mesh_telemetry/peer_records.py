"""What a peer's process records of the calls that it makes and serves, until it is asked for it."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Protocol

import msgspec

from mesh_telemetry.backlog import TOO_LARGE, TOO_MANY
from mesh_telemetry.bounds import RECORD_BYTES, RECORDS
from mesh_telemetry.user_spans import UserSpans

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import ReadableSpan

    from mesh_telemetry.callspan import CallSpan
    from mesh_telemetry.decisions import Noted

MAX_KEPT = 10_000
"""Kept traces that are remembered, for calls that end later."""
MAX_AGE = 60.0
"""Seconds after which a row is of no more use: the gateway keeps long calls while they run."""

MAX_CHAINS = 1_000
"""Different chains that are shared by rows."""
GENERATION = 500
"""Rows that come and go together: letting so many go takes a fifth of a millisecond."""
SHARE = 8
"""The part of all bytes that one generation may take: the oldest goes before that is exceeded."""


class Source:
    """A peer of this process, for the rows that are of it.

    Args:
        name: The peer's.
        clock: Seconds on the clock of its event loop, from any thread: each loop has its own.
    """

    __slots__ = ("clock", "name")

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self.name = name
        self.clock = clock


class PeerRow(msgspec.Struct, eq=False, gc=False):
    """One ended call, as one of its two ends saw it.

    Of a kind that the garbage collector does not know: it would run more often the more is kept,
    and look at all of it again and again. Made by position, on the path of every call.
    """

    trace_id: bytes
    source: Source
    """The peer whose row it is."""
    kind: int
    """Of the span: its number in OTLP."""
    span_id: int
    parent_id: bytes
    """The parent's span, 8 bytes; none for a root."""
    method: str
    """Fully qualified."""
    allowed: float
    """Seconds until the deadline when it started."""
    started: float
    """Seconds on the clock of the source, as :attr:`ended`."""
    ended: float
    code: int
    reason: str
    message: str
    exception: str
    """The type of what a handler raised."""
    activity_id: str | None
    chain: tuple[str, ...]
    """The hops that led to the call being served: to this one, or to the one that made it. One that
    :meth:`PeerRecords.share` has given back."""
    caller: str
    attempt: int
    touched: CallSpan | Noted | None
    """What the handler did to its span; of a call made, what was decided before it left."""


class Teller(Protocol):
    """Tells a gateway of kept traces. What it cannot tell it counts itself."""

    def add(self, row: PeerRow) -> None:
        """A call of a trace that is kept already has ended."""
        ...

    def add_span(self, span: ReadableSpan, weight: int) -> None:
        """A span of the user's, of so many bytes, has ended in such a trace, in whatever thread."""
        ...


class Generation:
    """Rows that come and go together.

    A thread that is held up may add a row after another one has begun the next generation, so that
    what depends on the rows is found anew from those that are there.

    Attributes:
        rows: In the order in which their calls ended.
        weight: What handlers have put into the spans of these, in bytes.
    """

    __slots__ = ("_noted", "_traces", "rows", "weight")

    def __init__(self) -> None:
        self.rows: list[PeerRow] = []
        self.weight = 0
        self._traces: set[bytes] = set()
        self._noted = 0

    def find(self, trace_ids: frozenset[bytes]) -> list[PeerRow]:
        """Its rows of these traces, the newest first.

        Of which traces it has rows is noted when it is looked through. Where each trace's rows are
        is not: a busy peer is asked for a few traces per second, looks for them everywhere, and
        finds them in one place or two.
        """
        count = len(self.rows)
        if count > self._noted:
            self._traces.update([row.trace_id for row in self.rows[self._noted : count]])
            self._noted = count  # last: another thread that reads it finds all of these noted
        if trace_ids.isdisjoint(self._traces):
            return []
        return [row for row in reversed(self.rows) if row.trace_id in trace_ids]

    @property
    def age(self) -> float:
        """Seconds since its last call ended; there is one."""
        last = self.rows[-1]
        return last.source.clock() - last.ended


class PeerRecords:
    """What one process recorded of its calls, found by trace.

    Rows are kept by generation: the oldest goes as a whole, so that neither adding nor finding one
    depends on how many there are. Peers of several event loops may share it, each in its thread.

    Args:
        capacity: Rows held; older ones make way, and are missing in traces that are kept later.
        max_bytes: What handlers have put into the spans of these rows, by :meth:`add_touched`. The
            rows themselves are bounded by their number, as all their texts are.

    Attributes:
        kept: Traces known to be kept, and who tells of them.
        users: The spans that users' code made.
    """

    __slots__ = (
        "_capacity",
        "_chains",
        "_current",
        "_dropped",
        "_held_bytes",
        "_lock",
        "_max_bytes",
        "_older",
        "_rows",
        "kept",
        "users",
    )

    def __init__(self, capacity: int = RECORDS, max_bytes: int = RECORD_BYTES) -> None:
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._current = Generation()
        self._rows = self._current.rows
        self._older: deque[Generation] = deque()
        self._held_bytes = 0
        self._chains: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._lock = threading.Lock()
        """Held where generations change or are counted; a row is added without it."""
        self._dropped = {TOO_MANY: 0, TOO_LARGE: 0}
        self.kept: OrderedDict[bytes, Teller] = OrderedDict()
        self.users = UserSpans(self.kept.__contains__, self._tell_span)

    def __len__(self) -> int:
        with self._lock:
            return len(self._rows) + self._count_older()

    @property
    def size(self) -> int:
        """What handlers have put into the spans of the rows that are held."""
        return self._held_bytes + self._current.weight

    @property
    def dropped(self) -> dict[str, int]:
        """Rows, and spans of users, that have made way before they were old, by reason."""
        return self._dropped | {
            f"user_spans_{reason}": count for reason, count in self.users.dropped.items()
        }

    def add(self, row: PeerRow) -> None:
        """A call has ended."""
        rows = self._rows
        rows.append(row)
        if len(rows) >= GENERATION:
            with self._lock:
                self._turn(rows)
        if row.trace_id in self.kept:
            teller = self.kept.get(row.trace_id)
            if teller is not None:  # else too many have been kept since, in another thread
                teller.add(row)

    def add_touched(self, row: PeerRow, touched: CallSpan) -> None:
        """A call has ended whose handler has looked for its span; that may hold anything."""
        weight = touched.weight
        with self._lock:
            if self._rows and self._current.weight + weight > self._max_bytes // SHARE:
                self._turn(self._rows)
            self._current.weight += weight
        self.add(row)

    def share(self, chain: tuple[str, ...]) -> tuple[str, ...]:
        """An equal chain, the same object for many rows; they differ little."""
        shared = self._chains.get(chain)
        if shared is None:
            if len(self._chains) >= MAX_CHAINS:
                self._chains.clear()
            shared = self._chains[chain] = chain
        return shared

    def _turn(self, rows: list[PeerRow]) -> None:
        """Begin a new generation, unless another thread has; the lock is held."""
        if rows is not self._rows:
            return
        past, self._current = self._current, Generation()
        self._rows = self._current.rows
        self._older.append(past)
        self._held_bytes += past.weight
        held = self._count_older()
        # What the next generation may take is left free.
        room = self._max_bytes - self._max_bytes // SHARE
        while held > self._capacity or self._held_bytes > room:
            gone = self._let_go()
            self._dropped[TOO_MANY if held > self._capacity else TOO_LARGE] += gone
            held -= gone

    def _count_older(self) -> int:
        """How many rows there are in generations that have ended; the lock is held."""
        return sum(len(one.rows) for one in self._older)

    def _let_go(self) -> int:
        """Drop the oldest generation; how many rows it had."""
        oldest = self._older.popleft()
        self._held_bytes -= oldest.weight
        return len(oldest.rows)

    def _tell_span(self, trace_id: bytes, span: ReadableSpan, weight: int) -> None:
        teller = self.kept.get(trace_id)
        if teller is not None:
            teller.add_span(span, weight)

    def find(self, trace_ids: frozenset[bytes]) -> list[PeerRow]:
        """The rows of these traces, the newest first."""
        found: list[PeerRow] = []
        with self._lock:  # else one that ends meanwhile is looked through twice
            generations = (self._current, *reversed(self._older))
        for generation in generations:
            found += generation.find(trace_ids)
        return found

    def keep(self, trace_id: bytes, teller: Teller) -> None:
        """What ends from now on in this trace is told at once."""
        self.kept[trace_id] = teller
        if len(self.kept) > MAX_KEPT:
            self.kept.popitem(last=False)

    def forget(self) -> None:
        """Drop rows of calls that ended over :data:`MAX_AGE` seconds ago; to be called often."""
        with self._lock:
            if self._rows:
                self._turn(self._rows)
            while self._older and self._older[0].age > MAX_AGE:
                self._let_go()
