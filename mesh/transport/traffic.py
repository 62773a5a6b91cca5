"""What went over many links together: frames by kind, bytes, in plain integers.

Counting is done per read and per gathering, not per frame, wherever that can be had: a call passes
the gateway as four frames, and has no more than a few microseconds to do so.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

KINDS = 256
"""What the kind's byte can say."""
NOTED = 64 * 1024
"""Kinds of frames that may be noted before they are added up, which C does fast."""
_kind_of = itemgetter(4)


class Traffic:
    """Counts that links share.

    Attributes:
        bytes_in: Bytes that were read.
        bytes_out: Bytes that were handed to the operating system to send.
        frames_in: Whole frames that were read, by the number of their kind.
    """

    __slots__ = ("_frames_out", "_noted", "bytes_in", "bytes_out", "frames_in")

    def __init__(self) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self.frames_in = [0] * KINDS
        self._frames_out = [0] * KINDS
        self._noted = bytearray()

    def sent(self, frames: Sequence[bytes], size: int) -> None:
        """Count frames that leave together, of ``size`` bytes."""
        self.bytes_out += size
        noted = self._noted
        if len(frames) == 1:
            noted.append(frames[0][4])
        else:
            noted += bytes(map(_kind_of, frames))
        if len(noted) > NOTED:
            self._add_up()

    @property
    def frames_out(self) -> list[int]:
        """Frames that were sent, by the number of their kind."""
        self._add_up()
        return self._frames_out

    def _add_up(self) -> None:
        for kind in set(self._noted):
            self._frames_out[kind] += self._noted.count(kind)
        self._noted.clear()
