"""Many deadlines, one sleeping task.

A cancel scope for each call would cost 4 us; a heap entry costs 0.3 us. Keys that are over before
their deadline stay in the heap until it is compacted, which costs each key a constant share.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sized
    from typing import Protocol

    class Live(Sized, Container[int], Protocol):
        """The keys that still matter."""


class Timers:
    """Calls ``expire`` with each key that is still live at its deadline.

    Args:
        live: The keys that still matter, looked at when deadlines pass.
        expire: Called in the task of :meth:`run` with a key that is due, earliest deadline first
            and lowest key first among equals. It must not raise.
        after: Called once after each batch of keys.
    """

    __slots__ = ("_after", "_expire", "_heap", "_live", "_next", "_scope")

    def __init__(
        self, live: Live, expire: Callable[[int], None], after: Callable[[], None] | None = None
    ) -> None:
        self._live = live
        self._expire = expire
        self._after = after
        self._heap: list[tuple[float, int]] = []
        self._next = inf
        self._scope: trio.CancelScope | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, deadline: float, key: int) -> None:
        """Watch a key. ``deadline`` is on trio's clock."""
        heap = self._heap
        heappush(heap, (deadline, key))
        if deadline < self._next:
            self._next = deadline
            if self._scope is not None:
                self._scope.deadline = deadline
        if len(heap) > 2 * len(self._live) + 256:
            live = self._live
            heap[:] = [item for item in heap if item[1] in live]
            heapify(heap)

    def clear(self) -> None:
        """Forget every key; for an owner whose keys begin anew."""
        self._heap.clear()

    async def run(self) -> None:
        """Sleep and expire, until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._next) as self._scope:
                await trio.sleep_forever()
            now = trio.current_time()
            heap, live, expired = self._heap, self._live, False
            while heap and (heap[0][0] <= now or heap[0][1] not in live):
                deadline, key = heappop(heap)
                if deadline <= now and key in live:
                    expired = True
                    self._expire(key)
            self._next = heap[0][0] if heap else inf
            if expired and self._after is not None:
                self._after()
