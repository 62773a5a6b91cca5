"""Schemas of contracts, as peers register them: put together from their pieces, and bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mesh.errors import RemoteProtocolError

if TYPE_CHECKING:
    from mesh.gateway.registry import Service
    from mesh.gateway.session import Session


class Incoming:
    """The schema of one instance's contract.

    Attributes:
        whole: Its JSON; empty where none has come whole.
        size: Bytes of the one that came, or is coming.
    """

    __slots__ = ("_pieces", "size", "whole")

    def __init__(self) -> None:
        self.whole = b""
        self.size = 0
        self._pieces = bytearray()

    def take(self, size: int, piece: bytes) -> bytes | None:
        """A piece has come of a schema of ``size`` bytes; returns it once it is whole.

        Raises:
            RemoteProtocolError: More has come than there should be.
        """
        if size != self.size:  # another one begins
            self.size = size
            self._pieces.clear()
        self._pieces += piece
        if len(self._pieces) > size:
            raise RemoteProtocolError(
                f"{len(self._pieces):,} bytes of a schema exceed its schema_size of {size:,}"
            )
        if len(self._pieces) < size:
            return None
        whole = bytes(self._pieces)
        self._pieces.clear()
        return whole


def take_schema(session: Session, service: Service, size: int, piece: bytes, limit: int) -> None:
    """An instance sends a piece of its contract's schema.

    Args:
        session: The instance.
        service: What it serves.
        size: Bytes of the whole schema.
        piece: The next of these.
        limit: Bytes that all schemas of a connection may have.

    Raises:
        RemoteProtocolError: It is too long, or no JSON object.
    """
    registration = session.services.get(service.name)
    if registration is None:
        return
    total = size + sum(
        one.schema.size for one in session.services.values() if one is not registration
    )
    if total > limit:
        raise RemoteProtocolError(
            f"schemas of {total:,} bytes of one connection exceed max_schema of {limit:,}"
        )
    whole = registration.schema.take(size, piece)
    if whole is None:
        return
    # The instances of a service mostly have the same one, which is then held once.
    known = (one.schema.whole for one in service.instances.values())
    same = next((one for one in known if one == whole), None)
    if same is None:
        _check(service.name, whole)
    registration.schema.whole = same or whole


def _check(name: str, schema: bytes) -> None:
    """Refuse what could not be told to those who ask for it."""
    try:
        told = msgspec.json.decode(schema)
        msgspec.msgpack.encode(told)
    except (msgspec.MsgspecError, UnicodeError, OverflowError, RecursionError) as fault:
        raise RemoteProtocolError(f"schema of {name!r} cannot be read: {fault}") from fault
    if not isinstance(told, dict):
        raise RemoteProtocolError(f"schema of {name!r} is no JSON object")
