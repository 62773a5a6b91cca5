"""The judge: whether every call ended once, in time and truly, by what both of its ends wrote down.

It knows of each life of a process what that wrote into its journal, and what was done to it. Of a
call that has ended it keeps two bytes, so that a second ending or execution is noticed hours later.
Where nothing is killed or stopped, it excuses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from mesh.outgoing import GRACE
from mesh_telemetry.peer_records import MAX_AGE
from tests.soak.books import Ledger
from tests.soak.journal import Begun, Connected, Ended, Executed, Finished, Holds, Line
from tests.soak.mix import DISTURBED, KINDS, PLANNED
from tests.soak.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterable

NOISE = 1.0
"""Seconds beyond the mesh's own grace that a call may be late; what the caller's own loop was late,
which it measures itself, is allowed on top."""
LOST_AFTER = 5.0
"""Seconds beyond that, after which a call without an end counts as lost."""
KEPT = 120.0
"""Seconds that disturbances are remembered: longer than any call lasts."""
MOST = 200
"""Violations kept in words; all are counted."""

OLDEST = MAX_AGE + 20.0
"""Seconds after which a process has forgotten what it recorded: it looks every five seconds, not
while it has no gateway, nor as soon as it has found one."""

OPEN, MAY_HAVE_RUN, NOT_RUN, OK = 1, 2, 3, 4


class Span(NamedTuple):
    """Some time, in which one process or all of them were disturbed."""

    since: float
    until: float

    def overlaps(self, since: float, until: float) -> bool:
        """Whether any of it was within these two moments."""
        return self.since <= until and since <= self.until


@dataclass(slots=True)
class Life:
    """One life of a process: its calls by number.

    Attributes:
        name: The process, through all of its lives.
        peer: What it is called in the mesh.
        is_flood: Whether it tells nothing of its calls.
        state: How the call of each number stands; one byte each.
        runs: How often each was executed.
        stopped: When it was held by a signal.
        holds: What it held lately.
    """

    name: str
    peer: str
    is_flood: bool = False
    calls: int = 0
    state: bytearray = field(default_factory=lambda: bytearray(1))
    runs: bytearray = field(default_factory=lambda: bytearray(1))
    open: dict[int, Begun] = field(default_factory=dict)
    stopped: list[Span] = field(default_factory=list)
    gateways: int = 0
    holds: Holds | None = None
    dead: bool = False

    def make_room(self, number: int) -> None:
        """Have a byte for this call."""
        for table in (self.state, self.runs):
            if number >= len(table):
                table.extend(bytes(number + 1024 - len(table)))


class Judge:
    """Judges a run while it goes on.

    Attributes:
        violations: What must not have happened, in words; the first :data:`MOST`.
        wrong: How often something happened that must not have.
        tally: The figures.
        ledger: What the gateways must have counted.
    """

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.wrong = 0
        self.tally = Tally()
        self.ledger = Ledger()
        self.lives: dict[str, Life] = {}
        self._disturbed: list[Span] = []
        self._unexplained: dict[str, bool] = {}

    def complain(self, what: str) -> None:
        """Something happened that must not happen."""
        self.wrong += 1
        if len(self.violations) < MOST:
            self.violations.append(what)

    # What was done to the processes.

    def born(self, life: str, name: str, peer: str, *, is_flood: bool = False) -> None:
        """A process was started."""
        self.lives[life] = Life(name, peer, is_flood)

    def disturb(self, now: float) -> None:
        """From now on calls may fail as those do whose processes are killed or held."""
        if not self._disturbed or self._disturbed[-1].until < inf:
            self._disturbed.append(Span(now, inf))

    def calm(self, now: float) -> None:
        """All is well again."""
        self._disturbed[-1] = self._disturbed[-1]._replace(until=now)
        self._disturbed = [span for span in self._disturbed if span.until > now - KEPT]

    def hold(self, life: str, now: float) -> None:
        """A process is stopped by a signal."""
        stopped = self.lives[life].stopped
        stopped[:] = [*(span for span in stopped if span.until > now - KEPT), Span(now, inf)]

    def release(self, life: str, now: float) -> None:
        """It goes on, and has caught up."""
        stopped = self.lives[life].stopped
        stopped[-1] = stopped[-1]._replace(until=now)

    def died(self, life: str, now: float, *, killed: bool) -> None:
        """A process is dead, and its journal has been read to its end."""
        it = self.lives[life]
        it.dead = True
        if not killed and it.open:
            self.complain(f"{life} ended in good order with {len(it.open)} calls open")
        for begun in it.open.values():
            self.tally.orphaned()
            self.ledger.orphaned(it.peer, begun, now)
        it.open.clear()

    # What they wrote down.

    def read(self, life: str, lines: Iterable[Line]) -> None:
        """Further lines of a journal."""
        it = self.lives[life]
        for line in lines:
            match line:
                case Begun():
                    self._begun(life, it, line)
                case Ended():
                    self._ended(life, it, line)
                case Executed():
                    self._executed(line.id)
                case Connected():
                    it.gateways += 1
                    self.tally.reconnects += it.gateways > 1
                case Holds():
                    it.holds = line
                    self._judge_records(life, line)
                case Finished():
                    if line.calls != it.calls:
                        self.complain(f"{life} made {line.calls} calls and noted {it.calls}")

    def _begun(self, life: str, it: Life, begun: Begun) -> None:
        it.make_room(begun.number)
        if it.state[begun.number]:
            self.complain(f"{life}:{begun.number} ({begun.kind}) was made twice")
        it.state[begun.number] = OPEN
        it.open[begun.number] = begun
        it.calls += 1
        self.tally.begun(begun)

    def _ended(self, life: str, it: Life, ended: Ended) -> None:
        id_ = f"{life}:{ended.number}"
        begun = it.open.pop(ended.number, None)
        if begun is None:
            self.complain(f"{id_} ended, and was not open: {ended}")
            return
        runs = it.runs[ended.number]
        if ended.how == "ok":
            it.state[ended.number] = OK
            if not runs:
                self._unexplained[id_] = False
        else:
            it.state[ended.number] = MAY_HAVE_RUN if ended.maybe else NOT_RUN
            if runs and not ended.maybe:
                self.complain(f"{id_} was executed, and its caller was told that it was not")
        lost = self.ledger.lost_with_gateway(ended)
        self.tally.ended(it.peer, begun, ended, lost_with_gateway=lost)
        if ended.gateway:
            self.ledger.ended(it.peer, begun, ended, calm=not self._is_disturbed(begun, ended))
        self._judge_time(id_, it, begun, ended)
        self._judge_end(id_, begun, ended)

    def _executed(self, id_: str) -> None:
        life, _, text = id_.partition(":")
        number = int(text)
        it = self.lives.get(life)
        if it is None:
            self.complain(f"{id_} was executed, and no such process was started")
            return
        it.make_room(number)
        it.runs[number] = min(255, it.runs[number] + 1)
        if it.runs[number] > 1:
            self.complain(f"{id_} was executed {it.runs[number]} times")
        state = it.state[number]
        if state == NOT_RUN:
            self.complain(f"{id_} was executed, and its caller was told that it was not")
        if not state and not it.is_flood:
            self._unexplained[id_] = False

    def _is_disturbed(self, begun: Begun, ended: Ended) -> bool:
        return any(span.overlaps(begun.begun, ended.ended) for span in self._disturbed)

    # The rules.

    def _judge_records(self, life: str, holds: Holds) -> None:
        if holds.oldest > OLDEST:
            self.complain(f"{life} holds records of {holds.oldest:.1f} s ago; {OLDEST:g} s is most")

    def _judge_time(self, id_: str, it: Life, begun: Begun, ended: Ended) -> None:
        if any(span.overlaps(begun.begun, ended.ended) for span in it.stopped):
            return
        late = ended.ended - begun.due
        self.tally.late(late, ended.lag)
        if late > GRACE + NOISE + ended.lag:
            self.complain(
                f"{id_} ({begun.kind}) ended {late:.3f} s after its deadline ({ended.how} "
                f"{ended.reason}), and its caller's loop was late by {ended.lag:.3f} s at most"
            )

    def _judge_end(self, id_: str, begun: Begun, ended: Ended) -> None:
        kind = KINDS[begun.kind]
        took = f"after {ended.ended - begun.begun:.3f} s of {begun.due - begun.begun:.3f} s"
        if ended.how == "ok" and (ended.answer != id_ or ended.checksum != begun.checksum):
            self.complain(
                f"{id_} ({begun.kind}) got the answer of {ended.answer} with checksum "
                f"{ended.checksum}, not {begun.checksum}"
            )
        if ended.reason == PLANNED and len(kind.path) == 1 and ended.answer != id_:
            self.complain(f"{id_} got the error of {ended.answer}")
        what = ended.reason if ended.how == "error" else ended.how
        if what in kind.ends or (what == "cancelled" and begun.nested):
            return
        if what in DISTURBED and self._is_disturbed(begun, ended):
            return
        self.complain(
            f"{id_} ({begun.kind}) ended with {what} {took} while nothing was disturbed"
            if what in DISTURBED
            else f"{id_} ({begun.kind}) ended with {what} ({ended.code} {ended.reason}) {took}"
        )

    def settle(self, now: float) -> None:
        """After all journals were read: what is still unexplained, or open for too long."""
        for id_, seen_before in list(self._unexplained.items()):
            life, _, text = id_.partition(":")
            it, number = self.lives[life], int(text)
            if it.state[number] and it.runs[number]:
                del self._unexplained[id_]
            elif not seen_before:  # the other journal may have been read a moment too early
                self._unexplained[id_] = True
            else:
                del self._unexplained[id_]
                ran = f"was executed {it.runs[number]} times"
                self.complain(
                    f"{id_} {ran}, and its caller never made it"
                    if not it.state[number]
                    else f"{id_} was answered, and was not executed"
                )
        self.ledger.settle(now)
        for life, it in self.lives.items():
            patience = GRACE + NOISE + LOST_AFTER
            if it.dead or any(span.overlaps(now - KEPT, now) for span in it.stopped[-1:]):
                patience += KEPT
            lost = [begun for begun in it.open.values() if now > begun.due + patience]
            for begun in lost:
                del it.open[begun.number]
                self.tally.outcomes["lost"] += 1
                self.complain(
                    f"{life}:{begun.number} ({begun.kind}) has not ended {now - begun.due:.1f} s "
                    "after its deadline"
                )

    def account(self) -> None:
        """At the end, every call that was made is in one class, and the gateways' counters agree.

        No caller runs any more, and all journals have been read.
        """
        tally = self.tally
        if tally.outcomes.total() != tally.calls:
            self.complain(
                f"{tally.calls:,} calls were made, and {tally.outcomes.total():,} are accounted for"
            )
        for wrong in self.ledger.compare():
            self.complain(wrong)
