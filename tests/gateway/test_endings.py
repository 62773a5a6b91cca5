"""Endings: cancels down the tree, lost connections, late answers; every table empty afterwards."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import mesh
from mesh.errors import Code, Reason
from mesh.transport import StreamLink
from mesh.wire import Kind, codec
from mesh.wire.codec import BY_CALLER, BY_DEADLINE, BY_DISCONNECT
from tests.gateway.by_hand import by_hand, check_empty
from tests.gateway.raw_peer import (
    MemoryDialer,
    RawPeer,
    error_header,
    raw_peer,
    register_header,
    result_header,
    settled,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock


class Tree:
    """A service whose calls go three levels deep, and the scopes in which its handlers ended."""

    def __init__(self, gateway: mesh.Gateway, peer: mesh.Client) -> None:
        self.gateway = gateway
        self.peer = peer
        self.running: list[str] = []
        self.cancelled: dict[str, float] = {}
        for name, below in (("top", ["left", "right"]), ("left", ["leaf"])):
            peer.register(name, self._inner(name, below))
        for name in ("right", "leaf"):
            peer.register(name, self._inner(name, []))

    def _inner(self, name: str, below: list[str]) -> Any:
        async def handler() -> None:
            self.running.append(name)
            try:
                async with trio.open_nursery() as nursery:
                    for child in below:
                        nursery.start_soon(self.peer.call, "tree", child)
                    await trio.sleep_forever()
            except BaseExceptionGroup as group:
                if group.split(trio.Cancelled)[0] is None:
                    raise
                self.cancelled[name] = trio.current_time()
                raise
            except trio.Cancelled:
                self.cancelled[name] = trio.current_time()
                raise

        return handler

    async def grown(self) -> None:
        """Return once all four handlers run."""
        while len(self.running) < 4:
            await trio.testing.wait_all_tasks_blocked()
        assert len(self.gateway.core.table) == 4

    async def check_felled(self, at: float, within: float = 1e-6) -> None:
        """All four handlers were cancelled at that moment, and nothing is left of their calls."""
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(self.cancelled) == ["leaf", "left", "right", "top"]
        assert list(self.cancelled.values()) == [pytest.approx(at, abs=within)] * 4
        check_empty(self.gateway)


@asynccontextmanager
async def tree() -> AsyncIterator[Tree]:
    async with mesh.Gateway() as gateway, mesh.connect("tree", gateway=gateway) as peer:
        grown = Tree(gateway, peer)
        await settled(peer)
        yield grown


async def test_a_cancelled_caller_fells_the_whole_tree(autojump_clock: MockClock) -> None:
    """Every handler's scope fires at once, and what was abandoned is counted."""
    async with tree() as it, mesh.connect("caller", gateway=it.gateway) as caller:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.call, "tree", "top")
            await it.grown()
            now = trio.current_time()
            nursery.cancel_scope.cancel()
        await it.check_felled(now)
        metrics = it.gateway.core.metrics
        for name in ("top", "left", "right", "leaf"):
            assert metrics.method("tree", name).abandoned == 1
            assert metrics.method("tree", name).late == 0
        assert metrics.series("caller", "tree", "top").codes[Code.CANCELLED.number] == 1
        assert metrics.series("tree", "tree", "leaf").codes[Code.CANCELLED.number] == 1


async def test_a_callers_timeout_fells_the_whole_tree(autojump_clock: MockClock) -> None:
    """All by the deadline, as every one of them inherited it."""
    async with tree() as it, mesh.connect("caller", gateway=it.gateway) as caller:
        now = trio.current_time()
        with pytest.raises(mesh.DeadlineExceeded):
            await caller.call("tree", "top", timeout=3)
        await it.check_felled(now + 3, within=0.001)
        metrics = it.gateway.core.metrics
        for caller_name, name in (("caller", "top"), ("tree", "left"), ("tree", "leaf")):
            codes = metrics.series(caller_name, "tree", name).codes
            assert codes[Code.DEADLINE_EXCEEDED.number] == 1


