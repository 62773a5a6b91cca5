"""Streams of events, of real gateways and peers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import trio
import trio.testing

import mesh
from mesh import events
from mesh.streams import EventStream, Feed

if TYPE_CHECKING:
    from collections.abc import Callable

E = TypeVar("E")


def is_(kind: type[Any], **wanted: object) -> Callable[[object], bool]:
    """Whether an event is of a kind, with these values."""
    return lambda event: (
        isinstance(event, kind)
        and all(getattr(event, name) == value for name, value in wanted.items())
    )


async def until(stream: EventStream[E], condition: Callable[[object], bool]) -> list[E]:
    """Read a stream up to and with an event; returns all that was read."""
    found: list[E] = []
    with trio.fail_after(10):
        async for event in stream:
            found.append(event)
            if condition(event):
                return found
    raise AssertionError(f"the stream ended without it: {found}")


async def test_a_stream_is_bounded_and_tells_what_it_dropped() -> None:
    feed: Feed[int] = Feed()
    feed.publish(0)  # nobody listens
    async with EventStream(feed, 3) as slow, EventStream(feed, 100) as fast:
        for number in range(1, 11):
            feed.publish(number)
        feed.close()
        assert [event async for event in slow] == [8, 9, 10]
        assert slow.dropped == 7
        assert [event async for event in fast] == list(range(1, 11))
        assert fast.dropped == 0
    assert feed.listeners == []
    with pytest.raises(ValueError, match="capacity 0"):
        EventStream(feed, 0)


async def test_a_reader_waits_for_what_comes(autojump_clock: trio.testing.MockClock) -> None:
    feed: Feed[int] = Feed()

    async def write() -> None:
        for number in range(3):
            await trio.sleep(1)
            feed.publish(number)
        await trio.sleep(1)
        feed.close()

    start = autojump_clock.current_time()
    async with EventStream(feed, 10) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(write)
        assert [event async for event in stream] == [0, 1, 2]
    assert autojump_clock.current_time() - start == pytest.approx(4)


async def test_a_gateway_tells_its_life_from_start_to_stop() -> None:
    gateway = mesh.Gateway()
    async with gateway.events() as stream:
        async with gateway:
            await until(stream, is_(events.GatewayStarted, gateway=gateway.instance))
            async with mesh.connect("users", gateway=gateway) as users:

                @users.method()
                async def get() -> None: ...

                told = (await until(stream, is_(events.ServiceRegistered, service="users")))[-1]
                assert isinstance(told, events.ServiceRegistered)
                assert (told.methods, told.peer) == (["get"], "users")
                users.register("find", get, service="directory")
                await until(stream, is_(events.ServiceRegistered, service="directory"))
                users.unregister("find", service="directory")
                gone = is_(events.ServiceDisconnected, service="directory", reason="unregistered")
                await until(stream, gone)
            gone = is_(events.ServiceDisconnected, service="users", reason="disconnected")
            await until(stream, gone)
        await until(stream, is_(events.GatewayStopped))
        assert [event async for event in stream] == []
    assert stream.dropped == 0


async def test_a_gateway_tells_of_every_call_and_its_end() -> None:
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("users", gateway=gateway) as users,
        mesh.connect("shop", gateway=gateway) as shop,
    ):

        @users.method()
        async def get(params: int) -> int:
            if params < 0:
                raise mesh.NotFound("negative", reason="NO_SUCH_USER")
            return params

        await users.call("mesh", "status")
        async with gateway.events() as stream:
            with mesh.activity("order-7"):
                await shop.call("users", "get", 1)
                with pytest.raises(mesh.NotFound):
                    await shop.call("users", "get", -1)
                with pytest.raises(mesh.Unimplemented):
                    await shop.call("users", "got", 1)
            found = await until(stream, is_(events.ResponseRouted, refused=True))
        routed = [event for event in found if isinstance(event, events.CallRouted)]
        ended = [event for event in found if isinstance(event, events.ResponseRouted)]
        assert [(one.service, one.method, one.depth) for one in routed] == [("users", "get", 1)] * 2
        assert {one.instance for one in routed} == {users._uplink.process.id}
        assert {one.activity_id for one in routed} == {"order-7"}
        assert {one.activity_id for one in ended} == {"order-7"}
        assert [(one.code, one.reason, one.refused) for one in ended] == [
            ("ok", "", False),
            ("not_found", "NO_SUCH_USER", False),
            ("unimplemented", "METHOD_NOT_FOUND", True),
        ]
        assert [one.call_id for one in ended[:2]] == [one.call_id for one in routed]
        assert all(0 < one.duration < 10 for one in ended[:2])


async def test_a_gateway_tells_of_faults_and_of_its_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mesh.gateway")
    async with mesh.Gateway() as gateway:
        async with gateway.events() as stream:
            link = await gateway.dial(1 << 20)
            link.put(b"\xff" * 64)
            link.flush()
            found = await until(stream, is_(events.ErrorOccurred))
            assert isinstance(found[-1], events.ErrorOccurred)
            assert "exceeds the limit" in found[-1].message
            lines = await until(stream, is_(events.LogWritten, level="warning"))
            assert isinstance(lines[-1], events.LogWritten)
            assert "exceeds the limit" in lines[-1].message
            await link.aclose()

            def elsewhere() -> None:
                logging.getLogger("mesh.gateway").warning("from a thread")

            await trio.to_thread.run_sync(elsewhere)
            await until(stream, is_(events.LogWritten, message="from a thread"))
        assert logging.getLogger("mesh.gateway").handlers == []


async def test_a_peer_tells_its_life() -> None:
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("users", gateway=gateway, connect_timeout=0) as users,
        users.events() as stream,
    ):
        await until(stream, is_(events.Connected, gateway=gateway.instance))

        @users.method()
        async def get(params: int) -> float:
            if params < 0:
                raise mesh.NotFound("negative", reason="NO_SUCH_USER")
            return 1 / params

        await until(stream, is_(events.MethodsRegistered, methods=["get"]))
        assert await users.call("users", "get", 1) == 1
        await until(stream, is_(events.MethodExecuted, code="ok", caller="users"))
        await until(stream, is_(events.ResponseReceived, code="ok", method="get"))
        with pytest.raises(mesh.NotFound):
            await users.call("users", "get", -1)
        await until(stream, is_(events.MethodExecuted, code="not_found"))
        await until(stream, is_(events.ResponseReceived, reason="NO_SUCH_USER"))
        with pytest.raises(mesh.Unknown):
            await users.call("users", "get", 0)
        await until(stream, is_(events.MethodExecuted, code="unknown"))
        error = (await until(stream, is_(events.ErrorOccurred)))[-1]
        assert isinstance(error, events.ErrorOccurred)
        assert error.message == "the handler of users.get raised ZeroDivisionError"
        gateway.drain()
        await until(stream, is_(events.GatewayError))
        await until(stream, is_(events.Disconnected, gateway=gateway.instance))


async def test_a_peer_s_stream_ends_with_the_peer() -> None:
    async with mesh.Gateway() as gateway:
        async with mesh.connect("users", gateway=gateway) as users:
            stream = await users.events().__aenter__()
        found = await until(stream, is_(events.Disconnected, reason="closed by this peer"))
        assert len(found) == 1
        assert [event async for event in stream] == []


async def test_a_peer_tells_its_state() -> None:
    async with mesh.Gateway() as gateway:
        async with mesh.connect("users", gateway=gateway) as users:
            held, started = trio.Event(), trio.Event()

            @users.method()
            async def wait() -> None:
                started.set()
                await held.wait()

            assert users.registered_methods() == ["users.wait"]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(users.call, "users", "wait")
                await started.wait()
                status = users.status()
                assert (status.connected, status.ready, status.closing) == (True, True, False)
                assert (status.name, status.gateway, status.fault) == (
                    "users",
                    gateway.instance,
                    "",
                )
                assert (status.methods, status.serving, status.calling) == (["users.wait"], 1, 1)
                held.set()
        closed = users.status()
        assert (closed.connected, closed.ready, closed.closing) == (False, False, True)
        assert not users.is_connected
        assert (closed.serving, closed.calling) == (0, 0)
