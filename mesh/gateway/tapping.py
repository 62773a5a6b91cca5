"""Live calls, for who asks: what has ended since the last answer, from the recorder's own buffer.

Nothing happens on a call's way for it: a tap looks, a few times a second, at the rows that are
recorded anyway. Where it is among them is a number that it brings along. One that comes too late
finds rows gone, and is told how many. All that the gateway remembers of a tap between two answers
is that it has one of a few places, for a little while. Only a tap that asks for payloads has more
done for it: :mod:`mesh.gateway.payloads`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import trio
from msgspec import structs

from mesh.errors import FailedPrecondition, Reason, ResourceExhausted
from mesh.gateway.filters import read_cursor
from mesh.gateway.payloads import PAGE, HeldPayloads, TappedPayloads, length_of
from mesh.gateway.permits import check_asker
from mesh.gateway.sifting import (
    Trees,
    by_arrival,
    count_missing,
    find_ended,
    fitting,
    outlived,
    pick,
    sample_held,
)
from mesh_telemetry import CODE_NAMES
from mesh_telemetry.logs import timestamp

if TYPE_CHECKING:
    from mesh.gateway.core import Core
    from mesh.gateway.filters import TapFilters
    from mesh.gateway.session import Session
    from mesh_telemetry import Record

LOOK = 0.1
"""Seconds between two looks: what a person takes for at once, and what bounds the work."""
SLICE = 1000
"""Rows that are looked at in one go: at most 0.2 ms."""
TOLD_SLICE = 100
"""Calls that are told in one go: about 0.3 ms."""
MOST_TAPS = 8
"""Taps at once; each takes one to five hundredths of the loop of a gateway at full load."""


HELD = 2.0
"""Seconds for which a tap that comes again keeps its place: a slow one asks once in a second."""


class TappedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that has ended, or was refused, as the gateway saw it."""

    ended: str
    """RFC 3339, in UTC."""
    duration_ms: float
    """From its arrival at the gateway."""
    caller: str
    service: str
    method: str
    code: str
    reason: str
    """Why it failed or was refused; empty for ok."""
    refused: bool
    """Whether it was turned away before any instance saw it."""
    depth: int
    """Links of nested calls; an entry call has 1."""
    attempt: int
    """Which try of the logical call, from 1."""
    waited_ms: float
    """What of its time it waited for an instance to come."""
    activity_id: str
    trace_id: str
    """Hexadecimal."""
    call_id: int
    """Issued by the gateway, rising from call to call."""
    parent_id: int
    """The call inside which this one was made; 0 for an entry call."""
    entry_id: int
    """The first call of the tree; an entry call's own id. Where a parent had ended before, so says
    the caller; of trees, only one that has served a call of that tree is believed."""
    caller_process: str
    instance: str
    """The process id of the peer that served it; empty where none was reached."""
    payloads: TappedPayloads | msgspec.UnsetType = msgspec.UNSET
    """What it carried; only where that is asked for."""


class TapPage(msgspec.Struct, frozen=True, kw_only=True):
    """What a tap is told at once."""

    gateway: str
    cursor: str
    """What to ask with for the calls after these."""
    calls: list[TappedCall]
    """As they ended; of trees, one tree after the other, each from its entry call on."""
    left_out: int
    """Calls that fit and are not told, or trees, as there were more than the limit."""
    unread: int
    """Calls that made way before this tap looked; whether they would have fit, nobody knows."""
    partial: list[int]
    """The ``entry_id`` of trees here that may lack calls, as these made way or were too many."""


class Taps:
    """What one gateway tells those who watch its calls.

    Args:
        core: The gateway.
        shows_payloads: Whether its operator allows payloads to be shown.
    """

    def __init__(self, core: Core, *, shows_payloads: bool = False) -> None:
        self._core = core
        self._shows_payloads = shows_payloads

    @property
    def _position(self) -> int:
        """How many rows have been recorded so far: what counts ids has counted them already."""
        table = self._core.table
        return table.last_id - len(table)

    async def page(self, wanted: TapFilters, asker: Session | None = None) -> TapPage:
        """Calls that have ended since the cursor; waits for one that fits.

        Args:
            wanted: Which calls, and what of them.
            asker: Who asks over the mesh.

        Raises:
            FailedPrecondition: The gateway's telemetry is off.
            InvalidArgument: The cursor is none that this gateway, or one before it, has told.
            PermissionDenied: Payloads are asked for, and may not be shown to who asks.
            ResourceExhausted: Too many are open already.
        """
        core = self._core
        if not core.observes:
            raise FailedPrecondition(
                "this gateway records no calls, as its telemetry is off; start it without "
                "`--telemetry off` (MESH_TELEMETRY, Gateway(telemetry=...))",
                reason="TELEMETRY_OFF",
            )
        if wanted.payloads:
            check_asker(asker, allowed=self._shows_payloads)
        position = self._position
        at, _, place = wanted.cursor.partition("~")
        if wanted.cursor:
            position = read_cursor(at, core.instance, position)
        place = self._take(place)
        look = _Look(core, wanted, position, place)
        try:
            if wanted.payloads:
                if core.payloads is None:
                    core.payloads = HeldPayloads(core)
                core.payloads.want(place, wanted)
            ends = core.clock() + wanted.wait
            while (left := ends - core.clock()) > 0 and not look.found:
                await trio.sleep(min(LOOK, left))
                await look.once(self._position)
            if not wanted.wait:
                await look.once(self._position)
            page = await look.tell()
        except BaseException:
            del core.taps[place]
            if core.payloads is not None:
                core.payloads.prune()
            raise
        if wanted.cursor or wanted.payloads:  # these are held from the first answer on
            core.taps[place] = core.clock() + HELD
        else:  # it may never come again
            del core.taps[place]
        return page

    def _take(self, place: str) -> str:
        """The place of a tap until its answer: the one that it has, or a free one.

        Raises:
            ResourceExhausted: There is none.
        """
        taps, now = self._core.taps, self._core.clock()
        if taps.get(place, math.inf) == math.inf:  # it has none, or asks twice at once
            for other in [other for other, until in taps.items() if until <= now]:
                del taps[other]
            if len(taps) >= MOST_TAPS:
                raise ResourceExhausted(
                    f"{len(taps)} taps are open already, and no more are served at once",
                    reason=Reason.OVERLOADED,
                )
            place = f"{self._core.draw(48):x}"
        taps[place] = math.inf
        return place


