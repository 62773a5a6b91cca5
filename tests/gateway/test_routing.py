"""Routing: which instance, and what is derived of the tree of calls that nobody can forge."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trio.testing

import mesh
from mesh.errors import Code, Reason
from mesh.wire import Kind, codec
from mesh.wire.codec import DETACHED, UNVERIFIED
from tests.gateway.raw_peer import (
    MemoryDialer,
    RawPeer,
    call_header,
    raw_peer,
    register_header,
    result_header,
    settled,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock


@asynccontextmanager
async def quick_gateway(**limits: Any) -> AsyncIterator[mesh.Gateway]:
    """A gateway that waits for no service."""
    async with mesh.Gateway(limits=mesh.Limits(**{"service_wait": 0.0, **limits})) as gateway:
        yield gateway


def code_of(error: codec.Error) -> Code:
    return Code.from_number(error.code)


# Time.


async def test_calls_that_are_read_together_begin_when_they_came() -> None:
    """What those before them in the same read take is part of their time."""
    async with quick_gateway() as gateway, raw_peer(gateway) as peer:
        calls = [call_header(number, "mesh", "status") for number in range(1, 40)]
        await peer.send(*calls)
        for _ in calls:
            await peer.receive(Kind.RESULT)
        records = gateway.core.recorder.recent(len(calls))
        assert len(records) == len(calls)
        assert len({record.started for record in records}) == 1


# Instances.


async def test_calls_go_to_the_instance_with_least_in_flight(autojump_clock: MockClock) -> None:
    """A slow instance gets few, quick ones the rest; an idle mesh goes round."""
    served: Counter[str] = Counter()

    async def serve(
        gateway: mesh.Gateway,
        name: str,
        seconds: float,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        async with mesh.connect(name, gateway=gateway) as peer:

            @peer.method(service="work")
            async def do() -> None:
                served[name] += 1
                await trio.sleep(seconds)

            await settled(peer)
            task_status.started()
            await trio.sleep_forever()

    async with (
        mesh.Gateway() as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(serve, gateway, "a", 0.01)
        await nursery.start(serve, gateway, "b", 0.01)
        await nursery.start(serve, gateway, "slow", 1.0)
        for _ in range(6):
            await caller.call("work", "do")
        assert served == {"a": 2, "b": 2, "slow": 2}
        served.clear()

        async def loop() -> None:
            with trio.move_on_after(2.99):
                while True:
                    await caller.call("work", "do")

        async with trio.open_nursery() as callers:
            for _ in range(3):
                callers.start_soon(loop)
        assert served["slow"] == 3
        assert served["a"] > 200
        assert served["b"] > 200
        nursery.cancel_scope.cancel()


async def test_a_busy_instance_is_overloaded_and_says_so() -> None:
    """With the limit and what to do; one call's end makes room for the next."""
    go = trio.Event()
    async with (
        mesh.Gateway(limits=mesh.Limits(max_in_flight=3)) as gateway,
        mesh.connect("server", gateway=gateway) as server,
        mesh.connect("caller", gateway=gateway) as caller,
        trio.open_nursery() as nursery,
    ):
        server.register("wait", go.wait)
        await settled(server)
        for _ in range(3):
            nursery.start_soon(caller.call, "server", "wait")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(mesh.ResourceExhausted) as raised:
            await caller.call("server", "wait")
        assert raised.value.reason == Reason.OVERLOADED
        assert not raised.value.maybe_executed
        assert "every instance of server.wait (1) has 3 calls in flight, the limit" in str(
            raised.value
        )
        go.set()
        await trio.testing.wait_all_tasks_blocked()
        await caller.call("server", "wait")


# The tree.


async def test_chain_depth_activity_entry_and_deadline_come_from_the_parent() -> None:
    """Every handler below one entry call sees the same activity and entry, and its own chain."""
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("a", gateway=gateway) as a,
        mesh.connect("b", gateway=gateway) as b,
        mesh.connect("caller", gateway=gateway) as caller,
    ):

        async def describe(peer: mesh.Client, below: list[str]) -> list[Any]:
            call = mesh.current_call()
            assert call is not None
            seen = [
                call.chain, call.depth, call.activity_id, call.entry_id, call.caller,
                call.trace_id, call.verified, call.remaining,
            ]  # fmt: skip
            rest = await peer.call(below[0], "go", below[1:]) if below else []
            return [seen, *rest]

        @a.method("go")
        async def go_a(below: list[str]) -> list[Any]:
            return await describe(a, below)

        @b.method("go")
        async def go_b(below: list[str]) -> list[Any]:
            return await describe(b, below)

        await settled(a)
        await settled(b)
        with mesh.activity("order-66"):
            hops = await caller.call("a", "go", ["b", "a"], timeout=9)
        assert [hop[0] for hop in hops] == [
            ["a.go"],
            ["a.go", "b.go"],
            ["a.go", "b.go", "a.go"],
        ]
        assert [hop[1] for hop in hops] == [1, 2, 3]
        assert {hop[2] for hop in hops} == {"order-66"}
        assert len({hop[3] for hop in hops}) == 1
        assert [hop[4] for hop in hops] == ["caller", "a", "b"]
        assert len({hop[5] for hop in hops}) == 1
        assert all(hop[6] for hop in hops)
        assert 9 >= hops[0][7] >= hops[1][7] >= hops[2][7] > 8


