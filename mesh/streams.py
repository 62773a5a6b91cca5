"""Streams of events: bounded, honest about what they drop, free where nobody listens.

Whoever makes events asks first whether the list of listeners is empty, and builds an event only if
it is not: that is one truth test on the path of every call.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, Self, TypeVar

import trio

if TYPE_CHECKING:
    from types import TracebackType

E = TypeVar("E")

CAPACITY = 1000
"""Events that a stream holds where nobody says otherwise."""


class EventStream(Generic[E]):
    """Events as they happen, for one reader: ``async with`` listens, ``async for`` reads.

    It holds a bounded number of events; a reader that is slower than they come loses the oldest.
    It ends once its source has closed and everything has been read.

    Attributes:
        dropped: Events lost so far because they were not read in time.

    Example:
        >>> async with gateway.events() as stream:
        ...     async for event in stream:
        ...         print(event)
    """

    def __init__(self, feed: Feed[E], capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity {capacity} is less than 1")
        self.dropped = 0
        self._feed = feed
        self._capacity = capacity
        self._events: deque[E] = deque()
        self._wake: trio.Event | None = None

    def put(self, event: E) -> None:
        """Add an event; called by the source."""
        if len(self._events) >= self._capacity:
            self._events.popleft()
            self.dropped += 1
        self._events.append(event)
        self.wake()

    def wake(self) -> None:
        """Let a reader that waits look again."""
        if self._wake is not None:
            self._wake.set()
            self._wake = None

    async def __aenter__(self) -> Self:
        self._feed.listeners.append(self)
        self._feed.changed()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._feed.listeners.remove(self)
        self._feed.changed()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        await trio.lowlevel.checkpoint()
        while not self._events:
            if self._feed.closed:
                raise StopAsyncIteration
            if self._wake is None:
                self._wake = trio.Event()
            await self._wake.wait()
        return self._events.popleft()


class Feed(Generic[E]):
    """A source of events.

    Attributes:
        listeners: The streams that are open now; makers of events hold this very list.
        closed: Whether nothing comes any more.
    """

    def __init__(self) -> None:
        self.listeners: list[EventStream[E]] = []
        self.closed = False

    def publish(self, event: E) -> None:
        """Give an event to all who listen."""
        for stream in self.listeners:
            stream.put(event)

    def changed(self) -> None:
        """Called when somebody begins or ceases to listen."""

    def close(self) -> None:
        """Nothing comes any more: readers end once they have read what there is."""
        self.closed = True
        for stream in self.listeners:
            stream.wake()
