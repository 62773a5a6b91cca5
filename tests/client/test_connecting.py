"""Connecting: waiting for a gateway, and saying why none answered."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import mesh
from mesh.errors import Reason
from mesh.transport import Address, Listener
from mesh.wire import codec
from tests.gateway.raw_peer import (
    HandGateway,
    MemoryDialer,
)

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock


async def answer() -> str:
    return "answer"


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
            async with mesh.connect("peer", gateway=str(listener.address), connect_timeout=1.0):
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
