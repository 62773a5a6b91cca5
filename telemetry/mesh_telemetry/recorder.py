"""A record of every ended call, in a bounded buffer, from which spans can be built later."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh_telemetry.decisions import Decision, Picked


class Record(msgspec.Struct, gc=False):
    """One ended attempt of a call, as the process that kept the record saw it.

    Of a kind that the garbage collector does not know, as it holds atoms, and decisions, which are
    of such a kind as well: tens of thousands are held, and each that the collector has to unlink
    costs when it goes, far from any cache. Made by position, on the path of every call.
    """

    call_id: int
    """Issued by the gateway."""
    parent_id: int
    """The call inside which this one was made; 0 for an entry call."""
    entry_id: int
    """The first call of the tree; an entry call's own id."""
    trace_id: bytes
    """16 bytes, as in W3C trace context."""
    activity_id: str
    caller: str
    """The calling peer's name."""
    caller_process: str
    """Its process id."""
    span_id: bytes
    """8 bytes, the caller's span."""
    own_span: int
    """What the ids of the gateway's own two spans are made of; see :func:`own_span_ids`."""
    service: str
    method: str
    instance: str
    """The process id of the peer that served it; empty where none was reached."""
    chain: tuple[str, ...]
    """The hops that led here, this one last."""
    attempt: int
    """Which try of the logical call, from 1."""
    started: float
    """Seconds on the recording process's monotonic clock."""
    duration: float
    """Seconds."""
    allowed: float
    """Seconds until the deadline when it started."""
    waited: float
    """Seconds that it waited for an instance to come."""
    code: int
    """Number of the status code; 0 is ok."""
    reason: str
    """Why it failed or was refused, upper case; empty for ok."""
    message: str
    """What a failure says to people; empty for ok."""
    refused: bool
    """Whether it was turned away before any instance saw it."""
    picked: Picked = ()
    """What the instance was chosen by; empty where there was no choice."""
    decisions: tuple[Decision, ...] = ()
    """What else was decided for it, in order; empty for most."""

    @property
    def depth(self) -> int:
        """Links of nested calls; an entry call has 1."""
        return len(self.chain)


def own_span_ids(own_span: int) -> tuple[bytes, bytes]:
    """The ids of the spans in which a gateway serves a call, and passes it on.

    One random number serves for both, since drawing it is on the path of every call.
    """
    return (own_span ^ 1).to_bytes(8, "big"), own_span.to_bytes(8, "big")


class Recorder:
    """Keeps the last records.

    Args:
        capacity: Records kept; an older one makes way for each that comes after.

    Attributes:
        append: Takes a :class:`Record`. It is the deque's own bound method, with no Python frame
            in between: about 0.1 us.
    """

    __slots__ = ("_rows", "append")

    def __init__(self, capacity: int = 10_000) -> None:
        if capacity < 1:
            raise ValueError(f"capacity {capacity} is less than 1")
        self._rows: deque[Record] = deque(maxlen=capacity)
        self.append: Callable[[Record], None] = self._rows.append

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def capacity(self) -> int:
        """How many records are kept at most."""
        return self._rows.maxlen or 0

    def dropped(self, appended: int) -> int:
        """How many records have made way for newer ones.

        Counting here would cost as much as appending, so whoever counts calls anyway says how many
        records there have been: for a gateway that is :meth:`CallMetrics.ended`.
        """
        return max(0, appended - len(self._rows))

    def by_activity(self, activity_id: str) -> list[Record]:
        """The records of one activity, in the order in which the calls ended. Scans the buffer."""
        return [row for row in self._rows if row.activity_id == activity_id]

    def by_entry(self, entry_id: int) -> list[Record]:
        """The records of one tree of calls, in the order in which they ended. Scans the buffer."""
        return [row for row in self._rows if row.entry_id == entry_id]

    def recent(self, count: int) -> list[Record]:
        """The last ``count`` records, the newest first."""
        return list(islice(reversed(self._rows), count))
