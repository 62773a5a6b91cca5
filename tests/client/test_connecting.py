# ruff: noqa: ARG001 - a test on trio's jumping clock asks for it by an argument
"""Connecting: waiting for a gateway, losing it, finding it again, and leaving in good order."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import mesh
from mesh.errors import Reason
from mesh.transport import Address, Listener
from mesh.wire import Kind, codec
from tests.gateway.raw_peer import (
    HandGateway,
    MemoryDialer,
    call_header,
    error_header,
    raw_peer,
    result_header,
    settled,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock


async def answer() -> str:
    return "answer"


# Waiting for a gateway.


async def test_it_waits_for_a_gateway_that_is_not_up_yet(autojump_clock: MockClock) -> None:
    """Up to ``connect_timeout``, trying again and again."""
    dialer = MemoryDialer(None)
    async with mesh.Gateway() as gateway, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def come_up() -> None:
            await trio.sleep(3)
            dialer.gateway = gateway

        async with mesh.connect("peer", gateway=dialer, connect_timeout=20) as peer:
            assert peer.is_connected
            assert await peer.call("mesh", "status")


async def test_it_says_why_no_gateway_answered(tmp_path: Path) -> None:
    """The address, what the last try met, how long it waited, and what to do."""
    path = tmp_path / "none.sock"
    with pytest.raises(mesh.Unavailable) as raised:
        async with mesh.connect("peer", gateway=f"unix:{path}", connect_timeout=0.2):
            pass
    error = raised.value
    assert error.reason == Reason.GATEWAY_UNREACHABLE
    assert error.message == (
        f"no gateway answered 'peer' within 0.2 s: unix:{path}: No such file or directory; "
        "start one with `mesh gateway`, or set MESH_GATEWAY to its address"
    )
    assert not error.maybe_executed


async def test_a_gateway_that_was_never_started_is_named() -> None:
    """A `Gateway` object that does not run gives the same error as an address nobody listens at."""
    with pytest.raises(mesh.Unavailable, match="this Gateway does not run; use `async with"):
        async with mesh.connect("peer", gateway=mesh.Gateway(), connect_timeout=0.2):
            pass


async def test_a_full_backlog_is_tried_again(tmp_path: Path) -> None:
    """A listener that does not accept for a while is not there yet, and no error."""
    path = tmp_path / "gateway.sock"
    listener = await Listener.bind(Address("unix", path=str(path)))
    listener._socket.listen(0)
    fillers = []
    try:
        for _ in range(8):
            filler = socket.socket(socket.AF_UNIX)
            filler.setblocking(False)
            fillers.append(filler)
            filler.connect_ex(str(path))
        with pytest.raises(mesh.Unavailable, match="Resource temporarily unavailable"):
            async with mesh.connect("peer", gateway=f"unix:{path}", connect_timeout=0.2):
                pass
    finally:
        for filler in fillers:
            filler.close()
        listener.close()


async def test_something_that_is_no_gateway_is_told_apart(tmp_path: Path) -> None:
    """The error says what it did instead of answering."""
    listener = await Listener.bind(Address("unix", path=str(tmp_path / "odd.sock")))
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def speak_http() -> None:
            while True:
                sock = await listener.accept()
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                sock.close()

        with pytest.raises(mesh.Unavailable, match="the gateway broke the protocol: frame of 1,21"):
            async with mesh.connect("peer", gateway=str(listener.address), connect_timeout=0.2):
                pass
        nursery.cancel_scope.cancel()
    listener.close()


async def test_a_gateway_that_takes_the_connection_and_says_nothing(
    autojump_clock: MockClock,
) -> None:
    """After the handshake's time the next try is made."""
    gateway = HandGateway()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def accept() -> None:
            await gateway.accept(welcome=False)
            await gateway.accept()

        before = trio.current_time()
        async with mesh.connect("peer", gateway=gateway, connect_timeout=20):
            assert 5 <= trio.current_time() - before < 6
            await gateway.stream.aclose()


async def test_a_refusal_is_reported_with_the_gateways_reason(autojump_clock: MockClock) -> None:
    """For example of a protocol that is too old."""
    gateway = HandGateway()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def refuse() -> None:
            while True:
                await gateway.accept(welcome=False)
                await gateway.send(codec.GoAway("too old, upgrade", 0))

        with pytest.raises(mesh.Unavailable, match="refused the connection: too old, upgrade"):
            async with mesh.connect("peer", gateway=gateway, connect_timeout=2):
                pass
        nursery.cancel_scope.cancel()


