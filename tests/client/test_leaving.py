"""Leaving in good order: what is under way is finished, and what outlasts the drain is ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import mesh
from mesh.errors import Reason
from tests.gateway.raw_peer import (
    settled,
)

if TYPE_CHECKING:
    from trio.testing import MockClock


async def answer() -> str:
    return "answer"


async def test_a_closed_client_is_a_mistake_to_use() -> None:
    """Of the program, hence no CallError."""
    async with mesh.Gateway() as gateway:
        async with mesh.connect("peer", gateway=gateway) as peer:
            pass
        with pytest.raises(mesh.UsageError, match="client 'peer' is closed"):
            await peer.call("mesh", "status")
        with pytest.raises(mesh.UsageError, match="client 'peer' is closed"):
            peer.register("answer", answer)


async def test_leaving_finishes_what_is_under_way(autojump_clock: MockClock) -> None:
    """Handlers go on to their end, the calls that they make included; new ones find nobody."""
    started, cleaned = trio.Event(), False
    async with mesh.Gateway() as gateway, mesh.connect("caller", gateway=gateway) as caller:

        @caller.method()
        async def other() -> str:
            await trio.sleep(1)
            return "nested"

        await settled(caller)
        async with trio.open_nursery() as nursery:
            async with mesh.connect("server", gateway=gateway) as server:

                @server.method()
                async def slow() -> str:
                    started.set()
                    await trio.sleep(3)
                    return str(await server.call("caller", "other"))

                await settled(server)

                @nursery.start_soon
                async def call() -> None:
                    nonlocal cleaned
                    assert await caller.call("server", "slow") == "nested"
                    cleaned = True

                await started.wait()
                before = trio.current_time()

                @nursery.start_soon
                async def late() -> None:
                    await trio.sleep(1)
                    with pytest.raises(mesh.Unavailable) as raised:
                        await caller.call("server", "slow")
                    assert raised.value.reason == Reason.NO_INSTANCE

            assert trio.current_time() - before == pytest.approx(4, abs=0.01)
        assert cleaned


async def seconds_to_leave(error: type[mesh.CallError], timeout: float) -> float:
    """How long a peer takes to leave while it serves a call that never ends and fails so."""
    started = trio.Event()
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
        trio.open_nursery() as nursery,
    ):
        async with mesh.connect("server", gateway=gateway) as server:

            @server.method()
            async def hang() -> None:
                started.set()
                await trio.sleep_forever()

            await settled(server)

            @nursery.start_soon
            async def call() -> None:
                with pytest.raises(error):
                    await caller.call("server", "hang", timeout=timeout)

            await started.wait()
            before = trio.current_time()
        return trio.current_time() - before


async def test_leaving_does_not_wait_for_a_handler_that_was_cancelled(
    autojump_clock: MockClock,
) -> None:
    """The last handler's end is its end, whether it returned or was stopped."""
    assert await seconds_to_leave(mesh.DeadlineExceeded, 2) == pytest.approx(2, abs=0.1)


async def test_leaving_ends_what_outlasts_the_drain(autojump_clock: MockClock) -> None:
    """After ten seconds the handler is cancelled and its caller told."""
    assert await seconds_to_leave(mesh.Unavailable, 60) == pytest.approx(10, abs=0.1)


async def test_the_blocks_own_exception_comes_out_as_it_is() -> None:
    """Not in a group, and with its own traceback and cause."""
    async with mesh.Gateway() as gateway:
        with pytest.raises(KeyError) as raised:
            async with mesh.connect("peer", gateway=gateway):
                raise KeyError("mine") from ValueError("why")
        assert isinstance(raised.value.__cause__, ValueError)
        with trio.move_on_after(0.05) as scope:
            async with mesh.connect("peer", gateway=gateway):
                await trio.sleep_forever()
        assert scope.cancelled_caught