class _Look:
    """What one tap has found since it asked."""

    def __init__(self, core: Core, wanted: TapFilters, cursor: int, place: str) -> None:
        self._core, self._wanted, self._cursor, self._place = core, wanted, cursor, place
        self._left_out = self._unread = 0
        self._partial: list[int] = []
        self.found: list[Record] = []

    async def once(self, position: int) -> None:
        """Look at what has come up to here."""
        recorder = self._core.recorder
        there, gone = count_missing(position, self._cursor, len(recorder))
        self._unread += gone
        self._cursor = position
        if there:
            new = recorder.recent(there)[::-1]
            if self._wanted.tree:
                await self._find_trees(new, made_way=position > len(recorder))
            else:
                await self._find_calls(new)

    async def _find_calls(self, new: list[Record]) -> None:
        found: list[Record] = []
        for start in range(0, len(new), SLICE):
            found += fitting(new[start : start + SLICE], self._wanted)
            await trio.lowlevel.checkpoint()
        held = self._core.payloads if self._wanted.payloads else None
        self.found = sample_held(found, self._wanted.limit, self._core.process.random, held or ())
        self._left_out += len(found) - len(self.found)

    async def _find_trees(self, new: list[Record], *, made_way: bool) -> None:
        ended = find_ended(new, self._core.table.by_id)
        recorder = self._core.recorder
        entries = ended.whole | ended.late
        rows = recorder.recent(len(recorder))[::-1] if entries else []
        found: list[Record] = []
        told: set[int] = set()
        for start in range(0, len(rows), SLICE):
            some = [row for row in rows[start : start + SLICE] if row.entry_id in entries]
            told.update(row.call_id for row in some if row.entry_id in ended.late)
            found += some
            await trio.lowlevel.checkpoint()
        told.difference_update(row.call_id for row in new)
        found, trees = by_arrival(found), Trees(self._wanted, told)
        for start in range(0, len(found), SLICE):
            trees.add(found[start : start + SLICE])
            await trio.lowlevel.checkpoint()
        picked = pick(trees.fitting(), self._wanted.limit, self._core.process.random)
        self.found = [row for tree in picked.trees for row in tree]
        self._left_out += picked.left_out
        lacking = outlived(rows, picked.trees) if made_way else []
        self._partial = sorted({*picked.partial, *lacking})

    async def tell(self) -> TapPage:
        """All of it as plain data."""
        core = self._core
        to_wall = core.process.wall() - core.clock()
        calls: list[TappedCall] = []
        for start in range(0, len(self.found), TOLD_SLICE):
            calls += [_tell(row, to_wall) for row in self.found[start : start + TOLD_SLICE]]
            await trio.lowlevel.checkpoint()
        if self._wanted.payloads and core.payloads is not None:
            calls = await self._add_payloads(core.payloads, calls)
        return TapPage(
            gateway=core.instance,
            cursor=f"{core.instance}:{self._cursor}~{self._place}",
            calls=calls,
            left_out=self._left_out,
            unread=self._unread,
            partial=self._partial,
        )

    async def _add_payloads(self, held: HeldPayloads, calls: list[TappedCall]) -> list[TappedCall]:
        """The calls with what they carried, decoded one by one: each may take some milliseconds."""
        room, found = PAGE, []
        for row, call in zip(self.found, calls, strict=True):
            payloads = held.tell(row, room)
            room -= length_of(payloads)
            found.append(structs.replace(call, payloads=payloads))
            await trio.lowlevel.checkpoint()
        return found


def _tell(record: Record, to_wall: float) -> TappedCall:
    return TappedCall(
        ended=timestamp(record.started + record.duration + to_wall),
        duration_ms=round(record.duration * 1e3, 3),
        caller=record.caller,
        service=record.service,
        method=record.method,
        code=CODE_NAMES[record.code],
        reason=record.reason,
        refused=record.refused,
        depth=record.depth,
        attempt=record.attempt,
        waited_ms=round(record.waited * 1e3, 3),
        activity_id=record.activity_id,
        trace_id=record.trace_id.hex(),
        call_id=record.call_id,
        parent_id=record.parent_id,
        entry_id=record.entry_id,
        caller_process=record.caller_process,
        instance=record.instance,
    )