async def test_calls_before_the_first_connection_wait_for_it(autojump_clock: MockClock) -> None:
    """At most five seconds of their time; then they say that they were never sent."""
    dialer = MemoryDialer(None)
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("peer", gateway=dialer, connect_timeout=0) as peer,
    ):
        before = trio.current_time()
        with pytest.raises(mesh.Unavailable) as raised:
            await peer.call("mesh", "status")
        assert trio.current_time() - before == pytest.approx(5, abs=0.01)
        assert raised.value.reason == Reason.GATEWAY_UNREACHABLE
        assert not raised.value.maybe_executed
        assert raised.value.chain == ("mesh.status",)
        assert "no connection to a gateway within 5 s: " in raised.value.message
        assert "no gateway in this test yet" in raised.value.message

        with pytest.raises(mesh.DeadlineExceeded, match="no time was left"):
            await peer.call("mesh", "status", timeout=2)
        with trio.move_on_after(1) as scope:
            await peer.call("mesh", "status")
        assert scope.cancelled_caught

        dialer.gateway = gateway
        assert await peer.call("mesh", "status")


# Losing it.


async def test_it_connects_again_and_registers_again(autojump_clock: MockClock) -> None:
    """Without a word of the user's, also at a gateway that is a new one."""
    dialer = MemoryDialer(None)
    async with mesh.connect("server", gateway=dialer, connect_timeout=0) as server:
        server.register("one", answer)
        server.register("two", answer, service="other")
        server.register("gone", answer)
        for round_ in range(3):
            async with mesh.Gateway() as gateway, mesh.connect("c", gateway=gateway) as caller:
                dialer.gateway = gateway
                assert await caller.call("server", "one") == "answer"
                assert await caller.call("other", "two") == "answer"
                if round_ == 0:
                    server.unregister("gone")
                elif round_ == 1:
                    with pytest.raises(mesh.Unimplemented):
                        await caller.call("server", "gone")
                    await dialer.cut()
                    await trio.testing.wait_all_tasks_blocked()
                    assert await caller.call("server", "one") == "answer"
                assert sorted(gateway.core.registry.services) == ["mesh", "other", "server"]


async def test_a_service_of_very_many_methods_registers_again(autojump_clock: MockClock) -> None:
    """Though their names together exceed what one header may carry."""
    async with mesh.Gateway() as gateway, mesh.connect("caller", gateway=gateway) as caller:
        dialer = MemoryDialer(gateway)
        async with mesh.connect("server", gateway=dialer) as server:
            for number in range(800):
                server.register(f"{'long_name_' * 10}{number}", answer)
            await settled(server)
            await dialer.cut()
            await trio.testing.wait_all_tasks_blocked()
            await settled(server)
            assert len(dialer.streams) == 2
            assert await caller.call("server", f"{'long_name_' * 10}799") == "answer"


async def test_calls_under_way_when_the_connection_is_lost_end_at_once(
    autojump_clock: MockClock,
) -> None:
    """They may have been executed; the chain and the cause are told."""
    gateway = HandGateway()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.accept)
        async with mesh.connect("caller", gateway=gateway) as caller:

            @nursery.start_soon
            async def cut() -> None:
                await gateway.receive(Kind.CALL)
                await gateway.stream.aclose()

            before = trio.current_time()
            with pytest.raises(mesh.Unavailable) as raised:
                await caller.call("a", "b")
            assert trio.current_time() == before
    assert raised.value.reason == Reason.CONNECTION_LOST
    assert raised.value.maybe_executed
    assert raised.value.chain == ("a.b",)
    assert "was lost while a.b was under way: the gateway closed the connection" in str(
        raised.value
    )


@pytest.mark.parametrize("payload", ["small", "x" * 300_000])
async def test_a_call_that_never_left_is_known_not_to_have_been_executed(
    autojump_clock: MockClock, payload: str
) -> None:
    """What still stands in the outbox when the connection is lost can safely be tried again."""
    gateway = HandGateway(lockstep=True)
    errors: list[mesh.CallError] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.accept)
        async with mesh.connect("caller", gateway=gateway, reconnect=False) as caller:
            await trio.testing.wait_all_tasks_blocked()  # its first heartbeat blocks the stream

            async def call() -> None:
                try:
                    await caller.call("a", "b", payload)
                except mesh.CallError as error:
                    errors.append(error)

            nursery.start_soon(call)
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            await gateway.stream.aclose()
    assert [type(error) for error in errors] == [mesh.Unavailable] * 2
    assert [error.reason for error in errors] == [Reason.CONNECTION_LOST] * 2
    assert [error.maybe_executed for error in errors] == [False] * 2