async def test_a_lost_caller_fells_the_whole_tree(autojump_clock: MockClock) -> None:
    """Nobody is left to hear the answer."""
    async with tree() as it:
        dialer = MemoryDialer(it.gateway)
        async with (
            mesh.connect("caller", gateway=dialer, reconnect=False) as caller,
            trio.open_nursery() as nursery,
        ):

            @nursery.start_soon
            async def call() -> None:
                with pytest.raises(mesh.Unavailable):
                    await caller.call("tree", "top")

            await it.grown()
            now = trio.current_time()
            await dialer.cut()
        await it.check_felled(now)
        codes = it.gateway.core.metrics.series("caller", "tree", "top").codes
        assert codes[Code.CANCELLED.number] == 1


async def test_a_handler_that_ends_while_its_children_run_ends_them(
    autojump_clock: MockClock,
) -> None:
    """A call never outlives its parent, and the one left behind is told why."""
    outcomes: list[mesh.CallError] = []
    cancelled: list[float] = []
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("peer", gateway=gateway) as peer,
        trio.open_nursery() as nursery,
    ):

        @peer.method()
        async def child() -> None:
            try:
                await trio.sleep_forever()
            finally:
                cancelled.append(trio.current_time())

        async def call_child() -> None:
            try:
                await peer.call("peer", "child")
            except mesh.CallError as error:
                outcomes.append(error)

        @peer.method()
        async def parent() -> str:
            nursery.start_soon(call_child)
            await trio.sleep(1)
            return "gone"

        await settled(peer)
        before = trio.current_time()
        assert await peer.call("peer", "parent") == "gone"
        await trio.testing.wait_all_tasks_blocked()
        assert cancelled == [pytest.approx(before + 1, abs=0.001)]
        assert type(outcomes[0]) is mesh.Cancelled
        assert outcomes[0].reason == Reason.PARENT_ENDED
        assert "peer.parent, inside which peer.child was called, has ended" in outcomes[0].message
        check_empty(gateway)


async def test_a_lost_callee_is_told_at_once_with_maybe_executed(
    autojump_clock: MockClock,
) -> None:
    """With its name, its process and how long it had worked; what it called is ended too."""
    async with (
        by_hand(process_id="p-77") as it,
        raw_peer(it.gateway, "leaf") as leaf,
    ):
        await leaf.send(register_header("leaf", "go"))
        async with it.failing(mesh.Unavailable) as (call_id, errors):
            await it.callee.call("leaf", "go", parent_id=call_id)
            _, _, nested, _ = await leaf.receive(Kind.CALL)
            await trio.sleep(2)
            await it.callee.stream.aclose()
            _, _, cancel, _ = await leaf.receive(Kind.CANCEL)
            assert cancel.call_id == nested.call_id
            assert cancel.reason == BY_DISCONNECT
            await leaf.send(error_header(nested.call_id, Code.CANCELLED.number))
        (error,) = errors
        assert error.reason == Reason.CONNECTION_LOST
        assert error.maybe_executed
        assert error.message == (
            "the connection to callee (p-77), which served svc.go, was lost after 2,000 ms"
        )
        assert error.chain == ("svc.go",)
        await trio.testing.wait_all_tasks_blocked()
        check_empty(it.gateway)


