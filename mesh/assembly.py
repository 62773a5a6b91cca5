"""Putting the frames of long messages together again, within bounds."""

from __future__ import annotations

from typing import Any

from mesh.errors import MeshError, RemoteProtocolError
from mesh.wire.frames import CONTINUED, MORE, Kind


class AssemblyFull(MeshError):  # noqa: N818 - a state of things, told to one sender
    """All half-arrived messages together exceed the bound; the one at hand was dropped."""


PART_OVERHEAD = 64
"""What keeping one more piece costs beside its bytes, so that tiny pieces are counted too."""


class Assembler:
    """Half-arrived messages, by a key of the owner's choice.

    Args:
        max_message: Bytes that one message may have.
        max_total: Bytes that all of them together may have.
    """

    __slots__ = ("_begun", "held", "max_message", "max_total")

    def __init__(self, max_message: int, max_total: int) -> None:
        self.max_message = max_message
        self.max_total = max_total
        self.held = 0
        self._begun: dict[int, tuple[int, Any, list[bytes], int]] = {}

    def add(
        self, key: int, kind: int, flags: int, header: Any, payload: bytes
    ) -> tuple[int, Any, bytes] | None:
        """Take one frame; returns kind, header and payload once the message is whole.

        Raises:
            RemoteProtocolError: It continues what never began, or the message is too long.
            AssemblyFull: There is no room; what had come of the message is dropped.
        """
        if not flags & CONTINUED:
            self.drop(key)
            parts: list[bytes] = []
            size = 0
        elif (begun := self._begun.get(key)) is not None:
            kind, header, parts, size = begun
        else:
            raise RemoteProtocolError(f"{Kind(kind).name} continues a message that has not begun")
        size += len(payload)
        if size > self.max_message:
            raise RemoteProtocolError(
                f"{Kind(kind).name} of {size:,} bytes exceeds max_message of {self.max_message:,}"
            )
        if self.held + len(payload) > self.max_total:
            held = self.held
            self.drop(key)
            raise AssemblyFull(
                f"{held:,} bytes of half-arrived messages leave no room for {len(payload):,} more "
                f"under the limit of {self.max_total:,}"
            )
        parts.append(payload)
        self.held += len(payload) + PART_OVERHEAD
        self._begun[key] = (kind, header, parts, size)
        if flags & MORE:
            return None
        self.drop(key)
        return kind, header, b"".join(parts)

    def has(self, key: int) -> bool:
        """Whether a message of this key has begun."""
        return key in self._begun

    def header(self, key: int) -> Any:
        """What a message began with that has begun; None where there is none."""
        begun = self._begun.get(key)
        return begun[1] if begun is not None else None

    def drop(self, key: int) -> bool:
        """Forget what has come of a message; false if there was none."""
        begun = self._begun.pop(key, None)
        if begun is None:
            return False
        self.held -= begun[3] + len(begun[2]) * PART_OVERHEAD
        return True