async def test_waiting_calls_go_on_with_the_next_gateway(autojump_clock: MockClock) -> None:
    """A gateway says goodbye and ends; a call made meanwhile is sent to the one that comes next."""
    dialer, brisk = MemoryDialer(None), mesh.Limits(reconnect_longest=0.1)
    results: list[str] = []

    async def ask(caller: mesh.Client) -> None:
        results.append((await caller.call("mesh", "status"))["gateway"])

    async def hold(caller: mesh.Client) -> None:
        with pytest.raises(mesh.Unavailable):
            await caller.call("caller", "hold")

    async with (
        mesh.connect("caller", gateway=dialer, connect_timeout=0, limits=brisk) as caller,
        trio.open_nursery() as nursery,
    ):
        caller.register("hold", trio.sleep_forever)
        async with mesh.Gateway(limits=mesh.Limits(drain=1)) as old:
            dialer.gateway = old
            await settled(caller)
            nursery.start_soon(hold, caller)
            await trio.testing.wait_all_tasks_blocked()
            old.drain()
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask, caller)
            await trio.sleep(2)
            assert not caller.is_connected, "the old gateway has drained by now"
        async with mesh.Gateway() as new:
            dialer.gateway = new
            await trio.sleep(1)
            assert results == [new.instance]
            dialer.gateway = None


async def test_without_reconnecting_a_loss_is_for_good(autojump_clock: MockClock) -> None:
    """Each later call says so at once, with its own chain."""
    async with mesh.Gateway() as gateway:
        dialer = MemoryDialer(gateway)
        async with mesh.connect("peer", gateway=dialer, reconnect=False) as peer:
            await dialer.cut()
            await trio.testing.wait_all_tasks_blocked()
            assert not peer.is_connected
            before = trio.current_time()
            for method in ("status", "services"):
                with pytest.raises(
                    mesh.Unavailable, match="connection to the gateway is over"
                ) as e:
                    await peer.call("mesh", method)
                assert not e.value.maybe_executed
                assert e.value.chain == (f"mesh.{method}",)
            assert trio.current_time() == before


async def test_handlers_stop_when_their_connection_is_lost(autojump_clock: MockClock) -> None:
    """Nobody can hear their answers any more."""
    cancelled: list[float] = []
    started = trio.Event()
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
    ):
        dialer = MemoryDialer(gateway)
        async with mesh.connect("server", gateway=dialer) as server, trio.open_nursery() as nursery:

            @server.method()
            async def wait() -> None:
                started.set()
                try:
                    await trio.sleep_forever()
                finally:
                    cancelled.append(trio.current_time())

            await settled(server)

            @nursery.start_soon
            async def call() -> None:
                with pytest.raises(mesh.Unavailable) as raised:
                    await caller.call("server", "wait")
                assert raised.value.maybe_executed
                assert "the connection to server (" in raised.value.message
                assert raised.value.chain == ("server.wait",)

            await started.wait()
            before = trio.current_time()
            await dialer.cut()
            await trio.testing.wait_all_tasks_blocked()
            assert cancelled == [before]


@pytest.mark.parametrize(
    "header",
    [result_header(1000), error_header(1000), codec.Hello(1, "x", "y", None, {}, {}, [], "")],
    ids=["RESULT", "ERROR", "HELLO"],
)
async def test_a_gateway_that_breaks_the_protocol_is_left_and_found_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, header: codec.Header
) -> None:
    """The reason is logged, and the next connection works."""
    gateway = HandGateway()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.accept)
        async with mesh.connect("peer", gateway=gateway) as peer:
            await gateway.send(header)
            await gateway.accept()
            await trio.testing.wait_all_tasks_blocked()
            assert peer.is_connected
            await gateway.stream.aclose()
    assert "the gateway broke the protocol: " in caplog.text


async def test_a_silent_gateway_on_tcp_is_given_up(autojump_clock: MockClock) -> None:
    """After twelve heartbeats without a byte; on other transports the kernel tells of a loss."""
    gateway = HandGateway(limits={"heartbeat_us": 1_000_000})
    is_tcp = True
    plain_dial = gateway.dial

    class Dialer:
        """The same, as if over TCP."""

        async def dial(self, limit: int) -> Any:
            """Open a link."""
            link = await plain_dial(limit)
            link.is_tcp = is_tcp
            return link

    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.accept)
        async with mesh.connect("peer", gateway=Dialer()) as peer:
            before = trio.current_time()
            is_tcp = False
            await gateway.accept()
            assert 12 <= trio.current_time() - before <= 14
            await trio.sleep(60)
            assert peer.is_connected
            await gateway.stream.aclose()


