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
_kind_of = itemgetter(4)


class Traffic:
    """Counts that links share.

    Attributes:
        bytes_in: Bytes that were read.
        bytes_out: Bytes that were handed to the operating system to send.
        frames_in: Whole frames that were read, by the number of their kind.
        frames_out: Frames that were sent, by the number of their kind.
    """

    __slots__ = ("bytes_in", "bytes_out", "frames_in", "frames_out")

    def __init__(self) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self.frames_in = [0] * KINDS
        self.frames_out = [0] * KINDS

    def sent(self, frames: Sequence[bytes], size: int) -> None:
        """Count frames that leave together, of ``size`` bytes."""
        self.bytes_out += size
        tally = self.frames_out
        for kind in map(_kind_of, frames):
            tally[kind] += 1
