"""What came, went and changed in a mesh, for whoever asks afterwards: bounded, oldest first.

Free of I/O and of clocks: :class:`~mesh.gateway.telling.GatewayFeed` says what has happened, and
when. What happens again and again is counted in one line, and nobody has more than a share of the
lines, however often he comes and goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.gateway.filters import ChangeFilters

CAPACITY = 1000
"""Changes that are remembered."""
ALONE = 5
"""The same changes in a row that have a line each: the instances of a deployment, say."""
SHARE = 4
"""Nobody has more than this part of all lines: a quarter."""
QUIET = 60.0
"""Seconds without a change of its kind that end a row."""
SETTLING = 1.0
"""Seconds in which what an instance registers bit by bit is one change."""
NAMES = 20
"""Services and methods that one change names."""
TEXT = 500
"""Characters of its sentence."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Something that came, went or changed; where counted, the newest of its row."""

    number: int = 0
    """Rising; what is counted once more has a new one."""
    at: float
    """When, in Unix time."""
    first: float = 0.0
    """When it happened first in this row."""
    count: int = 1
    """How often it happened since then."""
    change: Literal[
        "started",
        "certificates",
        "registered",
        "unregistered",
        "late",
        "unresponsive",
        "healthy",
        "draining",
        "left",
        "lost",
        "closed",
        "refused",
    ]
    what: str
    """A sentence for people, with its numbers."""
    peer: str = ""
    """Who; empty for the gateway itself, and for a peer that has not said so."""
    process_id: str = ""
    """Which process that is; of the gateway its id."""
    services: list[str] = []
    """Those that the peer serves or served; 20 at most."""
    methods: list[str] = []
    """Those that were registered or unregistered; 20 at most."""
    version: str = ""
    """The one registered."""
    reason: str = ""
    """Why a peer was refused, in a word."""

    @property
    def kind(self) -> tuple[object, ...]:
        """What is the same in all changes of a row."""
        return self.change, self.peer, tuple(self.services), self.reason

    @property
    def source(self) -> str:
        """Among whom lines are shared out."""
        return self.peer or self.change


class ChangesPage(msgspec.Struct, frozen=True, kw_only=True):
    """The changes that somebody is told at once."""

    gateway: str
    cursor: str
    """What to ask with for those that come after these."""
    dropped: int
    """Older ones that have made way since the gateway's start."""
    changes: list[Change]
    """The newest one last."""


class _Row:
    """The same changes, one soon after the other."""

    __slots__ = ("alone", "newest")

    def __init__(self, newest: int) -> None:
        self.newest = newest
        self.alone = 1


class Changes:
    """Remembers changes, for everybody at most a quarter of all; the oldest makes way.

    Attributes:
        last: The number of the newest change.
        dropped: Lines that have made way.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._lines: dict[int, Change] = {}  # by number, hence the oldest one first
        self._rows: dict[tuple[object, ...], _Row] = {}
        self._numbers: dict[str, dict[int, None]] = {}  # of the lines by whose they are
        self.last = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, change: Change) -> None:
        """Something has changed."""
        change = _bounded(change)
        row = self._rows.get(change.kind)
        newest = self._lines[row.newest] if row is not None else None
        if row is None or newest is None or change.at - newest.at > QUIET:
            self._rows[change.kind] = _Row(self._put(change))
        elif row.alone < ALONE:
            row.alone += 1
            row.newest = self._put(change)
        else:
            self._take(newest)
            row.newest = self._put(change, newest.count + 1, newest.first)
        own = self._numbers[change.source]
        if len(own) > max(1, self._capacity // SHARE):
            self._drop(next(iter(own)))
        elif len(self._lines) > self._capacity:
            self._drop(next(iter(self._lines)))

    def amend(self, change: Change) -> bool:
        """Put a change in the place of one of its kind and process that has just been told of.

        Returns:
            Whether there was one; else nothing has happened.
        """
        change = _bounded(change)
        row = self._rows.get(change.kind)
        if row is None:
            return False
        newest = self._lines[row.newest]
        if newest.process_id != change.process_id or change.at - newest.at > SETTLING:
            return False
        self._take(newest)
        row.newest = self._put(change, newest.count, newest.first)
        return True

    def _put(self, change: Change, count: int = 1, first: float | None = None) -> int:
        self.last += 1
        self._numbers.setdefault(change.source, {})[self.last] = None
        self._lines[self.last] = msgspec.structs.replace(
            change,
            number=self.last,
            count=count,
            first=change.at if first is None else first,
        )
        return self.last

    def _take(self, line: Change) -> None:
        del self._lines[line.number]
        own = self._numbers[line.source]
        del own[line.number]
        if not own:
            del self._numbers[line.source]

    def _drop(self, number: int) -> None:
        line = self._lines[number]
        self._take(line)
        if self._rows[line.kind].newest == number:
            del self._rows[line.kind]
        self.dropped += 1

    def find(self, wanted: ChangeFilters, now: float, after: int = 0) -> list[Change]:
        """Those that fit, the newest one last.

        Args:
            wanted: What they must fit.
            now: Unix time.
            after: The number that theirs must exceed.
        """
        return list(self._find(wanted, now, after))[::-1]

    def _find(self, wanted: ChangeFilters, now: float, after: int) -> Iterator[Change]:
        for number, line in reversed(self._lines.items()):
            if number <= after:
                return
            recent = not wanted.since or now - line.at <= wanted.since
            if recent and (not wanted.service or wanted.service in line.services):
                yield line


def _bounded(change: Change) -> Change:
    return msgspec.structs.replace(
        change,
        what=change.what[:TEXT],
        services=list(change.services[:NAMES]),
        methods=change.methods[:NAMES],
    )
