"""What came, went and changed, as a real gateway tells it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trio.testing

import mesh
from mesh.gateway.changes import ALONE, SETTLING
from mesh.process import Process
from mesh.wire import codec
from tests.certificates import Authority
from tests.gateway.by_hand import by_hand
from tests.gateway.raw_peer import call_header, dialled, raw_peer, register_header, settled
from tests.gateway.test_kept import ask
from tests.gateway.test_life import beat

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock


def told(gateway: mesh.Gateway, **wanted: Any) -> list[tuple[str, str]]:
    """Each change with whom it is about, but for the gateway's start."""
    found = [(one.change, one.peer) for one in gateway.changes(**wanted)]
    return [one for one in found if one[0] != "started"]


async def nothing() -> None:
    pass


async def test_a_service_comes_grows_shrinks_and_goes() -> None:
    async with mesh.Gateway() as gateway:
        async with mesh.connect("people", gateway=gateway, metadata={"zone": "north"}) as people:
            people.register("get", nothing, service="users")
            people.register("list", nothing, service="users")
            people.register("read", nothing, service="files")
            await settled(people)
            people.unregister("read", service="files")
            await settled(people)
            process = people.status().process_id
        with trio.fail_after(10):
            while told(gateway)[-1][0] != "left":
                await trio.testing.wait_all_tasks_blocked(0.001)
        started, users, files, shrunk, left = gateway.changes()
        assert (started.change, started.peer, started.process_id) == (
            "started",
            "",
            gateway.instance,
        )
        assert (users.change, users.peer, users.process_id) == ("registered", "people", process)
        assert (users.services, users.methods, users.version) == (["users"], ["get", "list"], "")
        assert users.what.startswith("get, list; from pid ")
        assert (files.services, files.methods, files.version) == (["files"], ["read"], "")
        assert (shrunk.change, shrunk.methods, shrunk.what) == (
            "unregistered",
            ["read"],
            "no longer read",
        )
        assert (left.services, left.what[:15]) == (["users"], "in order, after")
        assert [one for one, _ in told(gateway, service="files")] == ["registered", "unregistered"]
        assert gateway.changes(since=1e-6) == []


async def test_a_peer_that_only_calls_is_no_change() -> None:
    async with mesh.Gateway() as gateway:
        async with mesh.connect("caller", gateway=gateway) as caller:
            await settled(caller)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert told(gateway) == []


async def test_what_is_registered_later_has_a_line_of_its_own(autojump_clock: MockClock) -> None:
    now = 1e9
    process = Process(wall=lambda: now)
    async with mesh.Gateway(process=process) as gateway, raw_peer(gateway, "callee") as callee:
        many = [f"m{number}" for number in range(12)]
        await callee.send(register_header("svc", *many[:9]))
        await callee.send(register_header("svc", *many[:9]))  # nothing new
        await trio.testing.wait_all_tasks_blocked()
        now += SETTLING + 1
        await callee.send(codec.Register("svc", "1.2", {name: {} for name in many}, {}))
        await trio.testing.wait_all_tasks_blocked()
        _, first, later = gateway.changes()
        assert first.what == "m0, m1, m2, m3, m4, m5, m6, m7 and 1 more"
        assert (later.what, later.methods) == ("also m9, m10, m11; version 1.2", many[9:])
        assert (first.version, later.version) == ("", "1.2")
        assert (first.at, later.at) == (1e9, 1e9 + SETTLING + 1)


async def test_one_that_is_cut_off_is_lost_with_the_calls_that_it_worked_on() -> None:
    async with by_hand() as it, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def call() -> None:
            with pytest.raises(mesh.Unavailable):
                await it.caller.call("svc", "go", timeout=20)

        await it.called()
        await it.callee.stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        lost = it.gateway.changes()[-1]
        assert (lost.change, lost.peer, lost.services) == ("lost", "callee", ["svc"])
        assert lost.what.startswith("without a goodbye, after ")
        assert lost.what.endswith(", 1 in flight")


async def test_one_that_drains_is_told_where_calls_are_left_to_finish() -> None:
    async with by_hand() as it, trio.open_nursery() as nursery:
        nursery.start_soon(it.call)
        call_id = await it.called()
        await it.callee.send(codec.GoAway("closing", 0))
        await trio.testing.wait_all_tasks_blocked()
        draining = it.gateway.changes()[-1]
        assert (draining.change, draining.services) == ("draining", ["svc"])
        assert draining.what == "takes no new calls, works on 1"
        await it.answer(call_id, b"\xc0")
        await it.callee.stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        left = it.gateway.changes()[-1]
        assert (left.change, left.services) == ("left", ["svc"])
        assert left.what.startswith("in order, after ")
        assert "in flight" not in left.what


async def test_heartbeats_that_are_missing_and_come_back(autojump_clock: MockClock) -> None:
    async with mesh.Gateway() as gateway, raw_peer(gateway, "quiet") as quiet:
        await quiet.send(register_header("svc", "go"))
        await trio.sleep(36)
        await quiet.send(beat())
        await trio.testing.wait_all_tasks_blocked()
        found = [(one.change, one.services, one.what) for one in gateway.changes()[2:]]
        assert found == [
            ("late", ["svc"], "no heartbeat for 20.00 s"),
            ("unresponsive", ["svc"], "no heartbeat for 35.00 s"),
            ("healthy", ["svc"], "a heartbeat after 36.00 s"),
        ]


