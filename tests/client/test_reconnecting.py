"""Losing a gateway and finding it again: what becomes of calls, handlers and registrations."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import mesh
from mesh.errors import Reason
from mesh.wire import Kind, codec
from tests.gateway.raw_peer import (
    HandGateway,
    MemoryDialer,
    error_header,
    result_header,
    settled,
)

if TYPE_CHECKING:
    from trio.testing import MockClock


async def answer() -> str:
    return "answer"


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


async def test_calls_that_a_gateway_turns_away_go_to_the_next_one(
    autojump_clock: MockClock,
) -> None:
    """They had left when it said goodbye; nobody but the caller's clock can tell."""
    dialer, results = MemoryDialer(None), list[str]()

    async def ask(caller: mesh.Client) -> None:
        results.append((await caller.call("mesh", "status"))["gateway"])

    async def ask_later(caller: mesh.Client) -> None:
        results.append(await caller.call("later", "one"))

    async with (
        mesh.connect("caller", gateway=dialer, connect_timeout=0) as caller,
        trio.open_nursery() as nursery,
    ):
        async with mesh.Gateway() as old:
            dialer.gateway = old
            await settled(caller)
            nursery.start_soon(ask_later, caller)
            await trio.testing.wait_all_tasks_blocked()
            old.drain()
            for _ in range(3):
                nursery.start_soon(ask, caller)
            await trio.lowlevel.checkpoint()
            before = trio.current_time()
            with trio.fail_after(1):
                while caller.is_connected:
                    await trio.testing.wait_all_tasks_blocked()
                    await trio.sleep(0.01)
            assert trio.current_time() - before < 0.1, "a call that only waits holds up no drain"
        async with mesh.Gateway() as new:
            dialer.gateway = new
            await trio.sleep(1)
            assert results == [new.instance] * 3
            async with mesh.connect("later", gateway=new) as later:
                later.register("one", answer)
                await trio.sleep(0.1)
            assert results[3:] == ["answer"]
            dialer.gateway = None


@pytest.mark.parametrize("case", ["may have run", "no goodbye", "does not reconnect"])
async def test_calls_that_may_have_run_or_have_no_next_gateway_are_not_sent_again(
    autojump_clock: MockClock, case: str
) -> None:
    gateway = HandGateway()
    goodbye = codec.GoAway("the gateway is shutting down", 10_000_000)
    refused = codec.refusal(1, 14, "GATEWAY_DRAINING", "")
    if case == "may have run":
        refused.options = codec.MAYBE_EXECUTED
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.accept)
        reconnect = case != "does not reconnect"
        async with mesh.connect("caller", gateway=gateway, reconnect=reconnect) as caller:

            @nursery.start_soon
            async def refuse() -> None:
                await gateway.receive(Kind.CALL)
                await gateway.send(*([] if case == "no goodbye" else [goodbye]), refused)

            before = trio.current_time()
            with pytest.raises(mesh.Unavailable) as raised:
                await caller.call("a", "b")
            assert raised.value.reason == Reason.GATEWAY_DRAINING
            assert trio.current_time() == before


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


async def test_a_gateway_that_has_just_ended_refuses_as_one_that_is_away() -> None:
    """Its nursery closes a moment before it knows."""
    async with mesh.Gateway() as gateway:
        closing = gateway._nursery
    gateway._nursery = closing
    with pytest.raises(ConnectionRefusedError, match="has stopped"):
        await gateway.dial(1_000)


async def test_a_gateway_that_goes_away_during_the_tls_handshake_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hung_up = trio.Event()

    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.aclose()
        hung_up.set()

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, host="127.0.0.1")
        (listener,) = await nursery.start(serve, hang_up, 0)
        port = listener.socket.getsockname()[1]
        with pytest.raises(mesh.Unavailable, match="closed the connection during the TLS"):
            async with mesh.connect("c", gateway=f"tls:127.0.0.1:{port}", connect_timeout=0.5):
                raise AssertionError("nobody answers there")
        assert hung_up.is_set()
        nursery.cancel_scope.cancel()
    told = [record.levelname for record in caplog.records if record.name == "mesh.client"]
    assert told == ["WARNING"]
