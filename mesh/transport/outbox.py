"""What waits to be sent on one connection: pure bookkeeping, bounded, in two lanes.

Small frames (calls, results, heartbeats, cancels) go first; the frames of long messages follow as
room allows, so that a 16 MiB result delays a heartbeat by one gathering and not by all of itself.
Within each lane the order is kept.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh.transport.traffic import Traffic

GATHER = 256 * 1024
"""How many bytes of long messages one gathering takes, at least one frame."""

FRAME_OVERHEAD = 200
"""Bytes that keeping one frame costs beside its own, so that tiny pieces are counted too."""


class Outbox:
    """Frames that wait, and their size in bytes.

    Args:
        limit: Where :attr:`full` becomes true. The owner asks before it puts; putting never fails.

    Attributes:
        traffic: Where what is gathered is counted, if anybody wants to know.
    """

    __slots__ = ("_bulk", "_dead", "_messages", "_small", "limit", "queued", "traffic")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.queued = 0
        self.traffic: Traffic | None = None
        self._small: list[bytes] = []
        self._bulk: deque[list[Any]] = deque()
        """[key, frame] in line; a frame that was discarded is empty."""
        self._messages: dict[int, deque[list[Any]]] = {}
        """The same by key, so that discarding does not look at the others."""
        self._dead = 0

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self.queued >= self.limit

    @property
    def weight(self) -> int:
        """What is queued, and what keeping the frames of long messages costs beside that."""
        return self.queued + FRAME_OVERHEAD * len(self._bulk)

    def put(self, frame: bytes) -> None:
        """Queue a small frame."""
        self._small.append(frame)
        self.queued += len(frame)

    def put_bulk(self, key: int, frame: bytes) -> None:
        """Queue one frame of a long message; ``key`` names the message for :meth:`discard`."""
        cell = [key, frame]
        self._bulk.append(cell)
        self._messages.setdefault(key, deque()).append(cell)
        self.queued += len(frame)

    def discard(self, key: int) -> int:
        """Drop the frames of a long message that have not left; returns how many those were."""
        cells = self._messages.pop(key, ())
        for cell in cells:
            self.queued -= len(cell[1])
            cell[1] = b""
        self._dead += len(cells)
        if self._dead > 1024 and self._dead * 2 > len(self._bulk):
            self._bulk = deque(cell for cell in self._bulk if cell[1])
            self._dead = 0
        return len(cells)

    def gather(self) -> bytes:
        """Take what should be sent next, as one piece; empty when nothing waits."""
        small = self._small
        if not self._bulk:
            data = small[0] if len(small) == 1 else b"".join(small)
            if self.traffic is not None:
                self.traffic.sent(small, len(data))
            small.clear()
            return data
        pieces, room = small[:], GATHER
        small.clear()
        while self._bulk and room > 0:
            key, frame = self._bulk.popleft()
            if not frame:
                self._dead -= 1
                continue
            cells = self._messages[key]
            cells.popleft()
            if not cells:
                del self._messages[key]
            pieces.append(frame)
            room -= len(frame)
        data = b"".join(pieces)
        if self.traffic is not None:
            self.traffic.sent(pieces, len(data))
        return data

    def take_unsent(self) -> list[bytes]:
        """Empty the lane of small frames and return them: no byte of these has left."""
        taken, self._small = self._small, []
        self.queued -= sum(map(len, taken))
        return taken