async def test_by_default_the_activity_is_the_trace_of_the_entry_call() -> None:
    """Two entry calls of one caller are two activities."""
    async with mesh.Gateway() as gateway, mesh.connect("peer", gateway=gateway) as peer:

        @peer.method()
        async def which() -> list[Any]:
            call = mesh.current_call()
            assert call is not None
            return [call.activity_id, call.trace_id]

        await settled(peer)
        one, two = await peer.call("peer", "which"), await peer.call("peer", "which")
        assert one[0] == bytes(one[1]).hex()
        assert one != two


async def test_depth_is_bounded_and_the_error_shows_the_chain() -> None:
    """With both numbers; what is at the limit is allowed."""
    async with (
        mesh.Gateway(limits=mesh.Limits(max_depth=4)) as gateway,
        mesh.connect("peer", gateway=gateway) as peer,
    ):

        async def down_to(params: int) -> Any:
            call = mesh.current_call()
            assert call is not None
            if call.depth == params:
                return call.depth
            return await peer.call("peer", f"d{call.depth + 1}", params)

        for number in range(1, 8):
            peer.register(f"d{number}", down_to)
        await settled(peer)
        assert await peer.call("peer", "d1", 4) == 4
        with pytest.raises(mesh.FailedPrecondition) as raised:
            await peer.call("peer", "d1", 5)
        error = raised.value
        assert error.reason == Reason.DEPTH_EXCEEDED
        assert error.message == "depth 5 exceeds max_depth 4"
        assert error.chain == tuple(f"peer.d{number}" for number in range(1, 6))
        assert str(error).endswith("[peer.d1 > peer.d2 > peer.d3 > peer.d4 > peer.d5]")
        assert error.maybe_executed, "the refused call was not executed, the calls above it were"


async def test_loops_are_refused_and_the_error_shows_the_cycle() -> None:
    """A method may stand three times in a chain, and not a fourth time."""
    visits: Counter[str] = Counter()
    async with mesh.Gateway() as gateway, mesh.connect("peer", gateway=gateway) as peer:

        @peer.method()
        async def ping() -> None:
            visits["ping"] += 1
            await peer.call("peer", "pong")

        @peer.method()
        async def pong() -> None:
            visits["pong"] += 1
            await peer.call("peer", "ping")

        await settled(peer)
        with pytest.raises(mesh.FailedPrecondition) as raised:
            await peer.call("peer", "ping")
    error = raised.value
    assert error.reason == Reason.LOOP_DETECTED
    assert error.message == (
        "visit 4 of peer.ping exceeds max_visits 3; the cycle is peer.ping > peer.pong > peer.ping"
    )
    assert error.chain == ("peer.ping", "peer.pong") * 3 + ("peer.ping",)
    assert visits == {"ping": 3, "pong": 3}


# What a hand-written peer may claim.


async def serving(peer: RawPeer, caller: RawPeer, service: str = "svc") -> Any:
    """Let ``peer`` register and ``caller`` call it; returns the CALL's header as it arrives."""
    await peer.send(register_header(service, "go"))
    await peer.call("mesh", "status")
    await peer.receive(Kind.RESULT)
    await caller.call(service, "go")
    _, _, header, _ = await peer.receive(Kind.CALL)
    return header


async def test_a_nested_call_refused_for_want_of_time_says_where_the_time_went() -> None:
    """Hop by hop, as the call inside which it was made knows it."""
    async with (
        quick_gateway() as gateway,
        raw_peer(gateway, "worker") as worker,
        raw_peer(gateway, "caller") as caller,
    ):
        parent = await serving(worker, caller)
        await worker.call("mesh", "status", parent_id=parent.call_id)
        await worker.receive(Kind.RESULT)
        await worker.call("mesh", "status", parent_id=parent.call_id, timeout_us=0)
        _, _, error, _ = await worker.receive(Kind.ERROR)
        assert code_of(error) is Code.DEADLINE_EXCEEDED
        assert "no time was left when mesh.status was called: svc.go was allowed" in error.message
        assert "mesh.status" in error.message.split("spent: ")[1]
        assert "(ok)" in error.message