async def test_the_gateways_limits_rule_its_peers(autojump_clock: MockClock) -> None:
    """Chunks of any size that the gateway chose travel both ways."""
    for max_chunk in (1000, 1 << 20):
        limits = mesh.Limits(max_chunk=max_chunk, max_message=3_000_000)
        async with mesh.Gateway(limits=limits) as gateway:
            async with mesh.connect("peer", gateway=gateway) as peer:

                @peer.method()
                async def echo(params: bytes) -> bytes:
                    return params

                await settled(peer)
                assert await peer.call("peer", "echo", bytes(2_500_000)) == bytes(2_500_000)
                with pytest.raises(mesh.ResourceExhausted, match="max_message of 3,000,000"):
                    await peer.call("peer", "echo", bytes(3_000_001))
            assert gateway.core.counters.protocol_errors == 0


# A gateway that does not read.


@asynccontextmanager
async def congested() -> AsyncIterator[tuple[HandGateway, mesh.Client, list[Any]]]:
    """A caller whose outbox is full, as its gateway reads nothing; and what became of its calls."""
    gateway = HandGateway(lockstep=True)
    limits = mesh.Limits(max_outbox=100_000)
    outcomes: list[Any] = []

    async def call(caller: mesh.Client) -> None:
        try:
            outcomes.append(await caller.call("svc", "go", bytes(30_000), timeout=100))
        except mesh.CallError as error:
            outcomes.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.accept)
        async with mesh.connect("caller", gateway=gateway, limits=limits) as caller:
            await trio.testing.wait_all_tasks_blocked()  # its first heartbeat blocks the stream
            for _ in range(6):
                nursery.start_soon(call, caller)
                await trio.testing.wait_all_tasks_blocked()
            link = caller._uplink.link
            assert link is not None
            assert link.queued < 140_000
            yield gateway, caller, outcomes
            nursery.cancel_scope.cancel()


async def test_callers_wait_for_room_and_go_on_as_the_gateway_reads(
    autojump_clock: MockClock,
) -> None:
    """What a peer holds unsent is bounded; each call is sent once there is room for it."""
    async with congested() as (gateway, _, outcomes):
        ids: set[int] = set()
        for _ in range(6):
            _, _, header, _ = await gateway.receive(Kind.CALL)
            ids.add(header.call_id)
        assert len(ids) == 6
        for call_id in ids:
            await gateway.send(result_header(call_id), payload=b"\x01")
        await trio.testing.wait_all_tasks_blocked()
        assert outcomes == [1] * 6


async def test_a_deadline_also_ends_the_wait_for_room(autojump_clock: MockClock) -> None:
    """The call was never sent, and says so."""
    async with congested() as (_, caller, _):
        before = trio.current_time()
        with pytest.raises(mesh.DeadlineExceeded, match="no time was left") as raised:
            await caller.call("svc", "go", timeout=2)
        assert trio.current_time() - before == pytest.approx(2, abs=0.01)
        assert not raised.value.maybe_executed
        with trio.move_on_after(1) as scope:
            await caller.call("svc", "go")
        assert scope.cancelled_caught


async def test_a_loss_while_callers_wait_for_room_leaves_none_hanging(
    autojump_clock: MockClock,
) -> None:
    """What was queued ends as never executed; what was not goes on with the next connection."""
    async with congested() as (gateway, _, outcomes):
        await gateway.stream.aclose()
        await gateway.accept()
        later = 0
        while sum(outcome != 1 for outcome in outcomes) + later < 6:
            _, _, header, _ = await gateway.receive(Kind.CALL)
            later += 1
            await gateway.send(result_header(header.call_id), payload=b"\x01")
        await trio.testing.wait_all_tasks_blocked()
        errors = [outcome for outcome in outcomes if outcome != 1]
        assert later == outcomes.count(1) > 0
        assert len(outcomes) == 6
        assert {(type(error), error.maybe_executed) for error in errors} == {
            (mesh.Unavailable, False)
        }


# Leaving.


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


async def test_leaving_does_not_wait_for_a_handler_that_was_cancelled(
    autojump_clock: MockClock,
) -> None:
    """The last handler's end is its end, whether it returned or was stopped."""
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
                with pytest.raises(mesh.DeadlineExceeded):
                    await caller.call("server", "hang", timeout=2)

            await started.wait()
            before = trio.current_time()
        assert trio.current_time() - before == pytest.approx(2, abs=0.1)


