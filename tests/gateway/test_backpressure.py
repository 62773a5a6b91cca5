"""Backpressure: who does not read is stopped or refused; nobody else notices, nothing piles up."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import mesh
from mesh.errors import Reason
from mesh.transport import StreamLink
from mesh.wire import Kind, codec
from tests.gateway.raw_peer import (
    Clog,
    RawPeer,
    call_header,
    hello,
    raw_peer,
    register_header,
    settled,
)
from tests.gateway.test_figures import value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

    from mesh.gateway.session import Session

SMALL = mesh.Limits(max_outbox=100_000)


def session_of(gateway: mesh.Gateway, name: str) -> Session:
    return next(s for s in gateway.core.sessions.values() if s.name == name)


@asynccontextmanager
async def clogged(
    gateway: mesh.Gateway, *headers: codec.Header, name: str = "clogged"
) -> AsyncIterator[Clog]:
    """A peer that says hello and these headers, and never reads a byte."""
    clog = Clog()
    gateway.attach(StreamLink(clog, gateway.limits.max_outbox, "clog"))
    await clog.incoming.send(codec.encode_header(hello(name, f"{name}-1")))
    await trio.testing.wait_all_tasks_blocked()
    for header in headers:
        await clog.incoming.send(codec.encode_header(header))
    await trio.testing.wait_all_tasks_blocked()
    try:
        yield clog
    finally:
        await clog.aclose()


async def test_a_callee_that_does_not_read_is_full_and_others_are_not() -> None:
    """Callers are told at once, with both numbers; calls of other services go on."""
    async with (
        mesh.Gateway(limits=SMALL) as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
        clogged(gateway, register_header("slow", "go")),
        trio.open_nursery() as nursery,
    ):
        for _ in range(20):
            nursery.start_soon(_until_cancelled, caller, "x" * 5_000)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(mesh.ResourceExhausted) as raised:
            await caller.call("slow", "go", "x" * 5_000)
        assert raised.value.reason == Reason.OUTBOX_FULL
        assert not raised.value.maybe_executed
        assert "bytes wait for clogged, which serves slow.go, at the limit of 100,000" in str(
            raised.value
        )
        assert session_of(gateway, "clogged").link.queued < 110_000
        assert await caller.call("mesh", "status")
        # That of the one that is full: a sum over all would not tell.
        assert 100_000 <= value(gateway, "mesh_outbox_fullest_bytes") < 110_000
        assert value(gateway, "mesh_outbox_limit_bytes") == 100_000
        assert value(gateway, "mesh_in_flight_limit") == 1000
        nursery.cancel_scope.cancel()


async def _until_cancelled(caller: mesh.Client, params: object) -> None:
    await caller.call("slow", "go", params)


async def test_a_long_call_stops_midway_when_its_callee_is_full() -> None:
    """Its caller is told, what has come of it is taken back, and the rest is not passed on."""
    async with (
        mesh.Gateway(limits=SMALL) as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
        clogged(gateway, register_header("slow", "go")),
    ):
        with pytest.raises(mesh.ResourceExhausted) as raised:
            await caller.call("slow", "go", bytes(1_000_000))
        assert raised.value.reason == Reason.OUTBOX_FULL
        await settled(caller)
        assert session_of(gateway, "clogged").link.queued < 100_000
        assert not gateway.core.table.by_id or all(
            entry.service == "mesh" for entry in gateway.core.table.by_id.values()
        )


async def test_a_caller_that_does_not_read_its_replies_is_read_no_further() -> None:
    """Only it: the gateway takes no more of its calls until it reads, and serves all others."""
    taken: list[Any] = []
    async with (
        mesh.Gateway(limits=SMALL) as gateway,
        mesh.connect("server", gateway=gateway) as server,
        mesh.connect("bystander", gateway=gateway) as bystander,
        clogged(gateway) as clog,
    ):

        @server.method()
        async def big(params: int) -> str:
            taken.append(params)
            return "x" * 10_000

        await settled(server)
        for number in range(1, 60):
            await clog.incoming.send(
                codec.encode_header(call_header(number, "server", "big"), b"\x01")
            )
            await trio.testing.wait_all_tasks_blocked()
            assert await bystander.call("mesh", "status")
        assert 3 <= len(taken) <= 12
        assert session_of(gateway, "clogged").link.queued <= 110_000


@pytest.mark.parametrize("what", ["refused calls", "pings", "streams"])
async def test_what_is_answered_at_once_also_piles_up_no_further(what: str) -> None:
    """A peer that only causes small answers and reads none cannot make the gateway grow."""
    frames: Callable[[int], bytes] = {
        "refused calls": lambda n: codec.encode_header(call_header(n, "mesh", "nothing")),
        "pings": lambda n: codec.encode_header(codec.Heartbeat(n, codec.PING, 0, 0, 0, 0, 0)),
        "streams": lambda n: codec.encode(Kind.CREDIT, (n,)),
    }[what]
    async with (
        mesh.Gateway(limits=SMALL) as gateway,
        mesh.connect("bystander", gateway=gateway) as bystander,
        clogged(gateway) as clog,
    ):
        number = 0
        for _ in range(200):
            batch = b""
            for _ in range(100):
                number += 1
                batch += frames(number)
            await clog.incoming.send(batch)
        await trio.testing.wait_all_tasks_blocked()
        assert session_of(gateway, "clogged").link.queued < 100_000
        assert await bystander.call("mesh", "status")


async def test_a_callee_that_is_slow_to_read_calls_is_still_heard() -> None:
    """What waits for it are not its replies: its answers are taken and passed on."""
    async with (
        mesh.Gateway(limits=SMALL) as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
        clogged(gateway, register_header("slow", "go")) as clog,
        trio.open_nursery() as nursery,
    ):
        answers: list[Any] = []

        async def call(number: int) -> None:
            answers.append(await caller.call("slow", "go", [number, "x" * 5_000]))

        for number in range(15):
            nursery.start_soon(call, number)
        await trio.testing.wait_all_tasks_blocked()
        session = session_of(gateway, "clogged")
        assert session.link.queued > 60_000
        for call_id in list(session.serving):
            result = codec.Result(call_id, 0, 0, 0, None, None)
            await clog.incoming.send(codec.encode_header(result, b"\x07"))
        await trio.testing.wait_all_tasks_blocked()
        assert answers == [7] * 15


async def test_an_answer_that_finds_its_callers_outbox_full_is_dropped_and_said(
    autojump_clock: MockClock,
) -> None:
    """The caller learns in a small frame that it should read; the callee is not blamed."""
    async with (
        mesh.Gateway(limits=SMALL) as gateway,
        mesh.connect("server", gateway=gateway) as server,
        raw_peer(gateway, "caller", lockstep=True) as caller,
    ):
        go = trio.Event()

        @server.method()
        async def big() -> str:
            await go.wait()
            return "x" * 40_000

        await settled(server)
        await caller.send(*(call_header(number, "server", "big") for number in range(1, 7)))
        await trio.testing.wait_all_tasks_blocked()
        go.set()
        await trio.testing.wait_all_tasks_blocked()
        outcomes: list[str] = []
        message = ""
        for _ in range(6):
            kind, _, header, _ = await caller.receive(Kind.RESULT, Kind.ERROR)
            outcomes.append("ok" if kind == Kind.RESULT else header.reason)
            message = header.message if kind == Kind.ERROR else message
        assert outcomes.count("ok") == 3
        assert outcomes.count(Reason.OUTBOX_FULL) == 3
        assert "bytes wait for you to read them, at the limit of 100,000" in message
        await trio.testing.wait_all_tasks_blocked()
        assert session_of(gateway, "caller").link.queued < 200


async def test_a_peer_that_breaks_the_protocol_and_does_not_read_is_closed_all_the_same(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The goodbye cannot be said, and the connection does not stay open for that."""
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("bystander", gateway=gateway) as bystander,
        clogged(gateway) as clog,
    ):
        await clog.incoming.send(b"\xff" * 100)
        await trio.sleep(2)
        assert clog.closed.is_set()
        assert "closed clogged at clog: " in caplog.text
        assert "clogged" not in {s.name for s in gateway.core.sessions.values()}
        assert await bystander.call("mesh", "status")
    assert logging.ERROR not in {record.levelno for record in caplog.records}


async def test_a_raw_peer_that_reads_slowly_gets_all_of_its_replies() -> None:
    """Being stopped for a while loses nothing."""
    async with (
        mesh.Gateway(limits=SMALL) as gateway,
        mesh.connect("server", gateway=gateway) as server,
        raw_peer(gateway, "slow", lockstep=True) as slow,
    ):

        @server.method()
        async def echo(params: int) -> list[Any]:
            return [params, "x" * 3_000]

        await settled(server)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                for number in range(1, 201):
                    await slow.call("server", "echo", b"\x05", call_id=number)

            seen = [await _next_result(slow) for _ in range(200)]
        assert sorted(seen) == list(range(1, 201))


async def _next_result(peer: RawPeer) -> int:
    await trio.testing.wait_all_tasks_blocked()
    _, _, header, _ = await peer.receive(Kind.RESULT)
    return int(header.call_id)
