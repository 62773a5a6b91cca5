"""Long messages: they travel in chunks, let others pass, are bounded, and may stop midway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trio.testing

import mesh
from mesh.errors import Code, Reason
from mesh.wire import CONTINUED, MORE, Kind, codec
from tests.gateway.by_hand import by_hand, check_empty
from tests.gateway.raw_peer import (
    HandGateway,
    RawPeer,
    call_header,
    error_header,
    raw_peer,
    register_header,
    result_header,
    settled,
)

if TYPE_CHECKING:
    from trio.testing import MockClock

CHUNK = 64 * 1024


def first(header: codec.Header, payload: bytes) -> bytes:
    """The first frame of a long message."""
    kind = codec._KINDS[type(header)]
    return codec.encode(kind, msgspec.structs.astuple(header), payload, MORE)


def more(kind: Kind, call_id: int, payload: bytes, *, last: bool = False) -> bytes:
    """A further frame."""
    return codec.encode(kind, (call_id,), payload, CONTINUED | (0 if last else MORE))


@pytest.mark.parametrize("size", [CHUNK - 10, CHUNK, CHUNK + 1, 2 * CHUNK, 5_000_000])
async def test_long_messages_arrive_whole_both_ways(size: int) -> None:
    """Around the chunk's size and far beyond it, the same bytes come back."""
    async with mesh.Gateway() as gateway, mesh.connect("peer", gateway=gateway) as peer:

        @peer.method()
        async def echo(params: bytes) -> bytes:
            return params

        await settled(peer)
        payload = bytes(range(256)) * (size // 256 + 1)
        assert await peer.call("peer", "echo", payload[:size]) == payload[:size]
        check_empty(gateway)


async def test_small_calls_pass_between_the_chunks_of_long_ones() -> None:
    """While many megabytes go both ways over the same connections, small calls keep flowing."""
    events: list[str] = []
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("server", gateway=gateway) as server,
        mesh.connect("caller", gateway=gateway) as caller,
        trio.open_nursery() as nursery,
    ):

        @server.method()
        async def echo(params: Any) -> Any:
            return params

        await settled(server)

        async def long() -> None:
            payload = bytes(8_000_000)
            assert await caller.call("server", "echo", payload) == payload
            events.append("long")

        for _ in range(2):
            nursery.start_soon(long)
        await trio.lowlevel.checkpoint()
        for number in range(20):
            assert await caller.call("server", "echo", number) == number
            events.append("small")
    assert events.index("long") >= 5
    assert events.count("long") == 2


async def test_the_gateway_passes_chunks_on_as_they_come() -> None:
    """It does not wait for the whole, in either direction, and keeps nothing of it."""
    async with (
        mesh.Gateway() as gateway,
        raw_peer(gateway, "caller") as caller,
        raw_peer(gateway, "callee") as callee,
    ):
        await callee.send(register_header("svc", "go"))
        await caller.send_bytes(first(call_header(1, "svc", "go"), b"one"))
        _, flags, header, payload = await callee.receive()
        assert (flags, payload) == (MORE, b"one")
        await caller.send_bytes(more(Kind.CALL, 1, b"two", last=True))
        _, flags, reference, payload = await callee.receive()
        assert (flags, payload) == (CONTINUED, b"two")
        assert reference.call_id == header.call_id
        await callee.send_bytes(first(result_header(header.call_id), b"three"))
        _, flags, result, payload = await caller.receive()
        assert (flags, payload, result.call_id) == (MORE, b"three", 1)
        assert gateway.core.table.by_id
        await callee.send_bytes(more(Kind.RESULT, header.call_id, b"", last=True))
        _, flags, reference, payload = await caller.receive()
        assert (flags, payload, reference.call_id) == (CONTINUED, b"", 1)
        check_empty(gateway)


async def test_details_of_an_error_may_be_long_too(autojump_clock: MockClock) -> None:
    """Its code counts from the first chunk on."""
    async with mesh.Gateway() as gateway, mesh.connect("peer", gateway=gateway) as peer:

        @peer.method()
        async def fail() -> None:
            raise mesh.NotFound("gone", details={"rows": "x" * 300_000})

        await settled(peer)
        with pytest.raises(mesh.NotFound) as raised:
            await peer.call("peer", "fail")
        assert raised.value.details == {"rows": "x" * 300_000}
        series = gateway.core.metrics.series("peer", "peer", "fail")
        assert series.codes[Code.NOT_FOUND.number] == 1


# Too much.


