"""Deadlines: inherited, refused when spent, explained hop by hop; trio's scopes are honoured."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import mesh
from mesh.errors import Reason
from mesh.outgoing import GRACE
from mesh.wire import Kind, codec
from mesh.wire.codec import BY_CALLER, BY_DEADLINE
from tests.gateway.raw_peer import HandGateway, raw_peer, register_header, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock


@asynccontextmanager
async def shop() -> AsyncIterator[tuple[mesh.Gateway, mesh.Client, mesh.Client]]:
    """A gateway, a peer that serves sleep, nested and work, and one that calls."""
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("shop", gateway=gateway) as server,
        mesh.connect("caller", gateway=gateway) as caller,
    ):

        @server.method()
        async def sleep(seconds: float) -> str:
            await trio.sleep(seconds)
            return "slept"

        @server.method()
        async def remaining() -> float:
            call = mesh.current_call()
            assert call is not None
            return call.remaining

        @server.method()
        async def nested(params: list[Any]) -> Any:
            before, method, argument, timeout = params
            await trio.sleep(before)
            return await server.call("shop", method, argument, timeout=timeout)

        await settled(server)
        yield gateway, server, caller


async def test_a_nested_call_never_outlives_its_parent(autojump_clock: MockClock) -> None:
    """It has what is left of the parent's time, however much it asks for."""
    async with shop() as (_, _, caller):
        left = await caller.call("shop", "nested", [2.0, "remaining", None, 60.0], timeout=5)
        assert left == pytest.approx(3.0, abs=0.01)


async def test_a_nested_call_may_have_less(autojump_clock: MockClock) -> None:
    """Its own timeout counts where that is earlier, and it alone fails."""
    async with shop() as (_, _, caller):
        assert await caller.call("shop", "nested", [2.0, "remaining", None, 1.0]) < 1.01
        before = trio.current_time()
        with pytest.raises(mesh.DeadlineExceeded) as raised:
            await caller.call("shop", "nested", [1.0, "sleep", 100, 2.0], timeout=50)
        assert trio.current_time() - before == pytest.approx(3.0, abs=0.1)
        assert raised.value.chain == ("shop.nested", "shop.sleep")


async def test_the_default_timeout_is_the_gateways(autojump_clock: MockClock) -> None:
    """Thirty seconds, unless its limits say otherwise; ``math.inf`` asks for none."""
    limits = mesh.Limits(call_timeout=7)
    async with (
        mesh.Gateway(limits=limits) as gateway,
        mesh.connect("peer", gateway=gateway) as peer,
    ):

        @peer.method()
        async def remaining() -> float:
            call = mesh.current_call()
            assert call is not None
            return call.remaining

        await settled(peer)
        assert await peer.call("peer", "remaining") == pytest.approx(7, abs=0.01)
        assert await peer.call("peer", "remaining", timeout=math.inf) > 1e8


async def test_the_error_tells_how_the_time_was_spent_hop_by_hop(
    autojump_clock: MockClock,
) -> None:
    """In its message for people and in its details for programs, ended hops included."""
    async with shop() as (_, server, caller):

        @server.method()
        async def place() -> None:
            await server.call("shop", "sleep", 0.25)
            await server.call("shop", "nested", [0.5, "sleep", 100, None])

        await settled(server)
        with pytest.raises(mesh.DeadlineExceeded) as raised:
            await caller.call("shop", "place", timeout=2)
    error = raised.value
    assert error.reason == Reason.DEADLINE_EXCEEDED
    assert error.maybe_executed
    assert error.message.startswith("shop.place was allowed 2,000.0 ms; spent: shop.place 2,000.")
    spent = [(row["depth"], row["call"], row["state"]) for row in error.details["spent"]]
    assert spent == [
        (1, "shop.place", "running"),
        (2, "shop.sleep", "ok"),
        (2, "shop.nested", "running"),
        (3, "shop.sleep", "running"),
    ]
    times = [row["ms"] for row in error.details["spent"]]
    assert times == [pytest.approx(ms, abs=20) for ms in (2000, 250, 1750, 1250)]
    assert error.details["allowed_ms"] == 2000
    for name, ms in (("shop.nested", "1,75"), ("shop.sleep", "250.0"), ("shop.sleep", "1,25")):
        assert f"{name} {ms}" in error.message