async def test_a_parent_that_another_peer_serves_is_refused() -> None:
    """Nobody can call on behalf of work that it was not given."""
    async with (
        quick_gateway() as gateway,
        raw_peer(gateway, "victim") as victim,
        raw_peer(gateway, "caller") as caller,
        raw_peer(gateway, "thief") as thief,
    ):
        parent = await serving(victim, caller)
        await thief.call("mesh", "status", parent_id=parent.call_id)
        _, _, error, _ = await thief.receive(Kind.ERROR)
        assert code_of(error) is Code.PERMISSION_DENIED
        assert error.reason == Reason.PARENT_FOREIGN
        assert "is not served by thief" in error.message
        # Not even with a full context of its own making.
        await thief.call(
            "mesh", "status", parent_id=parent.call_id, gateway=gateway.instance,
            chain=["forged.chain"], activity_id="forged",
        )  # fmt: skip
        _, _, error, _ = await thief.receive(Kind.ERROR)
        assert error.reason == Reason.PARENT_FOREIGN
        assert error.chain == ["mesh.status"]
        # And the one that serves it can.
        await victim.call("mesh", "status", parent_id=parent.call_id)
        await victim.receive(Kind.RESULT)


async def test_what_a_child_claims_of_its_tree_counts_for_nothing() -> None:
    """Chain, activity, entry and deadline are the parent's own, whatever the CALL says."""
    async with (
        quick_gateway() as gateway,
        raw_peer(gateway, "peer") as peer,
        raw_peer(gateway, "caller") as caller,
        raw_peer(gateway, "other") as other,
    ):
        parent = await serving(peer, caller)
        await other.send(register_header("other", "go"))
        await peer.call(
            "other", "go", parent_id=parent.call_id, chain=["forged.one"], activity_id="forged",
            gateway=gateway.instance, timeout_us=10**12,
        )  # fmt: skip
        _, _, child, _ = await other.receive(Kind.CALL)
        assert child.chain == ["svc.go", "other.go"]
        assert child.activity_id == parent.activity_id
        assert child.entry_id == parent.entry_id == parent.call_id
        assert child.parent_id == parent.call_id
        assert child.timeout_us <= parent.timeout_us
        assert not child.options & UNVERIFIED


@pytest.mark.parametrize("full_context", [False, True])
async def test_a_parent_that_has_ended_is_refused(full_context: bool) -> None:
    """Unless the work is detached; a context of the child's own making does not bring it back."""
    async with (
        quick_gateway() as gateway,
        raw_peer(gateway, "peer") as peer,
        raw_peer(gateway, "caller") as caller,
    ):
        parent = await serving(peer, caller)
        await peer.send(result_header(parent.call_id), payload=b"\xc0")
        await caller.receive(Kind.RESULT)
        context: dict[str, Any] = (
            {"chain": ["svc.go"], "activity_id": "mine", "gateway": gateway.instance}
            if full_context
            else {}
        )
        await peer.call("mesh", "status", parent_id=parent.call_id, **context)
        _, _, error, _ = await peer.receive(Kind.ERROR)
        assert code_of(error) is Code.FAILED_PRECONDITION
        assert error.reason == Reason.PARENT_ENDED
        assert "mesh.detached()" in error.message
        await peer.call(
            "mesh", "status", parent_id=parent.call_id, options=DETACHED, chain=["svc.go"],
            activity_id="mine", gateway=gateway.instance,
        )  # fmt: skip
        await peer.receive(Kind.RESULT)


async def test_an_unknown_parent_is_accepted_unverified_with_the_context_it_brings() -> None:
    """The gateway was restarted meanwhile, or is another one; the callee sees the mark."""
    async with (
        quick_gateway(max_depth=4) as gateway,
        raw_peer(gateway, "peer") as peer,
        raw_peer(gateway, "other") as other,
    ):
        await other.send(register_header("other", "go"))
        await other.call("mesh", "status")
        await other.receive(Kind.RESULT)
        await peer.call(
            "other", "go", parent_id=3, chain=["a.b", "c.d"], activity_id="act", gateway="before"
        )
        _, _, child, _ = await other.receive(Kind.CALL)
        assert child.chain == ["a.b", "c.d", "other.go"]
        assert child.activity_id == "act"
        assert child.options & UNVERIFIED
        assert child.parent_id == 0
        # Depth and visits hold for a chain that nobody can verify, too.
        await peer.call(
            "other", "go", parent_id=3, chain=["a.b"] * 4, activity_id="act", gateway="before"
        )
        _, _, error, _ = await peer.receive(Kind.ERROR)
        assert error.reason == Reason.DEPTH_EXCEEDED


