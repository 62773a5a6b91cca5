"""What a peer's process records of the calls that it makes and serves, until it is asked for it."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Protocol, TypeAlias

from mesh_telemetry.user_spans import UserSpans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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


class Teller(Protocol):
    """Tells a gateway of kept traces."""

    def add(self, row: PeerRow) -> None:
        """A call of a trace that is kept already has ended."""
        ...

    def add_span(self, span: ReadableSpan) -> None:
        """A span of the user's in such a trace has ended, in whatever thread."""
        ...


class PeerRecords:
    """What one process recorded of its calls.

    Args:
        capacity: Rows held; older ones make way, and are missing in traces that are kept later.

    Attributes:
        kept: Traces known to be kept, and who tells of them.
        users: The spans that users' code made.
    """

    __slots__ = ("_append", "_rows", "kept", "users")

    def __init__(self, capacity: int = 20_000) -> None:
        self._rows: deque[PeerRow] = deque(maxlen=capacity)
        self._append: Callable[[PeerRow], None] = self._rows.append
        self.kept: OrderedDict[bytes, Teller] = OrderedDict()
        self.users = UserSpans(self.kept.__contains__, self._tell_span)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: PeerRow) -> None:
        """A call has ended."""
        self._append(row)
        if row[0] in self.kept:
            self.kept[row[0]].add(row)

    def _tell_span(self, trace_id: bytes, span: ReadableSpan) -> None:
        teller = self.kept.get(trace_id)
        if teller is not None:
            teller.add_span(span)

    def find(self, trace_ids: Iterable[bytes]) -> list[PeerRow]:
        """The rows of these traces. Scans all: 20,000 take less than a millisecond."""
        wanted = frozenset(trace_ids)
        return [row for row in self._rows if row[0] in wanted]

    def keep(self, trace_id: bytes, teller: Teller) -> None:
        """What ends from now on in this trace is told at once."""
        self.kept[trace_id] = teller
        if len(self.kept) > MAX_KEPT:
            self.kept.popitem(last=False)

    def forget(self, before: float) -> None:
        """Drop rows of calls that ended before this moment."""
        rows = self._rows
        while rows and rows[0][8] < before:
            rows.popleft()
