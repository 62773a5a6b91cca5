"""How a peer of a local mesh comes to its gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from mesh.client import Client
    from mesh.gateway import Gateway
    from mesh.transport import Link


class Way:
    """A peer's way to the gateway, which a test can cut."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._passable = trio.Event()
        self._passable.set()
        self._cuts = 0

    async def dial(self, limit: int) -> Link:
        """See :class:`~mesh.transport.Dialer`. Where it is cut, whoever dials waits."""
        await self._passable.wait()
        return await self._gateway.dial(limit)

    async def cut(self, client: Client) -> None:
        """Have the peer lose its connection, and not find back."""
        self._cuts += 1
        if self._passable.is_set():
            self._passable = trio.Event()
        link = client._uplink.link
        if link is not None:
            await link.aclose()

    @property
    def is_cut(self) -> bool:
        """Whether whoever dials has to wait."""
        return self._cuts > 0

    def mend(self) -> None:
        """Take one cut back; it is passable again once all are."""
        self._cuts -= 1
        if not self._cuts:
            self._passable.set()

    def __str__(self) -> str:
        return "the gateway of this local mesh"