@pytest.mark.parametrize("activity", ["", "x" * 129, "new\nline", "ünïcode"])
async def test_an_activity_id_that_is_none_reaches_nobody(activity: str) -> None:
    """It would stand in logs and labels of every hop below; the peer alone is told."""
    async with (
        quick_gateway() as gateway,
        raw_peer(gateway, "peer") as peer,
        raw_peer(gateway, "other") as other,
    ):
        await other.send(register_header("other", "go"))
        await other.call("mesh", "status")
        await other.receive(Kind.RESULT)
        await peer.call("other", "go", activity_id=activity)
        assert "activity" in await peer.goodbye()
        await other.call("mesh", "status")
        kind, _, _, _ = await other.receive()
        assert kind == Kind.RESULT


async def test_a_long_header_of_one_peer_costs_another_nothing() -> None:
    """Metadata up to the header's limit, plus what the gateway adds, still reaches the callee."""
    async with (
        quick_gateway() as gateway,
        raw_peer(gateway, "peer") as peer,
        mesh.connect("server", gateway=gateway) as server,
    ):

        @server.method()
        async def size() -> int:
            call = mesh.current_call()
            assert call is not None
            return len(call.metadata["big"])

        await settled(server)
        await peer.call("server", "size", metadata={"big": "x" * 32_500}, activity_id="a" * 128)
        _, _, _, payload = await peer.receive(Kind.RESULT)
        assert msgspec.msgpack.decode(payload) == 32_500
        assert gateway.core.counters.protocol_errors == 0


async def test_a_nested_call_over_a_reconnect_is_accepted_unverified(
    autojump_clock: MockClock,
) -> None:
    """Work that went on while its gateway was replaced may still call, and is marked."""
    dialer, brisk = MemoryDialer(None), mesh.Limits(reconnect_longest=0.1)
    seen: list[Any] = []
    async with (
        mesh.connect("server", gateway=dialer, connect_timeout=0, limits=brisk) as server,
        trio.open_nursery() as nursery,
    ):

        @server.method()
        async def look() -> None:
            call = mesh.current_call()
            assert call is not None
            seen.append((call.chain, call.activity_id, call.verified))

        @server.method()
        async def outlive() -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)
                await server.call("server", "look")

        async with mesh.Gateway() as old:
            dialer.gateway = old
            await settled(server)

            async def call() -> None:
                async with mesh.connect("caller", gateway=old, reconnect=False) as caller:
                    with pytest.raises(mesh.Unavailable), mesh.activity("act"):
                        await caller.call("server", "outlive")

            nursery.start_soon(call)
            await trio.sleep(1)
        async with mesh.Gateway() as new:
            dialer.gateway = new
            await trio.sleep(3)
            assert seen == [(("server.outlive", "server.look"), "act", False)]


# Detached work.


async def test_detached_work_outlives_its_call(autojump_clock: MockClock) -> None:
    """It keeps chain, activity and trace, but neither the deadline nor the cancellation."""
    seen: list[Any] = []
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("peer", gateway=gateway) as peer,
        trio.open_nursery() as nursery,
    ):

        @peer.method()
        async def note() -> None:
            call = mesh.current_call()
            assert call is not None
            seen.append((call.chain, call.activity_id, call.remaining > 20))

        async def later(attached: bool) -> None:
            await trio.sleep(5)
            if attached:
                with pytest.raises(mesh.FailedPrecondition) as raised:
                    await peer.call("peer", "note", timeout=0.5)
                assert raised.value.reason == Reason.PARENT_ENDED
            else:
                with mesh.detached():
                    await peer.call("peer", "note")

        @peer.method()
        async def start(attached: bool) -> None:
            nursery.start_soon(later, attached)
            if not attached:
                with mesh.detached():  # also while the parent is still there
                    await peer.call("peer", "note")

        await settled(peer)
        with mesh.activity("act"):
            await peer.call("peer", "start", False, timeout=8)
            await trio.sleep(10)
            await peer.call("peer", "start", True, timeout=60)
            await trio.sleep(10)
        assert seen == [(("peer.start", "peer.note"), "act", True)] * 2


async def test_detached_work_is_not_cancelled_with_its_call(autojump_clock: MockClock) -> None:
    """Its caller goes away, and it goes on."""
    done: list[bool] = []
    async with mesh.Gateway() as gateway, mesh.connect("peer", gateway=gateway) as peer:

        @peer.method()
        async def slow() -> None:
            await trio.sleep(5)
            done.append(True)

        @peer.method()
        async def start() -> None:
            with mesh.detached():
                await peer.call("peer", "slow")

        await settled(peer)
        with trio.move_on_after(1):
            await peer.call("peer", "start")
        await trio.sleep(10)
        assert done == [], "the handler itself was cancelled, and with it its wait for the answer"
        async with trio.open_nursery() as nursery:

            @peer.method()
            async def start_and_go() -> None:
                async def call() -> None:
                    with mesh.detached():
                        await peer.call("peer", "slow")

                nursery.start_soon(call)
                await trio.sleep_forever()

            await settled(peer)
            with trio.move_on_after(1):
                await peer.call("peer", "start_and_go")
        assert done == [True]
