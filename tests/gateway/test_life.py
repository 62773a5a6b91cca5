"""The gateway's life: starting, draining, ending; and its judgement of peers by heartbeats."""

from __future__ import annotations

import os
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import mesh
from mesh.errors import Reason
from mesh.gateway.draining import GOODBYE
from mesh.gateway.life import HEALTHY, LATE, UNRESPONSIVE
from mesh.transport import StreamLink
from mesh.wire import Kind, codec
from tests.gateway.by_hand import by_hand
from tests.gateway.raw_peer import (
    MemoryDialer,
    RawPeer,
    raw_peer,
    register_header,
    result_header,
    settled,
)

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock


# Starting and ending.


async def test_it_listens_everywhere_at_once(tmp_path: Path) -> None:
    """On a Unix socket, on TCP and within the process; peers of all three are one mesh."""
    where = f"unix:{tmp_path}/g.sock"
    async with mesh.Gateway(listen=[where, "tcp:127.0.0.1:0"]) as gateway:
        assert gateway.addresses[0] == where
        assert gateway.addresses[1].startswith("tcp:127.0.0.1:")
        async with (
            mesh.connect("a", gateway=gateway.addresses[0]) as a,
            mesh.connect("b", gateway=gateway.addresses[1]) as b,
            mesh.connect("c", gateway=gateway) as c,
        ):
            peers = [a, b, c]
            for peer in peers:
                peer.register("name", partial(_name, peer))
                await settled(peer)
            for caller in peers:
                for callee in peers:
                    assert await caller.call(callee.name, "name") == callee.name
            rows = await c.call("mesh", "services")
            where_from = {row["name"]: row["instances"][0]["address"] for row in rows}
            assert where_from["a"] == gateway.addresses[0]
            assert where_from["b"] == gateway.addresses[1]
            assert where_from["c"] == "in process"
            remotes = {row["name"]: row["instances"][0]["remote"] for row in rows}
            assert remotes["a"] == remotes["c"] == f"pid {os.getpid()}"
            assert re.fullmatch(r"127\.0\.0\.1:\d+", remotes["b"])
            assert remotes["b"] != gateway.addresses[1].removeprefix("tcp:")
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - pathlib blocks no less


async def _name(peer: mesh.Client) -> str:
    return peer.name


async def test_two_gateways_on_one_socket_the_second_says_who_holds_it(tmp_path: Path) -> None:
    """As the error itself, not in a group; and the first goes on."""
    where = f"unix:{tmp_path}/g.sock"
    async with mesh.Gateway(listen=[where]) as first:
        with pytest.raises(mesh.AddressInUse, match=f"held by process {os.getpid()} "):
            async with mesh.Gateway(listen=["tcp:127.0.0.1:0", where]):
                pass
        async with mesh.connect("peer", gateway=where) as peer:
            assert (await peer.call("mesh", "status"))["gateway"] == first.instance


async def test_a_gateway_runs_once() -> None:
    """A second run, and a use before the first, are mistakes of the program."""
    gateway = mesh.Gateway()
    with pytest.raises(mesh.UsageError, match="has not been started"):
        _ = gateway.core
    async with gateway:
        pass
    with pytest.raises(mesh.UsageError, match="runs once"):
        await gateway.serve()
    with pytest.raises(ConnectionRefusedError):
        await gateway.dial(100)


async def test_an_address_that_is_none_is_refused_when_the_gateway_is_made() -> None:
    """Before anything is started."""
    with pytest.raises(mesh.AddressError):
        mesh.Gateway(listen=["nonsense"])


async def test_the_end_of_a_gateway_ends_all_calls(autojump_clock: MockClock) -> None:
    """Without a drain, too: every caller is told."""
    outcomes: list[BaseException] = []
    async with trio.open_nursery() as nursery:
        async with mesh.Gateway() as gateway:
            peer = await nursery.start(_serving, gateway)

            @nursery.start_soon
            async def call() -> None:
                async with mesh.connect("caller", gateway=gateway, reconnect=False) as caller:
                    try:
                        await caller.call("server", "wait")
                    except mesh.CallError as error:
                        outcomes.append(error)

            await trio.testing.wait_all_tasks_blocked()
            assert peer.is_connected
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [type(error) for error in outcomes] == [mesh.Unavailable]


async def _serving(
    gateway: mesh.Gateway, *, task_status: trio.TaskStatus[mesh.Client] = trio.TASK_STATUS_IGNORED
) -> None:
    async with mesh.connect("server", gateway=gateway) as peer:

        @peer.method()
        async def wait() -> None:
            await trio.sleep_forever()

        @peer.method()
        async def sleep(seconds: float) -> str:
            await trio.sleep(seconds)
            return "done"

        @peer.method()
        async def nested(seconds: float) -> Any:
            await trio.sleep(seconds)
            return await peer.call("server", "sleep", seconds)

        await settled(peer)
        task_status.started(peer)
        await trio.sleep_forever()


