"""What a peer's process records of the calls that it makes and serves, until it is asked for it."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Protocol, TypeAlias

from mesh_telemetry.user_spans import UserSpans

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.sdk.trace import ReadableSpan

    from mesh_telemetry.callspan import CallSpan

MAX_KEPT = 10_000
"""Kept traces that are remembered, for calls that end later."""
MAX_AGE = 60.0
"""Seconds after which a row is of no more use: the gateway keeps long calls while they run."""

PeerRow: TypeAlias = (
    "tuple[bytes, str, int, int, int, str, float, float, float, int, str, str, str, str | None, "
    "tuple[str, ...], str, int, CallSpan | None]"
)
"""trace id, the peer's own name, kind, span, parent span (0 for none), method, seconds allowed,
start and end on the clock of the process, code, reason, message, exception, activity id, chain,
caller, attempt, what the handler did to its span.

Nearly all are of atoms alone, so that the garbage collector does not track them."""


Link: TypeAlias = "tuple[PeerRow, Link | None]"
"""A row, and the one before it of the same trace."""

GENERATION = 2_500
"""Rows that come and go together: letting so many go takes half a millisecond."""


class Teller(Protocol):
    """Tells a gateway of kept traces."""

    def add(self, row: PeerRow) -> None:
        """A call of a trace that is kept already has ended."""
        ...

    def add_span(self, span: ReadableSpan) -> None:
        """A span of the user's in such a trace has ended, in whatever thread."""
        ...


class PeerRecords:
    """What one process recorded of its calls, found by trace.

    Rows are kept by generation, each a map of its own: the oldest goes as a whole, so that neither
    adding nor finding one depends on how many there are.

    Args:
        capacity: Rows held; older ones make way, and are missing in traces that are kept later.

    Attributes:
        kept: Traces known to be kept, and who tells of them.
        users: The spans that users' code made.
        dropped: Rows that have made way before they were old.
    """

    __slots__ = ("_capacity", "_count", "_current", "_held", "_older", "dropped", "kept", "users")

    def __init__(self, capacity: int = 20_000) -> None:
        self._capacity = capacity
        self._current: dict[bytes, Link] = {}
        self._count = 0
        self._older: deque[tuple[dict[bytes, Link], int, float]] = deque()
        """Earlier generations: the rows, how many, when the last one ended."""
        self._held = 0
        self.dropped = 0
        self.kept: OrderedDict[bytes, Teller] = OrderedDict()
        self.users = UserSpans(self.kept.__contains__, self._tell_span)

    def __len__(self) -> int:
        return self._held + self._count

    def add(self, row: PeerRow) -> None:
        """A call has ended."""
        trace_id = row[0]
        current = self._current
        # A chain of tuples, not a list: the garbage collector stops tracking tuples of atoms.
        current[trace_id] = row, current.get(trace_id)
        self._count = count = self._count + 1
        if count >= GENERATION:
            self._turn(row[8])
        if trace_id in self.kept:
            self.kept[trace_id].add(row)

    def _turn(self, ended: float) -> None:
        self._older.append((self._current, self._count, ended))
        self._held += self._count
        self._current, self._count = {}, 0
        while self._held > self._capacity:
            _, count, _ = self._older.popleft()
            self._held -= count
            self.dropped += count

    def _tell_span(self, trace_id: bytes, span: ReadableSpan) -> None:
        teller = self.kept.get(trace_id)
        if teller is not None:
            teller.add_span(span)

    def find(self, trace_ids: Iterable[bytes]) -> list[PeerRow]:
        """The rows of these traces, the newest first."""
        generations = [self._current, *(rows for rows, _, _ in self._older)]
        found: list[PeerRow] = []
        for trace_id in trace_ids:
            for rows in generations:
                link = rows.get(trace_id)
                while link is not None:
                    row, link = link
                    found.append(row)
        return found

    def keep(self, trace_id: bytes, teller: Teller) -> None:
        """What ends from now on in this trace is told at once."""
        self.kept[trace_id] = teller
        if len(self.kept) > MAX_KEPT:
            self.kept.popitem(last=False)

    def forget(self, now: float) -> None:
        """Drop rows of calls that ended over :data:`MAX_AGE` seconds ago; to be called often.

        Args:
            now: Seconds on the clock of the rows.
        """
        if self._count:
            self._turn(now)
        while self._older and self._older[0][2] < now - MAX_AGE:
            self._held -= self._older.popleft()[1]
