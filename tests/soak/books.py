"""The books: what each gateway must have counted, call by call, held against what it did count.

The books of a gateway are closed by reading its `/metrics`: right before it is killed, and once
everything has come to rest. The callers' journals must then account for every call that it counted,
and it must have counted every call that they are certain of. Certain is a call that was handed to a
connection to this gateway, and that ended before the books were read. All others that it may have
counted are in doubt, each for one of these reasons:

- it was under way while the books were read (or ended so on its caller's side that the gateway
  learns of it a moment later);
- its caller was killed before it had ended;
- it was one of a flood, whose answer was not read.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import chain, combinations
from typing import TYPE_CHECKING, NamedTuple

from mesh.errors import Code, Reason
from mesh.outgoing import GRACE
from mesh_telemetry import OTHER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.soak.journal import Begun, Ended

UNKNOWN = f"{OTHER}.{OTHER}"
"""What a call is counted as whose method nobody has registered."""
TOLD_WITHIN = 1.0
"""Seconds until a gateway has heard of a call that its caller has given up."""

_GIVEN_UP = frozenset(
    map(str, (Code.OK, Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.FAILED_PRECONDITION))
)
"""How a call may end in the gateway that its caller gives up: so, or with an answer that crosses;
a nested one may arrive when the call above it has ended."""

Cell = tuple[str, str, str]
"""Caller, method with its service, and code."""


class Entry(NamedTuple):
    """How a call may have been counted.

    Attributes:
        methods: One of these; the second is :data:`UNKNOWN`.
        codes: One of these; any where it is None.
        is_certain: Whether it must have been counted at all.
    """

    caller: str
    methods: tuple[str, ...]
    codes: frozenset[str] | None
    is_certain: bool


class Posting(NamedTuple):
    """A call that waits until it can be said whose books it is in.

    Attributes:
        ended: When; where its caller was killed, when that was dead.
        told: When the gateway knew of its end, at the latest.
        gateway: The gateway that it was sent to; empty where only the time can tell.
        why: Why it is in doubt whoever counts; empty where it is not.
    """

    entry: Entry
    begun: float
    ended: float
    told: float
    gateway: str
    why: str


@dataclass(slots=True)
class Book:
    """What one gateway must have counted.

    Attributes:
        life: The gateway's name.
        started: When it was started.
        gateway: Its id; empty before it is ready.
        read_since: When the reading of its counters began, and when it was over.
        counted: What it had counted then.
        doubts: How many calls it may have counted or not, by reason.
    """

    life: str
    started: float
    gateway: str = ""
    read_since: float = math.inf
    read_until: float = math.inf
    counted: dict[Cell, int] | None = None
    entries: Counter[Entry] = field(default_factory=Counter)
    doubts: Counter[str] = field(default_factory=Counter)

    def post(self, posting: Posting) -> None:
        """Enter a call, if it may have been counted here."""
        is_here = posting.gateway == self.gateway or (
            not posting.gateway and posting.ended > self.started
        )
        if not is_here or posting.begun >= self.read_until:
            return
        why = posting.why
        if posting.told >= self.read_since:
            why = "under way while the books were read"
        self.entries[posting.entry._replace(is_certain=not why)] += 1
        if why:
            self.doubts[why] += 1

    @property
    def certain(self) -> int:
        """The calls that it must have counted."""
        return self.entries.total() - self.doubts.total()

    def compare(self) -> list[str]:
        """Where the callers' calls cannot have been counted like that.

        For any set of methods and codes, as many as are certain to be within it must have been
        counted there, and no more than may be. Where that holds for all sets, some way to count
        every single call explains the counters (Hall's theorem, and Mendelsohn and Dulmage's).
        """
        if self.counted is None:
            return [f"the counters of {self.life} were not read"]
        wrong: list[str] = []
        callers = {entry.caller for entry in self.entries} | {cell[0] for cell in self.counted}
        for caller in sorted(callers):
            counted = {cell[1:]: count for cell, count in self.counted.items() if cell[0] == caller}
            entries = {entry: n for entry, n in self.entries.items() if entry.caller == caller}
            methods = {method for entry in entries for method in entry.methods}
            methods |= {method for method, _ in counted}
            groups = [(method,) for method in sorted(methods)] + [tuple(sorted(methods))]
            found = list(chain.from_iterable(_differences(g, counted, entries) for g in groups))
            wrong += [f"{self.life} counted {what} of {caller}" for what in dict.fromkeys(found)]
        return wrong


def _differences(
    methods: tuple[str, ...], counted: dict[tuple[str, str], int], entries: dict[Entry, int]
) -> Iterator[str]:
    """What does not fit within a group of methods; the smallest sets of codes alone."""
    within = set(methods)
    touching = {entry: count for entry, count in entries.items() if within & set(entry.methods)}
    codes = {code for method, code in counted if method in within}
    codes.update(*(entry.codes for entry in touching if entry.codes is not None))
    reported: list[set[str]] = []
    for some in map(set, _subsets(sorted(codes))):
        if any(one <= some for one in reported):
            continue
        theirs = sum(n for (method, code), n in counted.items()
                     if method in within and code in some)  # fmt: skip
        least = most = 0
        for entry, count in touching.items():
            if (entry.codes or codes) & some:
                most += count
            inside = (entry.codes or codes) <= some and set(entry.methods) <= within
            least += count * (inside and entry.is_certain)
        if not least <= theirs <= most:
            reported.append(some)
            expected = f"{least:,}" if least == most else f"{least:,} to {most:,}"
            yield (
                f"{theirs:,} {' or '.join(sorted(some))} calls to {' and '.join(methods)}, "
                f"and not {expected},"
            )


def _subsets(codes: list[str]) -> Iterable[tuple[str, ...]]:
    """Those that are not empty, the smallest first."""
    return chain.from_iterable(combinations(codes, size) for size in range(1, len(codes) + 1))


class Ledger:
    """The books of all gateways of a run.

    Attributes:
        books: One for each gateway, in order.
    """

    def __init__(self) -> None:
        self.books: list[Book] = []
        self._killed: dict[str, float] = {}
        self._waiting: deque[Posting] = deque()
        self._is_read = False

    # What becomes of the gateways.

    def open(self, life: str, now: float) -> None:
        """A gateway is about to be started."""
        self.books.append(Book(life, now))

    def ready(self, gateway: str) -> None:
        """It is ready, and this is its id."""
        self.books[-1].gateway = gateway

    def kill(self, now: float) -> None:
        """The gateway is killed."""
        self._killed[self.books[-1].gateway] = now

    def begin_reading(self, now: float) -> None:
        """Its counters are about to be read for these books."""
        self.settle(now)
        self.books[-1].read_since, self._is_read = now, True

    def read(self, counted: dict[Cell, int], now: float) -> None:
        """They have been read."""
        self.books[-1].counted, self.books[-1].read_until = counted, now
        self._is_read = False

    # What becomes of the calls.

    def lost_with_gateway(self, ended: Ended) -> bool:
        """Whether it is unknown what the gateway counted of a call, as its kill ended the call."""
        killed = self._killed.get(ended.gateway, math.inf)
        return ended.reason == Reason.CONNECTION_LOST and ended.ended >= killed

    def ended(self, caller: str, begun: Begun, ended: Ended, *, calm: bool) -> None:
        """A call that was sent has ended for its caller.

        Args:
            caller: What the caller is called in the mesh.
            begun: How it began.
            ended: How it ended.
            calm: Whether nothing was disturbed meanwhile, so that every method was known.
        """
        methods: tuple[str, ...] = (begun.target,)
        if begun.target.startswith("nobody."):
            methods = (UNKNOWN,)
        elif not calm and ended.how != "ok":
            methods = (begun.target, UNKNOWN)
        own_end = ended.how != "error" or (
            # The gateway has the word until then; afterwards the caller speaks for itself.
            ended.reason == Reason.DEADLINE_EXCEEDED and ended.ended >= begun.due + GRACE
        )
        codes: frozenset[str] | None
        told = ended.ended
        if ended.how == "ok":
            codes = frozenset({str(Code.OK)})
        elif own_end:
            codes = _GIVEN_UP if calm else None
            told += TOLD_WITHIN + ended.lag
        else:
            codes = frozenset({ended.code})
        entry = Entry(caller, methods, codes, is_certain=True)
        self._waiting.append(Posting(entry, begun.begun, ended.ended, told, ended.gateway, ""))

    def orphaned(self, caller: str, begun: Begun, dead: float) -> None:
        """The caller of a call was killed before it had ended."""
        entry = Entry(caller, (begun.target, UNKNOWN), None, is_certain=False)
        self._waiting.append(Posting(entry, begun.begun, dead, dead, "", "its caller was killed"))

    def flooded(self, caller: str, target: str, since: float, until: float, code: str) -> None:
        """A call of a flood; without a code where no answer was read."""
        codes = frozenset({code}) if code else None
        entry = Entry(caller, (target,), codes, is_certain=bool(code))
        why = "" if code else "its caller did not read"
        self._waiting.append(Posting(entry, since, until, until, "", why))

    def settle(self, now: float) -> None:
        """Enter the calls of which the gateway that is read next has heard by now."""
        if self._is_read or not (self.books and self.books[-1].gateway):
            return
        later: deque[Posting] = deque()
        for posting in self._waiting:
            if posting.told < now:
                for book in self.books:
                    book.post(posting)
            else:
                later.append(posting)
        self._waiting = later

    def compare(self) -> list[str]:
        """What does not agree, once no caller runs any more."""
        self.settle(math.inf)
        return [wrong for book in self.books for wrong in book.compare()]