# Draining.


async def test_a_drain_lets_finish_what_is_in_flight_with_all_it_calls(
    autojump_clock: MockClock,
) -> None:
    """Nested calls are allowed, new entry calls are refused, and then the gateway ends."""
    async with mesh.Gateway() as gateway, trio.open_nursery() as nursery:
        await nursery.start(_serving, gateway)
        async with raw_peer(gateway, "raw") as raw, mesh.connect("c", gateway=gateway) as caller:

            @nursery.start_soon
            async def call() -> None:
                assert await caller.call("server", "nested", 2.0) == "done"

            await trio.testing.wait_all_tasks_blocked()
            before = trio.current_time()
            gateway.drain()
            _, _, goaway, _ = await raw.receive(Kind.GOAWAY)
            assert goaway.reason == "the gateway is shutting down"
            assert goaway.drain_us == 10_000_000
            await raw.call("mesh", "status")
            _, _, error, _ = await raw.receive(Kind.ERROR)
            assert error.reason == Reason.GATEWAY_DRAINING
            assert not error.options & codec.MAYBE_EXECUTED
            await raw.pong(GOODBYE)
            assert await raw.goodbye() == ""
            assert trio.current_time() - before == pytest.approx(4, abs=0.1)
            nursery.cancel_scope.cancel()


