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

PIECES = 256
"""How many frames of long messages one gathering takes at most: systems send 1,024 pieces at once,
and each frame is two."""

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
        """[key, head, payload] in line; of a frame that was discarded, both are empty."""
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

    def put_bulk(self, key: int, head: bytes, payload: bytes | memoryview = b"") -> None:
        """Queue one frame of a long message.

        Args:
            key: Names the message for :meth:`discard`.
            head: The frame up to its payload.
            payload: The rest of it, which is not copied.
        """
        cell = [key, head, payload]
        self._bulk.append(cell)
        self._messages.setdefault(key, deque()).append(cell)
        self.queued += len(head) + len(payload)

    def discard(self, key: int) -> int:
        """Drop the frames of a long message that have not left; returns how many those were."""
        cells = self._messages.pop(key, ())
        for cell in cells:
            self.queued -= len(cell[1]) + len(cell[2])
            cell[1] = cell[2] = b""
        self._dead += len(cells)
        if self._dead > 1024 and self._dead * 2 > len(self._bulk):
            self._bulk = deque(cell for cell in self._bulk if cell[1])
            self._dead = 0
        return len(cells)

    def gather(self) -> bytes:
        """Take what should be sent next, as one piece; empty when nothing waits."""
        if self._bulk:
            return b"".join(self.pieces())
        small = self._small
        data = small[0] if len(small) == 1 else b"".join(small)
        if self.traffic is not None:
            self.traffic.sent(small, len(data))
        small.clear()
        return data

    def pieces(self) -> list[bytes | memoryview]:
        """Take what should be sent next: all small frames, then some of long messages."""
        heads, small = self._small[:], b"".join(self._small)
        self._small.clear()
        taken: list[bytes | memoryview] = [small] if small else []
        room, left = GATHER, PIECES
        while self._bulk and room > 0 and left > 0:
            key, head, payload = self._bulk.popleft()
            if not head:
                self._dead -= 1
                continue
            cells = self._messages[key]
            cells.popleft()
            if not cells:
                del self._messages[key]
            left -= 1
            heads.append(head)
            taken += (head, payload) if payload else (head,)
            room -= len(head) + len(payload)
        if self.traffic is not None:
            self.traffic.sent(heads, len(small) + GATHER - room)
        return taken

    def take_unsent(self) -> list[bytes]:
        """Empty the lane of small frames and return them: no byte of these has left."""
        taken, self._small = self._small, []
        self.queued -= sum(map(len, taken))
        return taken
