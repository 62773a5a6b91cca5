"""Waiting: a service that is not there yet is not missing, within bounds of time, number, bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import mesh
from mesh.errors import Reason
from mesh.transport.outbox import FRAME_OVERHEAD
from tests.gateway.raw_peer import settled

if TYPE_CHECKING:
    from trio.testing import MockClock


async def answer(params: Any) -> Any:
    return params


async def register_later(
    gateway: mesh.Gateway, seconds: float, name: str = "late", method: str = "answer"
) -> None:
    await trio.sleep(seconds)
    async with mesh.connect(name, gateway=gateway) as peer:
        peer.register(method, answer)
        await trio.sleep(100)


async def timed(caller: mesh.Client, service: str, method: str, **more: Any) -> tuple[float, Any]:
    """What a call gave, and after how many seconds."""
    before = trio.current_time()
    try:
        value = await caller.call(service, method, more.pop("params", 1), **more)
    except mesh.CallError as error:
        value = error
    return trio.current_time() - before, value


async def test_just_after_its_start_a_gateway_expects_any_service(
    autojump_clock: MockClock,
) -> None:
    """Peers are connecting; a call waits for its service, and goes on when that is there."""
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(register_later, gateway, 2)
        seconds, value = await timed(caller, "late", "answer")
        assert value == 1
        assert seconds == pytest.approx(2, abs=0.01)
        nursery.cancel_scope.cancel()


async def test_it_waits_five_seconds_and_then_says_what_is_missing(
    autojump_clock: MockClock,
) -> None:
    """As ``not_found``, with how long it waited; nothing was executed."""
    async with mesh.Gateway() as gateway, mesh.connect("caller", gateway=gateway) as caller:
        seconds, error = await timed(caller, "never", "answer")
        assert seconds == pytest.approx(5, abs=0.01)
        assert type(error) is mesh.NotFound
        assert error.reason == Reason.SERVICE_NOT_FOUND
        assert error.message.startswith("waited 5 s for never.answer; no service 'never' is")
        assert not error.maybe_executed


async def test_later_an_unknown_service_is_missing_at_once(autojump_clock: MockClock) -> None:
    """Whoever should be there is there by then."""
    async with mesh.Gateway() as gateway, mesh.connect("caller", gateway=gateway) as caller:
        await trio.sleep(5.1)
        seconds, error = await timed(caller, "never", "answer")
        assert seconds < 0.01
        assert error.reason == Reason.SERVICE_NOT_FOUND
        assert not error.maybe_executed


async def test_a_method_that_a_service_does_not_have_is_missing_at_once(
    autojump_clock: MockClock,
) -> None:
    """Also just after the gateway's start, as the service is there to tell."""
    async with mesh.Gateway() as gateway, mesh.connect("peer", gateway=gateway) as peer:
        peer.register("answer", answer)
        await settled(peer)
        seconds, error = await timed(peer, "peer", "anwser")
        assert seconds < 0.01
        assert type(error) is mesh.Unimplemented
        assert error.reason == Reason.METHOD_NOT_FOUND
        assert "did you mean 'answer'?" in error.message


async def test_a_service_that_left_is_expected_back(autojump_clock: MockClock) -> None:
    """For 30 s after it was lost; a call waits for it, and reaches the one that comes."""
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
        trio.open_nursery() as nursery,
    ):
        await trio.sleep(60)
        async with mesh.connect("svc", gateway=gateway) as peer:
            peer.register("answer", answer)
            await settled(peer)
        await trio.sleep(20)
        seconds, error = await timed(caller, "svc", "answer")
        assert seconds == pytest.approx(5, abs=0.01)
        assert type(error) is mesh.Unavailable
        assert error.reason == Reason.NO_INSTANCE
        assert "waited 5 s for svc.answer; nobody serves 'svc' since " in error.message
        assert not error.maybe_executed
        nursery.start_soon(register_later, gateway, 3, "svc")
        seconds, value = await timed(caller, "svc", "answer")
        assert seconds == pytest.approx(3, abs=0.01)
        assert value == 1
        nursery.cancel_scope.cancel()


async def test_after_30_seconds_it_is_waited_for_no_more(autojump_clock: MockClock) -> None:
    """And its callers are told the same, at once."""
    async with mesh.Gateway() as gateway, mesh.connect("caller", gateway=gateway) as caller:
        async with mesh.connect("svc", gateway=gateway) as peer:
            peer.register("answer", answer)
            await settled(peer)
        await trio.sleep(36)
        seconds, error = await timed(caller, "svc", "answer")
        assert seconds < 0.01
        assert type(error) is mesh.Unavailable
        assert error.reason == Reason.NO_INSTANCE
        assert error.message.startswith("nobody serves 'svc' since ")
        assert "(36.00 s ago); its last instance, svc at " in error.message
        assert error.message.endswith(", left in order; start one, or call it no more")


