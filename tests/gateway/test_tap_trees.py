"""Whose calls a tap shows in whose tree."""

from __future__ import annotations

import pytest
import trio

import mesh
from mesh.wire.codec import DETACHED
from mesh.wire.frames import Kind
from tests.gateway.raw_peer import raw_peer
from tests.gateway.test_tapping import shop, told


@pytest.mark.parametrize("method", ["get", "none"])
async def test_no_peer_gets_into_a_tree_that_it_has_no_part_in(method: str) -> None:
    """It says that its parent, which has ended, was in there; refused or not."""
    async with shop() as it, raw_peer(it.gateway, "stranger") as stranger:
        start = await it.now()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.caller.call, "users", "hold", "ada")
            while not (running := list(it.gateway.core.table.by_id.values())):
                await trio.lowlevel.checkpoint()
            await stranger.call(
                "users", method, parent_id=999, entry_id=running[0].id, options=DETACHED,
                chain=["forged.one"], gateway=it.gateway.instance,
            )  # fmt: skip
            await stranger.receive(Kind.ERROR)
            it.freed.set()
        page = await it.page(cursor=start, tree=True)
        code = "unimplemented" if method == "none" else "invalid_argument"
        assert told(page) == ["shop > users.hold ok", f"stranger > users.{method} {code}"]
        own, forged = page["calls"]
        assert own["entry_id"] == own["call_id"]
        assert forged["entry_id"] == forged["call_id"]


async def test_a_detached_call_after_its_parent_is_in_the_tree_of_its_entry_call() -> None:
    """Its caller has served a call of that tree, so that it is believed."""
    async with (
        shop() as it,
        mesh.connect("front", gateway=it.gateway) as front,
        mesh.connect("later", gateway=it.gateway) as later,
        trio.open_nursery() as nursery,
    ):
        ended = trio.Event()

        async def work() -> None:
            await ended.wait()
            with mesh.detached():
                await later.call("users", "get", "ada")
            it.freed.set()

        @later.method()
        async def send() -> None:
            nursery.start_soon(work)

        @front.method()
        async def go() -> None:
            await front.call("later", "send")
            ended.set()
            await it.freed.wait()

        start = await it.now()
        await it.caller.call("front", "go")
        page = await it.page(cursor=start, tree=True)
        assert told(page) == ["shop > front.go ok", "front > later.send ok", "later > users.get ok"]
        assert {one["entry_id"] for one in page["calls"]} == {page["calls"][0]["call_id"]}
