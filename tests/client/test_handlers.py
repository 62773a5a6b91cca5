"""Handlers as they run: cancelled, many at once, each with its own call, and in threads."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import mesh
from tests.client.pairs import echo, paired
from tests.gateway.raw_peer import settled

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_a_handler_that_hangs_is_ended_at_the_deadline(autojump_clock: MockClock) -> None:
    """Its scope fires, its cleanup runs, and the caller has had the answer already."""
    cleaned: list[float] = []

    async def handler() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cleaned.append(trio.current_time())

    async with paired() as pair:
        before = trio.current_time()
        error = await pair.outcome(handler)
    assert type(error) is mesh.DeadlineExceeded
    assert cleaned == [pytest.approx(before + 5, abs=0.01)]


async def test_a_handler_that_swallows_cancellation_answers_late(
    autojump_clock: MockClock,
) -> None:
    """Its answer is counted as late and dropped; the worker is not used again."""

    async def handler() -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(8)
        return "too late"

    async with paired() as pair:
        error = await pair.outcome(handler)
        assert type(error) is mesh.DeadlineExceeded
        series = pair.gateway.core.metrics.method("server", "method")
        assert (series.abandoned, series.late) == (1, 0)
        await trio.sleep(5)
        assert (series.abandoned, series.late) == (1, 1)
        assert await pair.outcome(echo, "fresh") == "fresh"


async def test_a_handler_that_cancels_itself_has_simply_ended() -> None:
    """Its own scopes are its own business."""

    async def handler() -> str:
        with trio.move_on_after(0):
            await trio.sleep_forever()
        return "moved on"

    async with paired() as pair:
        assert await pair.outcome(handler) == "moved on"


async def test_a_failure_during_cancellation_is_not_lost(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A cleanup that raises is logged by the server, though nobody waits for the answer."""

    async def handler() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("cleanup")

    async with paired() as pair:
        assert type(await pair.outcome(handler)) is mesh.DeadlineExceeded
    assert "raised KeyError" in caplog.text


async def test_a_nursery_in_a_handler_is_cancelled_with_it(autojump_clock: MockClock) -> None:
    """Its tasks end too, and a failure of one of them during that does no harm."""
    ended: list[str] = []

    async def child(name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(name)
            if name == "b":
                raise ValueError(name)

    async def handler() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, "a")
            nursery.start_soon(child, "b")

    async with paired() as pair:
        assert type(await pair.outcome(handler)) is mesh.DeadlineExceeded
    assert sorted(ended) == ["a", "b"]


async def test_many_handlers_run_at_once_and_workers_are_used_again() -> None:
    """A burst needs a worker each; what comes after it finds them parked."""
    inside: list[int] = []
    most = 0
    go = trio.Event()

    async def handler(number: int) -> int:
        nonlocal most
        inside.append(number)
        most = max(most, len(inside))
        await go.wait()
        inside.remove(number)
        return number

    async with paired() as pair:
        pair.server.register("method", handler)
        await settled(pair.server)
        results: list[int] = []

        async def call(number: int) -> None:
            results.append(await pair.caller.call("server", "method", number))

        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for number in range(400):
                    nursery.start_soon(call, number)
                await trio.testing.wait_all_tasks_blocked()
                go.set()
            go = trio.Event()
        assert most == 400
        assert sorted(results) == sorted([*range(400), *range(400)])


async def test_each_handler_sees_its_own_call_and_no_other(autojump_clock: MockClock) -> None:
    """Also on a worker that served another call before; tasks and threads inherit it."""
    async with paired() as pair:

        @pair.server.method()
        async def describe(delay: float) -> dict[str, Any]:
            seen: list[mesh.Call | None] = []
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def child() -> None:
                    seen.append(mesh.current_call())

            await trio.sleep(delay)
            call = mesh.current_call()
            assert call is not None
            assert seen == [call]
            return {
                "name": f"{call.service}.{call.method}", "caller": call.caller,
                "chain": call.chain, "depth": call.depth, "verified": call.verified,
                "remaining": call.remaining, "activity": call.activity_id, "id": call.call_id,
                "entry": call.entry_id, "gateway": call.gateway, "attempt": call.attempt,
            }  # fmt: skip

        await settled(pair.server)
        answers: list[dict[str, Any]] = []

        async def ask(delay: float, activity: str) -> None:
            with mesh.activity(activity):
                answers.append(await pair.caller.call("server", "describe", delay, timeout=20))

        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(ask, number + 0.0, f"a{number}")
        for number, answer in enumerate(answers):
            assert answer["activity"] == f"a{number % 5}"
            assert answer["remaining"] == pytest.approx(20 - number % 5, abs=0.01)
            assert answer["name"] == "server.describe"
            assert answer["caller"] == "caller"
            assert answer["chain"] == ["server.describe"]
            assert answer["depth"] == 1
            assert answer["verified"]
            assert answer["attempt"] == 1
            assert answer["entry"] == answer["id"]
            assert answer["gateway"] == pair.gateway.instance
        assert len({answer["id"] for answer in answers}) == 10


# Threads.


async def test_a_plain_function_has_the_context_of_its_call() -> None:
    """In its thread it can ask for the call, and call further through the loop."""
    async with paired() as pair:

        @pair.server.method()
        def inner(params: int) -> list[Any]:
            call = mesh.current_call()
            assert call is not None
            return [params, call.chain]

        @pair.server.method()
        def outer(params: int) -> Any:
            return trio.from_thread.run(pair.server.call, "server", "inner", params)

        await settled(pair.server)
        assert await pair.caller.call("server", "outer", 7) == [7, ["server.outer", "server.inner"]]


async def test_a_plain_function_that_overstays_is_answered_for_and_keeps_its_slot() -> None:
    """The caller hears at the deadline; the thread's place is free only once it has ended."""
    release = threading.Event()
    limits = mesh.Limits(max_threads=1)
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("server", gateway=gateway, limits=limits) as server,
        mesh.connect("caller", gateway=gateway) as caller,
    ):
        ran: list[str] = []

        @server.method()
        def slow(params: str) -> str:
            ran.append(params)
            release.wait(30)
            return params

        await settled(server)
        try:
            with pytest.raises(mesh.DeadlineExceeded):
                await caller.call("server", "slow", "first", timeout=0.05)
            with pytest.raises(mesh.DeadlineExceeded):
                await caller.call("server", "slow", "second", timeout=0.05)
            assert ran == ["first"]
        finally:
            release.set()
        assert await caller.call("server", "slow", "third", timeout=10) == "third"
        assert ran == ["first", "third"]


async def test_an_exception_in_a_thread_is_the_handlers() -> None:
    """Like one in the loop."""

    def handler() -> None:
        raise mesh.NotFound("gone")

    async with paired() as pair:
        assert type(await pair.outcome(handler)) is mesh.NotFound
