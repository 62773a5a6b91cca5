"""Which ended calls a tap is told: those that fit its filters, and of too many a sample.

Works on rows as the recorder keeps them, knows no clock, and waits for nothing.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar

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


class Trees:
    """The trees of some entry calls, collected slice by slice.

    Args:
        wanted: What a call of a tree has to fit for the tree to be told.
    """

    def __init__(self, wanted: TapFilters) -> None:
        self._wanted = wanted
        self._rows: dict[int, list[Record]] = {}
        self._fit: set[int] = set()

    def add(self, rows: Iterable[Record], entries: Container[int]) -> None:
        """Take those of these rows that belong to one of these entry calls."""
        found = [row for row in rows if row.entry_id in entries]
        for row in found:
            self._rows.setdefault(row.entry_id, []).append(row)
        self._fit.update(row.entry_id for row in fitting(found, self._wanted))

    def fitting(self) -> list[list[Record]]:
        """The trees with a call that fits, in the order of their first ends."""
        return [rows for entry, rows in self._rows.items() if entry in self._fit]


class Picked(NamedTuple):
    """Trees that are told."""

    trees: list[list[Record]]
    """Each in the order of its calls' arrival, so that every call stands behind its parent."""
    left_out: int
    """Trees that are not."""
    partial: list[int]
    """Entry calls of trees that were too long to be told as a whole."""


def pick(trees: Sequence[list[Record]], limit: int, source: random.Random) -> Picked:
    """Trees drawn at random where there are too many, or too many calls in them.

    Args:
        trees: What there is.
        limit: Trees at most; no more than 1,000 calls in all.
        source: What draws.
    """
    room = MOST
    picked: list[int] = []
    for at in source.sample(range(len(trees)), min(limit, len(trees))):
        if len(trees[at]) <= room or not picked:
            picked.append(at)
            room -= len(trees[at])
    told = [sorted(trees[at], key=_call_id) for at in sorted(picked)]
    partial = [rows[0].entry_id for rows in told if len(rows) > MOST]
    return Picked([rows[:MOST] for rows in told], len(trees) - len(told), partial)


def _call_id(row: Record) -> int:
    return row.call_id


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
