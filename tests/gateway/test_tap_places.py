"""How many taps a gateway serves at once, and which."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing

import mesh
from mesh.gateway.tapping import MOST_TAPS
from tests.gateway.test_kept import ask
from tests.gateway.test_tapping import shop


async def test_taps_that_are_gone_make_room_for_others() -> None:
    async with shop() as it:
        core = it.gateway.core
        async with (
            mesh.connect("watcher", gateway=it.gateway) as watcher,
            trio.open_nursery() as nursery,
        ):
            for _ in range(MOST_TAPS):
                nursery.start_soon(watcher.call, "mesh", "tap", {"service": "none"})
            while len(core.taps) < MOST_TAPS:
                await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(mesh.ResourceExhausted, match="8 taps are open already"):
                await it.page()
            assert (await ask(it.gateway, "/api/tap"))[0] == 503
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            while core.taps:
                await trio.testing.wait_all_tasks_blocked()
        assert await it.after(await it.now()) == []


async def test_taps_that_are_open_keep_their_places_between_two_answers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A ninth is refused then, too, and takes the place of one that has not come again."""
    async with shop() as it:

        async def come(cursor: str) -> str:
            return str((await it.page(cursor=cursor, wait=0))["cursor"])

        cursors = [await come(await it.now()) for _ in range(MOST_TAPS)]
        await trio.sleep(1)
        for another in ("", cursors[0].partition("~")[0]):
            with pytest.raises(mesh.ResourceExhausted, match="8 taps are open already"):
                await it.page(cursor=another)
        cursors = [await come(one) for one in cursors[1:]]
        await trio.sleep(1.5)
        ninth = await come(await it.now())
        assert [await come(one) for one in (*cursors, ninth)]
        with pytest.raises(mesh.ResourceExhausted, match="8 taps are open already"):
            await it.page()


async def test_two_that_share_a_cursor_have_a_place_each() -> None:
    async with shop() as it:
        cursor = (await it.page(cursor=await it.now(), wait=0))["cursor"]
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(partial(it.page, cursor=cursor, service="none"))
            while len(it.gateway.core.taps) < 2:
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