async def test_a_drain_ends_what_outlasts_it(autojump_clock: MockClock) -> None:
    """Callers are told that the gateway shuts down, handlers are cancelled."""
    async with (
        mesh.Gateway(limits=mesh.Limits(drain=3)) as gateway,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(_serving, gateway)
        async with mesh.connect("caller", gateway=gateway, reconnect=False) as caller:
            before = trio.current_time()

            @nursery.start_soon
            async def drain() -> None:
                await trio.testing.wait_all_tasks_blocked()
                gateway.drain()

            with pytest.raises(mesh.Unavailable) as raised:
                await caller.call("server", "wait")
            assert raised.value.reason == Reason.GATEWAY_DRAINING
            assert raised.value.maybe_executed
            assert trio.current_time() - before == pytest.approx(3, abs=0.1)
            nursery.cancel_scope.cancel()


async def test_a_drain_without_calls_ends_at_once(autojump_clock: MockClock) -> None:
    """Idle peers do not hold it up."""
    gateway = mesh.Gateway()
    async with trio.open_nursery() as nursery:
        await nursery.start(gateway.serve)
        async with raw_peer(gateway) as raw:
            before = trio.current_time()
            gateway.drain()
            await raw.goodbye()
            assert trio.current_time() == before


async def test_a_drain_reads_what_was_sent_before_its_goodbye_was_heard(
    autojump_clock: MockClock,
) -> None:
    """A peer's call is refused, and not cut off, which would look as if it might have run."""
    async with mesh.Gateway() as gateway, raw_peer(gateway) as raw:
        gateway.drain()
        await trio.sleep(0.9)
        await raw.call("mesh", "status")
        await raw.pong(GOODBYE)
        _, _, error, _ = await raw.receive(Kind.ERROR)
        assert error.reason == Reason.GATEWAY_DRAINING
        assert await raw.goodbye() == ""
        assert trio.current_time() == pytest.approx(0.9)


@pytest.mark.parametrize("goes", [False, True])
async def test_a_drain_waits_a_second_at_most_for_peers_to_hear(
    autojump_clock: MockClock,
    goes: bool,
) -> None:
    """Those that hang, and no time at all for those that go."""
    gateway = mesh.Gateway()
    async with trio.open_nursery() as nursery:
        await nursery.start(gateway.serve)
        async with raw_peer(gateway) as raw:
            gateway.drain()
            await trio.testing.wait_all_tasks_blocked()
            if goes:
                await raw.stream.aclose()
            await trio.sleep(0.1)
            assert (gateway.status().state == "stopped") is goes
            await trio.sleep(1)
            assert gateway.status().state == "stopped"


async def test_a_peer_that_comes_during_a_drain_is_told(autojump_clock: MockClock) -> None:
    """It is welcomed for the sake of calls in flight, and hears the goodbye right after."""
    async with mesh.Gateway() as gateway, trio.open_nursery() as nursery:
        await nursery.start(_serving, gateway)
        async with mesh.connect("caller", gateway=gateway) as caller:

            @nursery.start_soon
            async def call() -> None:
                assert await caller.call("server", "sleep", 2.0) == "done"

            await trio.testing.wait_all_tasks_blocked()
            gateway.drain()
            await trio.testing.wait_all_tasks_blocked()
            async with raw_peer(gateway, "late") as late:
                _, _, goaway, _ = await late.receive()
                assert goaway.reason == "the gateway is shutting down"
                await late.goodbye()
            nursery.cancel_scope.cancel()


# A peer's goodbye.


async def test_a_peer_that_says_goodbye_gets_no_more_calls_and_may_finish(
    autojump_clock: MockClock,
) -> None:
    """Its answer is still taken; its services are expected back."""
    async with by_hand() as it, trio.open_nursery() as nursery:
        gateway, _, leaving, answers = it
        nursery.start_soon(it.call)
        call_id = await it.called()
        await leaving.send(codec.GoAway("closing", 1_000_000))
        _, _, goaway, _ = await leaving.receive(Kind.GOAWAY)
        assert goaway.reason == "goodbye"
        await leaving.send(register_header("svc", "go"))  # too late
        nursery.start_soon(it.call)
        await trio.testing.wait_all_tasks_blocked()
        assert len(gateway.core.held.entries) == 1
        await it.answer(call_id, b"\x01")
        assert answers == [1]
        async with raw_peer(gateway, "next") as successor:
            await successor.send(register_header("svc", "go"))
            _, _, header, _ = await successor.receive(Kind.CALL)
            await successor.send(result_header(header.call_id), payload=b"\x02")
            await trio.testing.wait_all_tasks_blocked()
        assert answers == [1, 2]


# Heartbeats.


def beat(sequence: int = 1, flag: int = codec.BEAT) -> codec.Heartbeat:
    return codec.Heartbeat(sequence, flag, 10, 0, 0, 1000, 5)


def health(gateway: mesh.Gateway, name: str) -> int:
    return next(s.health for s in gateway.core.sessions.values() if s.name == name)


async def test_missed_heartbeats_make_a_peer_late_and_then_unresponsive(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """After three and six of them, and healthy again with the next; it stays connected."""
    async with mesh.Gateway() as gateway, raw_peer(gateway, "quiet") as quiet:
        seen: list[tuple[float, int]] = []
        start = trio.current_time()
        last = HEALTHY
        while trio.current_time() < start + 59:
            now = health(gateway, "quiet")
            if now != last:
                seen.append((trio.current_time() - start, now))
                last = now
            await trio.sleep(0.5)
        assert [state for _, state in seen] == [LATE, UNRESPONSIVE]
        assert [when for when, _ in seen] == [pytest.approx(20, abs=1), pytest.approx(35, abs=1)]
        await quiet.send(beat())
        await trio.testing.wait_all_tasks_blocked()
        assert health(gateway, "quiet") == HEALTHY
        await trio.sleep(200)
        await quiet.call("mesh", "status")
        await quiet.receive(Kind.RESULT)
    assert "peer quiet (quiet-1) is late: no heartbeat for 20.0 s" in caplog.text
    assert "is unresponsive: no heartbeat for 35.0 s" in caplog.text


async def test_no_new_calls_go_to_a_late_peer_where_another_is_better(
    autojump_clock: MockClock,
) -> None:
    """Missing heartbeats mean busy, not dead: what it works on goes on, and alone it serves on."""
    async with by_hand() as it, trio.open_nursery() as nursery:
        gateway, caller, _, answers = it
        nursery.start_soon(it.call)
        first = await it.called()
        await trio.sleep(21)
        assert health(gateway, "callee") == LATE
        nursery.start_soon(it.call)
        second = await it.called()
        async with mesh.connect("lively", gateway=gateway) as lively:

            @lively.method("go", service="svc")
            async def go() -> str:
                return "lively"

            await settled(lively)
            for _ in range(5):
                assert await caller.call("svc", "go") == "lively"
            await trio.sleep(20)
            assert health(gateway, "callee") == UNRESPONSIVE
            assert not answers
            for call_id in (first, second):
                await it.answer(call_id, b"\x07")
            assert answers == [7, 7]


async def test_a_silent_tcp_connection_is_closed_after_twelve_misses(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Its calls end as with any lost connection; on a Unix socket the kernel would tell."""
    async with mesh.Gateway() as gateway, mesh.connect("caller", gateway=gateway) as caller:
        ours, theirs = trio.testing.memory_stream_pair()
        gateway.attach(StreamLink(theirs, 1 << 20, "tcp:10.0.0.1:7", is_tcp=True))
        silent = RawPeer(ours)
        await silent.open("silent")
        await silent.send(register_header("svc", "go"))
        before = trio.current_time()
        with pytest.raises(mesh.Unavailable) as raised:
            await caller.call("svc", "go", timeout=300)
        assert raised.value.reason == Reason.CONNECTION_LOST
        assert 60 <= trio.current_time() - before <= 66
        with pytest.raises(EOFError):
            await silent.receive(Kind.RESULT)
    assert "silent for 6" in caplog.text or gateway.core.counters.connections_closed >= 1


async def test_any_byte_keeps_a_tcp_connection_open(autojump_clock: MockClock) -> None:
    """Unresponsive it may be, but not silent."""
    async with mesh.Gateway() as gateway:
        ours, theirs = trio.testing.memory_stream_pair()
        gateway.attach(StreamLink(theirs, 1 << 20, "tcp:10.0.0.1:7", is_tcp=True))
        peer = RawPeer(ours)
        await peer.open("peer")
        for number in range(1, 6):
            await trio.sleep(50)
            await peer.call("mesh", "status", call_id=number)
            await peer.receive(Kind.RESULT)


async def test_clients_send_heartbeats_in_the_gateways_rhythm(
    autojump_clock: MockClock,
) -> None:
    """So they stay healthy, and the gateway sends its own to all."""
    async with mesh.Gateway(limits=mesh.Limits(heartbeat=1)) as gateway:
        tcp = MemoryDialer(gateway, is_tcp=True)
        async with mesh.connect("peer", gateway=tcp), raw_peer(gateway, "raw") as raw:
            await trio.sleep(100)
            assert health(gateway, "peer") == HEALTHY
            assert len(tcp.streams) == 1
            session = next(s for s in gateway.core.sessions.values() if s.name == "peer")
            assert session.heartbeat is not None
            assert session.heartbeat.sequence == pytest.approx(101, abs=2)
            assert session.heartbeat.memory > 1_000_000
            _, _, first, _ = await raw.receive(Kind.HEARTBEAT)
            assert first.flag == codec.BEAT


async def test_a_ping_of_a_peers_is_answered_with_its_number(autojump_clock: MockClock) -> None:
    """With what the gateway uses and how busy it is."""
    async with mesh.Gateway() as gateway, raw_peer(gateway) as raw:
        await raw.send(beat(41, codec.PING))
        _, _, pong, _ = await raw.receive(Kind.HEARTBEAT)
        assert (pong.sequence, pong.flag) == (41, codec.PONG)
        assert pong.memory > 1_000_000


async def test_the_gateway_pings_the_loops_of_a_services_instances(
    autojump_clock: MockClock,
) -> None:
    """One that does not answer within a heartbeat is listed without a time."""
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("lively", gateway=gateway) as lively,
        raw_peer(gateway, "quiet") as quiet,
    ):
        lively.register("go", trio.sleep_forever, service="svc")
        await settled(lively)
        await quiet.send(register_header("svc", "go"))
        rows = await lively.call("mesh", "ping", "svc")
        times = {row["peer"]: row["round_trip_us"] for row in rows}
        assert times["quiet"] is None
        assert times["lively"] >= 0
        with pytest.raises(mesh.NotFound):
            await lively.call("mesh", "ping", "nobody")


# What the built-in service tells.


async def test_the_mesh_service_lists_services_and_status() -> None:
    """As any caller may see them."""
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("users", gateway=gateway, metadata={"zone": "a"}) as users,
        mesh.connect("caller", gateway=gateway) as caller,
    ):

        async def go() -> None:
            pass

        users.register("get", go)
        users.register("put", go)
        await settled(users)
        services = {row["name"]: row for row in await caller.call("mesh", "services")}
        assert services["users"]["methods"] == ["get", "put"]
        (instance,) = services["users"]["instances"]
        assert instance["peer"] == "users"
        assert instance["state"] == "healthy"
        assert instance["metadata"] == {"zone": "a"}
        assert instance["in_flight"] == 0
        status = await caller.call("mesh", "status")
        assert status["gateway"] == gateway.instance
        assert (status["peers"], status["services"], status["draining"]) == (2, 1, False)
        assert status["in_flight"] == 1, "this very call"


async def test_the_calls_of_one_activity_can_be_listed() -> None:
    """In the order of their start, with their outcomes."""
    async with mesh.Gateway() as gateway, mesh.connect("peer", gateway=gateway) as peer:

        @peer.method()
        async def outer() -> None:
            await peer.call("peer", "inner")

        @peer.method()
        async def inner() -> None:
            raise mesh.NotFound("no", reason="NOPE")

        await settled(peer)
        with mesh.activity("mine"), pytest.raises(mesh.NotFound):
            await peer.call("peer", "outer")
        rows = await peer.call("mesh", "records", "mine")
        told = [(row["service"], row["method"], row["depth"], row["code"]) for row in rows]
        assert told == [("peer", "outer", 1, "not_found"), ("peer", "inner", 2, "not_found")]
        assert rows[1]["parent_id"] == rows[0]["call_id"] == rows[1]["entry_id"]
        assert rows[0]["reason"] == "NOPE"
        assert await peer.call("mesh", "records", "nobody's") == []