async def test_a_deadline_also_ends_a_wait(autojump_clock: MockClock) -> None:
    """The error shows that the time went into waiting; nothing was executed."""
    async with mesh.Gateway() as gateway, mesh.connect("caller", gateway=gateway) as caller:
        seconds, error = await timed(caller, "never", "answer", timeout=2)
        assert seconds == pytest.approx(2, abs=0.01)
        assert type(error) is mesh.DeadlineExceeded
        assert not error.maybe_executed
        assert "never.answer 2,000.0 ms (waiting for an instance)" in error.message
        assert error.details["spent"][0]["state"] == "waiting for an instance"
        assert not gateway.core.held.entries


async def test_a_caller_that_goes_away_ends_its_wait(autojump_clock: MockClock) -> None:
    """Cancelled or disconnected: nothing is kept, and nothing sent to the service that comes."""
    ran: list[Any] = []
    async with mesh.Gateway() as gateway:
        async with mesh.connect("caller", gateway=gateway) as caller:
            with trio.move_on_after(1):
                await caller.call("late", "note", "x" * 200_000)
            await trio.testing.wait_all_tasks_blocked()
            assert not gateway.core.held.entries
            async with trio.open_nursery() as nursery:
                nursery.start_soon(timed, caller, "late", "note")
                await trio.testing.wait_all_tasks_blocked()
                assert len(gateway.core.held.entries) == 1
                nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not gateway.core.held.entries
        assert gateway.core.held.size == 0
        async with mesh.connect("late", gateway=gateway) as late:
            late.register("note", ran.append)
            await settled(late)
        assert not ran


@pytest.mark.parametrize("size", [10, 1_000_000])
async def test_waiting_calls_go_on_whole(autojump_clock: MockClock, size: int) -> None:
    """Small ones, and long ones of which all or only a part has come."""
    seen: list[Any] = []
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
        trio.open_nursery() as nursery,
    ):
        for number in range(5):
            nursery.start_soon(timed, caller, "late", "note")
            await trio.testing.wait_all_tasks_blocked()
            params = [number, "x" * size]

            async def one(params: list[Any]) -> None:
                assert await caller.call("late", "echo", params) == params

            nursery.start_soon(one, params)
            await trio.testing.wait_all_tasks_blocked()
        assert len(gateway.core.held.entries) == 10
        async with mesh.connect("late", gateway=gateway) as late:

            @late.method()
            async def echo(params: Any) -> Any:
                seen.append(params[0])
                return params

            await settled(late)
            assert len(gateway.core.held.entries) == 5
            assert gateway.core.held.size == 5 * (1 + FRAME_OVERHEAD)
            await trio.sleep(10)
    assert sorted(seen) == list(range(5))
    assert gateway.core.held.size == 0


async def test_more_calls_than_the_bound_are_refused(autojump_clock: MockClock) -> None:
    """With a reason that says that too many wait already, and not that the service is missing."""
    async with (
        mesh.Gateway(limits=mesh.Limits(max_waiting=3)) as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
        trio.open_nursery() as nursery,
    ):
        for _ in range(3):
            nursery.start_soon(timed, caller, "late", "answer")
        await trio.testing.wait_all_tasks_blocked()
        seconds, error = await timed(caller, "late", "answer")
        assert seconds < 0.01
        assert type(error) is mesh.ResourceExhausted
        assert error.reason == Reason.WAITING_FULL
        assert "3 calls wait" in error.message
        assert not error.maybe_executed


async def test_more_bytes_than_the_bound_are_refused(autojump_clock: MockClock) -> None:
    """At once for a small call, on the way for a long one; what waits already goes on waiting."""
    async with (
        mesh.Gateway(limits=mesh.Limits(max_outbox=200_000)) as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(register_later, gateway, 3)
        first: list[Any] = []

        @nursery.start_soon
        async def wait() -> None:
            first.append(await timed(caller, "late", "answer", params="x" * 150_000))

        await trio.testing.wait_all_tasks_blocked()
        for size in (60_000, 100_000):
            seconds, error = await timed(caller, "late", "answer", params="x" * size)
            assert seconds < 0.01
            assert type(error) is mesh.ResourceExhausted
            assert error.reason == Reason.WAITING_FULL
            assert not error.maybe_executed
        await trio.sleep(4)
        assert first[0][1] == "x" * 150_000
        assert gateway.core.held.size == 0
        nursery.cancel_scope.cancel()


async def test_of_more_waiting_calls_than_an_instance_takes_the_rest_is_refused(
    autojump_clock: MockClock,
) -> None:
    """As overloaded, and not left waiting."""
    async with (
        mesh.Gateway(limits=mesh.Limits(max_in_flight=2)) as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
    ):
        results: list[Any] = []

        async def one() -> None:
            results.append((await timed(caller, "late", "answer"))[1])

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked()
            async with mesh.connect("late", gateway=gateway) as late:
                late.register("answer", answer)
                await settled(late)
        errors = [result for result in results if isinstance(result, mesh.CallError)]
        assert results.count(1) == 2
        assert [error.reason for error in errors] == [Reason.OVERLOADED]
        assert not errors[0].maybe_executed