async def test_leaving_ends_what_outlasts_the_drain(autojump_clock: MockClock) -> None:
    """After ten seconds the handler is cancelled and its caller told."""
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
                with pytest.raises(mesh.Unavailable):
                    await caller.call("server", "hang", timeout=60)

            await started.wait()
            before = trio.current_time()
        assert trio.current_time() - before == pytest.approx(10, abs=0.1)


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


@asynccontextmanager
async def connected_twice() -> AsyncIterator[tuple[mesh.Client, mesh.Client]]:
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("one", gateway=gateway) as one,
        mesh.connect("two", gateway=gateway) as two,
    ):
        yield one, two


async def test_serve_registers_in_order_and_until_cancelled() -> None:
    """Functions that take the client, also asynchronous ones."""
    order: list[str] = []

    def first(client: mesh.Client) -> None:
        order.append("first")
        client.register("a", answer)

    async def second(client: mesh.Client) -> None:
        await trio.lowlevel.checkpoint()
        order.append("second")
        client.register("b", answer)

    async with connected_twice() as (one, two), trio.open_nursery() as nursery:
        nursery.start_soon(mesh.serve, one, first, second)
        await trio.testing.wait_all_tasks_blocked()
        assert order == ["first", "second"]
        await settled(one)
        assert await two.call("one", "b") == "answer"
        nursery.cancel_scope.cancel()


def test_run_needs_something_to_serve() -> None:
    """Before anything is started."""
    with pytest.raises(TypeError, match="needs at least one service"):
        mesh.run()


# What the peer does with frames that are none of its business.


async def test_streams_are_answered_with_unimplemented() -> None:
    """And the call that they name is the gateway's business, not the handler's."""
    gateway = HandGateway()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.accept)
        async with mesh.connect("peer", gateway=gateway):
            for kind in (Kind.ITEM, Kind.END, Kind.CREDIT):
                await gateway.stream.send_all(codec.encode(kind, (7,)))
                _, _, error, _ = await gateway.receive(Kind.ERROR)
                assert error.call_id == 7
                assert error.reason == Reason.UNSUPPORTED
                assert Kind(kind).name in error.message
            await gateway.stream.aclose()


async def test_a_ping_is_answered_with_its_own_number() -> None:
    """That is how round trips to a peer's loop are measured."""
    gateway = HandGateway()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.accept)
        async with mesh.connect("peer", gateway=gateway):
            await gateway.send(codec.Heartbeat(77, codec.PING, 0, 0, 0, 0, 0))
            while True:
                _, _, beat, _ = await gateway.receive(Kind.HEARTBEAT)
                if beat.flag == codec.PONG:
                    break
            assert beat.sequence == 77
            assert beat.memory > 0
            await gateway.stream.aclose()


async def test_frames_of_later_versions_are_ignored() -> None:
    """KEEP, EVENT and kinds that nobody knows yet."""
    gateway = HandGateway()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.accept)
        async with mesh.connect("peer", gateway=gateway) as peer:

            @peer.method()
            async def echo(params: Any) -> Any:
                return params

            await gateway.send(codec.Keep([bytes(16)]), codec.Event("registry", 1))
            await gateway.stream.send_all(codec.encode(200, ("future",), b"payload"))
            await gateway.send(
                call_header(5, "peer", "echo", chain=["peer.echo"]), payload=b"\xa2hi"
            )
            _, _, result, payload = await gateway.receive(Kind.RESULT)
            assert (result.call_id, payload) == (5, b"\xa2hi")
            await gateway.stream.aclose()


async def test_a_name_that_no_service_can_have_is_no_reason_to_lose_the_connection() -> None:
    """However long it is, the call alone fails."""
    async with mesh.Gateway() as gateway, mesh.connect("peer", gateway=gateway) as peer:
        for name in ("x" * 40_000, "x" * 70_000, "", "a b"):
            with pytest.raises((mesh.CallError, ValueError)):
                await peer.call(name, "method", timeout=0.05)
            with pytest.raises((mesh.CallError, ValueError)):
                await peer.call("mesh", name, timeout=0.05)
        assert await peer.call("mesh", "status")
        assert gateway.core.counters.connections_closed == 0


async def test_raw_peers_may_come_and_go_in_any_order() -> None:
    """A gateway with many short connections keeps none of them."""
    async with mesh.Gateway() as gateway:
        for number in range(50):
            async with raw_peer(gateway, f"p{number}"):
                pass
        await trio.testing.wait_all_tasks_blocked()
        assert len(gateway.core.sessions) == 1
        assert gateway.core.counters.connections_closed == 50