async def test_the_gateway_closes_one_that_breaks_the_protocol() -> None:
    async with mesh.Gateway() as gateway, raw_peer(gateway, "rude") as rude:
        await rude.send(call_header(1, "svc", "go"), call_header(1, "svc", "go"))
        await rude.goodbye()
        closed = gateway.changes()[-1]
        assert (closed.change, closed.peer, closed.process_id) == ("closed", "rude", "rude-1")
        assert closed.what.startswith("by the gateway, after ")
        assert ": " in closed.what


async def test_those_that_are_not_let_in_have_a_reason_and_are_counted() -> None:
    """However many there are, in a few lines; one that only looks at the port is none."""
    limits = mesh.Limits(max_connections=2)
    async with mesh.Gateway(listen=["tcp:127.0.0.1:0"], limits=limits) as gateway:
        address = gateway.addresses[0]
        async with dialled(address):
            pass
        for _ in range(20):
            async with dialled(address) as peer:
                await peer.send_bytes(b"GET / HTTP/1.1\r\n\r\n" * 9)
                await peer.goodbye()
        lines = gateway.changes()[1:]
        assert [(one.change, one.reason) for one in lines] == [("refused", "hello")] * ALONE
        assert sum(one.count for one in lines) == 20
        assert f"at {address} from 127.0.0.1:" in lines[-1].what
        assert "exceeds the limit" in lines[-1].what
        async with raw_peer(gateway, "one"), dialled(address) as full:
            assert "max_connections" in await full.goodbye()
        last = gateway.changes()[-1]
        assert (last.change, last.reason) == ("refused", "max_connections")


async def test_tls_that_fails_and_certificates_that_are_read_again(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    files = authority.issue("127.0.0.1")
    async with mesh.Gateway(listen=["tls:127.0.0.1:0"], tls=files) as gateway:
        async with dialled("tcp:" + gateway.addresses[0].removeprefix("tls:")) as plain:
            await plain.send_bytes(b"hello")
            await plain.goodbye()
        assert gateway.reload_certificates()
        (authority.folder / "127.0.0.1.pem").write_text("broken")
        assert not gateway.reload_certificates()
        refused, reloaded, kept = gateway.changes()[1:]
        assert (refused.change, refused.reason) == ("refused", "plain_text")
        assert "it speaks no TLS; its address must be tls:" in refused.what
        assert (reloaded.change, reloaded.what) == (
            "certificates",
            f"reloaded from {files.cert}",
        )
        assert (kept.change, kept.peer) == ("certificates", "")
        assert kept.what.startswith("not reloaded, the old ones stay in use: ")


async def test_a_drain_of_the_gateway_is_told_with_what_is_left() -> None:
    async with by_hand() as it, trio.open_nursery() as nursery:
        nursery.start_soon(it.call)
        call_id = await it.called()
        it.gateway.drain()
        await trio.testing.wait_all_tasks_blocked()
        draining = it.gateway.changes()[-1]
        assert (draining.change, draining.peer) == ("draining", "")
        assert draining.what == "1 calls in flight, 2 peers"
        await it.answer(call_id, b"\xc0")


async def test_the_end_of_a_gateway_loses_nobody() -> None:
    async with mesh.Gateway() as gateway, raw_peer(gateway, "callee") as callee:
        await callee.send(register_header("svc", "go"))
        await trio.testing.wait_all_tasks_blocked()
        gateway.drain()
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert [one for one, _ in told(gateway)] == ["registered", "draining"]


# Who asks.


async def test_the_three_ways_to_ask_tell_the_same_and_go_on_where_they_were() -> None:
    async with (
        mesh.Gateway(admin="127.0.0.1:0") as gateway,
        mesh.connect("users", gateway=gateway) as users,
    ):
        users.register("get", nothing)
        page = await users.call("mesh", "changes")
        assert page == (await ask(gateway, "/api/changes"))[1]
        assert page["changes"] == msgspec.to_builtins(gateway.changes())
        assert (page["gateway"], page["dropped"]) == (gateway.instance, 0)
        assert [one["change"] for one in page["changes"]] == ["started", "registered"]
        filters = {"cursor": page["cursor"], "since": "10m", "service": "files"}
        assert (await users.call("mesh", "changes", filters))["changes"] == []
        users.register("read", nothing, service="files")
        (new,) = (await users.call("mesh", "changes", filters))["changes"]
        assert (new["change"], new["services"]) == ("registered", ["files"])
        assert (await ask(gateway, "/api/changes", **filters))[1]["changes"] == [new]
        elsewhere = await users.call("mesh", "changes", {"cursor": "another:7"})
        assert len(elsewhere["changes"]) == 3, "what another gateway told says nothing of this one"


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"since": "soon"}, "filter since must be a duration"),
        ({"limit": 3}, "no filter 'limit'; there are since, service, cursor"),
        ({"cursor": "here"}, "cursor must be what the answer before said, not 'here'"),
        ({"service": "x" * 300}, "filter service must be the name of a service"),
    ],
)
async def test_what_cannot_be_asked_is_refused(query: dict[str, Any], says: str) -> None:
    async with (
        mesh.Gateway(admin="127.0.0.1:0") as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
    ):
        status, document = await ask(gateway, "/api/changes", **query)
        assert (status, list(document)) == (400, ["error"])
        assert says in document["error"]
        with pytest.raises(mesh.InvalidArgument) as refused:
            await caller.call("mesh", "changes", query)
        assert refused.value.message == document["error"]
        assert json.dumps(document)
