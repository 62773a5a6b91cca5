"""A mesh with one service played by hand: the test reads its calls and writes its answers."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trio
import trio.testing

import mesh
from mesh.wire import Kind
from tests.gateway.raw_peer import RawPeer, raw_peer, register_header, result_header

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class ByHand(NamedTuple):
    """A gateway, a caller, and a callee that serves ``svc.go``."""

    gateway: mesh.Gateway
    caller: mesh.Client
    callee: RawPeer
    answers: list[Any]
    """What calls of :meth:`call` have returned."""

    async def call(self) -> None:
        """Make a call and note its answer."""
        self.answers.append(await self.caller.call("svc", "go", timeout=200))

    async def called(self) -> int:
        """The id of the call that the callee gets next."""
        _, _, header, _ = await self.callee.receive(Kind.CALL)
        return int(header.call_id)

    async def answer(self, call_id: int, payload: bytes) -> None:
        """Answer a call, and see what comes of it."""
        await self.callee.send(result_header(call_id), payload=payload)
        await trio.testing.wait_all_tasks_blocked()

    @asynccontextmanager
    async def failing(
        self, error: type[mesh.CallError], *, match: str | None = None, timeout: float | None = None
    ) -> AsyncIterator[tuple[int, list[mesh.CallError]]]:
        """A call that is under way, and must fail so within the block.

        Yields:
            Its id at the callee; and a list that has its error after the block.
        """
        errors: list[mesh.CallError] = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def call() -> None:
                with pytest.raises(error, match=match) as raised:
                    await self.caller.call("svc", "go", timeout=timeout)
                errors.append(raised.value)

            yield await self.called(), errors


@asynccontextmanager
async def by_hand(**more: Any) -> AsyncIterator[ByHand]:
    """Such a mesh.

    Args:
        more: Of :func:`~tests.gateway.raw_peer.raw_peer`, for the callee.
    """
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
        raw_peer(gateway, "callee", **more) as callee,
    ):
        await callee.send(register_header("svc", "go"))
        yield ByHand(gateway, caller, callee, [])


def check_empty(gateway: mesh.Gateway) -> None:
    """Nothing is in flight in any table."""
    core = gateway.core
    assert not core.table.by_id
    assert not core.held.entries
    for session in core.sessions.values():
        assert not session.calls
        assert not session.serving
        assert not session.abandoned
    assert all(series.in_flight == 0 for series in core.metrics.methods())