@pytest.mark.parametrize("seconds", [0, 0.0, 1e-9])
async def test_a_call_without_time_is_refused_where_that_is_noticed(seconds: float) -> None:
    """It is not sent, or refused by the gateway; either way nothing was executed."""
    async with shop() as (_, server, caller):
        ran: list[None] = []

        @server.method()
        async def note() -> None:
            ran.append(None)

        await settled(server)
        with pytest.raises(mesh.DeadlineExceeded, match="no time was left") as raised:
            await caller.call("shop", "note", timeout=seconds)
        assert not raised.value.maybe_executed
        assert raised.value.chain == ("shop.note",)
        await settled(server)
        assert not ran


@pytest.mark.parametrize("seconds", [-1, math.nan, -math.inf])
async def test_a_timeout_that_is_no_duration_is_a_mistake(seconds: float) -> None:
    """Of the program, hence no CallError."""
    async with shop() as (_, _, caller):
        with pytest.raises(ValueError, match="timeout must be seconds, 0 or more"):
            await caller.call("shop", "sleep", 0, timeout=seconds)


async def test_a_parent_whose_time_is_spent_can_call_nothing(autojump_clock: MockClock) -> None:
    """The error says whose time it was, and the parent's own answer comes too late."""
    errors: list[mesh.CallError] = []
    async with shop() as (_, server, caller):

        @server.method()
        async def overstay() -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
                try:
                    await server.call("shop", "sleep", 0)
                except mesh.CallError as error:
                    errors.append(error)

        await settled(server)
        with pytest.raises(mesh.DeadlineExceeded):
            await caller.call("shop", "overstay", timeout=1)
        await trio.sleep(5)
    assert type(errors[0]) is mesh.DeadlineExceeded
    assert "no time was left for shop.sleep when shop, which serves shop.overstay," in str(
        errors[0]
    )
    assert errors[0].chain == ("shop.overstay", "shop.sleep")


# Trio's own scopes.


async def test_a_scope_of_the_callers_fires_and_no_error_comes_before_it(
    autojump_clock: MockClock,
) -> None:
    """Where trio's scope sets the limit, that is what ends the call, always."""
    async with shop() as (gateway, _, caller):
        for seconds in (0.5, 1.0, 1.25):
            with trio.move_on_after(seconds) as scope:
                await caller.call("shop", "sleep", 100)
            assert scope.cancelled_caught
            with pytest.raises(trio.TooSlowError), trio.fail_after(seconds):
                await caller.call("shop", "nested", [0, "sleep", 100, None])
        await trio.testing.wait_all_tasks_blocked()
        assert not gateway.core.table.by_id


async def test_a_scope_that_is_later_than_the_timeout_does_not_matter(
    autojump_clock: MockClock,
) -> None:
    """Then it is the call that fails, with an error that explains itself."""
    async with shop() as (_, _, caller):
        with trio.fail_after(10), pytest.raises(mesh.DeadlineExceeded):
            await caller.call("shop", "sleep", 100, timeout=1)


async def test_a_scope_that_has_fired_already_fires_in_the_call(
    autojump_clock: MockClock,
) -> None:
    """Nothing is sent."""
    async with shop() as (gateway, _, caller):
        before = gateway.core.table.last_id
        with trio.move_on_after(0) as scope:
            await caller.call("shop", "sleep", 1)
        assert scope.cancelled_caught
        with trio.CancelScope() as other:
            other.cancel()
            await caller.call("shop", "sleep", 1)
        assert other.cancelled_caught
        assert gateway.core.table.last_id == before


@pytest.mark.parametrize("scope", [20.0, math.inf])
async def test_a_deadline_further_down_reaches_a_caller_whose_own_scope_is_far_off(
    autojump_clock: MockClock, scope: float
) -> None:
    """An inner call's timeout is an answer like any other: it does not wait for the scope."""
    async with shop() as (_, _, caller):
        before = trio.current_time()
        with (
            trio.CancelScope(deadline=before + scope),
            pytest.raises(mesh.DeadlineExceeded) as raised,
        ):
            await caller.call("shop", "nested", [0, "sleep", 100, 1.0], timeout=math.inf)
        assert raised.value.chain == ("shop.nested", "shop.sleep")
        assert trio.current_time() - before == pytest.approx(1.0, abs=0.1)