async def test_parameters_over_the_bound_are_refused_before_they_are_sent() -> None:
    """With both numbers; nothing was executed."""
    async with (
        mesh.Gateway(limits=mesh.Limits(max_message=100_000)) as gateway,
        mesh.connect("peer", gateway=gateway) as peer,
    ):
        before = gateway.core.table.last_id
        with pytest.raises(mesh.ResourceExhausted) as raised:
            await peer.call("mesh", "status", bytes(100_000))
        assert raised.value.reason == Reason.MESSAGE_TOO_LARGE
        assert "parameters of mesh.status, 100,005 bytes, exceed max_message of 100,000" in str(
            raised.value
        )
        assert not raised.value.maybe_executed
        assert gateway.core.table.last_id == before


async def test_a_result_over_the_bound_is_an_error_of_the_call_alone() -> None:
    """Which was executed; the connection that carries it stays."""
    async with (
        mesh.Gateway(limits=mesh.Limits(max_message=100_000)) as gateway,
        mesh.connect("peer", gateway=gateway) as peer,
    ):

        @peer.method()
        async def big() -> bytes:
            return bytes(100_000)

        await settled(peer)
        with pytest.raises(mesh.ResourceExhausted) as raised:
            await peer.call("peer", "big")
        assert raised.value.reason == Reason.MESSAGE_TOO_LARGE
        assert "result of peer.big, 100,005 bytes, exceeds max_message of 100,000" in str(
            raised.value
        )
        assert raised.value.maybe_executed
        assert gateway.core.counters.connections_closed == 0


async def test_half_arrived_messages_are_bounded_together(autojump_clock: MockClock) -> None:
    """A peer that already holds too much refuses the next one, and that one alone."""
    gateway = HandGateway()
    limits = mesh.Limits(max_assembly=100_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.accept)
        async with mesh.connect("peer", gateway=gateway, limits=limits) as peer:

            @peer.method()
            async def size(params: bytes) -> int:
                return len(params)

            whole = msgspec.msgpack.encode(bytes(90_000))
            for call_id in (1, 2):
                header = call_header(call_id, "peer", "size", chain=["peer.size"])
                await gateway.stream.send_all(first(header, whole[:60_000]))
            _, _, error, _ = await gateway.receive(Kind.ERROR)
            assert error.call_id == 2
            assert Code.from_number(error.code) is Code.RESOURCE_EXHAUSTED
            assert error.reason == Reason.MESSAGE_TOO_LARGE
            await gateway.stream.send_all(more(Kind.CALL, 2, b"ignored", last=True))
            await gateway.stream.send_all(more(Kind.CALL, 1, whole[60_000:], last=True))
            _, _, result, payload = await gateway.receive(Kind.RESULT)
            assert (result.call_id, msgspec.msgpack.decode(payload)) == (1, 90_000)
            # The same holds for answers: the call is given up, and the gateway told.
            async with trio.open_nursery() as inner:

                @inner.start_soon
                async def call() -> None:
                    with pytest.raises(mesh.ResourceExhausted) as raised:
                        await peer.call("a", "b")
                    assert raised.value.reason == Reason.MESSAGE_TOO_LARGE

                _, _, made, _ = await gateway.receive(Kind.CALL)
                await gateway.stream.send_all(first(result_header(made.call_id), bytes(60_000)))
                await gateway.stream.send_all(more(Kind.RESULT, made.call_id, bytes(60_000)))
                _, _, cancel, _ = await gateway.receive(Kind.CANCEL)
                assert cancel.call_id == made.call_id
            await gateway.stream.send_all(more(Kind.RESULT, made.call_id, bytes(60_000), last=True))
            await trio.testing.wait_all_tasks_blocked()
            assert peer.is_connected
            await gateway.stream.aclose()


# Stopping midway.


async def begin(caller: RawPeer, callee: RawPeer) -> Any:
    """A call of which a chunk has come; returns its header at the callee."""
    await callee.send(register_header("svc", "go"))
    await callee.call("mesh", "status")
    await callee.receive(Kind.RESULT)
    await caller.send_bytes(first(call_header(1, "svc", "go"), b"chunk"))
    _, _, header, _ = await callee.receive(Kind.CALL)
    return header


async def test_a_caller_that_disconnects_midway_is_told_of_to_the_callee() -> None:
    """By a CANCEL that names the reason."""
    async with mesh.Gateway() as gateway, raw_peer(gateway, "callee") as callee:
        async with raw_peer(gateway, "caller") as caller:
            header = await begin(caller, callee)
        _, _, cancel, _ = await callee.receive(Kind.CANCEL)
        assert (cancel.call_id, cancel.reason) == (header.call_id, codec.BY_DISCONNECT)