@asynccontextmanager
async def clogged_callee(gateway: mesh.Gateway) -> AsyncIterator[tuple[RawPeer, trio.Event]]:
    """A registered callee whose stream takes no further byte; the event cuts it."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    gateway.attach(StreamLink(theirs, gateway.limits.max_outbox, "lockstep"))
    peer = RawPeer(ours)
    await peer.open("clogged")
    await peer.send(register_header("svc", "go"))
    await peer.call("mesh", "status")
    await peer.receive(Kind.RESULT)
    try:
        yield peer, trio.Event()
    finally:
        await trio.aclose_forcefully(ours)


async def test_calls_that_never_left_go_to_another_instance(autojump_clock: MockClock) -> None:
    """Behind a blocked link they wait; when it breaks, another instance runs them, once each."""
    ran: list[int] = []
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
        clogged_callee(gateway) as (clogged, _),
        trio.open_nursery() as nursery,
    ):
        outcomes: dict[int, Any] = {}

        async def call(number: int) -> None:
            try:
                outcomes[number] = await caller.call("svc", "go", number)
            except mesh.CallError as error:
                outcomes[number] = error

        nursery.start_soon(call, 0)  # fills the stream
        await trio.testing.wait_all_tasks_blocked()
        for number in (1, 2, 3):
            nursery.start_soon(call, number)
            await trio.testing.wait_all_tasks_blocked()
        async with mesh.connect("other", gateway=gateway) as other:

            @other.method("go", service="svc")
            async def go(params: int) -> int:
                ran.append(params)
                return params * 10

            await settled(other)
            assert not outcomes
            await clogged.stream.aclose()
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(ran) == [1, 2, 3]
            assert {number: outcomes[number] for number in (1, 2, 3)} == {1: 10, 2: 20, 3: 30}
            assert type(outcomes[0]) is mesh.Unavailable
            assert outcomes[0].maybe_executed
            check_empty(gateway)


@pytest.mark.parametrize("size", [1, 300_000])
async def test_without_another_instance_they_are_known_not_to_have_run(
    autojump_clock: MockClock, size: int
) -> None:
    """Small and chunked calls alike: safe to try again."""
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
        clogged_callee(gateway) as (clogged, _),
        trio.open_nursery() as nursery,
    ):
        errors: list[mesh.CallError] = []

        async def call(params: bytes) -> None:
            try:
                await caller.call("svc", "go", params)
            except mesh.CallError as error:
                errors.append(error)

        nursery.start_soon(call, b"")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(call, bytes(size))
        await trio.testing.wait_all_tasks_blocked()
        await clogged.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert [error.reason for error in errors] == [Reason.CONNECTION_LOST] * 2
        assert sorted(error.maybe_executed for error in errors) == [False, True]
        check_empty(gateway)


async def test_a_cancelled_call_that_never_left_is_not_sent(autojump_clock: MockClock) -> None:
    """A long one is taken out of the callee's outbox, so that it costs it nothing."""
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
        clogged_callee(gateway) as (clogged, _),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(caller.call, "svc", "go")
        await trio.testing.wait_all_tasks_blocked()
        session = next(s for s in gateway.core.sessions.values() if s.name == "clogged")
        before = session.link.queued
        with trio.move_on_after(1):
            await caller.call("svc", "go", bytes(1_000_000))
        await trio.testing.wait_all_tasks_blocked()
        assert session.link.queued < before + 1000
        assert gateway.core.metrics.method("svc", "go").abandoned == 0
        assert len(session.abandoned) == 0
        nursery.cancel_scope.cancel()
    del clogged


# Answers that come too late.


async def test_a_late_answer_is_counted_and_dropped(autojump_clock: MockClock) -> None:
    """Once; until it comes, the instance is known to be busy with it still."""
    async with by_hand() as (gateway, caller, callee, _):
        with pytest.raises(mesh.DeadlineExceeded):
            await caller.call("svc", "go", timeout=1)
        _, _, header, _ = await callee.receive(Kind.CALL)
        _, _, cancel, _ = await callee.receive(Kind.CANCEL)
        assert (cancel.call_id, cancel.reason) == (header.call_id, BY_DEADLINE)
        session = next(s for s in gateway.core.sessions.values() if s.name == "callee")
        series = gateway.core.metrics.method("svc", "go")
        assert session.load == 1
        assert (series.abandoned, series.late) == (1, 0)
        for _ in range(2):
            await callee.send(result_header(header.call_id), payload=b"\xc0")
            await trio.testing.wait_all_tasks_blocked()
            assert session.load == 0
            assert (series.abandoned, series.late) == (1, 1)
        assert caller.is_connected
        assert callee.stream is not None
        check_empty(gateway)