async def test_handlers_read_the_deadline_from_their_call(autojump_clock: MockClock) -> None:
    """Trio's own deadline is no help there, as workers are used again."""
    async with shop() as (_, server, caller):

        @server.method()
        async def both() -> list[float]:
            call = mesh.current_call()
            assert call is not None
            return [call.deadline - trio.current_time(), trio.current_effective_deadline()]

        await settled(server)
        mine, trios = await caller.call("shop", "both", timeout=4)
        assert mine == pytest.approx(4, abs=0.01)
        assert trios == math.inf


# A gateway that says nothing.


async def test_a_gateway_that_does_not_answer_does_not_hang_the_caller(
    autojump_clock: MockClock,
) -> None:
    """Just after the deadline the caller's own clock ends the call, and says who was silent."""
    gateway = HandGateway()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.accept)
        async with mesh.connect("caller", gateway=gateway) as caller:
            before = trio.current_time()
            with pytest.raises(mesh.DeadlineExceeded, match="the gateway has not answered"):
                await caller.call("shop", "sleep", 1, timeout=2)
            assert trio.current_time() - before == pytest.approx(2 + GRACE)
            _, _, cancel, _ = await gateway.receive(Kind.CANCEL)
            assert cancel.reason == BY_DEADLINE
            await gateway.stream.aclose()


@pytest.mark.parametrize(
    ("timeout", "scope", "gives_up", "reason", "code"),
    [
        (9, 1, 8, BY_DEADLINE, mesh.Code.DEADLINE_EXCEEDED),
        (9, 8, 1, BY_CALLER, mesh.Code.CANCELLED),
        (9, math.inf, 1, BY_CALLER, mesh.Code.CANCELLED),
        (1, math.inf, 1 + GRACE / 2, BY_DEADLINE, mesh.Code.DEADLINE_EXCEEDED),
    ],
)
async def test_a_call_that_is_cancelled_at_its_deadline_says_so(
    autojump_clock: MockClock,
    timeout: float,
    scope: float,
    gives_up: float,
    reason: int,
    code: mesh.Code,
) -> None:
    """To the gateway and in its record: a scope that fires then is no caller who gave up."""
    gateway = HandGateway(features=[codec.TRACES_FEATURE])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.accept)
        async with mesh.connect("caller", gateway=gateway) as caller:
            async with trio.open_nursery() as calls:

                @calls.start_soon
                async def call() -> None:
                    with trio.move_on_after(scope):
                        await caller.call("shop", "sleep", 1, timeout=timeout)

                await trio.sleep(gives_up)
                calls.cancel_scope.cancel()
            _, _, made, _ = await gateway.receive(Kind.CALL)
            _, _, cancel, _ = await gateway.receive(Kind.CANCEL)
            assert cancel.reason == reason
            (row,) = caller._uplink.records.find(frozenset([made.trace_id]))
            assert row.code == code.number
            await gateway.stream.aclose()


async def test_the_largest_timeout_that_the_wire_can_carry_harms_no_instance() -> None:
    """A hand-written caller that asks for all of it gets an answer, and the instance lives on."""
    async with shop() as (gateway, _, caller), raw_peer(gateway) as raw:
        await raw.call("shop", "remaining", timeout_us=2**63 - 1)
        kind, _, _, _ = await raw.receive()
        assert kind == Kind.RESULT
        assert await caller.call("shop", "sleep", 0) == "slept"
        assert gateway.core.counters.connections_closed == 0


async def test_the_time_left_travels_with_the_call(autojump_clock: MockClock) -> None:
    """A callee in any language sees how many microseconds remain."""
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
        raw_peer(gateway) as raw,
        trio.open_nursery() as nursery,
    ):
        await raw.send(register_header("raw", "method"))

        @nursery.start_soon
        async def call() -> None:
            with pytest.raises(mesh.DeadlineExceeded):
                await caller.call("raw", "method", timeout=3)

        _, _, header, _ = await raw.receive()
        assert header.timeout_us == pytest.approx(3_000_000, abs=1000)
        # The deadline reaches it as a CANCEL that names its reason.
        _, _, cancel, _ = await raw.receive()
        assert (cancel.call_id, cancel.reason) == (header.call_id, BY_DEADLINE)
