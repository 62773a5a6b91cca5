"""What waits to be asked for, or told: bounded by number and by bytes, the oldest makes way."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

TOO_MANY, TOO_LARGE = "too_many", "too_large"
"""Why something has made way: there were too many, or they took too many bytes."""


class Backlog(Generic[T]):
    """A queue that any thread may put into and take from.

    Args:
        max_count: What it holds at most.
        max_bytes: What that may take.

    Attributes:
        size: Bytes that it takes now.
        dropped: What has made way, by reason.
    """

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._queue: deque[tuple[T, int]] = deque()
        # Reentrant: what is let go may end spans in its destructor.
        self._lock = threading.RLock()
        self.size = 0
        self.dropped = {TOO_MANY: 0, TOO_LARGE: 0}

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, one: T, weight: int) -> None:
        """Add one; it is dropped at once if it alone is more than everything may take.

        Args:
            one: Anything.
            weight: The bytes that it takes.
        """
        with self._lock:
            if weight > self._max_bytes:
                self.dropped[TOO_LARGE] += 1
                return
            self._queue.append((one, weight))
            self.size += weight
            while len(self._queue) > self._max_count:
                self._pop()
                self.dropped[TOO_MANY] += 1
            while self.size > self._max_bytes:
                self._pop()
                self.dropped[TOO_LARGE] += 1

    def _pop(self) -> T:
        one, weight = self._queue.popleft()
        self.size -= weight
        return one

    def oldest(self) -> T | None:
        """The next that would go, which stays."""
        with self._lock:
            return self._queue[0][0] if self._queue else None

    def take(self) -> T | None:
        """Take the oldest."""
        with self._lock:
            return self._pop() if self._queue else None

    def look(self) -> list[T]:
        """All of it, which stays, the oldest first."""
        with self._lock:
            return [one for one, _ in self._queue]

    def empty(self) -> list[T]:
        """Take all of it, the oldest first."""
        with self._lock:
            taken, self._queue, self.size = self._queue, deque(), 0
        return [one for one, _ in taken]