async def test_the_acknowledgement_of_a_cancel_is_not_late(autojump_clock: MockClock) -> None:
    """A handler that stopped as it was told has answered in time."""
    async with by_hand() as (gateway, caller, callee, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.call, "svc", "go")
            _, _, header, _ = await callee.receive(Kind.CALL)
            nursery.cancel_scope.cancel()
        _, _, cancel, _ = await callee.receive(Kind.CANCEL)
        assert cancel.reason == BY_CALLER
        await callee.send(error_header(header.call_id, Code.CANCELLED.number))
        await trio.testing.wait_all_tasks_blocked()
        assert gateway.core.metrics.method("svc", "go").late == 0
        check_empty(gateway)


async def test_an_answer_that_crosses_its_cancel_is_dropped_by_the_caller(
    autojump_clock: MockClock,
) -> None:
    """A RESULT for a call that its caller has given up is no fault of anybody's."""
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("peer", gateway=gateway) as peer,
    ):

        @peer.method()
        async def quick() -> int:
            return 1

        await settled(peer)
        for _ in range(20):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(peer.call, "peer", "quick")
                    await trio.lowlevel.checkpoint()
                    scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert await peer.call("peer", "quick") == 1
        assert gateway.core.counters.connections_closed == 0
        check_empty(gateway)


async def test_the_first_outcome_wins() -> None:
    """A second answer to the same call is late, whatever it says; the caller hears one."""
    async with (
        mesh.Gateway() as gateway,
        raw_peer(gateway, "caller") as caller,
        raw_peer(gateway, "callee") as callee,
    ):
        await callee.send(register_header("svc", "go"))
        call_id = await caller.call("svc", "go")
        _, _, header, _ = await callee.receive(Kind.CALL)
        await callee.send(result_header(header.call_id), payload=b"\x01")
        await callee.send(result_header(header.call_id), payload=b"\x02")
        await callee.send(error_header(header.call_id))
        _, _, result, payload = await caller.receive()
        assert (result.call_id, payload) == (call_id, b"\x01")
        await caller.call("mesh", "status")
        kind, _, _, _ = await caller.receive()
        assert kind == Kind.RESULT
        check_empty(gateway)


@pytest.mark.parametrize(("number", "code"), [(0, Code.UNKNOWN), (99, Code.UNKNOWN), (5, "same")])
async def test_an_error_with_an_odd_code_is_unknown(number: int, code: object) -> None:
    """A callee of a later version, or a wrong one, does no harm."""
    async with by_hand() as it:
        async with it.failing(mesh.CallError, match="odd") as (call_id, errors):
            await it.callee.send(error_header(call_id, number, "odd"))
        assert errors[0].code is (Code.NOT_FOUND if code == "same" else code)
        assert errors[0].message == "odd"


async def test_a_cancel_for_a_call_never_made_is_a_fault() -> None:
    """While one for a call that has ended is none."""
    async with mesh.Gateway() as gateway, raw_peer(gateway, "peer") as peer:
        call_id = await peer.call("mesh", "status")
        await peer.receive(Kind.RESULT)
        await peer.send(codec.Cancel(call_id, BY_CALLER))
        await peer.call("mesh", "status")
        await peer.receive(Kind.RESULT)
        await peer.send(codec.Cancel(99, BY_CALLER))
        assert await peer.goodbye() == "CANCEL for call 99, which was never made"


async def test_a_peer_that_loses_its_connection_ends_calls_it_made_and_served(
    autojump_clock: MockClock,
) -> None:
    """Also a peer that calls itself, in the middle of a tree."""
    async with mesh.Gateway() as gateway, mesh.connect("outer", gateway=gateway) as outer:
        dialer = MemoryDialer(gateway)
        async with mesh.connect("loop", gateway=dialer) as loop, trio.open_nursery() as nursery:

            @loop.method()
            async def one() -> None:
                await loop.call("loop", "two")

            @loop.method()
            async def two() -> None:
                await trio.sleep_forever()

            await settled(loop)

            @nursery.start_soon
            async def call() -> None:
                with pytest.raises(mesh.Unavailable):
                    await outer.call("loop", "one")

            await trio.testing.wait_all_tasks_blocked()
            assert len(gateway.core.table) == 2
            await dialer.cut()
            await trio.testing.wait_all_tasks_blocked()
            check_empty(gateway)
            await settled(loop)
            check_empty(gateway)