async def test_a_caller_that_stops_midway_runs_into_its_deadline(
    autojump_clock: MockClock,
) -> None:
    """Both ends are told; frames that come after all are dropped."""
    async with (
        mesh.Gateway() as gateway,
        raw_peer(gateway, "caller") as caller,
        raw_peer(gateway, "callee") as callee,
    ):
        await begin(caller, callee)
        await trio.sleep(31)
        _, _, cancel, _ = await callee.receive(Kind.CANCEL)
        assert cancel.reason == codec.BY_DEADLINE
        _, _, error, _ = await caller.receive(Kind.ERROR)
        assert Code.from_number(error.code) is Code.DEADLINE_EXCEEDED
        await caller.send_bytes(more(Kind.CALL, 1, b"late"))
        await caller.send_bytes(more(Kind.CALL, 1, b"late", last=True))
        await caller.call("mesh", "status", call_id=2)
        kind, _, _, _ = await caller.receive()
        assert kind == Kind.RESULT


async def test_a_peer_forgets_what_had_come_of_a_cancelled_call(
    autojump_clock: MockClock,
) -> None:
    """Its handler never starts, and the cancel is acknowledged."""
    gateway = HandGateway()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.accept)
        async with mesh.connect("peer", gateway=gateway) as peer:
            ran: list[Any] = []
            peer.register("go", ran.append)
            header = call_header(1, "peer", "go", chain=["peer.go"])
            await gateway.stream.send_all(first(header, b"\xc0"))
            await gateway.send(codec.Cancel(1, codec.BY_DISCONNECT))
            _, _, error, _ = await gateway.receive(Kind.ERROR)
            assert (error.call_id, Code.from_number(error.code)) == (1, Code.CANCELLED)
            await gateway.stream.send_all(more(Kind.CALL, 1, b"", last=True))
            await trio.testing.wait_all_tasks_blocked()
            assert not ran
            assert peer.is_connected
            await gateway.stream.aclose()


async def test_a_callee_that_is_lost_midway_ends_the_call_with_an_error() -> None:
    """What had come of the answer is nothing."""
    async with by_hand() as it:
        async with it.failing(mesh.Unavailable) as (call_id, errors):
            await it.callee.send_bytes(first(result_header(call_id), bytes(CHUNK)))
            await it.callee.stream.aclose()
        assert errors[0].reason == Reason.CONNECTION_LOST
        assert it.caller._uplink.outgoing.assembler.held == 0
        check_empty(it.gateway)


async def test_a_callee_that_fails_midway_ends_the_call_with_its_error() -> None:
    """It thought better of its answer: an ERROR after the first chunks of a RESULT."""
    async with by_hand() as it:
        async with it.failing(mesh.DataLoss, match="disk") as (call_id, _):
            await it.callee.send_bytes(first(result_header(call_id), bytes(CHUNK)))
            await it.callee.send(error_header(call_id, Code.DATA_LOSS.number, "disk"))
        assert it.caller._uplink.outgoing.assembler.held == 0
        assert await it.caller.call("mesh", "status")
        check_empty(it.gateway)


async def test_a_late_answer_in_chunks_is_counted_once(autojump_clock: MockClock) -> None:
    """At its last frame; none of it reaches the caller."""
    async with by_hand() as (gateway, caller, callee, _):
        with pytest.raises(mesh.DeadlineExceeded):
            await caller.call("svc", "go", timeout=1)
        _, _, header, _ = await callee.receive(Kind.CALL)
        series = gateway.core.metrics.method("svc", "go")
        await callee.send_bytes(first(result_header(header.call_id), b"a"))
        await callee.send_bytes(more(Kind.RESULT, header.call_id, b"b"))
        await trio.testing.wait_all_tasks_blocked()
        assert series.late == 0
        await callee.send_bytes(more(Kind.RESULT, header.call_id, b"c", last=True))
        await trio.testing.wait_all_tasks_blocked()
        assert series.late == 1
        check_empty(gateway)


async def test_the_end_of_a_call_stops_its_answer_midway(autojump_clock: MockClock) -> None:
    """A deadline passes between two chunks: the caller gets the error, and the rest is late."""
    async with by_hand() as it:
        async with it.failing(mesh.DeadlineExceeded, timeout=1) as (call_id, _):
            await it.callee.send_bytes(first(result_header(call_id), bytes(CHUNK)))
            await it.callee.receive(Kind.CANCEL)
            await it.callee.send_bytes(more(Kind.RESULT, call_id, bytes(10), last=True))
        await trio.testing.wait_all_tasks_blocked()
        assert it.gateway.core.metrics.method("svc", "go").late == 1
        assert it.caller._uplink.outgoing.assembler.held == 0
        assert await it.caller.call("mesh", "status")
        check_empty(it.gateway)
