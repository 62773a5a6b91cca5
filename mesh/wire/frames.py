"""Frames: how a stream of bytes is cut into pieces.

    u32 length | u8 kind | u8 flags | u16 header length | header | payload

All numbers are big-endian; ``length`` counts what follows it. Nothing here reads a clock, a socket
or a header's meaning. The length is checked against the limit before a byte of the frame is kept.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from mesh import limits
from mesh.errors import RemoteProtocolError

PREFIX = struct.Struct(">IBBH")
OVERHEAD = PREFIX.size - 4
"""What ``length`` counts besides header and payload."""

MAX_HEADER = limits.MAX_HEADER
"""The longest header that the prefix can announce."""

MORE = 0x01
"""Flag: further frames of this message follow."""
CONTINUED = 0x02
"""Flag: this frame continues a message; its header is the call id alone."""


class Kind(IntEnum):
    """What a frame is for. Unknown kinds are ignored, so that versions can differ by one."""

    HELLO = 1
    WELCOME = 2
    REGISTER = 3
    UNREGISTER = 4
    CALL = 5
    RESULT = 6
    ERROR = 7
    CANCEL = 8
    HEARTBEAT = 9
    GOAWAY = 10
    KEEP = 11
    SPANS = 12
    EVENT = 13
    ITEM = 14
    END = 15
    CREDIT = 16


RawFrame = tuple[int, int, bytes, bytes]
"""kind, flags, header, payload."""


class Splitter:
    """Cuts what arrives into frames, however the network has cut it.

    Args:
        max_header: The longest header accepted, in bytes.
        max_payload: The longest payload of one frame accepted, in bytes.

    ``fault`` is set once a malformed frame is met. The frames before it are still returned, and
    everything after it is ignored: a stream that lost its frame boundary has no more meaning.
    """

    __slots__ = ("_max_header", "_max_length", "_max_payload", "_need", "_pending", "fault")

    def __init__(self, *, max_header: int, max_payload: int) -> None:
        self._max_header = max_header
        self.accept(max_payload)
        self._pending = bytearray()
        self._need = 0  # bytes of the frame that has begun, once its prefix is known
        self.fault: RemoteProtocolError | None = None

    @property
    def buffered(self) -> int:
        """Bytes held of a frame that has not arrived whole; bounded by the limits."""
        return len(self._pending)

    def accept(self, max_payload: int) -> None:
        """Take payloads of up to this many bytes from the next frame on."""
        self._max_payload = max_payload
        self._max_length = OVERHEAD + self._max_header + max_payload

    def fail(self, fault: RemoteProtocolError) -> None:
        """Take no more frames, because of a fault that only a frame's reader could see."""
        self.fault = fault
        self._pending.clear()
        self._need = 0

    def feed(self, data: bytes) -> list[RawFrame]:
        """Take what arrived and return every frame that is now whole."""
        frames: list[RawFrame] = []
        if self.fault is not None:
            return frames
        at = 0
        if self._need:
            at = self._complete(data, frames)
        elif self._pending:  # a few bytes of a prefix
            data = bytes(self._pending) + data
            self._pending.clear()
        end = len(data)
        unpack = PREFIX.unpack_from
        max_length, max_header, max_payload = self._max_length, self._max_header, self._max_payload
        while end - at >= 8:
            length, kind, flags, header_size = unpack(data, at)
            payload_size = length - OVERHEAD - header_size
            if (
                length > max_length
                or payload_size < 0
                or payload_size > max_payload
                or header_size > max_header
            ):
                self.fault = self._explain(length, header_size)
                return frames
            body = at + 8 + header_size
            stop = body + payload_size
            if stop > end:
                self._need = stop - at
                self._pending += memoryview(data)[at:]
                return frames
            frames.append((kind, flags, data[at + 8 : body], data[body:stop]))
            at = stop
        if at < end:
            self._pending += memoryview(data)[at:]
        return frames

    def _complete(self, data: bytes, frames: list[RawFrame]) -> int:
        """Add what is its own to the frame that began earlier; returns where the next one begins.

        Only this frame is copied together: each read of a long message ends within a frame, and
        copying all that each read brought would cost more than everything else.
        """
        pending = self._pending
        at = self._need - len(pending)
        pending += memoryview(data)[:at]
        if at <= len(data):
            _, kind, flags, header_size = PREFIX.unpack_from(pending)
            body = PREFIX.size + header_size
            with memoryview(pending) as view:
                frames.append((kind, flags, bytes(view[PREFIX.size : body]), bytes(view[body:])))
            pending.clear()
            self._need = 0
        return at

    def _explain(self, length: int, header_size: int) -> RemoteProtocolError:
        if length > self._max_length:
            return RemoteProtocolError(
                f"frame of {length:,} bytes exceeds the limit of {self._max_length:,}"
            )
        if header_size > self._max_header:
            return RemoteProtocolError(
                f"header of {header_size:,} bytes exceeds max_header of {self._max_header:,}"
            )
        if length < OVERHEAD + header_size:
            return RemoteProtocolError(
                f"frame of {length:,} bytes is too short for its header of {header_size:,} bytes"
            )
        return RemoteProtocolError(
            f"payload of {length - OVERHEAD - header_size:,} bytes in one frame exceeds "
            f"max_chunk of {self._max_payload:,}"
        )
