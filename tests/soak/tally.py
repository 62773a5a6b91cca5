"""The figures of a run: counts, latencies, and what the gateway of now must have counted itself."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mesh.errors import Reason

if TYPE_CHECKING:
    from tests.soak.journal import Begun, Ended

STEP = math.log(1.03)
"""Latencies are counted in buckets that grow by 3 %."""
LEAST = 1e-5

UNSURE = frozenset(
    {
        Reason.DEADLINE_EXCEEDED,
        Reason.CONNECTION_LOST,
        Reason.GATEWAY_UNREACHABLE,
        Reason.GATEWAY_DRAINING,
    }
)
"""What a caller may tell itself, while the gateway sees the call end otherwise or not at all."""


class Latencies:
    """A histogram whose size does not grow."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Count one."""
        self._buckets[int(math.log(max(seconds, LEAST) / LEAST) / STEP)] += 1

    def quantile(self, share: float) -> float:
        """The seconds that this share of all stays below, to 3 %; 0 where there are none."""
        target = share * self._buckets.total()
        for bucket in sorted(self._buckets):
            target -= self._buckets[bucket]
            if target <= 0:
                return LEAST * math.exp((bucket + 1) * STEP)
        return 0.0


@dataclass(slots=True)
class Books:
    """What one life of the gateway must have counted, by caller.

    Attributes:
        after: When the one before it was killed: calls that ended later may have been its own.
        since: When it was ready: calls begun later were its own.
        sure: Counts by caller and code of which there is no doubt.
        unsure: Calls that it may have counted, with any code.
    """

    after: float = 0.0
    since: float = math.inf
    sure: Counter[tuple[str, str]] = field(default_factory=Counter)
    unsure: Counter[str] = field(default_factory=Counter)

    def compare(self, counted: dict[tuple[str, str], float]) -> list[str]:
        """What does not agree with the gateway's own counts, by caller and code."""
        wrong: list[str] = []
        callers = {caller for caller, _ in self.sure} | set(self.unsure)
        for caller in sorted(callers):
            doubt = self.unsure[caller]
            codes = {code for name, code in (*self.sure, *counted) if name == caller}
            pairs = [(code, self.sure[caller, code], counted.get((caller, code), 0.0))
                     for code in sorted(codes)]  # fmt: skip
            pairs.append(("all", sum(one[1] for one in pairs), sum(one[2] for one in pairs)))
            wrong += [
                f"the gateway counted {theirs:,.0f} {code} of {caller}; {caller} saw {ours:,} for "
                f"certain, and {doubt:,} more perhaps"
                for code, ours, theirs in pairs
                if not ours <= theirs <= ours + doubt
            ]
        return wrong


@dataclass(slots=True)
class Tally:
    """What a run has seen so far.

    Attributes:
        moved: Bytes of payload that callers sent and got.
        lateness: The longest that a call ended after its deadline, in seconds.
        lag: The longest that a caller's loop was late, in seconds.
        entry: The latencies of entry calls that succeeded.
        answered: When each peer was first answered since the last gateway was killed.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    nested: int = 0
    moved: int = 0
    reconnects: int = 0
    lateness: float = -math.inf
    lag: float = 0.0
    entry: Latencies = field(default_factory=Latencies)
    books: Books = field(default_factory=Books)
    answered: dict[str, float] = field(default_factory=dict)

    def gateway_died(self, now: float) -> None:
        """The next gateway counts from nothing; and whom it answers is watched."""
        self.books = Books(now)
        self.answered.clear()

    def gateway_ready(self, now: float) -> None:
        """Calls begun from now on are certain to be this gateway's."""
        self.books.since = now

    def ended(self, peer: str, begun: Begun, ended: Ended) -> None:
        """A call has ended for its caller."""
        self.calls += 1
        self.nested += begun.nested
        self.kinds[begun.kind] += 1
        self.moved += begun.size + ended.size
        what = ended.reason if ended.how == "error" else ended.how
        self.outcomes[what] += 1
        if ended.how == "ok":
            if begun.begun > self.books.after:
                self.answered.setdefault(peer, ended.ended)
            if not begun.nested:
                self.entry.add(ended.ended - begun.begun)
        books = self.books
        if begun.begun < books.since:
            if ended.ended >= books.after:
                books.unsure[peer] += 1
        elif ended.how == "ok":
            books.sure[peer, "ok"] += 1
        elif ended.how == "error" and ended.reason not in UNSURE:
            books.sure[peer, ended.code] += 1
        else:
            books.unsure[peer] += 1

    def orphaned(self, peer: str, begun: Begun) -> None:
        """Its caller died before the call had ended."""
        self.outcomes["caller killed"] += 1
        self.calls += 1
        self.nested += begun.nested
        self.books.unsure[peer] += 1

    def late(self, late: float, lag: float) -> None:
        """A call ended so long after its deadline; negative is before."""
        self.lateness = max(self.lateness, late)
        self.lag = max(self.lag, lag)
