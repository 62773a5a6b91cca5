"""What a peer does with frames that are none of its business."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import mesh
from mesh.errors import Reason
from mesh.payload import decode
from mesh.wire import Kind, codec
from tests.gateway.raw_peer import (
    HandGateway,
    call_header,
    raw_peer,
    result_header,
)

if TYPE_CHECKING:
    from trio.testing import MockClock


async def answer() -> str:
    return "answer"


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


@pytest.mark.parametrize(
    ("encoding", "payload"), [(codec.MSGPACK, b"\x93\x01\x02\x01"), (codec.JSON, b"[1,2,1]")]
)
@pytest.mark.parametrize(("wanted", "value"), [(Any, [1, 2, 1]), (set[int], {1, 2})])
async def test_an_answer_is_read_by_the_encoding_that_it_names(
    encoding: int, payload: bytes, wanted: Any, value: object
) -> None:
    """Not by that of the call, although the two are mostly the same."""
    gateway = HandGateway()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.accept)
        async with mesh.connect("peer", gateway=gateway) as peer:
            found: list[object] = []

            async def call() -> None:
                found.append(await peer.call("users", "ids", result=wanted))

            async with trio.open_nursery() as calling:
                calling.start_soon(call)
                _, _, header, _ = await gateway.receive(Kind.CALL)
                answer_header = result_header(header.call_id)
                answer_header.encoding = encoding
                await gateway.send(answer_header, payload=payload)
            assert found == [value]
            await gateway.stream.aclose()


async def test_a_call_that_comes_with_the_welcome_has_all_of_its_time(
    autojump_clock: MockClock,
) -> None:
    """However long the handshake took before it."""
    gateway = HandGateway()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.accept)
        async with mesh.connect("peer", gateway=gateway) as peer:

            @peer.method()
            async def remaining() -> float:
                served = mesh.current_call()
                assert served is not None
                return served.remaining

            await gateway.stream.aclose()
            await gateway.accept(welcome=False)
            await trio.sleep(3)
            call = call_header(1, "peer", "remaining", timeout_us=8_000_000, chain=["a.b"])
            await gateway.welcome(call)
            _, _, _, payload = await gateway.receive(Kind.RESULT)
            assert decode(payload, codec.MSGPACK) == pytest.approx(8)
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
