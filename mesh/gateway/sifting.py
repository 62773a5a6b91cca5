"""Which ended calls a tap is told: those that fit its filters, and of too many a sample.

Works on rows as the recorder keeps them, knows no clock, and waits for nothing.
"""

from __future__ import annotations

from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from msgspec import structs

from mesh.gateway.filters import MOST
from mesh.gateway.registry import RESERVED
from mesh_telemetry import CODE_NAMES

if TYPE_CHECKING:
    import random
    from collections.abc import Container, Iterable, Sequence

    from mesh.gateway.filters import TapFilters
    from mesh_telemetry import Record

T = TypeVar("T")

TAP = "tap"
"""The method of the gateway's own service that taps call: no tap is told of it."""


def fitting(rows: Iterable[Record], wanted: TapFilters) -> list[Record]:
    """The calls that fit all of what is wanted, in their order; 1,000 take 0.1 to 0.2 ms."""
    service, method, caller, activity = (
        wanted.service,
        wanted.method,
        wanted.caller,
        wanted.activity_id,
    )
    code = CODE_NAMES.index(wanted.code) if wanted.code else None
    least = wanted.min_duration
    return [
        row
        for row in rows
        if row.duration >= least
        and (code is None or row.code == code)
        and (not caller or row.caller == caller)
        and (not activity or row.activity_id == activity)
        and (row.service == service if service else row.service != RESERVED)
        # Either name may have dots in it, so that there is no telling where to split.
        and (not method or method in {row.method, f"{row.service}.{row.method}"})
        and (row.service != RESERVED or row.method != TAP)
    ]


def sample(found: Sequence[T], limit: int, source: random.Random) -> list[T]:
    """All that were found, or so many of them drawn at random, in their order.

    Not each n-th: calls that are made in turns would show always the same method.
    """
    if len(found) <= limit:
        return list(found)
    return [found[at] for at in sorted(source.sample(range(len(found)), limit))]


def sample_held(
    rows: Sequence[Record], limit: int, source: random.Random, held: Container[int]
) -> list[Record]:
    """Likewise, but of the calls with these ids before any others."""
    if len(rows) <= limit:
        return list(rows)
    first = sample([row for row in rows if row.call_id in held], limit, source)
    others = [row for row in rows if row.call_id not in held]
    told = {row.call_id for row in first + sample(others, limit - len(first), source)}
    return [row for row in rows if row.call_id in told]


class Ended(NamedTuple):
    """Which entry calls a look at the recorder finds to have ended."""

    whole: set[int]
    """Those whose own rows are new: their trees are told from all rows that there are."""
    late: set[int]
    """Those that had ended before, with new rows of calls made inside that outlived them."""


def find_ended(new: Iterable[Record], running: Container[int]) -> Ended:
    """The entry calls that have ended, of those that the new rows belong to.

    Args:
        new: Rows that have not been looked at before.
        running: The ids of the calls in flight.
    """
    ended, whole = set(), set()
    for row in new:
        entry = row.entry_id
        if entry not in running:
            ended.add(entry)
            if row.call_id == entry:
                whole.add(entry)
    return Ended(whole, ended - whole)


def by_arrival(rows: Iterable[Record]) -> list[Record]:
    """The rows in the order in which their calls came: each behind its parent's."""
    return sorted(rows, key=attrgetter("call_id"))


class Trees:
    """The trees of some entry calls, collected slice by slice.

    Of a call whose parent had ended before, its caller says which tree it belongs to. That is
    believed where the caller has served a call of that tree; else the call has a tree of its own.

    Args:
        wanted: What a call of a tree has to fit for the tree to be told.
        told: The calls that are not to be told, as they have been.
    """

    def __init__(self, wanted: TapFilters, told: Container[int] = ()) -> None:
        self._wanted, self._told = wanted, told
        self._rows: dict[int, list[Record]] = {}
        self._fit: set[int] = set()
        self._tree_of: dict[int, int] = {}
        self._served: set[tuple[int, str]] = set()

    def add(self, rows: Iterable[Record]) -> None:
        """Take all rows that there are of these entry calls, in the order of :func:`by_arrival`."""
        found: list[Record] = []
        for row in rows:
            tree = self._place(row)
            if row.call_id in self._told:
                continue
            one = row if tree == row.entry_id else structs.replace(row, entry_id=tree)
            self._rows.setdefault(tree, []).append(one)
            found.append(one)
        self._fit.update(row.entry_id for row in fitting(found, self._wanted))

    def _place(self, row: Record) -> int:
        """The first call of the tree that a call belongs to, as far as rows can show."""
        tree, call, above = row.entry_id, row.call_id, row.parent_id
        if above:
            tree = self._tree_of.get(above, call)
        elif (tree, row.caller_process) not in self._served:
            tree = call
        self._tree_of[call] = tree
        if row.instance:
            self._served.add((tree, row.instance))
        return tree

    def fitting(self) -> list[list[Record]]:
        """The trees with a call that fits, in the order of their first calls."""
        return [rows for entry, rows in self._rows.items() if entry in self._fit]


class Picked(NamedTuple):
    """Trees that are told."""

    trees: list[list[Record]]
    left_out: int
    """Trees that are not."""
    partial: list[int]
    """Entry calls of trees that were too long to be told as a whole."""


def pick(trees: Sequence[list[Record]], limit: int, source: random.Random) -> Picked:
    """Trees drawn at random where there are too many, or too many calls in them.

    Args:
        trees: What there is, each in the order of its calls' arrival.
        limit: Trees at most; no more than 1,000 calls in all.
        source: What draws.
    """
    room = MOST
    picked: list[int] = []
    for at in source.sample(range(len(trees)), min(limit, len(trees))):
        if len(trees[at]) <= room or not picked:
            picked.append(at)
            room -= len(trees[at])
    told = [trees[at] for at in sorted(picked)]
    partial = [rows[0].entry_id for rows in told if len(rows) > MOST]
    return Picked([rows[:MOST] for rows in told], len(trees) - len(told), partial)


def outlived(rows: Sequence[Record], trees: Iterable[list[Record]]) -> list[int]:
    """The entry calls that began before the oldest end, so that calls of them may have made way.

    Args:
        rows: All rows that there are; others have made way for them.
        trees: What is told, each from its entry call on.
    """
    oldest = min((row.started + row.duration for row in islice(rows, 1)), default=0.0)
    return [
        row.entry_id
        for tree in trees
        for row in islice(tree, 1)
        if row.call_id == row.entry_id and row.started < oldest
    ]


def count_missing(position: int, cursor: int, kept: int) -> tuple[int, int]:
    """How many rows have come since a cursor: those that are still there, those that are not."""
    come = position - cursor
    there = min(come, kept)
    return there, come - there
