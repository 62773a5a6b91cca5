"""Live calls as a gateway tells them, over the wire and over HTTP."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trio.testing

import mesh
from mesh_telemetry import Recorder
from tests.gateway.test_kept import ask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Page = dict[str, Any]


class Shop:
    """A gateway, and a caller of `orders.place`, which calls `users.get`."""

    def __init__(self, gateway: mesh.Gateway, caller: mesh.Client) -> None:
        self.gateway, self.caller = gateway, caller
        self.freed = trio.Event()

    async def page(self, **filters: Any) -> Page:
        """An answer for a tap."""
        page: Page = await self.caller.call("mesh", "tap", filters)
        return page

    async def now(self) -> str:
        """The cursor for what ends from now on."""
        return str((await self.page(wait=0))["cursor"])

    async def after(self, cursor: str, **filters: Any) -> list[str]:
        """What has ended since, each as ``caller > service.method code``."""
        return told(await self.page(cursor=cursor, wait=0, **filters))

    async def order(self, user: str) -> None:
        """Make a call, which fails for nobody."""
        try:
            await self.caller.call("orders", "place", user)
        except mesh.NotFound:
            assert user == "nobody"


def told(page: Page) -> list[str]:
    return [
        f"{one['caller']} > {one['service']}.{one['method']} {one['code']}" for one in page["calls"]
    ]


@asynccontextmanager
async def shop(*, kept: int = 10_000) -> AsyncIterator[Shop]:
    """A mesh of which so many calls are remembered."""
    async with (
        mesh.Gateway(admin="127.0.0.1:0") as gateway,
        mesh.connect("users", gateway=gateway) as users,
        mesh.connect("orders", gateway=gateway) as orders,
        mesh.connect("shop", gateway=gateway) as caller,
    ):
        there = Shop(gateway, caller)

        @users.method()
        async def get(user: str) -> str:
            if user == "nobody":
                raise mesh.NotFound("there is no such user", reason="USER_NOT_FOUND")
            return user.title()

        @orders.method()
        async def place(user: str) -> Any:
            return await orders.call("users", "get", user)

        @users.method()
        async def hold(user: str) -> None:
            await there.freed.wait()

        for peer in (users, orders):
            await peer.call("mesh", "status")
        gateway.core.recorder = Recorder(kept)
        yield there


OK = ["orders > users.get ok", "shop > orders.place ok"]
FAILED = ["orders > users.get not_found", "shop > orders.place not_found"]


async def test_calls_are_told_as_they_ended_and_once() -> None:
    async with shop() as it:
        start = await it.now()
        await it.order("ada")
        await it.order("nobody")
        page = await it.page(cursor=start)
        assert told(page) == OK + FAILED
        assert (page["left_out"], page["unread"], page["partial"]) == (0, 0, [])
        nested, entry, _, failed = page["calls"]
        assert (entry["depth"], nested["depth"]) == (1, 2)
        assert nested["parent_id"] == nested["entry_id"] == entry["call_id"] == entry["entry_id"]
        assert entry["trace_id"] == entry["activity_id"] == nested["trace_id"]
        assert entry["duration_ms"] >= nested["duration_ms"] > 0
        assert (failed["reason"], failed["refused"]) == ("USER_NOT_FOUND", False)
        assert nested["ended"] <= entry["ended"]
        assert "message" not in failed, "it may tell of parameters"
        assert await it.after(page["cursor"]) == []


async def test_a_refused_call_is_told_as_the_caller_named_it() -> None:
    async with shop() as it:
        start = await it.now()
        with pytest.raises(mesh.Unimplemented):
            await it.caller.call("users", "gte")
        page = await it.page(cursor=start, method="users.gte")
        assert told(page) == ["shop > users.gte unimplemented"]
        (refused,) = page["calls"]
        assert (refused["refused"], refused["duration_ms"]) == (True, 0.0)
        assert refused["reason"] == "METHOD_NOT_FOUND"


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"service": "users"}, [OK[0], FAILED[0]]),
        ({"method": "orders.place"}, [OK[1], FAILED[1]]),
        ({"caller": "orders"}, [OK[0], FAILED[0]]),
        ({"code": "not_found"}, FAILED),
        ({"code": "NOT_FOUND", "service": "users"}, FAILED[:1]),
        ({"activity_id": "order/2"}, FAILED),
        ({"min_duration": "1m"}, []),
        ({"min_duration": ""}, OK + FAILED),
        ({"tree": "true"}, [*reversed(OK), *reversed(FAILED)]),
        ({"tree": 1, "service": "users", "code": "not_found"}, [*reversed(FAILED)]),
    ],
)
async def test_filters_over_the_wire_and_over_http(
    filters: dict[str, Any], expected: list[str]
) -> None:
    async with shop() as it:
        start = await it.now()
        for number, user in enumerate(("ada", "nobody"), 1):
            with mesh.activity(f"order/{number}"):
                await it.order(user)
        page = await it.page(cursor=start, wait=0, **filters)
        assert told(page) == expected
        status, answer = await ask(it.gateway, "/api/tap", cursor=start, wait=0, **filters)
        assert (status, told(answer)) == (200, expected)
        assert [one["call_id"] for one in answer["calls"]] == [
            one["call_id"] for one in page["calls"]
        ]


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("reason", "error", "no filter 'reason'; there are service, method, caller, code, "),
        ("code", "fine", "filter code must be one of ok, cancelled, "),
        ("limit", "0", "filter limit must be a whole number from 1 to 1,000, not 0"),
        ("wait", "1.5", "filter wait must be at most 1 s, not '1.5'"),
        ("wait", "soon", "filter wait must be a duration, in seconds or such as 250ms, not 'soon'"),
        ("tree", "maybe", "filter tree must be true or false, not 'maybe'"),
        ("cursor", "12", "cursor must be what the answer before said, not '12'"),
        ("cursor", "gateway:-1", "cursor must be what the answer before said, not 'gateway:-1'"),
        ("cursor", "gateway:" + "9" * 30, "cursor must be what the answer before said, not "),
    ],
)
async def test_what_cannot_be_asked_for_is_said(name: str, value: str, wrong: str) -> None:
    async with shop() as it:
        status, answer = await ask(it.gateway, "/api/tap", **{name: value})
        assert status == 400
        assert answer["error"].startswith(wrong)
        with pytest.raises(mesh.InvalidArgument) as raised:
            await it.page(**{name: value})
        assert raised.value.message == answer["error"]


@pytest.mark.parametrize("value", [True, [], {}, float("nan"), -1, 10**30, b"\xff"])
@pytest.mark.parametrize("name", ["service", "cursor", "wait", "tree", "limit"])
async def test_programs_may_give_anything(name: str, value: object) -> None:
    async with shop() as it:
        if (name, value) == ("tree", True):
            return
        with pytest.raises(mesh.InvalidArgument):
            await it.page(**{name: value})


async def test_a_cursor_from_the_future_is_refused() -> None:
    async with shop() as it:
        gateway, _, at = (await it.now()).partition("~")[0].rpartition(":")
        with pytest.raises(mesh.InvalidArgument, match="cursor must be what the answer before"):
            await it.page(cursor=f"{gateway}:{int(at) + 100}")


async def test_a_cursor_of_another_gateway_begins_with_all_that_is_remembered() -> None:
    async with shop() as before:
        cursor = await before.now()
    async with shop() as it:
        await it.order("ada")
        assert await it.after(cursor) == OK


async def test_a_tap_waits_for_a_call_that_fits(autojump_clock: trio.testing.MockClock) -> None:
    async with shop() as it:
        await it.page(wait=0)
        started, pages = trio.current_time(), []

        async def tap() -> None:
            pages.append(await it.page(method="users.hold"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tap)
            nursery.start_soon(it.caller.call, "users", "hold", "ada")
            await trio.sleep(0.55)
            await it.order("ada")
            it.freed.set()
        assert told(pages[0]) == ["shop > users.hold ok"]
        assert 0.55 <= trio.current_time() - started <= 0.7


async def test_a_tap_ends_without_a_call_after_a_second(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with shop() as it:
        started = trio.current_time()
        assert told(await it.page(service="users")) == []
        assert trio.current_time() - started == pytest.approx(1.0, abs=0.05)


async def test_of_too_many_calls_a_sample_is_told_and_the_others_are_counted() -> None:
    async with shop() as it:
        start = await it.now()
        for _ in range(20):
            await it.order("ada")
        page = await it.page(cursor=start, limit=7, service="users")
        assert told(page) == OK[:1] * 7
        assert (page["left_out"], page["unread"]) == (13, 0)
        assert await it.after(page["cursor"], service="users") == []
        page = await it.page(cursor=start, limit=7, tree=True)
        assert sorted(set(told(page))) == OK
        assert (len(page["calls"]), page["left_out"]) == (14, 13)


async def test_what_made_way_before_a_slow_tap_looked_is_counted() -> None:
    """Every call is told, left out or unread; nothing waits for the tap meanwhile."""
    async with shop(kept=30) as it:
        start = await it.now()
        for _ in range(50):
            await it.order("ada")
        page = await it.page(cursor=start, wait=0)
        # The calls of `mesh.tap` itself are among those that made way, and among the others.
        assert len(page["calls"]) + page["unread"] == 101
        assert page["unread"] == 71
        assert told(page)[-2:] == OK
        await it.order("ada")
        page = await it.page(cursor=page["cursor"], wait=0)
        assert (told(page), page["unread"]) == (OK, 0)


async def test_the_position_is_the_number_of_rows_whatever_becomes_of_calls() -> None:
    """Ids are counted, not rows: each that is issued is in flight, or recorded, never both."""
    async with shop() as it:
        core = it.gateway.core
        core.recorder = recorder = Recorder(1000)
        before = core.table.last_id - len(core.table)
        await it.order("ada")
        await it.order("nobody")
        for name, method in (("nobody", "get"), ("users", "gte")):
            with pytest.raises(mesh.CallError):
                await it.caller.call(name, method, timeout=0.01)
        with pytest.raises(mesh.DeadlineExceeded):
            await it.caller.call("users", "hold", "ada", timeout=0.05)
        with trio.move_on_after(0.05):
            await it.caller.call("users", "hold", "ada")
        async with mesh.connect("brief", gateway=it.gateway) as brief, trio.open_nursery() as some:
            some.start_soon(it.caller.call, "users", "hold", "ada")
            await brief.call("mesh", "status")
            await trio.testing.wait_all_tasks_blocked()
            assert core.table.last_id - len(core.table) - before == len(recorder)
            assert len(core.table) == 1
            it.freed.set()
        assert core.table.last_id - before == len(recorder) >= 9


async def test_a_tree_is_told_once_when_its_entry_call_has_ended() -> None:
    async with shop() as it:
        start = await it.now()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.caller.call, "users", "hold", "ada")
            await it.order("ada")
            page = await it.page(cursor=start, tree=True)
            assert told(page) == list(reversed(OK)), "what still runs is no tree yet"
            it.freed.set()
        page = await it.page(cursor=page["cursor"], tree=True)
        assert told(page) == ["shop > users.hold ok"]


async def test_calls_that_outlive_their_entry_call_stand_alone() -> None:
    async with (
        shop() as it,
        mesh.connect("later", gateway=it.gateway) as later,
        trio.open_nursery() as nursery,
    ):

        @later.method()
        async def send() -> None:
            with mesh.detached():
                nursery.start_soon(later.call, "users", "hold", "ada")
            await later.call("users", "get", "ada")

        start = await it.now()
        await it.caller.call("later", "send")
        page = await it.page(cursor=start, tree=True)
        assert told(page) == ["shop > later.send ok", "later > users.get ok"]
        entry = page["calls"][0]["call_id"]
        it.freed.set()
        page = await it.page(cursor=page["cursor"], tree=True)
        assert told(page) == ["later > users.hold ok"]
        assert page["calls"][0]["entry_id"] == entry
        assert page["partial"] == []


async def test_a_tree_whose_calls_have_made_way_says_so() -> None:
    async with shop(kept=20) as it, mesh.connect("busy", gateway=it.gateway) as busy:

        @busy.method()
        async def work() -> None:
            for _ in range(30):
                await busy.call("users", "get", "ada")

        start = await it.now()
        await it.caller.call("busy", "work")
        page = await it.page(cursor=start, tree=True)
        assert page["partial"] == [page["calls"][0]["call_id"]]
        assert (len(page["calls"]), page["unread"]) == (20, 12)
        await it.order("ada")
        page = await it.page(cursor=page["cursor"], tree=True)
        assert (len(page["calls"]), page["partial"]) == (2, [])


async def test_without_telemetry_it_says_so() -> None:
    async with (
        mesh.Gateway(admin="127.0.0.1:0", telemetry=False) as gateway,
        mesh.connect("shop", gateway=gateway) as caller,
    ):
        status, answer = await ask(gateway, "/api/tap")
        assert status == 404
        assert "records no calls, as its telemetry is off" in answer["error"]
        with pytest.raises(mesh.FailedPrecondition, match="telemetry is off"):
            await caller.call("mesh", "tap")


async def test_a_tap_of_many_calls_does_not_hold_up_the_loop() -> None:
    async with shop() as it:
        recorder, core = it.gateway.core.recorder, it.gateway.core
        start = await it.now()
        await it.order("ada")
        (template,) = [row for row in recorder.recent(9) if row.service == "orders"]
        for _ in range(10_000):
            number = core.table.next_id()
            recorder.append(
                msgspec.structs.replace(template, call_id=number, parent_id=0, entry_id=number)
            )
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        for tree in (False, True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(others)
                before = turns
                page = await it.page(cursor=start, limit=1000, tree=tree, wait=0)
                assert turns - before > 15, "slices of rows, and of calls that are told"
                nursery.cancel_scope.cancel()
            # The look before this one has left a row of its own.
            assert (len(page["calls"]), page["left_out"]) == (1000, 9000 - tree)
            assert page["unread"] == 3 + tree
