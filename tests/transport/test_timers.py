"""Timers: many deadlines, one sleeping task."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from mesh.timers import Timers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock


class Watched:
    """Live keys, and when each expired."""

    def __init__(self) -> None:
        self.live: dict[int, None] = {}
        self.expired: list[tuple[float, int]] = []
        self.batches = 0
        self.timers = Timers(self.live, self.expire, self.after)

    def expire(self, key: int) -> None:
        """Note it."""
        del self.live[key]
        self.expired.append((trio.current_time(), key))

    def after(self) -> None:
        """Count the batch."""
        self.batches += 1

    def add(self, deadline: float, key: int) -> None:
        """Watch a live key."""
        self.live[key] = None
        self.timers.add(deadline, key)


@asynccontextmanager
async def watching() -> AsyncIterator[Watched]:
    watched = Watched()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.timers.run)
        yield watched
        nursery.cancel_scope.cancel()


async def test_keys_expire_at_their_deadline_in_order(autojump_clock: MockClock) -> None:
    """Earliest first, the lowest key first among equals, and none before its time."""
    now = autojump_clock.current_time()
    async with watching() as watched:
        for deadline, key in ((3.0, 1), (1.0, 5), (2.0, 4), (1.0, 2)):
            watched.add(now + deadline, key)
        await trio.sleep(10)
    assert [key for _, key in watched.expired] == [2, 5, 4, 1]
    assert [when for when, _ in watched.expired] == pytest.approx([now + at for at in (1, 1, 2, 3)])
    assert watched.batches == 3


async def test_an_earlier_deadline_wakes_the_sleeper_sooner(autojump_clock: MockClock) -> None:
    """A key added while it sleeps for a later one is not late."""
    now = autojump_clock.current_time()
    async with watching() as watched:
        watched.add(now + 100, 1)
        await trio.sleep(1)
        watched.add(now + 2, 2)
        await trio.sleep(5)
        assert [key for _, key in watched.expired] == [2]
        assert watched.expired[0][0] == pytest.approx(now + 2)


async def test_keys_that_are_over_do_not_expire(autojump_clock: MockClock) -> None:
    """A key that has left the live ones before its deadline is passed over, without a batch."""
    now = autojump_clock.current_time()
    async with watching() as watched:
        watched.add(now + 1, 1)
        watched.add(now + 2, 2)
        del watched.live[1]
        await trio.sleep(10)
    assert [key for _, key in watched.expired] == [2]
    assert watched.batches == 1


async def test_a_deadline_that_has_passed_expires_at_once(autojump_clock: MockClock) -> None:
    """Time zero is no special case."""
    now = autojump_clock.current_time()
    async with watching() as watched:
        watched.add(now - 5, 1)
        await trio.sleep(0.001)
        assert [key for _, key in watched.expired] == [1]


async def test_a_cleared_heap_forgets_every_key(autojump_clock: MockClock) -> None:
    """What is added after clearing is watched as ever."""
    now = autojump_clock.current_time()
    async with watching() as watched:
        watched.add(now + 1, 1)
        watched.timers.clear()
        watched.add(now + 2, 2)
        await trio.sleep(10)
    assert [key for _, key in watched.expired] == [2]


async def test_the_heap_is_bounded_by_the_live_keys(autojump_clock: MockClock) -> None:
    """A hundred thousand short calls with long deadlines do not pile up."""
    now = autojump_clock.current_time()
    watched = Watched()
    for key in range(100_000):
        watched.add(now + 30, key)
        assert len(watched.timers) <= 2 * len(watched.live) + 256
        if key >= 10:
            del watched.live[key - 10]
    assert set(watched.live) == set(range(99_990, 100_000))


async def test_compaction_loses_no_live_key(autojump_clock: MockClock) -> None:
    """Keys that stay live through many compactions expire at their own deadlines."""
    now = autojump_clock.current_time()
    async with watching() as watched:
        for key in range(5_000):
            watched.add(now + 1 + key % 7, key)
            if key % 50:
                del watched.live[key]
        await trio.sleep(10)
    assert sorted(key for _, key in watched.expired) == list(range(0, 5_000, 50))
    assert all(when == pytest.approx(now + 1 + key % 7) for when, key in watched.expired)
